//! What can be known about a request's configuration before the machine is built: said early, a mistake is answered
//! to the request that made it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use devices::event::chain;

use crate::config::{Plan, VmConfig};
use crate::requests::{Code, Refusal};

/// Stands in for a kernel that is not configured yet.
const ANY_KERNEL: &str = "/kernel";

/// Whether a machine could come of `config` once it is complete.
pub(super) fn plan(config: &VmConfig) -> Result<(), Refusal> {
    let kernel = config.kernel.clone().or_else(|| Some(PathBuf::from(ANY_KERNEL)));
    match Plan::resolve(VmConfig { kernel, ..config.clone() }) {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::new(Code::BadConfiguration, chain(&error))),
    }
}

/// Whether the files that `said` names can be opened as they will be.
pub(super) fn files(said: &VmConfig) -> Result<(), Refusal> {
    let read = |what: &str, path: &Option<PathBuf>| match path {
        Some(path) => open(what, path, false),
        None => Ok(()),
    };
    read("kernel", &said.kernel)?;
    read("initrd", &said.initrd)?;
    for disk in &said.disks {
        let is_written = disk.read_only != Some(true) && disk.overlay.is_none();
        open("disk", &disk.path, is_written)?;
    }
    Ok(())
}

fn open(what: &str, path: &Path, writable: bool) -> Result<(), Refusal> {
    let refuse = |error: io::Error| {
        let message = format!("{what} {path:?} cannot be opened: {error}");
        Err(Refusal::new(Code::BadConfiguration, message))
    };
    // Opening a FIFO would wait for its other end.
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => refuse(io::ErrorKind::IsADirectory.into()),
        Ok(found) if found.is_file() => {
            File::options().read(true).write(writable).open(path).map(drop).or_else(refuse)
        }
        Ok(_) => Ok(()),
        Err(error) => refuse(error),
    }
}

/// There is no device of that name.
pub(super) fn unknown(kind: &str, id: &str) -> Refusal {
    Refusal::new(Code::UnknownDevice, format!("there is no {kind} {id:?}"))
}

/// The metadata service is to be on a card that is not there; the words are Firecracker's.
pub(super) fn no_card() -> Refusal {
    let message = "The list of network interface IDs provided contains at least one ID that does not correspond to \
                   any existing network interface.";
    Refusal::new(Code::UnknownDevice, message)
}

/// There is no such console.
pub(super) fn no_console() -> Refusal {
    Refusal::new(Code::UnknownDevice, "there is no such console")
}

/// There is no balloon.
pub(super) fn no_balloon() -> Refusal {
    Refusal::new(Code::UnknownDevice, "there is no balloon")
}
