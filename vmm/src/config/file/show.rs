//! A configuration as JSON that a configuration file may contain: what was said, in the words it can be said in.

use devices::metadata::{DEFAULT_ADDRESS, Version};
use devices::rate_limiter::{Limits, Rate};
use serde_json::{Map, Value, json};

use crate::config::{
    BalloonConfig, BootProtocol, CmdlineConfig, ConsoleTarget, CpusConfig, DiskConfig, DiskEngine,
    IoThread, MetadataConfig, MetricsConfig, NetConfig, NetSource, OnReboot, Pages, VmConfig,
    VsockConfig, net, plan, vsock::GUEST_CID_DEFAULT,
};

/// The whole file.
pub(in crate::config) fn whole(config: &VmConfig) -> Value {
    let mut root = json!({
        "boot-source": config.kernel.as_ref().map(|_| boot_source(config)),
        "machine-config": machine_config(config),
        "drives": config.disks.iter().map(drive).collect::<Vec<_>>(),
        "network-interfaces": config.nets.iter().map(network_interface).collect::<Vec<_>>(),
        "entropy": config.rng.map(|enabled| json!({"enabled": enabled, "rate_limiter": null})),
        "logger": logger(config),
        "balloon": config.balloon.as_ref().map(balloon),
        "cpu-config": config.cpu_template,
        "memory-hotplug": null,
        "metrics": config.metrics.as_ref().map(metrics),
        "mmds-config": mmds_config(config),
        "pmem": [],
        "vsock": config.vsock.as_ref().map(vsock),
    });
    // Our own, where something is said.
    let own = [
        ("iothreads", some(config.iothreads.iter().map(iothread).collect())),
        ("console", config.console.as_ref().map(console)),
        ("serial", config.serial.as_ref().map(console)),
        ("id", config.id.as_ref().map(|id| json!(id))),
        ("timeout", config.timeout.map(|time| json!(format!("{}ms", time.as_millis())))),
        ("grace", config.grace.map(|time| json!(format!("{}ms", time.as_millis())))),
        ("wait-ready", config.ready.within.map(|time| json!(format!("{}ms", time.as_millis())))),
        ("ready-pattern", config.ready.pattern.as_ref().map(|text| json!(text))),
        ("on-reboot", config.on_reboot.filter(|it| *it == OnReboot::Restart).map(|it| json!(it))),
    ];
    put(&mut root, own);
    root
}

/// Where metrics are written.
fn metrics(metrics: &MetricsConfig) -> Value {
    let mut object = json!({ "metrics_path": metrics.path });
    if !metrics.properties.is_null() {
        set(&mut object, "properties", metrics.properties.clone());
    }
    object
}

/// The log, where something is said of it.
fn logger(config: &VmConfig) -> Option<Value> {
    let VmConfig { log_path, level, log_origin, log_module, .. } = config;
    let is_said =
        log_path.is_some() || level.is_some() || log_origin.is_some() || log_module.is_some();
    is_said.then(|| {
        json!({
            "log_path": log_path,
            "level": level.map(|level| level.as_str()),
            "show_log_origin": log_origin.unwrap_or(false),
            "module": log_module,
        })
    })
}

/// `machine-config`, defaults filled in.
pub(in crate::config) fn machine_config(config: &VmConfig) -> Value {
    let cpus = config.cpus.clone().unwrap_or(CpusConfig::new(1));
    let CpusConfig { count, cores, threads, sockets, pin } = cpus;
    let backing = config.backing.unwrap_or_default();
    let has_smt = threads == Some(2) && cores.is_none() && sockets.is_none();
    let mut machine = json!({
        "vcpu_count": count,
        "mem_size_mib": config.memory_bytes.unwrap_or(plan::MEMORY_DEFAULT) >> 20,
        "cpu_template": "None",
        "track_dirty_pages": config.track_dirty.unwrap_or(false),
        "huge_pages": match backing.pages {
            // Firecracker's word for the usual ones.
            Pages::Usual => json!("None"),
            pages => json!(pages),
        },
    });
    if has_smt || [cores, threads, sockets].iter().all(Option::is_none) {
        set(&mut machine, "smt", json!(has_smt));
    } else {
        let own = [("cores", cores), ("threads", threads), ("sockets", sockets)];
        put(&mut machine, own.map(|(key, number)| (key, number.map(|number| json!(number)))));
    }
    let own = [("prefault", backing.prefault), ("shared", backing.shared)];
    put(&mut machine, own.map(|(key, is_set)| (key, is_set.then_some(json!(true)))));
    put(&mut machine, [("pin", some(pin.into_iter().map(Value::from).collect()))]);
    machine
}

fn boot_source(config: &VmConfig) -> Value {
    let mut boot = json!({
        "kernel_image_path": config.kernel,
        "initrd_path": config.initrd,
        "boot_args": null,
    });
    match &config.cmdline {
        Some(CmdlineConfig::BootArgs(text)) => set(&mut boot, "boot_args", json!(text)),
        Some(CmdlineConfig::Exact(text)) => set(&mut boot, "exact_args", json!(text)),
        None => {}
    }
    if !config.append.is_empty() {
        set(&mut boot, "append_args", json!(config.append));
    }
    if let Some(protocol) = config.boot.filter(|it| *it != BootProtocol::Auto) {
        set(&mut boot, "protocol", json!(protocol));
    }
    boot
}

