//! The jailer: root's way to start a monitor in a jail of its own, with Firecracker's arguments and layout.
//!
//! ```text
//!   BASE/PROGRAM/ID/root/        the root that the program sees
//!       PROGRAM                  the program: the host's file, mounted read-only
//!       PROGRAM.pid              its number
//!       dev/kvm dev/net/tun dev/urandom dev/userfaultfd run/
//! ```
//!
//! What a launcher puts there before (images, kernels) is found there, and what the program makes there (its socket)
//! is found by the launcher. Everything below BASE is reached by descriptors, one name at a time, and never through a
//! link: who may write there cannot lead root elsewhere. For a jail without root see [`crate::jail`].

mod cgroup;
mod root;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::clock;
use crate::exit_code::ExitCode;
use crate::jail::sys::{self, Side};

pub use cgroup::CgroupValue;
use root::Root;

/// Longest name of a machine.
const ID_MAX: usize = 64;
/// Descriptors when nothing is said.
const DESCRIPTORS: u64 = 2048;

/// What the jailer is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JailerConfig {
    /// The machine's name.
    pub id: String,
    /// The program.
    pub program: PathBuf,
    /// The user that it runs as.
    pub uid: u32,
    /// The group that it runs as.
    pub gid: u32,
    /// The directory of all jails.
    pub base: PathBuf,
    /// The network namespace that it joins.
    pub netns: Option<PathBuf>,
    /// A session of its own, without standard descriptors.
    pub daemonize: bool,
    /// A PID namespace of its own.
    pub new_pid_ns: bool,
    /// Values of its cgroup.
    pub cgroup: Vec<CgroupValue>,
    /// The kind of cgroups.
    pub cgroup_version: Option<u8>,
    /// Where its cgroup is.
    pub parent_cgroup: Option<PathBuf>,
    /// Limits of its resources.
    pub limits: Vec<ResourceLimit>,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// A limit of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceLimit {
    /// Bytes of a file.
    FileSize(u64),
    /// Descriptors.
    Files(u64),
}

/// Why a limit cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("use fsize=BYTES or no-file=N")]
pub struct LimitError;

impl FromStr for ResourceLimit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (name, value) = text.split_once('=').ok_or(LimitError)?;
        let value = value.parse().map_err(|_| LimitError)?;
        match name {
            "fsize" => Ok(Self::FileSize(value)),
            "no-file" => Ok(Self::Files(value)),
            _ => Err(LimitError),
        }
    }
}

/// Why a program cannot be started in a jail.
#[derive(Debug, thiserror::Error)]
pub enum JailerError {
    /// Not a name.
    #[error("jailer: {id:?} cannot be an id: use 1 to {ID_MAX} of the characters A-Z a-z 0-9 -")]
    Id {
        /// What was given.
        id: String,
    },
    /// Not a program.
    #[error("jailer: {path:?} is not a regular file: name the program with --exec-file")]
    Program {
        /// What was given.
        path: PathBuf,
    },
    /// A cgroup outside of the hierarchy.
    #[error(
        "jailer: {path:?} cannot be a parent cgroup: use a path without .. below the hierarchy's root"
    )]
    ParentCgroup {
        /// What was given.
        path: PathBuf,
    },
    /// A controller that is not there.
    #[error("jailer: this host has no cgroup v{version} with the controller {controller:?}")]
    Controller {
        /// Its name.
        controller: String,
        /// The kind of cgroups.
        version: u8,
    },
    /// The host refuses a step.
    #[error("jailer: cannot {step}")]
    Step {
        /// What was being done.
        step: String,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

impl JailerError {
    /// The status of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Step { .. } => ExitCode::HostFailure,
            _ => ExitCode::BadConfiguration,
        }
    }

    /// A failure at `step`, for `map_err`.
    fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }
}

