//! The keys of a configuration file, and what becomes of each.
//!
//! Top-level keys have dashes, the ones inside have underscores, as in Firecracker's API. Which values make
//! sense together is the plan's question, not this file's.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use devices::metadata::Version;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::FileError;
use super::console::Console;
use super::limiter::RateLimiter;
use crate::config::metadata::parse_address;
use crate::config::{
    Backing, BalloonConfig, BootProtocol, CmdlineConfig, CpuTemplateConfig, CpusConfig, DiskConfig,
    DiskEngine, DiskFormat, DiskOverlay, IoThread, MetadataConfig, MetricsConfig, NetConfig,
    NetSource, OnReboot, Pages, Ready, ValueError, VmConfig, VsockConfig, parse_duration,
    parse_level, parse_mac,
};

/// The whole file.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Root {
    boot_source: Option<BootSource>,
    drives: Option<Vec<Drive>>,
    machine_config: Option<MachineConfig>,
    cpu_config: Option<CpuTemplateConfig>,
    network_interfaces: Option<Vec<NetworkInterface>>,
    vsock: Option<Vsock>,
    entropy: Option<Entropy>,
    balloon: Option<Balloon>,
    mmds_config: Option<MmdsConfig>,
    logger: Option<Logger>,
    metrics: Option<Value>,
    // Our own.
    console: Option<Console>,
    serial: Option<Console>,
    iothreads: Option<Vec<IoThreadKeys>>,
    id: Option<String>,
    timeout: Option<String>,
    grace: Option<String>,
    on_reboot: Option<OnReboot>,
    wait_ready: Option<String>,
    ready_pattern: Option<String>,
    // Known, but not here.
    memory_hotplug: Given,
    pmem: Given,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BootSource {
    kernel_image_path: Option<PathBuf>,
    initrd_path: Option<PathBuf>,
    boot_args: Option<String>,
    // Our own.
    append_args: Option<Vec<String>>,
    exact_args: Option<String>,
    protocol: Option<BootProtocol>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drive {
    drive_id: Option<String>,
    path_on_host: Option<PathBuf>,
    is_root_device: Option<bool>,
    is_read_only: Option<bool>,
    partuuid: Option<String>,
    /// Whether the guest may ask for a flush. It always may, which serves either wish.
    #[serde(rename = "cache_type")]
    _cache_type: Option<CacheType>,
    io_engine: Option<IoEngine>,
    rate_limiter: Option<RateLimiter>,
    #[serde(default)]
    socket: Given,
    // Our own.
    serial: Option<String>,
    format: Option<DiskFormat>,
    direct: Option<bool>,
    overlay: Option<Overlay>,
    queues: Option<u16>,
    iothread: Option<String>,
}

/// Whether, or where, an overlay takes what is written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Overlay {
    Wanted(bool),
    Kept(PathBuf),
}

