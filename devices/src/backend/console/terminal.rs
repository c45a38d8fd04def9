//! The person's terminal: raw while the machine runs, as it was before at every kind of end.
//!
//! The settings go back when a [`Terminal`] is dropped, when [`restore_now`] is called (before an exit
//! that runs no destructors), and when a fatal signal arrives. Nothing helps against SIGKILL.
//!
//! A terminal that another job owns at the moment is left alone: a shell that put us in the background
//! has its own settings there.

#![expect(unsafe_code, reason = "a signal handler is the only way to run code at a crash")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::sys;
use crate::fatal::{self, Previous};

/// What [`restore_now`] puts back, null when there is nothing. Each value is leaked: a signal handler may
/// be reading it on another thread at any time. A process has one terminal, so that is 64 bytes.
static RESTORE: AtomicPtr<Restore> = AtomicPtr::new(std::ptr::null_mut());

/// There is, or was, a terminal.
static EXISTS: AtomicBool = AtomicBool::new(false);

/// Where the fatal signals went before, to go on there.
static PREVIOUS: OnceLock<Vec<(libc::c_int, Previous)>> = OnceLock::new();

/// Signals that end a process out of the blue; the orderly ones are the event loop's business.
const FATAL: [libc::c_int; 8] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGQUIT,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
];

struct Restore {
    fd: RawFd,
    settings: libc::termios,
}

/// A terminal in our care.
pub struct Terminal {
    fd: OwnedFd,
    saved: Option<libc::termios>,
}

impl Terminal {
    /// Takes `fd`, which is a terminal, and changes nothing yet.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        EXISTS.store(true, Ordering::Relaxed);
        Self { fd, saved: None }
    }

    /// Makes the terminal raw unless it is so already. `false` when it is not ours to use at present:
    /// another job is in the foreground, or it is gone.
    pub fn claim(&mut self) -> bool {
        if !sys::is_foreground(self.fd.as_raw_fd()) {
            return false;
        }
        let Ok(settings) = sys::termios(self.fd.as_fd()) else {
            return false;
        };
        if settings.c_lflag & (libc::ICANON | libc::ECHO | libc::ISIG) == 0 {
            return true;
        }
        // Only what was there before the very first time is the user's.
        let saved = *self.saved.get_or_insert(settings);
        publish(Restore { fd: self.fd.as_raw_fd(), settings: saved });
        let mut raw = sys::raw(&settings);
        // A newline of the monitor's own messages must still begin a line.
        raw.c_oflag = settings.c_oflag;
        match sys::set_termios(self.fd.as_raw_fd(), &raw) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("terminal cannot be made raw: {error}");
                false
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let fd = self.fd.as_raw_fd();
        let Some(settings) = self.saved else {
            return;
        };
        if sys::is_ours_to_restore(fd)
            && let Err(error) = sys::set_termios(fd, &settings)
        {
            log::warn!("terminal cannot be put back as it was: {error}");
        }
        let restore = RESTORE.load(Ordering::Acquire);
        // SAFETY: as in `restore_now`.
        if unsafe { restore.as_ref() }.is_some_and(|r| r.fd == fd) {
            RESTORE.store(std::ptr::null_mut(), Ordering::Release);
        }
    }
}

/// Puts the terminal back as it was, if it was changed. Async-signal-safe, callable at any time and any
/// number of times.
pub fn restore_now() {
    let restore = RESTORE.load(Ordering::Acquire);
    // SAFETY: the pointer is null or comes from `Box::leak` in `publish`, and is never freed or written.
    if let Some(restore) = unsafe { restore.as_ref() }
        && sys::is_ours_to_restore(restore.fd)
    {
        // There is nobody left to tell of a failure.
        let _ = sys::set_termios(restore.fd, &restore.settings);
    }
}

/// Whether this process has taken a terminal into its care.
#[must_use]
pub fn has_terminal() -> bool {
    EXISTS.load(Ordering::Relaxed)
}

/// The descriptor that [`restore_now`] uses, when there is something to restore.
#[must_use]
pub fn terminal_fd() -> Option<RawFd> {
    let restore = RESTORE.load(Ordering::Acquire);
    // SAFETY: as in `restore_now`.
    unsafe { restore.as_ref() }.map(|restore| restore.fd)
}

fn publish(restore: Restore) {
    if RESTORE.load(Ordering::Acquire).is_null() {
        RESTORE.store(Box::leak(Box::new(restore)), Ordering::Release);
    }
    PREVIOUS.get_or_init(watch_fatal_signals);
}

/// Installs [`on_fatal`]; returns what was installed before.
fn watch_fatal_signals() -> Vec<(libc::c_int, Previous)> {
    let mut previous = Vec::with_capacity(FATAL.len());
    for signal in FATAL {
        // SAFETY: `on_fatal` makes async-signal-safe calls only.
        if let Ok(Some(old)) = unsafe { fatal::watch(signal, on_fatal) } {
            previous.push((signal, old));
        }
    }
    previous
}

/// Puts the terminal back, then lets the signal do what it would have done without us.
extern "C" fn on_fatal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    restore_now();
    // When the signal comes while the table is being made, nothing is known to go on to.
    let known = PREVIOUS.get().map(Vec::as_slice).unwrap_or_default();
    if let Some((_, old)) = known.iter().find(|(s, old)| *s == signal && old.is_handler()) {
        // SAFETY: the arguments are this handler's.
        return unsafe { old.pass_on(signal, info, context) };
    }
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    let is_fault = matches!(signal, libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGSEGV);
    // A real fault happens again when we return, with all its details; anything else must be sent again.
    if !is_fault || code <= 0 {
        fatal::send_again(signal);
    }
}

#[cfg(test)]
mod tests;
