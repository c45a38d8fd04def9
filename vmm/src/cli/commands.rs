//! What else `vmm` does than to run a machine, but for `vmm ctl`.

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::Shell;

/// What can be done with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum SnapshotCommand {
    /// Show what it is
    Info {
        /// Its directory, or its file of state
        snapshot: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a full snapshot of a diff and of what is before it
    Merge {
        /// The diff's directory, or its file of state
        snapshot: PathBuf,
        /// The directory of the full one
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check whether this host can run virtual machines, and say what to do if not
    Doctor {
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at a snapshot: what it is of and where its memory is; or make one file of the memory of a diff
    Snapshot {
        #[command(subcommand)]
        what: SnapshotCommand,
    },
    /// Start a program in a jail, as Firecracker's jailer does; vmm jailer --help says how
    Jailer,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page (vmm man | man -l -)
    Man,
}
