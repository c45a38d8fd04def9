//! The few system calls of a disk that the standard library does not offer, as safe functions.
//!
//! Makes no decisions: each function is one call and its errno.

#![expect(unsafe_code, reason = "ioctl, fallocate and record locks exist only as raw calls")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};

/// `_IOR(0x12, 114, size_t)`: size in bytes, as a `u64`.
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
/// `_IO(0x12, 104)`: logical block size in bytes, as an `int`.
const BLKSSZGET: libc::c_ulong = 0x1268;
/// `_IO(0x12, 123)`: physical block size in bytes, as an `unsigned int`.
const BLKPBSZGET: libc::c_ulong = 0x127b;
/// `_IO(0x12, 119)`: discards the range `[start, len]` of bytes.
const BLKDISCARD: libc::c_ulong = 0x1277;
/// `_IOW(0x94, 13, struct file_clone_range)`: blocks of one file become those of another.
const FICLONERANGE: libc::c_ulong = 0x4020_940d;

/// Size of a block device in bytes.
pub(super) fn device_size(device: &File) -> io::Result<u64> {
    let mut size = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64, which `size` is.
    let ret = unsafe { ioctl_with_mut_ref(device, BLKGETSIZE64, &mut size) };
    check(ret).map(|()| size)
}

/// Logical block size of a block device in bytes.
pub(super) fn device_logical_block(device: &File) -> io::Result<u32> {
    let mut size = 0_u32;
    // SAFETY: BLKSSZGET writes one positive int, which `size` has room for.
    let ret = unsafe { ioctl_with_mut_ref(device, BLKSSZGET, &mut size) };
    check(ret).map(|()| size)
}

/// Physical block size of a block device in bytes.
pub(super) fn device_physical_block(device: &File) -> io::Result<u32> {
    let mut size = 0_u32;
    // SAFETY: BLKPBSZGET writes one unsigned int, which `size` is.
    let ret = unsafe { ioctl_with_mut_ref(device, BLKPBSZGET, &mut size) };
    check(ret).map(|()| size)
}

/// Discards `len` bytes of a block device from `offset` on.
pub(super) fn device_discard(device: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two u64, which `range` is.
    check(unsafe { ioctl_with_ref(device, BLKDISCARD, &range) })
}

/// Has `to` share `len` bytes of `from`, from `start` on, as its own from `at` on. All are multiples of a block.
pub(super) fn share(from: &File, start: u64, len: u64, to: &File, at: u64) -> io::Result<()> {
    let descriptor = u64::try_from(from.as_raw_fd()).map_err(|_| einval())?;
    let range = [descriptor, start, len, at];
    // SAFETY: FICLONERANGE reads four u64, which `range` is.
    check(unsafe { ioctl_with_ref(to, FICLONERANGE, &range) })
}

/// fallocate(2) with `mode`.
pub(super) fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(|_| einval())?;
    let len = libc::off_t::try_from(len).map_err(|_| einval())?;
    // SAFETY: takes no pointers; the descriptor is open for the whole call.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

/// Locks all of `file`, for writing (`exclusive`) or reading, for as long as its open file description
/// lives. Does not wait: a lock in the way is `WouldBlock`.
pub(super) fn lock(file: &File, exclusive: bool) -> io::Result<()> {
    let request = whole_file(exclusive)?;
    // SAFETY: F_OFD_SETLK reads one `flock`, which `request` is.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) })
}

fn whole_file(exclusive: bool) -> io::Result<libc::flock> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(|_| einval())?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(|_| einval())?,
        // Length 0 is "to the end, however far it moves"; open file descriptions have process id 0.
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    })
}

fn check(ret: libc::c_int) -> io::Result<()> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn einval() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}
