//! The system calls of Unix sockets that std offers only with other rights, or only waiting.
//!
//! One call per function, errors as errno; no policy.

#![expect(unsafe_code, reason = "socket modes and connecting without waiting need plain C calls")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A listening socket at `path` that only this user may connect to, non-blocking.
pub(super) fn listen(path: &Path, queue: libc::c_int) -> io::Result<UnixListener> {
    let (address, len) = address(path)?;
    let socket = stream_socket()?;
    let fd = socket.as_raw_fd();
    // Before the bind: the file then never exists with other rights.
    // SAFETY: fchmod takes a descriptor and a mode.
    check(unsafe { libc::fchmod(fd, 0o600) })?;
    // SAFETY: `address` is a complete sockaddr_un of `len` bytes with a terminated path.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), len) })?;
    // SAFETY: listen takes a descriptor and a number.
    check(unsafe { libc::listen(fd, queue) })?;
    Ok(socket.into())
}

/// A non-blocking stream to the listener at `path`, or its refusal at once.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let (address, len) = address(path)?;
    let socket = stream_socket()?;
    // SAFETY: `address` is a complete sockaddr_un of `len` bytes with a terminated path.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(socket.into())
}

fn stream_socket() -> io::Result<OwnedFd> {
    const TYPE: libc::c_int = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_UNIX, TYPE, 0) };
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let mut address = libc::sockaddr_un {
        sun_family: libc::AF_UNIX.try_into().map_err(invalid)?,
        sun_path: [0; 108],
    };
    let bytes = path.as_os_str().as_bytes();
    // One byte stays zero as the terminator.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    Ok((address, size_of::<libc::sockaddr_un>().try_into().map_err(invalid)?))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
