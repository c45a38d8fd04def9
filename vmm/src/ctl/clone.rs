//! `vmm ctl SOCKET clone`: a snapshot, and machines that go on from it, each with a name and sockets of its own.
//!
//! The machine saves itself and plans them; it starts no program, so this one does.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Client;
use super::show::{at, printable};
use super::{CtlError, print};
use crate::jail::sys::{Side, fork_into};
use crate::snapshot::clones::{self, ClonePlan};

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
pub(super) fn run(mut client: Client, order: &Clones, is_json: bool) -> Result<u8, CtlError> {
    let Clones { count, directory, tap, words } = order;
    fs::create_dir_all(directory).map_err(host("make the directory"))?;
    // The machine may have another one to start from.
    let directory = std::path::absolute(directory).map_err(host("find the directory"))?;
    let directory = directory.to_string_lossy();
    let body = json!({ "count": count, "dir": directory, "tap": tap, "args": words });
    let answer = client.ask("POST", "/snapshot/clone", &body.to_string())?;
    let answer = serde_json::from_slice(&answer).unwrap_or_default();
    let plans = clones::from_json(&answer);
    let plans = plans.ok_or(CtlError::Nonsense("it does not say which copies"))?;
    let program = std::env::current_exe().map_err(host("find this program"))?;
    // All at once: a copy needs nobody else's time but at its end.
    let processes = plans.iter().map(|plan| start(plan, &program));
    let processes = processes.collect::<Result<Vec<_>, _>>()?;
    for (plan, process) in plans.iter().zip(processes) {
        wait(plan)?;
        let (id, socket) = (&plan.id, plan.socket.display().to_string());
        print(if is_json {
            json!({ "id": id, "pid": process, "socket": socket }).to_string() + "\n"
        } else {
            format!("{id} {process} {socket}\n")
        })?;
    }
    Ok(0)
}

/// Starts a copy; the number of its process.
fn start(plan: &ClonePlan, program: &Path) -> Result<i32, CtlError> {
    fs::create_dir_all(&plan.directory).map_err(host("make the directory"))?;
    let log = File::create(plan.directory.join("log")).map_err(host("make a log file"))?;
    if let Side::Parent { number, .. } = fork_into(0).map_err(host("start a copy"))? {
        return Ok(number);
    }
    let mut command = Command::new(program);
    // The name of a program comes first.
    command.args(plan.argv.iter().skip(1));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // What ends this program, such as Ctrl-C, does not end the copies.
    Err(host("start a copy")(command.process_group(0).exec()))
}

/// Waits until the copy runs.
fn wait(plan: &ClonePlan) -> Result<(), CtlError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = Client::connect(&plan.socket).and_then(|mut client| client.get("/"));
        if state.is_ok_and(|state| *at(&state, "state") != "Not started") {
            return Ok(());
        }
        // The last line of a process says why it ended.
        let log = fs::read_to_string(plan.directory.join("log")).unwrap_or_default();
        if log.contains("vmm: error") || Instant::now() > deadline {
            let said = printable(log.lines().next_back().unwrap_or("it says nothing"));
            return Err(CtlError::Clone { id: plan.id.clone(), said });
        }
        thread::sleep(ROUND);
    }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> CtlError {
    move |source| CtlError::Host { what, source }
}
