//! Why there is no jail: at which step, and what the host must allow.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::exit_code::ExitCode;

/// Why a process cannot be confined as was asked for.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The host refuses a step.
    #[error("jail: cannot {step}{}", .remedy.as_ref().map_or_else(String::new, |text| format!(" ({text})")))]
    Step {
        /// What was being done.
        step: Step,
        /// What the host must allow, where that is known.
        remedy: Option<String>,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The network namespace.
    #[error(
        "jail: network namespace {path:?} cannot be joined; that takes root, and a path such as /run/netns/NAME"
    )]
    Network {
        /// Where it is.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// A cgroup cannot be made, or not with these limits.
    #[error(
        "jail: cannot {what}; name a cgroup that this user may change with --jail=cgroup=PATH, or start vmm as root or by 'systemd-run --user --scope -p Delegate=yes'"
    )]
    Cgroup {
        /// What was being done.
        what: String,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel gives limits only to the cgroups in one without processes.
    #[error(
        "jail: processes are in the cgroup {path:?} itself, so that there can be no limits below it; name another one with --jail=cgroup=PATH"
    )]
    BusyCgroup {
        /// The cgroup.
        path: PathBuf,
    },
    /// A limit that this host does not have.
    #[error(
        "jail: no cgroup of this host has the controller {controller:?}; leave its limit out, or let root enable it"
    )]
    NoController {
        /// The controller.
        controller: &'static str,
    },
    /// A disk whose transfers cannot be limited.
    #[error(
        "jail: {path:?} is on no block device, so --io-limit cannot be kept; limit the disk itself with ',bw=' or ',iops='"
    )]
    NoDevice {
        /// The disk.
        path: PathBuf,
    },
    /// A jail of user or group 0 is none.
    #[error("jail: uid and gid cannot be 0: name an ordinary user")]
    RootInside,
    /// Somebody whom this user namespace does not have.
    #[error(
        "jail: this user namespace has no user {uid} with group {gid} to become: leave them out, or map them where it is made (/etc/subuid)"
    )]
    Unknown {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// A provider of memory.
    #[error(
        "jail: nobody can provide pages of memory to a machine inside: leave uffd out, or --jail"
    )]
    Provider,
    /// A working set that is to be recorded.
    #[error(
        "jail: which pages a machine inside touches cannot be seen: leave record out, or --jail"
    )]
    Recording,
    /// What needs root.
    #[error("jail: {what} needs root: leave it out, or start vmm as root")]
    NotRoot {
        /// What was asked for.
        what: &'static str,
    },
}

/// A step on the way into the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The way between inside and outside.
    Channel,
    /// The process inside, in its own PID namespace and, for an ordinary user, user namespace.
    Fork,
    /// One more namespace.
    Namespace(&'static str),
    /// Mounts are seen by nobody else.
    PrivateMounts,
    /// The new root.
    EmptyRoot,
    /// Changing to it.
    Pivot,
    /// Letting go of the old one.
    Unmount,
    /// Open files.
    Descriptors,
    /// Limits of the process.
    Limits,
    /// Another user.
    User,
    /// Capabilities.
    Capabilities,
    /// What exec may give.
    NoNewPrivileges,
    /// Landlock.
    Landlock,
    /// The end together with the process outside.
    Tie,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel => "connect inside and outside",
            Self::Fork => "start a process in namespaces of its own",
            Self::Namespace(name) => return write!(f, "make a namespace: {name}"),
            Self::PrivateMounts => "make the mounts its own",
            Self::EmptyRoot => "mount an empty root",
            Self::Pivot => "change to the empty root",
            Self::Unmount => "let go of the host's files",
            Self::Descriptors => "close descriptors",
            Self::Limits => "set limits",
            Self::User => "become another user",
            Self::Capabilities => "give up capabilities",
            Self::NoNewPrivileges => "rule out new privileges",
            Self::Landlock => "restrict itself by Landlock",
            Self::Tie => "be tied to the process outside",
        })
    }
}

impl JailError {
    /// A failure at `step`, for `map_err`.
    pub(super) fn at(step: Step) -> impl Fn(io::Error) -> Self {
        move |source| {
            let setting = |name: &str| {
                let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
                text.trim().parse().ok()
            };
            let remedy = remedy(step, source.raw_os_error().unwrap_or(0), setting);
            Self::Step { step, remedy, source }
        }
    }

