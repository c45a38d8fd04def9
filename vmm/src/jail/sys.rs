//! The system calls of the jail that neither std nor a crate offers, as safe functions.
//!
//! One call per function where that is possible, errors as errno; no policy.

#![expect(
    unsafe_code,
    reason = "namespaces, mounts, capabilities, Landlock exist only as raw calls"
)]

mod landlock;
mod message;
mod tree;

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::ptr;

pub(crate) use landlock::{LandlockAttributes, landlock, landlock_version};
pub(crate) use message::{receive, send, set_patience, socket_pair};
pub(crate) use tree::{
    attach_mount, change_directory, change_owner, clone_mount, make_directory, make_node,
    make_read_only, open_beneath, remove_file,
};

/// Sets of capabilities of version 3 have two halves of 32 bits.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Numbers of capabilities that are asked for by [`has_capability`].
pub(crate) const CAP_SETGID: u32 = 6;
pub(crate) const CAP_SETUID: u32 = 7;
pub(crate) const CAP_SYS_ADMIN: u32 = 21;

/// What a fork gives to whom.
pub(crate) enum Side {
    /// To the parent.
    Parent {
        /// The child.
        child: OwnedFd,
        /// Its number, as the parent sees it.
        number: libc::pid_t,
    },
    /// To the child.
    Child,
}

/// A fork whose child is the first process of new namespaces (`CLONE_NEW*`). The process must have one thread.
pub(crate) fn fork_into(namespaces: libc::c_int) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    let mut flags = namespaces | libc::CLONE_PIDFD | libc::SIGCHLD;
    // The C library keeps the number of its thread, which is another one in the child.
    let own_number = thread_number();
    if !own_number.is_null() {
        flags |= libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    }
    // SAFETY: as fork(2): no memory is shared, the child goes on with a copy of everything and of the only thread. The
    // kernel writes one descriptor to the first address, and the child's number to where the C library has it.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, flags, ptr::null::<u8>(), &raw mut pidfd, own_number, 0)
    };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        _ => Ok(Side::Parent {
            // SAFETY: the descriptor is new and nobody else owns it.
            child: unsafe { OwnedFd::from_raw_fd(pidfd) },
            number: libc::pid_t::try_from(pid).unwrap_or(0),
        }),
    }
}

/// Where the C library keeps the number of this thread; null where the kernel does not tell.
fn thread_number() -> *mut libc::c_int {
    const PR_GET_TID_ADDRESS: libc::c_int = 40;
    let mut address: *mut libc::c_int = ptr::null_mut();
    // SAFETY: the call writes one address, which it does not follow.
    let result = unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut address) };
    if result == 0 { address } else { ptr::null_mut() }
}

/// Moves the calling thread into new namespaces (`CLONE_NEW*`).
pub(crate) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a number.
    check(unsafe { libc::unshare(namespaces) })
}

/// Moves the calling thread, and no other, into a new network namespace, and returns that.
pub(crate) fn make_network() -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    unshare(libc::CLONE_NEWNET)?;
    // A socket knows where it was made; /proc, which knows as well, need not be there.
    let socket = UnixDatagram::unbound()?;
    // SAFETY: takes a descriptor.
    owned(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) }.into())
}

/// Moves the calling thread into the network namespace of `file`.
pub(crate) fn join_network(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a descriptor and a number.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// mount(2); `None` is a null pointer.
pub(crate) fn mount(
    from: Option<&CStr>,
    to: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: terminated strings that live through the call, or null where the kernel takes that.
    check(unsafe {
        libc::mount(pointer(from), to.as_ptr(), pointer(kind), flags, pointer(options).cast())
    })
}

/// Makes the working directory, which is a mount, the root; the old root is mounted on top of it.
pub(crate) fn pivot_here() -> io::Result<()> {
    // SAFETY: two terminated strings.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    check(if result < 0 { -1 } else { 0 })
}

/// Takes away the mount that the working directory is on, and all below it.
pub(crate) fn unmount_here() -> io::Result<()> {
    // SAFETY: a terminated string.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })
}

/// Names this UTS namespace.
pub(crate) fn set_host_name(name: &[u8]) -> io::Result<()> {
    // SAFETY: `name` is readable for its whole length.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })
}

/// The user and group that this process acts as.
pub(crate) fn user() -> (libc::uid_t, libc::gid_t) {
    // SAFETY: take nothing and cannot fail.
    (unsafe { libc::geteuid() }, unsafe { libc::getegid() })
}

/// Becomes another user for good, with one group.
pub(crate) fn become_user(uid: libc::uid_t, gid: libc::gid_t) -> io::Result<()> {
    // SAFETY: an empty list.
    check(unsafe { libc::setgroups(0, ptr::null()) })?;
    // SAFETY: takes numbers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: takes numbers.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// Whether this process has capability `number` in effect.
pub(crate) fn has_capability(number: u32) -> bool {
    let header = [CAPABILITY_VERSION, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: a header of version 3 and room for the sets that belong to it.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    let [low, ..] = sets;
    result == 0 && low >> number & 1 == 1
}

/// Gives up the right to ever have a capability again.
pub(crate) fn drop_bounding_set() -> io::Result<()> {
    for number in 0.. {
        // SAFETY: takes numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            // Beyond the last one.
            let is_done = number > 0 && error.raw_os_error() == Some(libc::EINVAL);
            return if is_done { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Gives up every capability that this process has or could take up.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    let (header, none) = ([CAPABILITY_VERSION, 0], [0_u32; 6]);
    // SAFETY: a header of version 3 and the sets that belong to it, both only read.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    check(if result < 0 { -1 } else { 0 })
}

/// No program that is executed from here on gives more rights.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Whether other processes of this user may look into this one, and whether it leaves a core dump.
pub(crate) fn set_dumpable(on: bool) -> io::Result<()> {
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(on), 0, 0, 0) })
}

/// Has the kernel kill this process when its parent ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
}

/// Sets the soft and the hard limit of `resource`; `None` keeps the soft one and lowers the hard one to it.
pub(crate) fn limit(
    resource: libc::__rlimit_resource_t,
    value: Option<libc::rlim_t>,
) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills in the rlimit it is given.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    limit.rlim_cur = value.unwrap_or(limit.rlim_cur);
    limit.rlim_max = limit.rlim_cur;
    // SAFETY: the call reads the rlimit it is given.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

/// Closes the descriptors from `first` to `last`, those that are open.
pub(crate) fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: whoever calls this owns no descriptor in the range, or never uses it again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(if result < 0 { -1 } else { 0 })
}

