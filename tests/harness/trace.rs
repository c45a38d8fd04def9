//! Records every system call of every machine of a run of the suite, to see which rules of the filters it needs.
//!
//! Only where `VMM_TEST_TRACE` names a directory: the runner does so for one run of the bare-metal suite.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The directory for recordings, one file for each machine.
#[must_use]
pub fn directory() -> Option<PathBuf> {
    std::env::var_os("VMM_TEST_TRACE").map(PathBuf::from)
}

/// The words that make a command line recorded in `file`. The recorder is the machine's grandchild, so that the machine
/// stays the child of the test, and its arguments are numbers.
#[must_use]
pub fn command(file: &Path) -> Vec<OsString> {
    let words = [
        "strace",
        "-D",
        "-f",
        "-q",
        "--decode-pids=comm",
        "-e",
        "raw=all",
        "-e",
        "signal=none",
        "-o",
    ];
    words.iter().map(OsString::from).chain([file.as_os_str().to_owned()]).collect()
}
