//! The system calls of a tap.

#![expect(unsafe_code, reason = "taps are driven by ioctls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct ifreq`: a name and a union of 24 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

impl IfReq {
    pub(super) const fn empty() -> Self {
        Self { name: [0; libc::IFNAMSIZ], value: [0; 24] }
    }

    /// `None` when no interface can be called `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        // `%` would make the kernel choose a number, `:` names aliases.
        let is_bad = |b: u8| b == 0 || b"/:%".contains(&b) || b.is_ascii_whitespace();
        let mut request = Self::empty();
        // One byte stays for the NUL.
        let room = request.name.get_mut(..libc::IFNAMSIZ - 1)?;
        let to = room.get_mut(..name.len())?;
        if name.is_empty() || name == "." || name == ".." || name.bytes().any(is_bad) {
            return None;
        }
        to.copy_from_slice(name.as_bytes());
        Some(request)
    }

    /// The name that the kernel filled in.
    pub(super) fn name(&self) -> String {
        let bytes: Vec<u8> = self.name.iter().copied().take_while(|&b| b != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// As a request with `ifr_flags`, which are 16 bits wide.
    pub(super) fn with_flags(mut self, flags: libc::c_int) -> Self {
        let flags = u16::try_from(flags).unwrap_or(0).to_ne_bytes();
        for (to, from) in self.value.iter_mut().zip(flags) {
            *to = from;
        }
        self
    }

    pub(super) fn flags(&self) -> libc::c_int {
        let [a, b, ..] = self.value;
        u16::from_ne_bytes([a, b]).into()
    }

    /// As a request with an `int`, such as `ifr_mtu`.
    pub(super) fn set_int(&mut self, value: libc::c_int) {
        for (to, from) in self.value.iter_mut().zip(value.to_ne_bytes()) {
            *to = from;
        }
    }
}

/// Calls on `fd` return at once from now on.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument and touches no memory.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: F_SETFL takes an int and touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Whether one call may be told not to wait. Taps can be since Linux 5.8, macvtaps since 6.4. A frame that waits
/// is lost by asking, as are all others when a driver begins.
pub(super) fn knows_nowait(tap: &File) -> bool {
    let mut head = [0_u8; 1];
    let to = libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() };
    // SAFETY: the one iovec is `head`, which lives until the call returns.
    let read = unsafe { libc::preadv2(tap.as_raw_fd(), &raw const to, 1, -1, libc::RWF_NOWAIT) };
    read >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EOPNOTSUPP)
}

/// An ioctl whose argument is a `struct ifreq`.
pub(super) fn ioctl_request(
    fd: BorrowedFd<'_>,
    call: libc::Ioctl,
    request: &mut IfReq,
) -> io::Result<()> {
    // SAFETY: every caller's `call` reads and writes at most a `struct ifreq`, and `IfReq` has its layout
    // and size.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), call, std::ptr::from_mut(request)) })?;
    Ok(())
}

/// An ioctl whose argument points to an `int` to read.
pub(super) fn ioctl_int(
    fd: BorrowedFd<'_>,
    call: libc::Ioctl,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: every caller's `call` reads one `int`, which lives until the call returns.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), call, &raw const value) })?;
    Ok(())
}

/// An ioctl whose argument is a number.
pub(super) fn ioctl_value(
    fd: BorrowedFd<'_>,
    call: libc::Ioctl,
    value: libc::c_ulong,
) -> io::Result<()> {
    // SAFETY: every caller's `call` takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), call, value) })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_fields_where_the_kernel_looks() {
        let mut request = IfReq::named("tap0").unwrap().with_flags(0x5002);
        assert_eq!(request.name(), "tap0");
        assert_eq!(request.flags(), 0x5002);
        assert_eq!(request.value[2..], [0; 22]);
        request.set_int(9000);
        assert_eq!(request.value[..4], 9000_i32.to_ne_bytes());
    }
}