/// Whether there is a descriptor of this number.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY: takes numbers; a bad descriptor only makes the call fail.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Waits until one of `fds` is readable or has hung up; says which are.
pub(crate) fn wait_for<const N: usize>(fds: [Option<BorrowedFd<'_>>; N]) -> io::Result<[bool; N]> {
    let mut polls = fds.map(|fd| libc::pollfd {
        // A negative number is passed over.
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: `N` valid entries.
    check(unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, -1) })?;
    Ok(polls.map(|poll| poll.revents != 0))
}

/// Whether the other end of a socket is gone.
pub(crate) fn is_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one valid entry; the call does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 && poll.revents & libc::POLLHUP != 0 }
}

/// A queue of these signals, which are not delivered otherwise from now on.
pub(crate) fn watch_signals(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for a whole set, which the call initializes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialized by the call above, which cannot fail.
    let mut set: libc::sigset_t = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: `set` is initialized and the signal numbers are valid.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    // SAFETY: `set` is initialized; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    // SAFETY: `set` is initialized; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to a process.
pub(crate) fn send_signal(process: BorrowedFd<'_>, signal: libc::c_int) -> io::Result<()> {
    let info: *const libc::siginfo_t = ptr::null();
    // SAFETY: takes numbers, and no siginfo.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, info, 0_u32)
    };
    check(if result < 0 { -1 } else { 0 })
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With this status.
    Exit(libc::c_int),
    /// By this signal.
    Signal(libc::c_int),
}

/// Waits for the end of a child.
pub(crate) fn wait_for_end(child: BorrowedFd<'_>) -> io::Result<End> {
    // SAFETY: all zeroes is a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = libc::id_t::try_from(child.as_raw_fd()).unwrap_or(libc::id_t::MAX);
    // SAFETY: the call fills in the siginfo.
    check(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) })?;
    // SAFETY: the siginfo of a child's end has a status.
    let status = unsafe { info.si_status() };
    Ok(if info.si_code == libc::CLD_EXITED { End::Exit(status) } else { End::Signal(status) })
}

/// Ends this process without running anything of it.
pub(crate) fn exit_now(code: libc::c_int) -> ! {
    // SAFETY: takes a number.
    unsafe { libc::_exit(code) }
}

/// Sends `signal` to this process, with the action that it has by default.
pub(crate) fn raise_by_default(signal: libc::c_int) {
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for a whole set, which the call initializes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialized by the call above, which cannot fail.
    let mut set: libc::sigset_t = unsafe { set.assume_init() };
    // SAFETY: `set` is initialized; a number that is no signal only makes the call fail.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: `set` is initialized; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
    // SAFETY: raise has no preconditions.
    unsafe { libc::raise(signal) };
}

/// Stops this process, as a terminal's Ctrl-Z does, until it is told to go on.
pub(crate) fn stop() {
    // SAFETY: raise has no preconditions.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Whether this user may make something in a directory (access(2)).
pub(crate) fn may_write(directory: &Path) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    // SAFETY: a terminated string.
    unsafe { libc::access(path.as_ptr(), libc::W_OK) == 0 }
}

/// Whether the group of this process is the one that the terminal `fd` listens to.
pub(crate) fn is_in_foreground(fd: impl AsFd) -> bool {
    // SAFETY: a descriptor that is no terminal only makes the call fail.
    let foreground = unsafe { libc::tcgetpgrp(fd.as_fd().as_raw_fd()) };
    // SAFETY: getpgrp has no preconditions and cannot fail.
    foreground == unsafe { libc::getpgrp() }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// setsid(2)
pub(crate) fn lead_session() -> io::Result<()> {
    // SAFETY: takes nothing.
    check(unsafe { libc::setsid() })
}

/// Puts `file` in the place of standard input, output and error.
pub(crate) fn replace_standard(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers; nobody owns a standard descriptor.
    (0..3).try_for_each(|fd| check(unsafe { libc::dup2(file.as_raw_fd(), fd) }))
}

/// Closes every descriptor but the standard ones and `kept`.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let kept: Vec<RawFd> = kept.iter().map(|fd| fd.as_raw_fd()).collect();
    close_all_but_numbers(&kept)
}

/// The same by their numbers.
pub(crate) fn close_all_but_numbers(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<RawFd> =
        kept.iter().copied().filter(|fd| *fd > libc::STDERR_FILENO).collect();
    kept.sort_unstable();
    let mut first = libc::STDERR_FILENO + 1;
    for fd in kept {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, RawFd::MAX)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
