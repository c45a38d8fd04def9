//! Signals as events: the ones that matter are blocked in every thread and read from a signalfd.

#![expect(unsafe_code, reason = "signal masks and signalfd have no safe interface in std")]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// End the machine in good order (SIGTERM, SIGHUP).
    Terminate,
    /// End it now (SIGINT).
    Interrupt,
    /// Somebody wants to write to a file on which this process has a lease (SIGIO).
    Lease,
    /// Nothing: the process outside the jail has it as well, and decides.
    Passed,
    /// The terminal has another size (SIGWINCH), or is ours again after a stop (SIGCONT).
    Terminal,
    /// A process that this one has started has ended (SIGCHLD).
    Child,
}

const WATCHED: [libc::c_int; 7] = [
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGIO,
    libc::SIGCHLD,
];

/// The signal by which the process outside a jail passes on one that it was sent. A signal to the group reaches both
/// processes, so only what is passed on counts inside; and two of these are two, while a second SIGTERM would be lost
/// until the first is read. `None` where there is nothing to pass on.
#[must_use]
pub fn passed_on(signal: libc::c_int) -> Option<libc::c_int> {
    // The first one kicks vCPUs.
    let number = match signal {
        libc::SIGTERM | libc::SIGHUP => 1,
        libc::SIGINT => 2,
        libc::SIGCONT => 3,
        _ => return None,
    };
    Some(libc::SIGRTMIN() + number)
}

/// The end of a child is to be told, also where whoever started this process did not want to be told of it.
pub fn expect_children() {
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// The queue of pending signals.
pub struct Signals {
    file: File,
    /// Only what the process outside the jail passes on counts.
    is_inside: bool,
}

impl Signals {
    /// Blocks the watched signals on this thread, hence on all that it starts. Call before any thread exists.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn watch() -> io::Result<Self> {
        Self::of(&WATCHED, false)
    }

    /// The same in a process that has entered a jail: its parent passes on what it is to obey.
    ///
    /// # Errors
    /// As [`Self::watch`].
    pub fn watch_inside() -> io::Result<Self> {
        let passed = WATCHED.into_iter().filter_map(passed_on);
        Self::of(&passed.chain(WATCHED).collect::<Vec<_>>(), true)
    }

    fn of(signals: &[libc::c_int], is_inside: bool) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for a whole set, which the call initializes.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialized by the call above, which cannot fail.
        let mut set: libc::sigset_t = unsafe { set.assume_init() };
        for &signal in signals {
            // SAFETY: `set` is initialized and the signal numbers are valid.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: `set` is initialized; the old mask is not wanted.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        // SAFETY: `set` is initialized; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file, is_inside })
    }

    /// The next pending signal.
    pub fn take(&mut self) -> Option<Signal> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let n = self.file.read(&mut info).ok()?;
        let [a, b, c, d, ..] = info;
        let mut number = libc::c_int::from_le_bytes([a, b, c, d]);
        if self.is_inside {
            let same = |signal: &libc::c_int| passed_on(*signal) == Some(number);
            match WATCHED.into_iter().find(same) {
                Some(original) => number = original,
                None if passed_on(number).is_some() => return Some(Signal::Passed),
                None => {}
            }
        }
        match number {
            _ if n < info.len() => None,
            libc::SIGTERM | libc::SIGHUP => Some(Signal::Terminate),
            libc::SIGINT => Some(Signal::Interrupt),
            libc::SIGIO => Some(Signal::Lease),
            libc::SIGWINCH | libc::SIGCONT => Some(Signal::Terminal),
            libc::SIGCHLD => Some(Signal::Child),
            _ => None,
        }
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
