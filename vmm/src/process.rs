//! The first and the last steps of the process, in place of the standard library's.
//!
//! Those look for the main thread's guard page in /proc/self/maps, to explain an overflow of its stack: a fifth of
//! all instructions from exec to the guest's first. What else they do is done here: standard descriptors are
//! open, SIGPIPE is ignored, and SIGXFSZ as well. An overflow still ends in the guard page, and the process by
//! SIGSEGV.

#![expect(unsafe_code, reason = "the C library's arguments, poll, signals, the heap")]

#[cfg(all(target_env = "gnu", target_feature = "crt-static", target_arch = "x86_64"))]
mod c_library;

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

/// Prepares the process; call it before anything else, on its only thread. Returns the arguments of `main`, the
/// program's name first.
///
/// # Errors
/// When a standard descriptor is closed and /dev/null cannot stand in for it: files would take its number.
///
/// # Safety
/// `count` and `values` are what the C library gave to `main`.
pub unsafe fn begin(
    count: libc::c_int,
    values: *const *const libc::c_char,
) -> io::Result<Vec<OsString>> {
    open_standard_descriptors()?;
    // Writing to a closed pipe, or beyond the largest size of a file, is an error like any other.
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    share_one_heap();
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller vouches for `count` pointers, which the process never changes.
    let values = unsafe { std::slice::from_raw_parts(values, count) };
    let text = |value: &*const libc::c_char| {
        // SAFETY: each is a terminated string.
        let bytes = unsafe { CStr::from_ptr(*value) }.to_bytes();
        OsStr::from_bytes(bytes).to_owned()
    };
    Ok(values.iter().map(text).collect())
}

/// The number of the process that was started. In a jail another one runs the machine, whose own number means nothing
/// outside.
#[must_use]
pub fn id() -> u32 {
    static ID: OnceLock<u32> = OnceLock::new();
    *ID.get_or_init(std::process::id)
}

/// Bytes that nobody can foresee.
///
/// # Errors
/// The kernel's: it has none before it has gathered some, or the call is forbidden.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the kernel writes at most N bytes to an array of N.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    match usize::try_from(got) {
        Ok(got) if got == N => Ok(bytes),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Threads that hardly ever allocate need no heaps of their own: each would be a mapping of 128 MiB to make, trim
/// and open, and pages that only this thread fills.
fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a parameter of the allocator, set while there is one thread; it fails by changing nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// A file that is opened later must not become standard output.
fn open_standard_descriptors() -> io::Result<()> {
    let mut polls = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: three valid entries; the call does not wait.
    if unsafe { libc::poll(polls.as_mut_ptr(), 3, 0) } <= 0 {
        return Ok(());
    }
    // Lowest first: the kernel gives out the lowest number that is free.
    for closed in polls.iter().filter(|it| it.revents & libc::POLLNVAL != 0) {
        // SAFETY: a terminated path.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if fd != closed.fd {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
