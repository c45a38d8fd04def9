//! Nothing is left behind when somebody ends the run early: no guest, no file. Taps go with the process's network.

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use harness::artifacts;

/// Held while a process is started: none is, once the end has begun.
static STARTING: Mutex<()> = Mutex::new(());
static FILES: OnceLock<PathBuf> = OnceLock::new();

/// From now on, SIGINT and SIGTERM end this process in an orderly way. To be called before there are other threads, which
/// would take the signals else.
pub fn handle() {
    // SAFETY: zeros are memory for a set, which the next call fills.
    let mut signals: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: a set to fill.
    unsafe { libc::sigemptyset(&raw mut signals) };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: a set that was filled, and numbers of signals.
        unsafe { libc::sigaddset(&raw mut signals, signal) };
    }
    // SAFETY: a set that was filled; nobody wants the old one.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) };
    thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: a set that was filled, and a number to fill.
        unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
        let _nobody_starts = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        kill_children(Path::new("/proc/self/task"));
        artifacts::clean_up();
        if let Some(files) = FILES.get() {
            // Nobody is left to be told.
            let _ = fs::remove_dir_all(files);
        }
        process::exit(128 + signal);
    });
}

/// Starts a process, unless the end has begun: then this waits for it.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// The directory to remove then.
pub fn remove(files: &Path) {
    // One process makes one directory that counts; a test may make more.
    let _ = FILES.set(files.to_owned());
}

/// Kills the children of a process and theirs: one that is traced outlives its tracer.
fn kill_children(tasks: &Path) {
    for task in fs::read_dir(tasks).into_iter().flatten().filter_map(Result::ok) {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse::<libc::pid_t>().ok()) {
            kill_children(&Path::new("/proc").join(pid.to_string()).join("task"));
            // SAFETY: takes numbers. At worst this one is gone already, a moment ago.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}
