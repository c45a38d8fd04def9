use std::fs::File;
use std::os::fd::AsRawFd;

use super::*;
use crate::config::{CpusConfig, DiskConfig, NetConfig, NetSource, Pages};

fn minimal() -> VmConfig {
    VmConfig { kernel: Some("bzImage".into()), ..VmConfig::default() }
}

fn refusal(config: VmConfig) -> String {
    Plan::resolve(config).unwrap_err().to_string()
}

fn disks(count: usize) -> Vec<DiskConfig> {
    (0..count).map(|n| format!("disk{n}.img").parse().unwrap()).collect()
}

#[test]
fn the_plan_as_json() {
    let tap = File::open("/dev/null").unwrap();
    let fd = NetSource::Fds(vec![tap.as_raw_fd()]);
    let config = VmConfig {
        initrd: Some("initrd".into()),
        boot: Some(BootProtocol::Pvh),
        cmdline: Some(super::super::CmdlineConfig::Exact("a".to_owned())),
        append: vec!["b".to_owned()],
        cpus: Some("4,threads=2,pin=4-7".parse().unwrap()),
        memory_bytes: Some(1 << 30),
        backing: Some(Backing { pages: Pages::Huge2M, prefault: true, shared: false }),
        disks: vec![
            "r.img,readonly".parse().unwrap(),
            "d.img,id=data,serial=S,iops=5k,iothread=io0".parse().unwrap(),
        ],
        iothreads: vec!["io0,pin=1-2".parse().unwrap()],
        nets: vec![
            "tap=tap0,mac=02:00:00:00:00:01,mtu=1400".parse().unwrap(),
            NetConfig { mac: Some([2; 6]), id: Some("lan".to_owned()), ..NetConfig::new(fd) },
        ],
        vsock: Some("cid=7,socket=v.sock,ready=52".parse().unwrap()),
        console: Some(ConsoleTarget::Socket("/run/c.sock".into())),
        serial: Some(ConsoleTarget::File("serial.log".into())),
        rng: Some(false),
        balloon: Some("256M,stats=500ms,reporting".parse().unwrap()),
        ready: Ready { pattern: Some("login:".to_owned()), within: Some(Duration::from_secs(3)) },
        id: Some("box".to_owned()),
        timeout: Some(Duration::from_millis(1500)),
        grace: Some(Duration::ZERO),
        on_reboot: Some(OnReboot::Restart),
        log_path: Some("vmm.log".into()),
        level: Some(LevelFilter::Debug),
        log_origin: Some(true),
        log_module: Some("vmm::run".to_owned()),
        metrics: Some(MetricsConfig::to("metrics.json".into())),
        ..minimal()
    };
    let json: serde_json::Value =
        serde_json::from_str(&Plan::resolve(config).unwrap().json()).unwrap();
    let unlimited = serde_json::json!({ "bandwidth": null, "ops": null });
    let bucket =
        serde_json::json!({ "size": 500, "one_time_burst": 0, "refill_time_ns": 100_000_000 });
    let limited = serde_json::json!({ "bandwidth": null, "ops": bucket });
    let expected = serde_json::json!({
        "id": "box",
        "kernel": "bzImage",
        "initrd": "initrd",
        "boot": "pvh",
        "cmdline": "a b",
        "cpu_template": null,
        "cpus": { "count": 4, "cores": 2, "threads": 2, "sockets": 1, "pin": [4, 5, 6, 7] },
        "memory_bytes": 1_073_741_824,
        "backing": { "hugepages": "2M", "prefault": true, "shared": false },
        "disks": [
            { "id": "disk0", "path": "r.img", "read_only": true, "serial": "disk0", "format": "raw", "engine": "sync", "direct": false, "overlay": null, "queues": 1, "limits": unlimited, "iothread": null },
            { "id": "data", "path": "d.img", "read_only": false, "serial": "S", "format": "raw", "engine": "sync", "direct": false, "overlay": null, "queues": 1, "limits": limited, "iothread": "io0" },
        ],
        "nets": [
            {
                "id": "net0",
                "source": { "tap": "tap0" },
                "mac": "02:00:00:00:00:01",
                "mtu": 1400,
                "metadata": false,
                "queues": 1,
                "rx_limits": unlimited,
                "tx_limits": unlimited,
                "iothread": null,
            },
            {
                "id": "lan",
                "source": { "fds": [tap.as_raw_fd()] },
                "mac": "02:02:02:02:02:02",
                "mtu": null,
                "metadata": false,
                "queues": 1,
                "rx_limits": unlimited,
                "tx_limits": unlimited,
                "iothread": null,
            },
        ],
        "iothreads": [{ "id": "io0", "pin": [1, 2] }],
        "vsock": { "guest_cid": 7, "socket": "v.sock", "ready_port": 52 },
        "console": { "type": "socket", "path": "/run/c.sock" },
        "serial": { "type": "file", "path": "serial.log" },
        "rng": false,
        "metadata": null,
        "ready": { "pattern": "login:", "within_ms": 3000 },
        "balloon": {
            "size_mib": 256,
            "deflate_on_oom": false,
            "statistics_ms": 500,
            "reporting": true,
            "hinting": false,
        },
        "timeout_ms": 1500,
        "grace_ms": 0,
        "on_reboot": "restart",
        "log": { "path": "vmm.log", "level": "debug", "origin": true, "module": "vmm::run" },
        "metrics": { "metrics_path": "metrics.json" },
        "track_dirty": false,
    });
    assert_eq!(json, expected);
}

