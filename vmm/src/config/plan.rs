//! The plan: a machine described without a gap and without a contradiction.
//!
//! Whoever holds a [`Plan`] need not check it again. What only opening can tell (whether a file exists, what
//! the host's KVM can do) is told by whoever opens it; so a dry run also works where the files are not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use serde::{Serialize, Serializer};

use super::balloon::BalloonPlan;
use super::console::ConsoleTarget;
use super::cpu_template::CpuTemplateConfig;
use super::cpus::Cpus;
use super::disk::DiskPlan;
use super::error::ConfigError;
use super::iothread::IoThread;
use super::memory::Backing;
use super::metadata::MetadataPlan;
use super::net::NetPlan;
use super::observe::MetricsConfig;
use super::ready::Ready;
use super::vsock::VsockPlan;
use super::{
    BootProtocol, OnReboot, VmConfig, balloon, cmdline, console, cpus, disk, id, iothread,
    metadata, net, paths, ready, vsock,
};

/// Virtio devices of a machine: each has an interrupt line of its own. The I/O APIC leaves 19 lines to
/// devices; two of them are kept for those that the machine may have by itself.
pub const MAX_VIRTIO_DEVICES: usize = 17;

/// Least guest memory in bytes: a small kernel with its initrd and the tables of the machine.
pub const MEMORY_MIN: u64 = 32 << 20;
/// Most guest memory in bytes: with the hole below 4 GiB it still ends within 47 bits, which is what a
/// process can map. The host's processor may have fewer; KVM says so when the memory is handed to it.
pub const MEMORY_MAX: u64 = 64 << 40;

/// Guest memory when nothing is said: enough for a distribution's kernel to unpack its initrd.
pub(super) const MEMORY_DEFAULT: u64 = 512 << 20;
/// The machine's name when nothing is said.
pub const ID_DEFAULT: &str = "vm";
/// Long enough for services to stop, short enough for a person to wait.
const GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// Quiet unless something needs attention: the terminal belongs to the guest.
pub const LEVEL_DEFAULT: LevelFilter = LevelFilter::Warn;

/// A machine to build. `Serialize` is the output of `--dry-run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The machine's name: well-formed as an id.
    pub id: String,
    /// The kernel's file.
    #[serde(serialize_with = "path_as_text")]
    pub kernel: PathBuf,
    /// The initial file system's file.
    #[serde(serialize_with = "optional_path_as_text")]
    pub initrd: Option<PathBuf>,
    /// How the kernel is entered.
    pub boot: BootProtocol,
    /// The kernel command line, at most [`super::CMDLINE_MAX`] bytes, without control characters.
    pub cmdline: String,
    /// The processors.
    pub cpus: Cpus,
    /// Changes to what the processors tell about themselves.
    pub cpu_template: Option<CpuTemplateConfig>,
    /// Guest memory in bytes: a multiple of 1 MiB from [`MEMORY_MIN`] to [`MEMORY_MAX`].
    pub memory_bytes: u64,
    /// What stands behind it; of reserved pages it is a whole number.
    pub backing: Backing,
    /// The disks; the one with the root file system comes first.
    pub disks: Vec<DiskPlan>,
    /// The network cards.
    pub nets: Vec<NetPlan>,
    /// Threads that serve some of these devices, each at least one.
    pub iothreads: Vec<IoThread>,
    /// The socket device.
    pub vsock: Option<VsockPlan>,
    /// Where the virtio console leads to.
    pub console: ConsoleTarget,
    /// Where the serial port leads to.
    pub serial: ConsoleTarget,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// The memory balloon.
    pub balloon: Option<BalloonPlan>,
    /// The metadata service, if a card has it.
    pub metadata: Option<MetadataPlan>,
    /// When the guest counts as ready.
    pub ready: Ready,
    /// How long the machine may run; above zero.
    #[serde(rename = "timeout_ms", serialize_with = "optional_milliseconds")]
    pub timeout: Option<Duration>,
    /// How long the guest may take to power off when it is told to; zero means not at all.
    #[serde(rename = "grace_ms", serialize_with = "milliseconds")]
    pub grace: Duration,
    /// What a reboot of the guest does.
    pub on_reboot: OnReboot,
    /// The log.
    pub log: LogPlan,
    /// Where metrics are written.
    pub metrics: Option<MetricsConfig>,
    /// Whether it is to be known what a diff snapshot needs.
    pub track_dirty: bool,
}

/// Where log lines go, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogPlan {
    /// The file; standard error without one.
    #[serde(serialize_with = "optional_path_as_text")]
    pub path: Option<PathBuf>,
    /// The least severe level that is logged.
    #[serde(serialize_with = "level_as_text")]
    pub level: LevelFilter,
    /// Whether lines name the place in the source that they come from.
    pub origin: bool,
    /// The module whose lines alone are logged.
    pub module: Option<String>,
}

