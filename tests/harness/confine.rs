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
    /// An ordinary user, of the host's root, with these groups.
    User {
        /// Its number, and its group's.
        id: u32,
        /// One more group.
        group: u32,
    },
    /// An ordinary user of a user namespace, in which it may make no namespaces of this kind: "user", "pid", "mnt",
    /// "net", "ipc", "uts" or "cgroup". Files are still the host's.
    NoMore(&'static str),
    /// Another root, by pivot_root(2), and an ordinary user there, as Firecracker's jailer arranges it.
    Root {
        /// What becomes the root.
        path: PathBuf,
        /// The user, and the group.
        user: u32,
    },
    /// This system call fails with this errno.
    Fails(libc::c_long, i32),
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
    Become(u32, u32),
    Pivot(CString),
    OwnUsers,
    Write(CString, Vec<u8>),
    Filter(Box<[libc::sock_filter]>),
    Limit(libc::__rlimit_resource_t, libc::rlim_t),
    KeepOpen(RawFd),
}

/// Makes `command` start with all of `confinement` in force.
pub fn apply(command: &mut Command, confinement: Vec<Confinement>) {
    let steps: Vec<Step> = confinement.into_iter().flat_map(steps).collect();
    let begin = move || {
        // Whoever runs tests in the background of a shell has these ignored, which children inherit.
        for signal in [libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: takes numbers; the default installs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        steps.iter().try_for_each(Step::run)?;
        // When the tests are killed, machines go with them. Last, because whoever becomes another user loses it; a filter
        // of a test may forbid it.
        // SAFETY: takes numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        Ok(())
    };
    // SAFETY: the steps make system calls only and allocate nothing, which is what a child may do between
    // fork and exec.
    unsafe { command.pre_exec(begin) };
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
        Confinement::User { id, group } => vec![Step::Become(id, group)],
        Confinement::NoMore(kind) => {
            let write = |path: &str, what: String| Step::Write(text(path.as_bytes()), what.into());
            // SAFETY: take nothing and cannot fail.
            let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
            vec![
                Step::OwnUsers,
                write("/proc/self/setgroups", "deny".to_owned()),
                write("/proc/self/uid_map", format!("1000 {uid} 1")),
                write("/proc/self/gid_map", format!("1000 {gid} 1")),
                write(&format!("/proc/sys/user/max_{kind}_namespaces"), "0".to_owned()),
            ]
        }
        Confinement::Root { path, user } => {
            let path = text(path.as_os_str().as_bytes());
            let flags = libc::MS_BIND | libc::MS_REC;
            let kind = text(b"none");
            vec![
                Step::OwnMounts,
                Step::Mount { from: path.clone(), to: path.clone(), kind, flags },
                Step::Pivot(path),
                Step::Become(user, user),
            ]
        }
        Confinement::Fails(call, errno) => vec![Step::Filter(failing(call, errno))],
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
            Self::Pivot(root) => {
                // SAFETY: a string that lives through the call.
                check(unsafe { libc::chdir(root.as_ptr()) })?;
                let here = c".".as_ptr();
                // SAFETY: two terminated strings.
                let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, here, here) };
                check(libc::c_int::try_from(pivoted).unwrap_or(-1))?;
                // SAFETY: a terminated string.
                check(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
                // SAFETY: a terminated string.
                check(unsafe { libc::chroot(here) })
            }
            Self::Become(id, group) => {
                let groups = usize::from(group != id);
                // SAFETY: a list of at most one number, which lives through the call.
                check(unsafe { libc::setgroups(groups, group) })?;
                // SAFETY: takes numbers.
                check(unsafe { libc::setresgid(*id, *id, *id) })?;
                // SAFETY: takes numbers.
                check(unsafe { libc::setresuid(*id, *id, *id) })
            }
            // SAFETY: takes a number.
            Self::OwnUsers => check(unsafe { libc::unshare(libc::CLONE_NEWUSER) }),
            Self::Write(path, bytes) => {
                // SAFETY: a string that lives through the call.
                let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
                check(fd)?;
                // SAFETY: `bytes` is readable for its whole length.
                let count = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
                check(libc::c_int::try_from(count).unwrap_or(-1))
            }
            Self::Filter(program) => {
                let program = libc::sock_fprog {
                    len: u16::try_from(program.len()).unwrap_or(0),
                    filter: program.as_ptr().cast_mut(),
                };
                // SAFETY: takes numbers.
                check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
                // SAFETY: a program that lives through the call.
                check(unsafe {
                    libc::prctl(
                        libc::PR_SET_SECCOMP,
                        libc::SECCOMP_MODE_FILTER,
                        &raw const program,
                        0,
                        0,
                    )
                })
            }
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

/// A filter under which `call` fails with `errno` and every other one works.
fn failing(call: libc::c_long, errno: i32) -> Box<[libc::sock_filter]> {
    let word = |value: i64| u32::try_from(value).unwrap_or(0);
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    let error = libc::SECCOMP_RET_ERRNO | word(errno.into());
    Box::new([
        // The number is the first word of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, word(call)),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, error),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

/// /dev/kvm once more, for the members of `group`. Making one takes a real root.
#[must_use]
pub fn kvm_for_group(scratch: &Scratch, group: u32) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let path = scratch.join("kvm");
    let made = make_device(&path, std::fs::metadata("/dev/kvm").ok()?.rdev());
    std::os::unix::fs::chown(&path, Some(0), Some(group)).ok()?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o660)).ok()?;
    made.then_some(path)
}

/// A character device of this number; `false` when that is not permitted.
pub fn make_device(path: &std::path::Path, number: libc::dev_t) -> bool {
    let name = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    // SAFETY: a string that lives through the call.
    unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o600, number) == 0 }
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