#[derive(Deserialize)]
enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Deserialize)]
enum IoEngine {
    Sync,
    Async,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineConfig {
    vcpu_count: Option<u16>,
    mem_size_mib: Option<u64>,
    smt: Option<bool>,
    cpu_template: Option<String>,
    track_dirty_pages: Option<bool>,
    huge_pages: Option<Pages>,
    // Our own.
    prefault: Option<bool>,
    shared: Option<bool>,
    cores: Option<u16>,
    threads: Option<u16>,
    sockets: Option<u16>,
    pin: Option<Vec<u16>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IoThreadKeys {
    id: String,
    #[serde(default)]
    pin: Vec<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkInterface {
    iface_id: Option<String>,
    host_dev_name: Option<String>,
    guest_mac: Option<String>,
    mtu: Option<u16>,
    rx_rate_limiter: Option<RateLimiter>,
    tx_rate_limiter: Option<RateLimiter>,
    // Our own.
    fd: Option<u16>,
    fds: Option<Vec<u16>>,
    queues: Option<u16>,
    iothread: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vsock {
    guest_cid: u32,
    uds_path: PathBuf,
    /// A name, which nothing is called by.
    #[serde(rename = "vsock_id")]
    _vsock_id: Option<String>,
    // Our own.
    ready_port: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entropy {
    #[serde(default)]
    rate_limiter: Given,
    // Our own.
    enabled: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Balloon {
    amount_mib: u32,
    deflate_on_oom: bool,
    /// Seconds; 0 for none.
    stats_polling_interval_s: Option<u16>,
    free_page_hinting: Option<bool>,
    free_page_reporting: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MmdsConfig {
    network_interfaces: Vec<String>,
    version: Option<Version>,
    ipv4_address: Option<String>,
    imds_compat: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Logger {
    log_path: Option<PathBuf>,
    level: Option<String>,
    /// Each line has its level, whether it is asked for or not.
    #[serde(rename = "show_level")]
    _show_level: Option<bool>,
    show_log_origin: Option<bool>,
    module: Option<String>,
}

/// Whether there is a value behind a key that can only be refused; null and an empty list are none.
#[derive(Default)]
pub(super) struct Given(pub(super) bool);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        Ok(Self(!value.is_null() && value.as_array().is_none_or(|list| !list.is_empty())))
    }
}

impl Root {
    /// The metadata service alone: the cards that have it, and the rest.
    pub(super) fn into_metadata(self) -> Result<(Vec<String>, MetadataConfig), FileError> {
        self.mmds_config.map_or_else(|| Ok(Default::default()), MmdsConfig::into_parts)
    }

    pub(super) fn into_config(self) -> Result<VmConfig, FileError> {
        self.refuse_unsupported()?;
        let duration = |key: &str, text: Option<String>| {
            text.map(|text| parse_duration(&text)).transpose().map_err(|source| value(key, source))
        };
        let mut config = VmConfig {
            console: self.console.map(|it| it.into_target("console")).transpose()?,
            serial: self.serial.map(|it| it.into_target("serial")).transpose()?,
            cpu_template: self.cpu_config,
            id: self.id,
            timeout: duration("timeout", self.timeout)?,
            grace: duration("grace", self.grace)?,
            on_reboot: self.on_reboot,
            metrics: self
                .metrics
                .map(MetricsConfig::from_json)
                .transpose()
                .map_err(|what| FileError::Keys { key: "metrics".to_owned(), what })?,
            ready: Ready {
                pattern: self.ready_pattern,
                within: duration("wait-ready", self.wait_ready)?,
            },
            ..VmConfig::default()
        };
        if let Some(boot) = self.boot_source {
            boot.put_into(&mut config)?;
        }
        if let Some(machine) = self.machine_config {
            machine.put_into(&mut config)?;
        }
        for (index, drive) in self.drives.into_iter().flatten().enumerate() {
            config.disks.push(drive.into_disk(&format!("drives[{index}]"))?);
        }
        for (index, net) in self.network_interfaces.into_iter().flatten().enumerate() {
            config.nets.push(net.into_net(&format!("network-interfaces[{index}]"))?);
        }
        let threads = self.iothreads.into_iter().flatten();
        config.iothreads =
            threads.map(|thread| IoThread { id: thread.id, pin: thread.pin }).collect();
        config.vsock = self.vsock.map(|it| VsockConfig {
            guest_cid: Some(it.guest_cid),
            socket: it.uds_path,
            ready_port: it.ready_port,
        });
        if let Some(entropy) = self.entropy {
            unsupported(entropy.rate_limiter.0, "entropy.rate_limiter", RATE_LIMITER)?;
            config.rng = Some(entropy.enabled.unwrap_or(true));
        }
        if let Some(metadata) = self.mmds_config {
            metadata.put_into(&mut config)?;
        }
        config.balloon = self.balloon.map(Balloon::into_config);
        if let Some(logger) = self.logger {
            logger.put_into(&mut config)?;
        }
        Ok(config)
    }

    fn refuse_unsupported(&self) -> Result<(), FileError> {
        let no_device = "there is no such device; remove the key";
        unsupported(self.memory_hotplug.0, "memory-hotplug", no_device)?;
        unsupported(self.pmem.0, "pmem", no_device)
    }
}

pub(super) const RATE_LIMITER: &str = "the entropy device has no limits; remove the key";

impl BootSource {
    fn put_into(self, config: &mut VmConfig) -> Result<(), FileError> {
        config.cmdline = match (self.boot_args, self.exact_args) {
            (Some(_), Some(_)) => {
                let what = "boot_args and exact_args exclude each other: keep one";
                return Err(FileError::Keys { key: "boot-source".to_owned(), what });
            }
            (Some(text), None) => Some(CmdlineConfig::BootArgs(text)),
            (None, exact) => exact.map(CmdlineConfig::Exact),
        };
        config.kernel = self.kernel_image_path;
        config.initrd = self.initrd_path;
        config.boot = self.protocol;
        config.append = self.append_args.unwrap_or_default();
        Ok(())
    }
}

impl MachineConfig {
    fn put_into(self, config: &mut VmConfig) -> Result<(), FileError> {
        let key = |name: &str| format!("machine-config.{name}");
        let other_than_none = |text: Option<&str>| text.is_some_and(|text| text != "None");
        let templates = "there are no named templates; use \"None\" or a cpu-config";
        unsupported(other_than_none(self.cpu_template.as_deref()), key("cpu_template"), templates)?;
        if self.smt.is_some() && self.threads.is_some() {
            let what = "smt and threads say the same: keep one";
            return Err(FileError::Keys { key: "machine-config".to_owned(), what });
        }
        config.memory_bytes = match self.mem_size_mib {
            Some(mib) => Some(mib.checked_mul(1 << 20).ok_or_else(|| {
                value(key("mem_size_mib"), ValueError::TooLarge { text: mib.to_string() })
            })?),
            None => None,
        };
        config.track_dirty = self.track_dirty_pages.filter(|is_wanted| *is_wanted);
        config.backing = self.backing();
        config.cpus = self.cpus();
        Ok(())
    }

    fn backing(&self) -> Option<Backing> {
        let Self { huge_pages, prefault, shared, .. } = self;
        let is_said = huge_pages.is_some() || prefault.is_some() || shared.is_some();
        is_said.then(|| Backing {
            pages: huge_pages.unwrap_or_default(),
            prefault: *prefault == Some(true),
            shared: *shared == Some(true),
        })
    }

    fn cpus(&self) -> Option<CpusConfig> {
        let any = [self.vcpu_count, self.cores, self.threads, self.sockets];
        if self.pin.is_none() && any == [None; 4] {
            return None;
        }
        let count = self.vcpu_count.unwrap_or(1);
        // With smt, two threads share a core; a single one has it for itself.
        let smt = (self.smt == Some(true) && count > 1).then_some(2);
        let (cores, sockets) = (self.cores, self.sockets);
        let pin = self.pin.clone().unwrap_or_default();
        Some(CpusConfig { count, cores, threads: self.threads.or(smt), sockets, pin })
    }
}

impl Drive {
    fn into_disk(self, place: &str) -> Result<DiskConfig, FileError> {
        let key = |name: &str| format!("{place}.{name}");
        unsupported(self.socket.0, key("socket"), "there are no vhost-user disks")?;
        let engine = self.io_engine.map(|engine| match engine {
            IoEngine::Sync => DiskEngine::Sync,
            IoEngine::Async => DiskEngine::Uring,
        });
        let path = self.path_on_host.ok_or_else(|| FileError::Keys {
            key: place.to_owned(),
            what: "path_on_host is missing: add the path of the image",
        })?;
        Ok(DiskConfig {
            path,
            read_only: self.is_read_only,
            id: self.drive_id,
            serial: self.serial,
            format: self.format,
            engine,
            direct: self.direct,
            overlay: match self.overlay {
                Some(Overlay::Wanted(true)) => Some(DiskOverlay::ThrownAway),
                Some(Overlay::Kept(path)) => Some(DiskOverlay::Kept(path)),
                Some(Overlay::Wanted(false)) | None => None,
            },
            queues: self.queues,
            limits: self.rate_limiter.unwrap_or_default().limits(),
            iothread: self.iothread,
            root: self.is_root_device,
            partuuid: self.partuuid,
        })
    }
}

impl NetworkInterface {
    fn into_net(self, place: &str) -> Result<NetConfig, FileError> {
        let key = |name: &str| format!("{place}.{name}");
        let inherited = |fds: Vec<u16>| NetSource::Fds(fds.into_iter().map(RawFd::from).collect());
        let source = match (self.host_dev_name, self.fd, self.fds) {
            (Some(name), None, None) => NetSource::Tap(name),
            (None, Some(fd), None) => inherited(vec![fd]),
            (None, None, Some(fds)) => inherited(fds),
            _ => {
                let what = "say where it leads to: either host_dev_name, fd or fds";
                return Err(FileError::Keys { key: place.to_owned(), what });
            }
        };
        let mac = self.guest_mac.map(|text| parse_mac(&text)).transpose();
        let mac = mac.map_err(|source| value(key("guest_mac"), source))?;
        Ok(NetConfig {
            mac,
            mtu: self.mtu,
            id: self.iface_id,
            queues: self.queues,
            rx_limits: self.rx_rate_limiter.unwrap_or_default().limits(),
            tx_limits: self.tx_rate_limiter.unwrap_or_default().limits(),
            iothread: self.iothread,
            ..NetConfig::new(source)
        })
    }
}

impl Balloon {
    fn into_config(self) -> BalloonConfig {
        let seconds = self.stats_polling_interval_s.filter(|seconds| *seconds > 0);
        BalloonConfig {
            size_bytes: u64::from(self.amount_mib) << 20,
            deflate_on_oom: self.deflate_on_oom,
            statistics: seconds.map(|seconds| Duration::from_secs(seconds.into())),
            reporting: self.free_page_reporting.unwrap_or(false),
            hinting: self.free_page_hinting.unwrap_or(false),
        }
    }
}

impl MmdsConfig {
    fn put_into(self, config: &mut VmConfig) -> Result<(), FileError> {
        let (cards, metadata) = self.into_parts()?;
        config.metadata = metadata;
        match config.give_metadata_to(&cards) {
            Ok(()) => Ok(()),
            Err(index) => {
                let key = format!("mmds-config.network_interfaces[{index}]");
                let what = "none of network-interfaces has this iface_id";
                Err(FileError::Keys { key, what })
            }
        }
    }

    /// The cards that have the service, and the rest.
    fn into_parts(self) -> Result<(Vec<String>, MetadataConfig), FileError> {
        let key = |name: &str| format!("mmds-config.{name}");
        if self.network_interfaces.is_empty() {
            let what = "name at least one of network-interfaces by its iface_id";
            return Err(FileError::Keys { key: key("network_interfaces"), what });
        }
        let address = self.ipv4_address.map(|text| parse_address(&text)).transpose();
        let address = address.map_err(|source| value(key("ipv4_address"), source))?;
        let (version, imds_compat) = (self.version, self.imds_compat);
        let metadata =
            MetadataConfig { version, address, imds_compat, ..MetadataConfig::default() };
        Ok((self.network_interfaces, metadata))
    }
}

impl Logger {
    fn put_into(self, config: &mut VmConfig) -> Result<(), FileError> {
        let level = self.level.map(|text| parse_level(&text)).transpose();
        config.level = level.map_err(|source| value("logger.level", source))?;
        config.log_path = self.log_path;
        config.log_origin = self.show_log_origin;
        config.log_module = self.module;
        Ok(())
    }
}

pub(super) fn unsupported(
    given: bool,
    key: impl Into<String>,
    why: &'static str,
) -> Result<(), FileError> {
    if given { Err(FileError::Unsupported { key: key.into(), why }) } else { Ok(()) }
}

fn value(key: impl Into<String>, source: ValueError) -> FileError {
    FileError::Value { key: key.into(), source }
}
