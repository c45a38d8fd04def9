//! How io_uring instances are made here: disabled, so that they can be restricted before anything is asked of them.

use std::io;

use io_uring::IoUring;

/// A ring for `depth` operations at a time that is not enabled yet.
///
/// # Errors
/// When the kernel does not allow io_uring, or is too old to restrict one (before 5.10).
pub(super) fn disabled(depth: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_r_disabled();
    // Completions are noticed at the thread's next system call instead of by interrupting it; it is
    // never far away (5.19 and later).
    let cooperative = builder.clone().setup_coop_taskrun().build(depth);
    match cooperative {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(depth),
        other => other,
    }
}
