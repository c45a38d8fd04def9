//! Copies of a machine: what each is told so that it shares nothing with the others but what is only read.
//!
//! Plans only: nothing is opened, made or started here. A machine starts no programs, so whoever asked for copies does.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::{ConsoleTarget, Plan};

/// Most copies that are planned at a time.
pub const COUNT_MAX: u16 = 1000;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneOrder {
    /// How many, from 1 to [`COUNT_MAX`].
    pub count: u16,
    /// Where the snapshot is; each copy's own directory is one in it.
    pub directory: PathBuf,
    /// The names of their taps, but for the number.
    pub tap: Option<String>,
    /// More words for each of their command lines.
    pub args: Vec<String>,
}

/// A copy to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClonePlan {
    /// Its name: that of the machine, and a number.
    pub id: String,
    /// Where its sockets will be. Whoever starts it makes this directory.
    pub directory: PathBuf,
    /// Its API's.
    pub socket: PathBuf,
    /// The command line that starts it.
    pub argv: Vec<String>,
}

/// What a client of the API is told of copies; [`from_json`] reads it.
#[must_use]
pub fn to_json(plans: &[ClonePlan]) -> Value {
    let one = |plan: &ClonePlan| {
        let ClonePlan { id, directory, socket, argv } = plan;
        let [directory, socket] = [directory, socket].map(|path| path.to_string_lossy());
        json!({ "id": id, "directory": directory, "socket": socket, "argv": argv })
    };
    json!({ "clones": plans.iter().map(one).collect::<Vec<_>>() })
}

/// The plans that were made [JSON](to_json) of; `None` if none were.
#[must_use]
pub fn from_json(said: &Value) -> Option<Vec<ClonePlan>> {
    let one = |plan: &Value| {
        let text = |key| plan.get(key)?.as_str().map(str::to_owned);
        let argv = plan.get("argv")?.as_array()?.iter();
        Some(ClonePlan {
            id: text("id")?,
            directory: text("directory")?.into(),
            socket: text("socket")?.into(),
            argv: argv.map(|word| word.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        })
    };
    said.get("clones")?.as_array()?.iter().map(one).collect()
}

/// Why there can be no copies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloneError {
    /// A disk that copies would share while they write to it.
    #[error(
        "disk {id:?} can be written: give it snapshot=overlay, which each copy has for itself, or each copy another disk \
         (--disk PATH,id={id})"
    )]
    Writable {
        /// Its name.
        id: String,
    },
    /// A network card without a tap for each copy.
    #[error(
        "net {id:?} needs a tap for each copy: name them, but for the number that is added (--tap NAME)"
    )]
    NoTap {
        /// Its name.
        id: String,
    },
}

/// The copies of a machine with this plan.
///
/// # Errors
/// [`CloneError`].
pub fn plan(order: &CloneOrder, machine: &Plan) -> Result<Vec<ClonePlan>, CloneError> {
    let has_disks = order.args.iter().any(|word| word == "--disk" || word.starts_with("--disk="));
    // What is written to an overlay is a part of the snapshot, and every copy has its own over that.
    let shared = machine.disks.iter().find(|disk| !disk.read_only && disk.overlay.is_none());
    if let Some(disk) = shared.filter(|_| !has_disks) {
        return Err(CloneError::Writable { id: disk.id.clone() });
    }
    (1..=order.count).map(|number| plan_one(order, machine, number)).collect()
}

fn plan_one(order: &CloneOrder, machine: &Plan, number: u16) -> Result<ClonePlan, CloneError> {
    let id = format!("{}-{number}", machine.id);
    let directory = order.directory.join(number.to_string());
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let place = |name: &str| text(&directory.join(name));
    let mut argv = vec!["vmm".to_owned()];
    let mut say = |flag: &str, value: String| argv.extend([flag.to_owned(), value]);
    say("--restore", text(&order.directory));
    say("--id", id.clone());
    say("--api-sock", place("api.sock"));
    for (flag, name, target) in [
        ("--console", "console.sock", &machine.console),
        ("--serial", "serial.sock", &machine.serial),
    ] {
        if *target != ConsoleTarget::Off {
            say(flag, format!("socket={}", place(name)));
        }
    }
    if machine.vsock.is_some() {
        say("--vsock", format!("socket={}", place("vsock.sock")));
    }
    for net in &machine.nets {
        let tap = order.tap.as_ref().ok_or_else(|| CloneError::NoTap { id: net.id.clone() })?;
        say("--net", format!("id={},tap={tap}{number}", net.id));
    }
    argv.extend(order.args.iter().cloned());
    let socket = directory.join("api.sock");
    Ok(ClonePlan { id, directory, socket, argv })
}

#[cfg(test)]
mod tests;
