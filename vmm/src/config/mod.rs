//! What the user wants: from flags and files to a plan.
//!
//! [`VmConfig`] is what was said, with everything optional. [`Plan`] is what will be built: every default
//! filled in, every check that needs no device done. Nothing here opens a disk, a kernel or /dev/kvm.

mod balloon;
mod cmdline;
mod console;
mod cpu_template;
mod cpus;
mod disk;
mod error;
mod event_sink;
mod file;
mod id;
mod iothread;
mod jail;
mod limits;
mod memory;
mod metadata;
mod nearest;
mod net;
mod observe;
mod paths;
mod plan;
mod ready;
mod restore;
mod value;
mod vsock;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use log::LevelFilter;
use serde::{Deserialize, Serialize};

pub use balloon::{BalloonConfig, BalloonPlan};
pub use cmdline::{CMDLINE_MAX, CmdlineConfig};
pub use console::{ConsoleTarget, SOCKET_PATH_MAX};
pub use cpu_template::CpuTemplateConfig;
pub use cpus::{Cpus, CpusConfig};
pub use disk::{
    DISK_QUEUES, DiskConfig, DiskEngine, DiskFormat, DiskOverlay, DiskPlan, SERIAL_MAX,
};
pub use error::ConfigError;
pub use event_sink::{EventSink, EventSinkError};
pub use file::{Change, FileError, RateLimiter, Section};
pub use id::{ID_MAX, Kind};
pub use iothread::IoThread;
pub use jail::{CgroupLimits, IoLimit, JailConfig, parse_processors};
pub use limits::parse_limit_change;
pub use memory::{Backing, MemoryConfig, Pages};
pub use metadata::{MetadataConfig, MetadataPlan};
pub use net::{MTU, NET_QUEUES, NetConfig, NetPlan, NetSource, TAP_NAME_MAX};
pub use observe::MetricsConfig;
pub use plan::{
    ID_DEFAULT, LEVEL_DEFAULT, LogPlan, MAX_VIRTIO_DEVICES, MEMORY_MAX, MEMORY_MIN, Plan,
};
pub use ready::{PATTERN_MAX, Ready};
pub use restore::RestoreConfig;
pub use value::{ValueError, parse_duration, parse_mac, parse_size, parse_u16};
pub use vsock::{GUEST_CIDS, VsockConfig, VsockPlan};

/// How the kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootProtocol {
    /// PVH when the kernel file offers it, else the 64-bit Linux entry
    #[default]
    Auto,
    /// The 64-bit Linux entry
    Linux64,
    /// The PVH entry
    Pvh,
}

/// What a reboot of the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReboot {
    /// It ends the run
    #[default]
    Exit,
    /// The machine starts again
    Restart,
}

/// What the user said, in flags or in a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmConfig {
    /// The kernel's file.
    pub kernel: Option<PathBuf>,
    /// The initial file system's file.
    pub initrd: Option<PathBuf>,
    /// How the kernel is entered.
    pub boot: Option<BootProtocol>,
    /// A command line in place of the default one.
    pub cmdline: Option<CmdlineConfig>,
    /// Words added to the command line, in order.
    pub append: Vec<String>,
    /// The processors.
    pub cpus: Option<CpusConfig>,
    /// Changes to what the processors tell about themselves.
    pub cpu_template: Option<CpuTemplateConfig>,
    /// Guest memory in bytes.
    pub memory_bytes: Option<u64>,
    /// What stands behind it.
    pub backing: Option<Backing>,
    /// The disks, in order.
    pub disks: Vec<DiskConfig>,
    /// The network cards, in order.
    pub nets: Vec<NetConfig>,
    /// Threads that serve some of these devices.
    pub iothreads: Vec<IoThread>,
    /// The socket device.
    pub vsock: Option<VsockConfig>,
    /// Where the virtio console leads to.
    pub console: Option<ConsoleTarget>,
    /// Where the serial port leads to.
    pub serial: Option<ConsoleTarget>,
    /// Whether there is an entropy device.
    pub rng: Option<bool>,
    /// The memory balloon.
    pub balloon: Option<BalloonConfig>,
    /// The metadata service.
    pub metadata: MetadataConfig,
    /// When the guest counts as ready.
    pub ready: Ready,
    /// The machine's name.
    pub id: Option<String>,
    /// How long the machine may run.
    pub timeout: Option<Duration>,
    /// How long the guest may take to power off when it is told to.
    pub grace: Option<Duration>,
    /// What a reboot of the guest does.
    pub on_reboot: Option<OnReboot>,
    /// The log's file.
    pub log_path: Option<PathBuf>,
    /// How much is logged.
    pub level: Option<LevelFilter>,
    /// Whether log lines name the place in the source that they come from.
    pub log_origin: Option<bool>,
    /// The module whose lines alone are logged.
    pub log_module: Option<String>,
    /// Where metrics are written.
    pub metrics: Option<MetricsConfig>,
    /// Whether it is to be known what a diff snapshot needs.
    pub track_dirty: Option<bool>,
}