fn drive(disk: &DiskConfig) -> Value {
    let mut drive = json!({
        "drive_id": disk.id,
        "path_on_host": disk.path,
        "is_root_device": disk.root,
        "is_read_only": disk.read_only.unwrap_or(false),
        "partuuid": disk.partuuid,
        "cache_type": "Writeback",
        "io_engine": match disk.engine.unwrap_or_default() {
            DiskEngine::Sync => "Sync",
            DiskEngine::Uring => "Async",
        },
        "rate_limiter": rate_limiter(disk.limits),
        "socket": null,
    });
    let own = [
        ("serial", disk.serial.as_ref().map(|text| json!(text))),
        ("format", disk.format.map(|format| json!(format))),
        ("direct", disk.direct.map(|direct| json!(direct))),
        ("overlay", disk.overlay.as_ref().map(|overlay| json!(overlay))),
        ("queues", disk.queues.map(|queues| json!(queues))),
        ("iothread", disk.iothread.as_ref().map(|id| json!(id))),
    ];
    put(&mut drive, own);
    drive
}

fn network_interface(net: &NetConfig) -> Value {
    let (tap, fds) = match &net.source {
        NetSource::Tap(name) => (Some(name), None),
        NetSource::Fds(fds) => (None, Some(json!(fds))),
    };
    let mut interface = json!({
        "iface_id": net.id,
        "host_dev_name": tap,
        "guest_mac": net.mac.as_ref().map(net::format_mac),
        "mtu": net.mtu,
        "rx_rate_limiter": rate_limiter(net.rx_limits),
        "tx_rate_limiter": rate_limiter(net.tx_limits),
    });
    let own = [
        ("fds", fds),
        ("queues", net.queues.map(|queues| json!(queues))),
        ("iothread", net.iothread.as_ref().map(|id| json!(id))),
    ];
    put(&mut interface, own);
    interface
}

fn vsock(device: &VsockConfig) -> Value {
    let mut vsock = json!({
        "guest_cid": device.guest_cid.unwrap_or(GUEST_CID_DEFAULT),
        "uds_path": device.socket,
    });
    put(&mut vsock, [("ready_port", device.ready_port.map(|port| json!(port)))]);
    vsock
}

/// The metadata service, if a card has it. Its file and its limit have no place in a configuration file.
fn mmds_config(config: &VmConfig) -> Option<Value> {
    let cards: Vec<_> = config.nets.iter().filter(|net| net.metadata).map(|net| &net.id).collect();
    let MetadataConfig { version, address, imds_compat, .. } = &config.metadata;
    let version = match version.unwrap_or_default() {
        Version::V1 => "V1",
        Version::V2 => "V2",
    };
    (!cards.is_empty()).then(|| {
        json!({
            "network_interfaces": cards,
            "version": version,
            "ipv4_address": address.unwrap_or(DEFAULT_ADDRESS).to_string(),
            "imds_compat": imds_compat.unwrap_or(false),
        })
    })
}

/// The balloon.
pub(in crate::config) fn balloon(balloon: &BalloonConfig) -> Value {
    json!({
        "amount_mib": balloon.size_bytes >> 20,
        "deflate_on_oom": balloon.deflate_on_oom,
        "stats_polling_interval_s": balloon.statistics.map_or(0, |time| time.as_secs().max(1)),
        "free_page_hinting": balloon.hinting,
        "free_page_reporting": balloon.reporting,
    })
}

fn console(target: &ConsoleTarget) -> Value {
    // An enum with one field per variant under fixed keys: the serializer has nothing to refuse.
    serde_json::to_value(target).unwrap_or_default()
}

fn iothread(thread: &IoThread) -> Value {
    json!({ "id": thread.id, "pin": thread.pin })
}

/// A limiter, null when nothing is limited.
fn rate_limiter(limits: Limits) -> Value {
    if limits == Limits::NONE {
        return Value::Null;
    }
    json!({ "bandwidth": limits.bandwidth.map(token_bucket), "ops": limits.ops.map(token_bucket) })
}

/// A bucket. Its time is in whole milliseconds, which one that a flag made meets but for a rounding.
fn token_bucket(rate: Rate) -> Value {
    let millis = u64::try_from(rate.refill_time().as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    json!({"size": rate.size(), "one_time_burst": rate.one_time_burst(), "refill_time": millis})
}

/// A list, if there is anything in it.
fn some(list: Vec<Value>) -> Option<Value> {
    (!list.is_empty()).then_some(Value::Array(list))
}

fn put(object: &mut Value, pairs: impl IntoIterator<Item = (&'static str, Option<Value>)>) {
    for (key, value) in pairs {
        if let Some(value) = value {
            set(object, key, value);
        }
    }
}

fn set(object: &mut Value, key: &str, value: Value) {
    let object: Option<&mut Map<_, _>> = object.as_object_mut();
    if let Some(object) = object {
        object.insert(key.to_owned(), value);
    }
}
