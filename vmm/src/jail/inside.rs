//! The way into the jail, step by step, in the process that will run the machine.
//!
//! To make a network takes the kernel longer than all the rest. A thread that lives no longer than that does it, beside
//! other steps and the beginning of the machine. To let go of the old root is not among them: the kernel would have it
//! wait until every processor has been through its scheduler, hence for the network.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::thread;

use super::error::{JailError, Step};
use super::{Way, landlock, sys};

/// Namespaces that are made inside, with the words for them. The one for a network is made apart.
const NAMESPACES: [(libc::c_int, &str); 4] = [
    (libc::CLONE_NEWNS, "mount"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWCGROUP, "cgroup"),
];
/// Says nothing about the host.
const HOST_NAME: &[u8] = b"vmm";
/// A directory that is there: /dev/kvm was opened in it.
const MOUNT_POINT: &std::ffi::CStr = c"/dev";
/// No block, one inode: the root itself.
const NOTHING: &std::ffi::CStr = c"size=4k,nr_inodes=1,mode=555";

/// Goes all the way, and does what is to be done `meanwhile`. `tie` is hung up when the process outside is gone.
pub(super) fn settle<T>(
    way: Way,
    inherited: &[RawFd],
    tie: BorrowedFd<'_>,
    meanwhile: impl FnOnce() -> T,
) -> Result<T, JailError> {
    for fd in inherited {
        sys::close_range(*fd, *fd).map_err(JailError::at(Step::Descriptors))?;
    }
    let network = thread::Builder::new().spawn(sys::make_network);
    make_namespaces()?;
    sys::set_host_name(HOST_NAME).map_err(JailError::at(Step::Namespace("uts")))?;
    let old_root = empty_root()?;
    let done = meanwhile();
    network
        // A panic has ended the process.
        .and_then(|thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
        .and_then(|network| sys::join_network(network.as_fd()))
        .map_err(JailError::at(Step::Namespace("network")))?;
    if old_root == OldRoot::OnTop {
        sys::unmount_here().map_err(JailError::at(Step::Unmount))?;
    }
    std::env::set_current_dir("/").map_err(JailError::at(Step::Unmount))?;
    set_limits().map_err(JailError::at(Step::Limits))?;
    sys::no_new_privileges().map_err(JailError::at(Step::NoNewPrivileges))?;
    let version = landlock::deny_all().map_err(JailError::at(Step::Landlock))?;
    give_up_rights(way)?;
    sys::set_dumpable(false).map_err(JailError::at(Step::Tie))?;
    // Last, because becoming another user unties.
    sys::die_with_parent().map_err(JailError::at(Step::Tie))?;
    if sys::is_hung_up(tie) {
        let source = io::Error::from(io::ErrorKind::BrokenPipe);
        return Err(JailError::at(Step::Tie)(source));
    }
    match version {
        0 => log::warn!("in the jail, without Landlock: this kernel has none"),
        version => log::info!("in the jail, with Landlock {version}"),
    }
    Ok(done)
}

/// Makes all namespaces, the empty root in them and no more.
///
/// # Errors
/// An errno.
pub(super) fn try_namespaces() -> Result<libc::c_int, libc::c_int> {
    let errno = |error: JailError| match error {
        JailError::Step { source, .. } => source.raw_os_error().unwrap_or(libc::EPERM),
        _ => libc::EPERM,
    };
    make_namespaces().and_then(|()| empty_root()).map_err(errno)?;
    let network = sys::unshare(libc::CLONE_NEWNET);
    network.map(|()| 0).map_err(|error| error.raw_os_error().unwrap_or(libc::EPERM))
}

/// All at once, which is quicker; where that is refused, one by one, to tell which.
fn make_namespaces() -> Result<(), JailError> {
    let all = NAMESPACES.iter().fold(0, |all, (flag, _)| all | flag);
    let Err(source) = sys::unshare(all) else { return Ok(()) };
    for (flag, name) in NAMESPACES {
        sys::unshare(flag).map_err(JailError::at(Step::Namespace(name)))?;
    }
    // Each is to be had, but not all.
    Err(JailError::at(Step::Namespace("all of them"))(source))
}

/// Where the root of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OldRoot {
    /// On top of the new one, and in its place until it is unmounted.
    OnTop,
    /// Hidden below.
    Hidden,
}

/// A root with nothing in it, which cannot be written. The working directory is the one to leave.
fn empty_root() -> Result<OldRoot, JailError> {
    const FLAGS: libc::c_ulong =
        libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let alone = libc::MS_REC | libc::MS_PRIVATE;
    sys::mount(None, c"/", None, alone, None).map_err(JailError::at(Step::PrivateMounts))?;
    sys::mount(Some(c"vmm"), MOUNT_POINT, Some(c"tmpfs"), FLAGS, Some(NOTHING))
        .and_then(|()| std::env::set_current_dir("/dev"))
        .map_err(JailError::at(Step::EmptyRoot))?;
    match sys::pivot_here() {
        Ok(()) => Ok(OldRoot::OnTop),
        // Nobody may leave the first file system of all, such as an initramfs. What is mounted over it hides it, and
        // without capabilities nobody takes that away.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::mount(Some(c"."), c"/", None, libc::MS_MOVE, None)
                .and_then(|()| std::os::unix::fs::chroot("."))
                .map(|()| OldRoot::Hidden)
                .map_err(JailError::at(Step::Pivot))
        }
        Err(error) => Err(JailError::at(Step::Pivot)(error)),
    }
}

/// No core dump, no message queues, no more descriptors than it may have now.
fn set_limits() -> io::Result<()> {
    sys::limit(libc::RLIMIT_CORE, Some(0))?;
    sys::limit(libc::RLIMIT_MSGQUEUE, Some(0))?;
    sys::limit(libc::RLIMIT_NOFILE, None)
}

fn give_up_rights(way: Way) -> Result<(), JailError> {
    let failed = JailError::at(Step::Capabilities);
    sys::drop_bounding_set().map_err(&failed)?;
    if let Way::Root { uid, gid } = way {
        sys::become_user(uid, gid).map_err(JailError::at(Step::User))?;
    }
    sys::drop_capabilities().map_err(failed)
}