#[test]
fn defaults() {
    let plan = Plan::resolve(minimal()).unwrap();
    assert_eq!((plan.id.as_str(), plan.memory_bytes, plan.rng), ("vm", 512 << 20, true));
    assert_eq!(plan.backing, Backing::default());
    assert_eq!((plan.cpus.count, plan.boot, plan.initrd), (1, BootProtocol::Auto, None));
    assert_eq!((plan.console, plan.serial), (ConsoleTarget::Stdio, ConsoleTarget::Stdio));
    assert_eq!((plan.timeout, plan.grace), (None, Duration::from_secs(10)));
    assert_eq!(plan.on_reboot, OnReboot::Exit);
    let log = LogPlan { path: None, level: LevelFilter::Warn, origin: false, module: None };
    assert_eq!((plan.log, plan.metrics), (log, None));
    assert!(plan.disks.is_empty() && plan.nets.is_empty());
}

#[test]
fn a_kernel_is_needed() {
    let message = refusal(VmConfig::default());
    assert!(message.starts_with("no kernel: add --kernel PATH"), "{message}");
    assert_eq!(
        refusal(VmConfig { kernel: Some("".into()), ..VmConfig::default() }),
        "the path of the kernel is empty"
    );
}

#[test]
fn memory_has_limits() {
    let with = |bytes| VmConfig { memory_bytes: Some(bytes), ..minimal() };
    for bytes in [MEMORY_MIN, (3 << 30) + (1 << 20), MEMORY_MAX] {
        assert_eq!(Plan::resolve(with(bytes)).unwrap().memory_bytes, bytes);
    }
    for (bytes, message) in [
        (0, "0 bytes of memory is too little"),
        (31 << 20, "31 MiB of memory is too little: give at least 32 MiB"),
        (MEMORY_MAX + (1 << 20), "67108865 MiB of memory is too much: 64 TiB are the limit"),
        (u64::MAX, "18446744073709551615 bytes of memory is too much"),
        ((64 << 20) + 4096, "67112960 bytes of memory are not a whole number of MiB"),
    ] {
        let text = refusal(with(bytes));
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn memory_is_a_whole_number_of_reserved_pages() {
    let with = |bytes, pages| VmConfig {
        memory_bytes: Some(bytes),
        backing: Some(Backing { pages, ..Backing::default() }),
        ..minimal()
    };
    assert_eq!(
        refusal(with(33 << 20, Pages::Huge2M)),
        "33 MiB of memory is not a whole number of pages of 2 MiB: change --memory, or take other pages with hugepages="
    );
    assert!(refusal(with(512 << 20, Pages::Huge1G)).contains("pages of 1 GiB"));
    for (bytes, pages) in [
        (34 << 20, Pages::Huge2M),
        (5 << 30, Pages::Huge1G),
        (33 << 20, Pages::Usual),
        (33 << 20, Pages::Transparent),
    ] {
        assert_eq!(Plan::resolve(with(bytes, pages)).unwrap().backing.pages, pages);
    }
}

#[test]
fn ids_and_times_are_checked() {
    let message = refusal(VmConfig { id: Some("a b".to_owned()), ..minimal() });
    assert!(message.starts_with("id: \"a b\" cannot be an id"), "{message}");
    let message = refusal(VmConfig { timeout: Some(Duration::ZERO), ..minimal() });
    assert!(message.starts_with("a timeout of 0"), "{message}");
    let message = refusal(VmConfig { cpus: Some(CpusConfig::new(0)), ..minimal() });
    assert_eq!(message, "cpus");
}

#[test]
fn devices_have_a_limit_together() {
    // The console and the entropy device count.
    let fits = VmConfig { disks: disks(MAX_VIRTIO_DEVICES - 2), ..minimal() };
    assert!(Plan::resolve(fits.clone()).is_ok());
    let one_more = VmConfig { disks: disks(MAX_VIRTIO_DEVICES - 1), ..minimal() };
    assert_eq!(
        refusal(one_more.clone()),
        "18 virtio devices are too many: 17 fit; remove a disk or a net, or say --rng off"
    );
    assert!(Plan::resolve(VmConfig { rng: Some(false), ..one_more.clone() }).is_ok());
    assert!(Plan::resolve(VmConfig { console: Some(ConsoleTarget::Off), ..one_more }).is_ok());
    let net = "tap=t".parse().unwrap();
    let with_net = VmConfig { nets: vec![net], ..fits.clone() };
    assert!(refusal(with_net).starts_with("18 virtio devices"));
    let vsock = Some("socket=v".parse().unwrap());
    assert!(refusal(VmConfig { vsock, ..fits }).starts_with("18 virtio devices"));
}

#[test]
fn a_file_has_one_use_if_any_use_writes() {
    let disk = |text: &str| text.parse::<DiskConfig>().unwrap();
    let file = |path: &str| Some(ConsoleTarget::File(path.into()));
    let socket = |path: &str| Some(ConsoleTarget::Socket(path.into()));
    let here = std::env::current_dir().unwrap().join("a").display().to_string();
    for (config, first, second) in [
        (VmConfig { disks: vec![disk("a"), disk("a,id=x")], ..minimal() }, "disk disk0", "disk x"),
        (
            VmConfig { disks: vec![disk("a"), disk("./a,readonly")], ..minimal() },
            "disk disk0",
            "disk disk1",
        ),
        (
            VmConfig { disks: vec![disk(&here), disk(".//a")], ..minimal() },
            "disk disk0",
            "disk disk1",
        ),
        (VmConfig { disks: vec![disk("bzImage")], ..minimal() }, "the kernel", "disk disk0"),
        (
            VmConfig { initrd: Some("i".into()), log_path: Some("i".into()), ..minimal() },
            "the initrd",
            "the log",
        ),
        (
            VmConfig { console: file("f"), serial: file("f"), ..minimal() },
            "the console",
            "the serial port",
        ),
        (
            VmConfig { console: socket("f"), serial: socket("./f"), ..minimal() },
            "the console",
            "the serial port",
        ),
        (
            VmConfig {
                vsock: Some("socket=f".parse().unwrap()),
                console: socket("f"),
                ..minimal()
            },
            "the vsock",
            "the console",
        ),
        (
            VmConfig { serial: file("f"), log_path: Some("f".into()), ..minimal() },
            "the serial port",
            "the log",
        ),
    ] {
        let message = refusal(config);
        let uses = format!("is used as {first} and as {second}, and ");
        assert!(message.contains(&uses), "{message}");
    }
}

#[test]
fn a_file_that_is_only_read_can_be_used_twice() {
    let disk = |text: &str| text.parse::<DiskConfig>().unwrap();
    let config = VmConfig {
        initrd: Some("bzImage".into()),
        disks: vec![disk("a,readonly"), disk("a,readonly")],
        ..minimal()
    };
    assert!(Plan::resolve(config).is_ok());
}

#[test]
fn a_path_that_is_not_text_is_shown_as_well_as_it_can_be() {
    use std::os::unix::ffi::OsStringExt;
    let kernel = std::ffi::OsString::from_vec(vec![b'k', 0xff]);
    let config = VmConfig { kernel: Some(kernel.into()), ..VmConfig::default() };
    assert!(Plan::resolve(config).unwrap().json().contains("\"kernel\": \"k\u{fffd}\""));
}

#[test]
fn the_limits_are_the_machines() {
    use arch::layout;
    assert!(MAX_VIRTIO_DEVICES <= layout::DEVICE_GSIS.count());
    // The layout counts the NUL.
    assert_eq!(Ok(crate::config::CMDLINE_MAX + 1), usize::try_from(layout::CMDLINE_MAX));
}
