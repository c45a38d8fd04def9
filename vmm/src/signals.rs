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
    /// The terminal has another size (SIGWINCH), or is ours again after a stop (SIGCONT).
    Terminal,
}

const WATCHED: [libc::c_int; 6] =
    [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGWINCH, libc::SIGCONT, libc::SIGIO];

/// The queue of pending signals.
pub struct Signals {
    file: File,
}

impl Signals {
    /// Blocks the watched signals on this thread, hence on all that it starts. Call before any thread exists.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn watch() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for a whole set, which the call initializes.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialized by the call above, which cannot fail.
        let mut set: libc::sigset_t = unsafe { set.assume_init() };
        for signal in WATCHED {
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
        Ok(Self { file })
    }

    /// The next pending signal.
    pub fn take(&mut self) -> Option<Signal> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let n = self.file.read(&mut info).ok()?;
        let [a, b, c, d, ..] = info;
        let number = libc::c_int::from_le_bytes([a, b, c, d]);
        match number {
            _ if n < info.len() => None,
            libc::SIGTERM | libc::SIGHUP => Some(Signal::Terminate),
            libc::SIGINT => Some(Signal::Interrupt),
            libc::SIGIO => Some(Signal::Lease),
            libc::SIGWINCH | libc::SIGCONT => Some(Signal::Terminal),
            _ => None,
        }
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
