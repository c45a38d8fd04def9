//! `vmm ctl SOCKET clone`: a snapshot, and machines that go on from it, each with a name and sockets of its own.
//!
//! The machine itself starts no process, so this one does; what the copies are told is what anybody could tell
//! `vmm --restore`.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::Client;
use super::show::{at, printable};
use super::{CtlError, print, snapshot};
use crate::jail::sys::{Side, fork_into};

/// How long a copy may take to serve its API.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it.
const ROUND: Duration = Duration::from_micros(500);

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clones {
    /// How many.
    pub count: u16,
    /// Where the snapshot and the copies' sockets are.
    pub directory: PathBuf,
    /// The names of their taps, but for the number.
    pub tap: Option<String>,
    /// More words for each.
    pub words: Vec<String>,
}

/// Makes them, and shows them.
pub(super) fn run(mut client: Client, clones: &Clones, is_json: bool) -> Result<u8, CtlError> {
    let machine = client.get("/vm")?;
    let config = client.get("/vm/config")?;
    let plans = (1..=clones.count).map(|number| plan(clones, &machine, &config, number));
    let plans = plans.collect::<Result<Vec<_>, _>>()?;
    let saved = clones.directory.join("snapshot");
    let (method, path, body) = snapshot(&saved, false)?;
    client.order(method, &path, &body)?;
    let program = std::env::current_exe().map_err(host("find this program"))?;
    // All at once: a copy needs nobody else's time but at its end.
    let processes = plans.iter().map(|plan| plan.start(&program, &saved));
    let processes = processes.collect::<Result<Vec<_>, _>>()?;
    for (plan, process) in plans.iter().zip(processes) {
        plan.wait()?;
        let (id, socket) = (&plan.id, plan.socket().display().to_string());
        print(if is_json {
            json!({ "id": id, "pid": process, "socket": socket }).to_string() + "\n"
        } else {
            format!("{id} {process} {socket}\n")
        })?;
    }
    Ok(0)
}

/// A copy to be.
struct Plan {
    id: String,
    directory: PathBuf,
    words: Vec<String>,
}

/// What the copy with this number is told.
fn plan(clones: &Clones, machine: &Value, config: &Value, number: u16) -> Result<Plan, CtlError> {
    let id = format!("{}-{number}", at(machine, "id").as_str().unwrap_or("vm"));
    let directory = clones.directory.join(number.to_string());
    let place = |name: &str| directory.join(name).display().to_string();
    let mut words = vec!["--id".to_owned(), id.clone(), "--api-sock".to_owned(), place("api.sock")];
    let mut say = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    let is_said = |key| !at(config, key).is_null();
    let is_off = |key| at(at(config, key), "type") == "off";
    let said = [is_said("console"), is_said("serial")];
    for (key, is_there) in [("console", said[0] || !said[1]), ("serial", said[1] || !said[0])] {
        if is_there && !is_off(key) {
            say(&format!("--{key}"), format!("socket={}", place(&format!("{key}.sock"))));
        }
    }
    if is_said("vsock") {
        say("--vsock", format!("socket={}", place("vsock.sock")));
    }
    for disk in at(config, "drives").as_array().into_iter().flatten() {
        let is_shared = *at(disk, "is_read_only") == true;
        if !is_shared
            && !clones.words.iter().any(|word| word == "--disk" || word.starts_with("--disk="))
        {
            let id = printable(at(disk, "drive_id").as_str().unwrap_or_default());
            return Err(CtlError::Writable { id });
        }
    }
    for net in at(config, "network-interfaces").as_array().into_iter().flatten() {
        let id = at(net, "iface_id").as_str().unwrap_or_default();
        let Some(tap) = &clones.tap else { return Err(CtlError::NoTap { id: printable(id) }) };
        say("--net", format!("id={id},tap={tap}{number}"));
    }
    words.extend(clones.words.iter().cloned());
    Ok(Plan { id, directory, words })
}

impl Plan {
    fn socket(&self) -> PathBuf {
        self.directory.join("api.sock")
    }

    /// The number of its process.
    fn start(&self, program: &Path, saved: &Path) -> Result<i32, CtlError> {
        fs::create_dir_all(&self.directory).map_err(host("make the directory"))?;
        let log = File::create(self.directory.join("log")).map_err(host("make a log file"))?;
        if let Side::Parent { number, .. } = fork_into(0).map_err(host("start a copy"))? {
            return Ok(number);
        }
        let mut command = Command::new(program);
        command.arg("--restore").arg(saved).args(&self.words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // What ends this program, such as Ctrl-C, does not end the copies.
        Err(host("start a copy")(command.process_group(0).exec()))
    }

    /// Waits until the copy runs.
    fn wait(&self) -> Result<(), CtlError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = Client::connect(&self.socket()).and_then(|mut client| client.get("/"));
            if state.is_ok_and(|state| *at(&state, "state") != "Not started") {
                return Ok(());
            }
            // The last line of a process says why it ended.
            let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            if log.contains("vmm: error") || Instant::now() > deadline {
                let said = printable(log.lines().next_back().unwrap_or("it says nothing"));
                return Err(CtlError::Clone { id: self.id.clone(), said });
            }
            thread::sleep(ROUND);
        }
    }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> CtlError {
    move |source| CtlError::Host { what, source }
}
