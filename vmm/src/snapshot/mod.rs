//! Snapshots: a machine at rest becomes files, and files become a machine that goes on.
//!
//! ```text
//!   RunningVm at rest ── save ──▶ Record + memory file ── Draft::finish ──▶ DIR/state, DIR/memory-ID
//!   DIR ── Source::read ──▶ Source ── builder::build ──▶ Microvm ── start ──▶ the guest's next instruction
//! ```
//!
//! [`clones`] plans copies, [`container`] is the file of state, [`record`] what is in it, [`draft`] how files come to their names, [`host`] whether
//! a guest can go on elsewhere. Memory files are `crate::memory::file`'s, KVM's state is `crate::kvm::state`'s, devices
//! know their own. [`working_set`] is advice beside all that.

pub mod clones;
pub mod container;
pub mod draft;
pub mod host;
pub mod info;
pub mod merge;
mod overrides;
pub mod record;
pub mod source;
pub mod working_set;

use std::io;
use std::path::PathBuf;

use crate::exit_code::ExitCode;
use crate::kvm::KvmError;
use crate::kvm::state::StateError;
use crate::memory::file::FileError;

pub use draft::{Draft, Place};
pub use source::Source;

/// The file of state in a snapshot's directory.
pub const STATE: &str = "state";

/// Why there is no snapshot, or no machine of it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be where it is to be.
    #[error("snapshot: {path:?}: {why}")]
    Place {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A file cannot be made.
    #[error("snapshot: {path:?} cannot be made")]
    Create {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("snapshot: {path:?} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// A file cannot be opened or read.
    #[error("snapshot: {path:?} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// A file of state cannot be used.
    #[error("snapshot: {path:?}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: record::RecordError,
    },
    /// A memory file cannot be used.
    #[error("snapshot: memory file {path:?}")]
    Memory {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: FileError,
    },
    /// What a disk had over its image is not there.
    #[error("snapshot: {path:?} is not the overlay of this snapshot's disk")]
    Overlay {
        /// The file.
        path: PathBuf,
    },
    /// Its configuration is none of this version.
    #[error("snapshot: its configuration")]
    Config(#[source] crate::config::FileError),
    /// It does not say how the machine would go on here.
    #[error("snapshot: {what}")]
    Override {
        /// What does not fit.
        what: String,
    },
    /// Something of the host is other.
    #[error(
        "snapshot: this host is not like the one it was made on: {}{}",
        list(differences),
        if *may_force { "; the guest may go on all the same with --restore DIR,force" } else { "" }
    )]
    Host {
        /// What.
        differences: Vec<host::Difference>,
        /// Whether it may be tried.
        may_force: bool,
    },
    /// A diff, of a machine whose changes nobody knows.
    #[error(
        "snapshot: there is nothing that a diff could differ from: start the machine from a snapshot, \
         or with --track-dirty and take a full one first"
    )]
    NoBase,
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// KVM's state.
    #[error("snapshot")]
    State(#[from] StateError),
    /// A device's state.
    #[error("snapshot: device {id:?}")]
    Device {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: devices::state::StateError,
    },
    /// The snapshot has a device that the machine has not, or the other way round.
    #[error("snapshot: it has {there:?} for its devices, the machine {here:?}")]
    Devices {
        /// Those that have state.
        there: Vec<String>,
        /// Those that are there.
        here: Vec<String>,
    },
}

impl SnapshotError {
    /// The status of a process that ends by it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Kvm(_) | Self::Create { .. } | Self::Write { .. } => ExitCode::HostFailure,
            _ => ExitCode::BadConfiguration,
        }
    }
}

/// What stands behind `key`; null where there is nothing.
fn at<'a>(value: &'a serde_json::Value, key: &str) -> &'a serde_json::Value {
    value.get(key).unwrap_or(&serde_json::Value::Null)
}

fn list(differences: &[host::Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