    /// The status of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Step { .. } | Self::Cgroup { .. } => ExitCode::HostFailure,
            Self::BusyCgroup { .. }
            | Self::NoController { .. }
            | Self::NoDevice { .. }
            | Self::Network { .. }
            | Self::RootInside
            | Self::Provider
            | Self::Recording
            | Self::Unknown { .. }
            | Self::NotRoot { .. } => ExitCode::BadConfiguration,
        }
    }
}

/// What the host must allow, as far as its settings (numbers below /proc/sys) tell.
fn remedy(step: Step, errno: i32, setting: impl Fn(&str) -> Option<u64>) -> Option<String> {
    let is_made = matches!(step, Step::Fork | Step::Namespace(_));
    match errno {
        // Which answer it is depends on the kernel's age.
        libc::ENOSPC | libc::EUSERS if is_made => {
            let kind = match step {
                // Inside a user namespace the settings are its own; those of the host are in the way.
                Step::Namespace("mount") => "mnt",
                Step::Namespace("network") => "net",
                Step::Namespace(kind) => kind,
                _ if setting("user/max_pid_namespaces") == Some(0) => "pid",
                _ => "user",
            };
            let name = format!("user.max_{kind}_namespaces");
            Some(format!("no more namespaces: let root run 'sysctl -w {name}=10000'"))
        }
        libc::EPERM if is_made && setting("kernel/unprivileged_userns_clone") == Some(0) => {
            Some("let root run 'sysctl -w kernel.unprivileged_userns_clone=1'".to_owned())
        }
        libc::EPERM | libc::EACCES
            if setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) =>
        {
            Some(
                "AppArmor restricts user namespaces: let root run \
                 'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0', or give vmm a profile with userns"
                    .to_owned(),
            )
        }
        libc::EPERM if is_made || step == Step::EmptyRoot => Some(
            "a container or a policy of this host forbids it: allow user namespaces there, or start vmm as root with \
             CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID"
                .to_owned(),
        ),
        libc::ENOSYS if step == Step::Descriptors => {
            Some("close_range needs Linux 5.9".to_owned())
        }
        libc::EINVAL | libc::ENOSYS if step == Step::Fork => {
            Some("the kernel lacks user or PID namespaces".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::event::chain;

    #[test]
    fn each_refusal_has_its_remedy() {
        let none = |_: &str| None;
        let zero = |name: &'static str| move |asked: &str| (asked == name).then_some(0);
        let text = |step, errno, setting: &dyn Fn(&str) -> Option<u64>| {
            remedy(step, errno, setting).unwrap_or_default()
        };
        let namespace = Step::Namespace("network");
        assert!(text(namespace, libc::ENOSPC, &none).contains("user.max_net_namespaces=10000"));
        let limit = zero("user/max_pid_namespaces");
        assert!(text(Step::Fork, libc::ENOSPC, &limit).contains("user.max_pid_namespaces=10000"));
        assert!(text(Step::Fork, libc::EUSERS, &none).contains("user.max_user_namespaces"));
        let debian = zero("kernel/unprivileged_userns_clone");
        assert!(text(Step::Fork, libc::EPERM, &debian).contains("unprivileged_userns_clone=1"));
        let ubuntu = |asked: &str| asked.contains("apparmor").then_some(1);
        assert!(text(Step::EmptyRoot, libc::EACCES, &ubuntu).contains("AppArmor"));
        assert!(text(Step::Fork, libc::EPERM, &none).contains("container"));
        assert!(text(Step::Descriptors, libc::ENOSYS, &none).contains("5.9"));
        assert_eq!(remedy(Step::Landlock, libc::EPERM, none), None);
    }

    #[test]
    fn one_line_names_step_reason_and_remedy() {
        let source = io::Error::from_raw_os_error(libc::EINVAL);
        let error = JailError::at(Step::Fork)(source);
        assert_eq!(
            chain(&error),
            "jail: cannot start a process in namespaces of its own (the kernel lacks user or PID namespaces): \
             Invalid argument (os error 22)"
        );
    }
}