impl VmConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::File`] with the file's name, the place in it, and what is wrong there.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        file::read(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// [`FileError`] with the place in the text and what is wrong there.
    pub fn from_json(text: &[u8]) -> Result<Self, FileError> {
        file::parse(text)
    }

    /// This configuration as a JSON value that a configuration file may contain, every key of Firecracker's in
    /// it, null where nothing is said.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        file::whole(self)
    }

    /// The same for its processors and memory, defaults filled in.
    #[must_use]
    pub fn machine_to_json(&self) -> serde_json::Value {
        file::machine_config(self)
    }

    /// The same for its balloon, if it has one.
    #[must_use]
    pub fn balloon_to_json(&self) -> Option<serde_json::Value> {
        self.balloon.as_ref().map(file::balloon)
    }

    /// Gives every device without a name the one that the plan will give it.
    ///
    /// # Errors
    /// [`ConfigError`] when names are not well-formed or not unique.
    pub fn name_devices(&mut self) -> Result<(), ConfigError> {
        let disks = self.disks.iter().map(|disk| disk.id.as_deref());
        let mut ids = id::Ids::new(Kind::Disk, disks)?;
        self.disks.iter_mut().for_each(|disk| disk.id = Some(ids.take(disk.id.take())));
        let nets = self.nets.iter().map(|net| net.id.as_deref());
        let mut ids = id::Ids::new(Kind::Net, nets)?;
        self.nets.iter_mut().for_each(|net| net.id = Some(ids.take(net.id.take())));
        Ok(())
    }

    /// The guest reaches the metadata service by the cards called `ids` and by no others.
    ///
    /// # Errors
    /// The index of the first of `ids` that no card has; nothing is changed then.
    pub(crate) fn give_metadata_to(&mut self, ids: &[String]) -> Result<(), usize> {
        let has = |id: &String| self.nets.iter().any(|net| net.id.as_ref() == Some(id));
        match ids.iter().position(|id| !has(id)) {
            Some(unknown) => Err(unknown),
            None => {
                for net in &mut self.nets {
                    net.metadata = net.id.as_ref().is_some_and(|id| ids.contains(id));
                }
                Ok(())
            }
        }
    }

    /// This configuration with what `over` says: its values replace, its lists are appended.
    #[must_use]
    pub fn overridden_by(self, over: Self) -> Self {
        Self {
            kernel: over.kernel.or(self.kernel),
            initrd: over.initrd.or(self.initrd),
            boot: over.boot.or(self.boot),
            cmdline: over.cmdline.or(self.cmdline),
            append: [self.append, over.append].concat(),
            cpus: over.cpus.or(self.cpus),
            cpu_template: over.cpu_template.or(self.cpu_template),
            memory_bytes: over.memory_bytes.or(self.memory_bytes),
            backing: over.backing.or(self.backing),
            disks: [self.disks, over.disks].concat(),
            nets: [self.nets, over.nets].concat(),
            iothreads: [self.iothreads, over.iothreads].concat(),
            vsock: over.vsock.or(self.vsock),
            console: over.console.or(self.console),
            serial: over.serial.or(self.serial),
            rng: over.rng.or(self.rng),
            balloon: over.balloon.or(self.balloon),
            metadata: self.metadata.overridden_by(over.metadata),
            ready: self.ready.overridden_by(over.ready),
            id: over.id.or(self.id),
            timeout: over.timeout.or(self.timeout),
            grace: over.grace.or(self.grace),
            on_reboot: over.on_reboot.or(self.on_reboot),
            log_path: over.log_path.or(self.log_path),
            level: over.level.or(self.level),
            log_origin: over.log_origin.or(self.log_origin),
            log_module: over.log_module.or(self.log_module),
            metrics: over.metrics.or(self.metrics),
            track_dirty: over.track_dirty.or(self.track_dirty),
        }
    }
}

/// Reads off, error, warn (or warning), info, debug or trace, in any case.
///
/// # Errors
/// [`ValueError::Word`].
pub fn parse_level(text: &str) -> Result<LevelFilter, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "off" => Ok(LevelFilter::Off),
        "error" => Ok(LevelFilter::Error),
        "warn" | "warning" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        "trace" => Ok(LevelFilter::Trace),
        _ => Err(ValueError::Word {
            what: "level",
            text: text.to_owned(),
            known: "off, error, warn, info, debug, trace",
        }),
    }
}

#[cfg(test)]
mod tests;