impl LogPlan {
    /// What `config` says, and defaults.
    #[must_use]
    pub fn resolve(config: &VmConfig) -> Self {
        Self {
            path: config.log_path.clone(),
            level: config.level.unwrap_or(LEVEL_DEFAULT),
            origin: config.log_origin.unwrap_or(false),
            module: config.log_module.clone(),
        }
    }
}

impl Plan {
    /// Fills in every default and checks everything that can be checked without opening anything.
    ///
    /// # Errors
    /// The first thing that is wrong, with what to do about it.
    pub fn resolve(config: VmConfig) -> Result<Self, ConfigError> {
        let log = LogPlan::resolve(&config);
        let kernel = config.kernel.ok_or(ConfigError::NoKernel)?;
        let id = config.id.unwrap_or_else(|| ID_DEFAULT.to_owned());
        id::check("id", &id)?;
        let cpus = cpus::resolve(config.cpus)?;
        let memory_bytes = resolve_memory(config.memory_bytes)?;
        let backing = resolve_backing(config.backing, memory_bytes)?;
        let (disks, root) = disk::resolve(config.disks)?;
        let nets = net::resolve(&id, config.nets)?;
        let iothreads = iothread::resolve(config.iothreads, &disks, &nets)?;
        let vsock = config.vsock.map(vsock::resolve).transpose()?;
        let metadata = metadata::resolve(config.metadata, &nets)?;
        let (console, serial) = console::resolve(config.console, config.serial)?;
        let consoles = (&console, &serial);
        let cmdline = cmdline::resolve(config.cmdline, &config.append, consoles, root.as_ref())?;
        let ready = ready::resolve(config.ready, consoles)?;
        if config.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ConfigError::NoTime);
        }
        let plan = Self {
            id,
            kernel,
            initrd: config.initrd,
            boot: config.boot.unwrap_or_default(),
            cmdline,
            cpus,
            cpu_template: config.cpu_template,
            memory_bytes,
            backing,
            disks,
            nets,
            iothreads,
            vsock,
            console,
            serial,
            rng: config.rng.unwrap_or(true),
            balloon: balloon::resolve(config.balloon, memory_bytes)?,
            metadata,
            ready,
            timeout: config.timeout,
            grace: config.grace.unwrap_or(GRACE_DEFAULT),
            on_reboot: config.on_reboot.unwrap_or_default(),
            log,
            metrics: config.metrics,
            track_dirty: config.track_dirty.unwrap_or(false),
        };
        plan.check_device_count()?;
        paths::check(&plan)?;
        Ok(plan)
    }

    /// The plan as the JSON text that `--dry-run` prints, with a final newline.
    #[must_use]
    pub fn json(&self) -> String {
        // Strings and numbers under fixed keys: the serializer has nothing to refuse.
        serde_json::to_string_pretty(self).unwrap_or_else(|error| error.to_string()) + "\n"
    }

    fn check_device_count(&self) -> Result<(), ConfigError> {
        let others = [
            self.vsock.is_some(),
            self.console != ConsoleTarget::Off,
            self.rng,
            self.balloon.is_some(),
        ];
        let others = others.into_iter().filter(|there| *there).count();
        let count = self.disks.len() + self.nets.len() + others;
        if count > MAX_VIRTIO_DEVICES {
            return Err(ConfigError::TooManyDevices { count, max: MAX_VIRTIO_DEVICES });
        }
        Ok(())
    }
}

fn resolve_memory(bytes: Option<u64>) -> Result<u64, ConfigError> {
    match bytes.unwrap_or(MEMORY_DEFAULT) {
        bytes @ ..MEMORY_MIN => Err(ConfigError::MemoryTooSmall { bytes }),
        bytes if bytes > MEMORY_MAX => Err(ConfigError::MemoryTooLarge { bytes }),
        bytes if bytes % (1 << 20) != 0 => Err(ConfigError::MemoryUneven { bytes }),
        bytes => Ok(bytes),
    }
}

fn resolve_backing(backing: Option<Backing>, bytes: u64) -> Result<Backing, ConfigError> {
    let backing = backing.unwrap_or_default();
    match backing.pages.reserved_size() {
        Some(page) if !bytes.is_multiple_of(page) => Err(ConfigError::MemoryPages { bytes, page }),
        _ => Ok(backing),
    }
}

/// A path that is not UTF-8 is shown as well as it can be: the text is for people and tests.
pub(super) fn path_as_text<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

#[expect(clippy::ref_option, reason = "the signature is serde's")]
pub(super) fn optional_path_as_text<S: Serializer>(
    path: &Option<PathBuf>,
    to: S,
) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(to)
}

fn milliseconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    time.as_millis().serialize(to)
}

#[expect(clippy::ref_option, reason = "the signature is serde's")]
pub(super) fn optional_milliseconds<S: Serializer>(
    time: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_millis()).serialize(to)
}

fn level_as_text<S: Serializer>(level: &LevelFilter, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&level.as_str().to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
