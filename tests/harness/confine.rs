//! Takes things away from a process before it starts, to see how `vmm` speaks of what it misses; and leaves it
//! descriptors.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::ptr;

use crate::scratch::Scratch;

/// What to take away, or to leave.
pub enum Confinement {
    /// /dev has nothing in it.
    EmptyDev,
    /// A file of the host stands in the place of another one.
    Replaced {
        /// The path that the process opens.
        path: PathBuf,
        /// What it finds there.
        by: PathBuf,
    },
    /// No capability, whoever the user is: file permissions count.
    NoCapabilities,
    /// A limit of the process, such as `RLIMIT_NOFILE`.
    Limit(libc::__rlimit_resource_t, libc::rlim_t),
    /// This descriptor stays open under its number.
    Inherits(RawFd),
}

/// A confinement that needs no allocation any more: it is applied between fork and exec.
enum Step {
    OwnMounts,
    Mount { from: CString, to: CString, kind: CString, flags: libc::c_ulong },
    DropCapabilities,
    Limit(libc::__rlimit_resource_t, libc::rlim_t),
    KeepOpen(RawFd),
}

/// Makes `command` start with all of `confinement` in force.
pub fn apply(command: &mut Command, confinement: Vec<Confinement>) {
    let steps: Vec<Step> = confinement.into_iter().flat_map(steps).collect();
    if steps.is_empty() {
        return;
    }
    // SAFETY: the steps make system calls only and allocate nothing, which is what a child may do between
    // fork and exec.
    unsafe { command.pre_exec(move || steps.iter().try_for_each(Step::run)) };
}

/// A device that no process without capabilities may open. Making one takes a real root; anybody else gets one that
/// is root's.
#[must_use]
pub fn locked_device(scratch: &Scratch) -> PathBuf {
    let path = scratch.join("locked");
    let name = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    // SAFETY: a string that lives through the call; the numbers are those of /dev/null.
    let made = unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR, libc::makedev(1, 3)) };
    if made == 0 { path } else { PathBuf::from("/dev/console") }
}

/// Makes the process of `command` the leader of a session that the terminal on its standard input controls.
pub fn lead_session(command: &mut Command) {
    let lead = || {
        // SAFETY: takes nothing; a child of a fork leads no group, so it cannot fail.
        unsafe { libc::setsid() };
        // SAFETY: the request takes a number; descriptor 0 is the terminal.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })
    };
    // SAFETY: two system calls, nothing else.
    unsafe { command.pre_exec(lead) };
}

fn steps(confinement: Confinement) -> Vec<Step> {
    let text = |bytes: &[u8]| CString::new(bytes).expect("no NUL in a path");
    match confinement {
        Confinement::EmptyDev => vec![
            Step::OwnMounts,
            Step::Mount {
                from: text(b"empty"),
                to: text(b"/dev"),
                kind: text(b"tmpfs"),
                flags: libc::MS_RDONLY,
            },
        ],
        Confinement::Replaced { path, by } => vec![
            Step::OwnMounts,
            Step::Mount {
                from: text(by.as_os_str().as_bytes()),
                to: text(path.as_os_str().as_bytes()),
                kind: text(b"none"),
                flags: libc::MS_BIND,
            },
        ],
        Confinement::NoCapabilities => vec![Step::DropCapabilities],
        Confinement::Limit(resource, value) => vec![Step::Limit(resource, value)],
        Confinement::Inherits(fd) => vec![Step::KeepOpen(fd)],
    }
}

impl Step {
    fn run(&self) -> io::Result<()> {
        match self {
            Self::OwnMounts => {
                // SAFETY: takes a number.
                check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
                mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)
            }
            Self::Mount { from, to, kind, flags } => mount(from, to, kind, *flags),
            Self::DropCapabilities => drop_capabilities(),
            Self::Limit(resource, value) => {
                let limit = libc::rlimit { rlim_cur: *value, rlim_max: *value };
                // SAFETY: the call reads an rlimit.
                check(unsafe { libc::setrlimit(*resource, &raw const limit) })
            }
            // SAFETY: takes numbers; the flag is the child's own.
            Self::KeepOpen(fd) => check(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) }),
        }
    }
}

fn mount(from: &CStr, to: &CStr, kind: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: three strings that live through the call; no file system needs data here.
    check(unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, ptr::null()) })
}

fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`, this thread, two halves of three sets, all empty.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    const NONE: [u32; 6] = [0; 6];
    /// `SECBIT_NOROOT` and its lock: user 0 gets nothing back at exec.
    const NO_ROOT: libc::c_ulong = 3;
    // SAFETY: takes numbers. It fails for an ordinary user, who gets nothing at exec anyway.
    unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NO_ROOT, 0, 0, 0) };
    // SAFETY: a header of version 3 and the sets that belong to it, both only read.
    let result = unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), NONE.as_ptr()) };
    check(libc::c_int::try_from(result).unwrap_or(-1))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
