//! The system calls of the way between inside and outside: messages, and descriptors with them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Two ends of a way for messages, closed on exec.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    const TYPE: libc::c_int = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    let mut fds = [-1; 2];
    // SAFETY: the call writes two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, TYPE, 0, fds.as_mut_ptr()) })?;
    let [one, other] = fds;
    // SAFETY: the descriptor is new and nobody else owns it.
    let one = unsafe { OwnedFd::from_raw_fd(one) };
    // SAFETY: the same.
    Ok((one, unsafe { OwnedFd::from_raw_fd(other) }))
}

/// How long a receiver waits before it gives up, in seconds.
pub(crate) fn set_patience(socket: BorrowedFd<'_>, seconds: libc::time_t) -> io::Result<()> {
    let time = libc::timeval { tv_sec: seconds, tv_usec: 0 };
    let len = libc::socklen_t::try_from(size_of::<libc::timeval>()).unwrap_or(0);
    // SAFETY: the call reads a timeval.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const time).cast(),
            len,
        )
    })
}

/// Room for one control message with one descriptor, aligned as its header.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// Bytes of a descriptor.
const FD_LEN: libc::c_uint = 4;
const _: () = assert!(size_of::<RawFd>() == FD_LEN as usize);
// SAFETY: computes a number.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(FD_LEN) } as usize;

/// Sends a message of bytes and, if there is one, a descriptor. SIGPIPE must be ignored.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let Some(fd) = fd else {
        // The inside may make no call that sends descriptors.
        // SAFETY: `bytes` is readable for its whole length.
        let sent = unsafe { libc::write(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        return if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; CONTROL_LEN]);
    // SAFETY: all zeroes is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LEN;
    // SAFETY: the message has room for one header.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: computes a number.
    let len = unsafe { libc::CMSG_LEN(FD_LEN) };
    let cmsg = libc::cmsghdr {
        cmsg_len: len as usize,
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
    };
    // SAFETY: the header is inside `control`, which is large enough and aligned.
    unsafe { header.write(cmsg) };
    // SAFETY: the data follow the header inside `control`.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: there is room for one descriptor, of any alignment.
    unsafe { data.cast::<RawFd>().write_unaligned(fd.as_raw_fd()) };
    // SAFETY: the message points to `bytes` and `control`, which live through the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives a message: how many of its bytes fit into `to` (0: there will be none any more), and the descriptor that
/// came with it.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    to: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut part = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let mut control = Control([0; CONTROL_LEN]);
    // SAFETY: all zeroes is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LEN;
    // SAFETY: the message points to `to` and `control`, which live through the call.
    let count =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled in the message.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Ok((count, None));
    }
    // SAFETY: a header that the kernel wrote into `control`.
    let found = unsafe { *header };
    if (found.cmsg_level, found.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
        return Ok((count, None));
    }
    // SAFETY: the data follow the header inside `control`.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: a message of this kind has one descriptor at least, and there was no room for more.
    let fd = unsafe { data.cast::<RawFd>().read_unaligned() };
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok((count, Some(unsafe { OwnedFd::from_raw_fd(fd) })))
}
