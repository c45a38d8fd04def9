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
    if let Err(error) = check(unsafe { libc::listen(fd, queue) }) {
        // What was bound is a file that nobody else knows yet.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(socket.into())
}

/// Whether a socket is one that listens.
pub(super) fn listens(socket: &UnixListener) -> io::Result<bool> {
    let mut answer: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    let (fd, to) = (socket.as_raw_fd(), (&raw mut answer).cast());
    // SAFETY: `answer` is an int and `len` its length, which is all that the call writes.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, to, &raw mut len)
    })?;
    Ok(answer != 0)
}

/// A non-blocking stream to the listener at `path`, or its refusal at once.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let (address, len) = address(path)?;
    let socket = stream_socket()?;
    // SAFETY: `address` is a complete sockaddr_un of `len` bytes with a terminated path.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(socket.into())
}

/// One recvmsg(2) that leaves what it copies where it is, and never waits.
pub(super) fn peek(stream: &UnixStream, to: &mut [u8]) -> io::Result<usize> {
    const FLAGS: libc::c_int = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let mut piece = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // SAFETY: all zeroes is a valid message header: no address, no pieces, no room for descriptors.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut piece, 1);
    // SAFETY: the header has one piece, which is writable for its whole length.
    count(unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, FLAGS) })
}

/// One read(2).
pub(super) fn read(stream: &UnixStream, to: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `to` is writable for its whole length.
    count(unsafe { libc::read(stream.as_raw_fd(), to.as_mut_ptr().cast(), to.len()) })
}

/// One write(2).
pub(super) fn write(stream: &UnixStream, from: &[u8]) -> io::Result<usize> {
    // SAFETY: `from` is readable for its whole length.
    count(unsafe { libc::write(stream.as_raw_fd(), from.as_ptr().cast(), from.len()) })
}

/// Raises the soft limit of descriptors to `count`, at most to the hard one.
pub(super) fn raise_descriptor_limit(count: libc::rlim_t) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills in the rlimit it is given.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= count {
        return Ok(());
    }
    limit.rlim_cur = count.min(limit.rlim_max);
    // SAFETY: the call reads the rlimit it is given.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    if limit.rlim_cur < count { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Ok(()) }
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

fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
