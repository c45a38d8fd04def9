//! The few system calls of consoles that have no safe interface in std.
//!
//! One call per function, errors as errno; no policy.

#![expect(unsafe_code, reason = "termios, poll and pseudo-terminals are plain C interfaces")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use super::Size;
use crate::fatal;

/// Waits up to `timeout_ms` for `events` on `fd`; returns what is so (0: nothing), hang-up and error
/// included.
pub(super) fn poll(fd: BorrowedFd<'_>, events: i16, timeout_ms: i32) -> i16 {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: `entry` is one valid pollfd for the whole call.
    let n = unsafe { libc::poll(&raw mut entry, 1, timeout_ms) };
    if n > 0 { entry.revents } else { 0 }
}

/// The settings of a terminal.
pub(super) fn termios(fd: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut settings = MaybeUninit::uninit();
    // SAFETY: tcgetattr writes a termios to the place given, or fails.
    check(unsafe { libc::tcgetattr(fd.as_raw_fd(), settings.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so all of it is initialized.
    Ok(unsafe { settings.assume_init() })
}

/// Changes the settings of a terminal at once. Async-signal-safe.
pub(super) fn set_termios(fd: RawFd, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: `settings` is a valid termios; a bad descriptor only makes the call fail.
    check(unsafe { libc::tcsetattr(fd, libc::TCSANOW, settings) })
}

/// `settings` with every byte passed on at once and unchanged, both ways.
pub(super) fn raw(settings: &libc::termios) -> libc::termios {
    let mut raw = *settings;
    // SAFETY: cfmakeraw changes the termios it is given and nothing else.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    raw
}

/// Whether this process may use the terminal `fd`: it is in the foreground, or the terminal does not
/// control it. Async-signal-safe.
pub(super) fn is_foreground(fd: RawFd) -> bool {
    // SAFETY: a bad descriptor only makes the call fail.
    let foreground = unsafe { libc::tcgetpgrp(fd) };
    foreground < 0 || foreground == fatal::group()
}

/// Whether this process is to put back the settings of the terminal `fd`: as [`is_foreground`]. A process that does
/// not see its own group, because it is in a PID namespace of its own, leaves that to its parent, which does.
/// Async-signal-safe.
pub(super) fn is_ours_to_restore(fd: RawFd) -> bool {
    fatal::group() != 0 && is_foreground(fd)
}

/// Lets this process write to a terminal that it does not own at present, and makes reading from it an
/// error, instead of being stopped: a stopped monitor is a stopped guest.
pub(super) fn ignore_job_control() {
    for signal in [libc::SIGTTOU, libc::SIGTTIN] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// The size of a terminal; `None` when `fd` is none or does not know.
pub(super) fn window_size(fd: BorrowedFd<'_>) -> Option<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize to the place given, or fails.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(Size { columns: size.ws_col, rows: size.ws_row })
}

/// Whether `fd` is the master side of a pseudo-terminal.
pub(super) fn is_pty_master(fd: BorrowedFd<'_>) -> bool {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int to the place given, or fails.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGPTN, &raw mut number) }).is_ok()
}

/// A new pseudo-terminal: its master (non-blocking), its slave, and the slave's path.
pub(super) fn open_pty() -> io::Result<(OwnedFd, OwnedFd, PathBuf)> {
    const FLAGS: libc::c_int = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: no pointer is passed.
    let fd = check_fd(unsafe { libc::posix_openpt(FLAGS | libc::O_NONBLOCK) })?;
    // SAFETY: the descriptor is new and nobody else owns it.
    let master = unsafe { OwnedFd::from_raw_fd(fd) };
    let fd = master.as_raw_fd();
    // SAFETY: unlockpt takes a descriptor only.
    check(unsafe { libc::unlockpt(fd) })?;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor, or fails.
    let peer = check_fd(unsafe { libc::ioctl(fd, libc::TIOCGPTPEER, FLAGS) })?;
    // SAFETY: the descriptor is new and nobody else owns it.
    let slave = unsafe { OwnedFd::from_raw_fd(peer) };
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int to the place given, or fails.
    check(unsafe { libc::ioctl(fd, libc::TIOCGPTN, &raw mut number) })?;
    Ok((master, slave, PathBuf::from(format!("/dev/pts/{number}"))))
}

/// One recv(2) that never waits.
pub(super) fn receive_now(fd: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `to` is writable for its whole length.
    let n =
        unsafe { libc::recv(fd.as_raw_fd(), to.as_mut_ptr().cast(), to.len(), libc::MSG_DONTWAIT) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// One send(2) that never waits and raises no signal.
pub(super) fn send_now(fd: BorrowedFd<'_>, from: &[u8]) -> io::Result<usize> {
    const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `from` is readable for its whole length.
    let n = unsafe { libc::send(fd.as_raw_fd(), from.as_ptr().cast(), from.len(), FLAGS) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Gives a terminal another size.
#[cfg(test)]
pub(super) fn set_window_size(fd: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize from the place given.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    check_fd(result).map(|_| ())
}

fn check_fd(result: libc::c_int) -> io::Result<RawFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
