//! The jail: from the start of the guest on, this process has nothing but what it opened before.
//!
//! ```text
//!   vmm ── opens everything ── fork ──▶ inside: first process of its own namespaces, empty root, no
//!    │                                  capabilities, Landlock; builds and runs the machine
//!    └─▶ outside: passes signals on, connects to programs that serve ports, ends as the inside ends
//! ```
//!
//! An ordinary user gets a user namespace; root gives up being root instead, so that no host need allow user
//! namespaces for it. KVM ties a machine to the memory of the process that makes it, and a PID namespace begins with a
//! child: hence the machine is made inside, after the fork. What the outside can still be asked for is one thing, the
//! connection to a port's socket ([`channel`]). Nothing here costs a run without a jail anything.
//!
//! System call filters are not part of it; they are installed per thread, in every run.

mod cgroup;
pub mod channel;
mod error;
mod inside;
mod landlock;
mod outside;
pub(crate) mod sys;

use std::fs::File;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use devices::backend::socket::SocketFile;

use crate::config::{CgroupLimits, JailConfig};
use crate::metrics::cgroup::Accounts;
use crate::process;
use cgroup::Cgroups;
use channel::Channel;
pub use error::{JailError, Step};
use sys::{End, Side};

/// Who runs a jail that root asked for without naming anybody: the user that owns nothing.
const NOBODY: u32 = 65534;

/// A jail that was asked for, not entered yet.
#[derive(Debug)]
pub struct Jail {
    config: JailConfig,
    limits: CgroupLimits,
    way: Way,
    /// Descriptors that the parent process has left open. Of those that are needed there will be copies.
    inherited: Vec<RawFd>,
}

/// How rights are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Capabilities over a user namespace of its own, in which nobody has a number.
    UserNamespace,
    /// Root's capabilities, until it becomes this user.
    Root { uid: u32, gid: u32 },
}

/// What the process outside has to do.
#[derive(Debug, Default)]
pub struct Left {
    /// Files of sockets, to be removed at the end.
    pub files: Vec<SocketFile>,
    /// The path of the socket device, beside which programs of the host listen.
    pub vsock: Option<PathBuf>,
    /// Files of disks, whose transfers may be limited.
    pub disks: Vec<PathBuf>,
}

/// What a process inside has of the outside.
#[derive(Debug)]
pub struct Inside<T> {
    /// The way there.
    pub channel: Channel,
    /// What the kernel counts for its cgroup, if it has one of its own.
    pub accounts: Accounts,
    /// What was done on the way.
    pub done: T,
}

impl Jail {
    /// Finds out how rights can be given up here. Call it before anything is opened.
    ///
    /// # Errors
    /// [`JailError`] when `config` asks for what only root can do.
    pub fn new(config: JailConfig, limits: CgroupLimits) -> Result<Self, JailError> {
        let is_root = [sys::CAP_SYS_ADMIN, sys::CAP_SETUID, sys::CAP_SETGID]
            .into_iter()
            .all(sys::has_capability);
        let way = Way::of(&config, sys::user(), is_root, is_known)?;
        let inherited = open_descriptors().map_err(JailError::at(Step::Descriptors))?;
        Ok(Self { config, limits, way, inherited })
    }

    /// Joins the network in which the taps are. This process leaves it when it enters the jail.
    ///
    /// # Errors
    /// [`JailError`]
    pub fn join_network(&self) -> Result<(), JailError> {
        let Some(path) = &self.config.netns else { return Ok(()) };
        File::open(path)
            .and_then(|file| sys::join_network(file.as_fd()))
            .map_err(|source| JailError::Network { path: path.clone(), source })
    }

    /// Goes on inside; the process that calls this stays outside, does what is [`Left`] to it, and ends as the inside
    /// ends. It must have one thread. What is done `meanwhile`, while the kernel makes a network, still has the rights that
    /// are to be given up: nothing is to be read there that a guest's owner wrote.
    ///
    /// # Errors
    /// [`JailError`], which says how far it came and what the host must allow.
    pub fn enter<T>(
        &self,
        left: Left,
        meanwhile: impl FnOnce() -> T,
    ) -> Result<Inside<T>, JailError> {
        // The number by which others know this machine.
        let _ = process::id();
        let disks: Vec<&Path> = left.disks.iter().map(PathBuf::as_path).collect();
        let mut cgroups = Cgroups::make(&self.limits, self.config.cgroup.as_deref(), &disks)?;
        let accounts = cgroups.accounts();
        let (outer, inner) = sys::socket_pair().map_err(JailError::at(Step::Channel))?;
        match sys::fork_into(self.way.namespaces()).map_err(JailError::at(Step::Fork))? {
            Side::Parent { child, .. } => {
                drop(inner);
                outside::watch(child.as_fd(), outer, left, cgroups)
            }
            Side::Child => {
                drop(outer);
                let entered = cgroups.enter();
                cgroups.leave();
                entered?;
                let done = inside::settle(self.way, &self.inherited, inner.as_fd(), meanwhile)?;
                let channel = Channel::new(inner).map_err(JailError::at(Step::Channel))?;
                Ok(Inside { channel, accounts, done })
            }
        }
    }
}

