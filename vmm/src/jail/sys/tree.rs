//! Files and mounts below a directory that others may write to: by descriptors, never through a link.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, owned};

/// Opens `name`, which is neither a link nor leads out of `directory` (openat2(2)).
pub(crate) fn open_beneath(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: libc::c_int,
    mode: libc::mode_t,
) -> io::Result<OwnedFd> {
    // SAFETY: all zeroes is a valid open_how.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.mode = u64::from(mode);
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: a terminated string and a structure of the length given.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    owned(fd)
}

/// mkdirat(2)
pub(crate) fn make_directory(
    directory: BorrowedFd<'_>,
    name: &CStr,
    mode: libc::mode_t,
) -> io::Result<()> {
    // SAFETY: a terminated string.
    check(unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode) })
}

/// A character device; a link of that name is not followed (mknodat(2)).
pub(crate) fn make_node(
    directory: BorrowedFd<'_>,
    name: &CStr,
    mode: libc::mode_t,
    number: libc::dev_t,
) -> io::Result<()> {
    let mode = libc::S_IFCHR | mode;
    // SAFETY: a terminated string.
    check(unsafe { libc::mknodat(directory.as_raw_fd(), name.as_ptr(), mode, number) })
}

/// Removes what is called `name`, a link itself and no directory; nothing need be there.
pub(crate) fn remove_file(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: a terminated string.
    match check(unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Gives `name` in `directory`, or the directory itself, to somebody; a link is not followed.
pub(crate) fn change_owner(
    directory: BorrowedFd<'_>,
    name: Option<&CStr>,
    uid: libc::uid_t,
    gid: libc::gid_t,
) -> io::Result<()> {
    const FLAGS: libc::c_int = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    let name = name.unwrap_or(c"");
    // SAFETY: a terminated string.
    check(unsafe { libc::fchownat(directory.as_raw_fd(), name.as_ptr(), uid, gid, FLAGS) })
}

/// A mount of the file or directory `fd`, attached nowhere yet (open_tree(2)).
pub(crate) fn clone_mount(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // OPEN_TREE_CLONE and OPEN_TREE_CLOEXEC
    const FLAGS: libc::c_int = 1 | libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
    // SAFETY: a terminated string.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), FLAGS) })
}

/// Attaches a mount on top of `to` (move_mount(2)).
pub(crate) fn attach_mount(mount: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // MOVE_MOUNT_F_EMPTY_PATH and MOVE_MOUNT_T_EMPTY_PATH
    const FLAGS: libc::c_uint = 0x4 | 0x40;
    let (mount, to) = (mount.as_raw_fd(), to.as_raw_fd());
    // SAFETY: two terminated strings.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, mount, c"".as_ptr(), to, c"".as_ptr(), FLAGS)
    };
    check(if result < 0 { -1 } else { 0 })
}

/// Nobody can write through this mount, or gain rights by it (mount_setattr(2)). Kernels before 5.12 cannot; then the
/// file's own rights hold.
pub(crate) fn make_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    // MOUNT_ATTR_RDONLY and MOUNT_ATTR_NOSUID to set, nothing to clear.
    let attributes: [u64; 4] = [0x1 | 0x2, 0, 0, 0];
    let len = size_of_val(&attributes);
    // SAFETY: a terminated string and four words, of which the length tells.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            len,
        )
    };
    match check(if result < 0 { -1 } else { 0 }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

/// fchdir(2)
pub(crate) fn change_directory(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a descriptor.
    check(unsafe { libc::fchdir(directory.as_raw_fd()) })
}
