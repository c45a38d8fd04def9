//! The system calls of Landlock.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use super::{check, owned};

/// The newest version of Landlock that the kernel knows; 0 when it has none.
pub(crate) fn landlock_version() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: asks for a number; no attributes are read.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, VERSION)
    };
    u32::try_from(version).unwrap_or(0)
}

/// What a Landlock ruleset decides about; what it does not allow is then denied. Later fields are unknown to old
/// kernels, hence the length in [`landlock`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LandlockAttributes {
    pub(crate) file_system: u64,
    pub(crate) network: u64,
    pub(crate) scoped: u64,
}

/// Denies everything that `attributes`, of which the kernel knows `len` bytes, decide about.
pub(crate) fn landlock(attributes: &LandlockAttributes, len: usize) -> io::Result<()> {
    let len = len.min(size_of::<LandlockAttributes>());
    // SAFETY: `attributes` is readable for `len` bytes.
    let ruleset =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes, len, 0_u32) };
    let ruleset = owned(ruleset)?;
    // SAFETY: takes a descriptor and a number.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) };
    check(if result < 0 { -1 } else { 0 })
}