/// Goes into the jail and becomes the program; or, with a PID namespace of its own, the parent of that, which has
/// nothing left to do.
///
/// # Errors
/// [`JailerError`]; what was made below BASE stays, as it would after a run.
pub fn run(config: &JailerConfig) -> Result<ExitCode, JailerError> {
    let begun = clock::monotonic();
    check_id(&config.id)?;
    // Mounts belong to the namespace in which a descriptor found them, so it comes before every one of those.
    root::own_mounts()?;
    let (name, program) = open_program(&config.program)?;
    sys::close_all_but(&[program.as_fd()]).map_err(JailerError::at("close descriptors"))?;

    let root = Root::open(&config.base, [name.as_os_str(), config.id.as_ref()])?;
    let netns = config.netns.as_ref();
    if let Some(path) = netns {
        File::open(path)
            .and_then(|file| sys::join_network(file.as_fd()))
            .map_err(JailerError::at(format!("join the network namespace {path:?}")))?;
    }
    set_limits(&config.limits).map_err(JailerError::at("set resource limits"))?;
    cgroup::join(config, &name)?;

    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(JailerError::at("open /dev/null"))?;
    let devices = root::Devices::of_host();
    root.enter(&name, &program)?;
    root.furnish(&devices, config.uid, config.gid)?;

    if config.daemonize {
        sys::lead_session().map_err(JailerError::at("lead a session"))?;
        sys::replace_standard(null.as_fd()).map_err(JailerError::at("use /dev/null"))?;
    }
    let mut pid_file = name.clone();
    pid_file.push(".pid");
    let pid_file = Path::new(&pid_file);
    if config.new_pid_ns {
        let side = sys::fork_into(libc::CLONE_NEWPID);
        match side.map_err(JailerError::at("make a PID namespace"))? {
            Side::Parent { number, .. } => {
                root.write(pid_file, &number.to_string())?;
                return Ok(ExitCode::PowerOff);
            }
            Side::Child => {}
        }
    } else {
        root.write(pid_file, &std::process::id().to_string())?;
    }
    sys::drop_bounding_set().map_err(JailerError::at("give up capabilities"))?;
    sys::become_user(config.uid, config.gid)
        .map_err(JailerError::at(format!("become user {} and group {}", config.uid, config.gid)))?;
    sys::no_new_privileges().map_err(JailerError::at("rule out new privileges"))?;
    drop((null, program));
    let path = Path::new("/").join(&name);
    let times = [
        ("--start-time-us", begun),
        ("--start-time-cpu-us", std::time::Duration::ZERO),
        ("--parent-cpu-time-us", clock::process_time()),
    ];
    let times =
        times.iter().flat_map(|(flag, time)| [(*flag).to_owned(), time.as_micros().to_string()]);
    let error = Command::new(&path)
        .env_clear()
        .args(["--id", &config.id])
        .args(times)
        .args(&config.args)
        .exec();
    Err(JailerError::at(format!("execute {path:?}, which must be a static program"))(error))
}

fn check_id(id: &str) -> Result<(), JailerError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(is_good) {
        return Err(JailerError::Id { id: id.to_owned() });
    }
    Ok(())
}

/// The program's name and file. Where its path leads is decided once, here.
fn open_program(path: &Path) -> Result<(OsString, File), JailerError> {
    let wrong = || JailerError::Program { path: path.to_owned() };
    let full = fs::canonicalize(path).map_err(|_| wrong())?;
    let name = full.file_name().ok_or_else(wrong)?.to_owned();
    let file = File::open(&full).map_err(|_| wrong())?;
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err(wrong());
    }
    Ok((name, file))
}

fn set_limits(limits: &[ResourceLimit]) -> io::Result<()> {
    sys::limit(libc::RLIMIT_NOFILE, Some(DESCRIPTORS))?;
    limits.iter().try_for_each(|limit| match *limit {
        ResourceLimit::FileSize(bytes) => sys::limit(libc::RLIMIT_FSIZE, Some(bytes)),
        ResourceLimit::Files(count) => sys::limit(libc::RLIMIT_NOFILE, Some(count)),
    })
}

/// Writes all of `text` to a file that was opened for it.
fn put(mut file: File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests;