/// Whether this user can be jailed, found out by a process that goes as far as to its namespaces and ends there. This one
/// must have one thread.
///
/// # Errors
/// [`JailError`], which says what the host must allow.
pub(crate) fn try_out() -> Result<(), JailError> {
    let jail = Jail::new(JailConfig::default(), CgroupLimits::default())?;
    match sys::fork_into(jail.way.namespaces()).map_err(JailError::at(Step::Fork))? {
        Side::Child => sys::exit_now(inside::try_namespaces().unwrap_or_else(|errno| errno)),
        Side::Parent { child, .. } => {
            let failed = JailError::at(Step::Namespace("all of them"));
            match sys::wait_for_end(child.as_fd()).map_err(&failed)? {
                End::Exit(0) => Ok(()),
                End::Exit(errno) => Err(failed(std::io::Error::from_raw_os_error(errno))),
                End::Signal(_) => Err(failed(std::io::ErrorKind::Interrupted.into())),
            }
        }
    }
}

pub(crate) use sys::{landlock_version, may_write};

impl Way {
    /// Those that a process inside begins in.
    fn namespaces(self) -> std::ffi::c_int {
        match self {
            Self::UserNamespace => libc::CLONE_NEWUSER | libc::CLONE_NEWPID,
            Self::Root { .. } => libc::CLONE_NEWPID,
        }
    }

    /// `is_known` says of a user and a group whether this process can become them.
    fn of(
        config: &JailConfig,
        own: (u32, u32),
        is_root: bool,
        is_known: impl Fn(u32, u32) -> bool,
    ) -> Result<Self, JailError> {
        let (own_uid, own_gid) = own;
        let named = |named: Option<u32>, own: u32| match (named, own) {
            (Some(named), _) => named,
            (None, 0) => NOBODY,
            (None, own) => own,
        };
        let (uid, gid) = (named(config.uid, own_uid), named(config.gid, own_gid));
        if uid == 0 || gid == 0 {
            return Err(JailError::RootInside);
        }
        let is_named = config.uid.is_some() || config.gid.is_some();
        match (is_root, is_root && is_known(uid, gid)) {
            (true, true) => return Ok(Self::Root { uid, gid }),
            (true, false) if is_named => return Err(JailError::Unknown { uid, gid }),
            // Root of a user namespace without such a user, as in a container, is an ordinary user outside.
            _ => {}
        }
        let is_own = |named: Option<u32>, own| named.is_none_or(|named| named == own);
        if !is_own(config.uid, own_uid) || !is_own(config.gid, own_gid) {
            return Err(JailError::NotRoot { what: "another user" });
        }
        Ok(Self::UserNamespace)
    }
}

/// Whether the user namespace of this process has this user and this group, and lets it leave its other groups.
fn is_known(uid: u32, gid: u32) -> bool {
    // The host's own, which has everybody, always has this number (PROC_USER_INIT_INO of Linux): one call instead of ten.
    const HOSTS: u64 = 0xefff_fffd;
    if std::fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() == HOSTS) {
        return true;
    }
    // Where nobody tells, the kernel will.
    let read = |name| std::fs::read_to_string(name).unwrap_or_default();
    has_number(&read("/proc/self/uid_map"), uid)
        && has_number(&read("/proc/self/gid_map"), gid)
        && read("/proc/self/setgroups").trim() != "deny"
}

/// Whether a map of a user namespace, lines of "first inside, first outside, count", has `number` inside.
fn has_number(map: &str, number: u32) -> bool {
    let has = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (words.next(), words.next(), words.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&number.into())
    };
    map.is_empty() || map.lines().any(has)
}

/// The descriptors of this process, but for the standard ones.
fn open_descriptors() -> std::io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?.filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<RawFd> = numbers.filter(|fd| *fd > libc::STDERR_FILENO).collect();
    // One of them was that of the directory.
    Ok(numbers.into_iter().filter(|fd| sys::is_open(*fd)).collect())
}

#[cfg(test)]
mod tests;
