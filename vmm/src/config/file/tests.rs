use super::*;
use crate::config::{
    Backing, BootProtocol, CmdlineConfig, ConsoleTarget, CpusConfig, DiskConfig, DiskEngine,
    DiskFormat, DiskOverlay, MetadataConfig, MetricsConfig, NetConfig, NetSource, OnReboot, Pages,
    Ready, VsockConfig,
};
use devices::metadata::Version;
use devices::rate_limiter::{Limits, Rate};
use log::LevelFilter;
use std::time::Duration;

/// The message with its sources, as the user reads it.
fn refusal(text: &str) -> String {
    let error = parse(text.as_bytes()).unwrap_err();
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A file as Firecracker's own tools write it: every key, unused ones null, all at their harmless values.
const FIRECRACKER: &str = r#"{
  "boot-source": {
    "kernel_image_path": "vmlinux",
    "boot_args": "console=ttyS0 reboot=k panic=1",
    "initrd_path": null
  },
  "drives": [
    {
      "drive_id": "rootfs",
      "partuuid": null,
      "is_root_device": true,
      "cache_type": "Unsafe",
      "is_read_only": false,
      "path_on_host": "rootfs.ext4",
      "io_engine": "Sync",
      "rate_limiter": null,
      "socket": null
    }
  ],
  "machine-config": {
    "vcpu_count": 2,
    "mem_size_mib": 1024,
    "smt": false,
    "cpu_template": "None",
    "track_dirty_pages": false,
    "huge_pages": "None"
  },
  "cpu-config": null,
  "balloon": null,
  "network-interfaces": [
    {
      "iface_id": "eth0",
      "guest_mac": "06:00:AC:10:00:02",
      "host_dev_name": "tap0",
      "rx_rate_limiter": null,
      "tx_rate_limiter": null
    }
  ],
  "vsock": { "vsock_id": "1", "guest_cid": 52, "uds_path": "v.sock" },
  "logger": {
    "log_path": "fc.log",
    "level": "Warning",
    "show_level": true,
    "show_log_origin": true,
    "module": "vmm::api"
  },
  "metrics": { "metrics_path": "m.fifo", "properties": { "a": "b" } },
  "mmds-config": null,
  "entropy": { "rate_limiter": null },
  "pmem": [],
  "memory-hotplug": null
}"#;

#[test]
fn a_firecracker_file_is_read_whole() {
    let expected = VmConfig {
        kernel: Some("vmlinux".into()),
        cmdline: Some(CmdlineConfig::BootArgs("console=ttyS0 reboot=k panic=1".to_owned())),
        disks: vec![DiskConfig {
            path: "rootfs.ext4".into(),
            read_only: Some(false),
            id: Some("rootfs".to_owned()),
            root: Some(true),
            engine: Some(DiskEngine::Sync),
            ..DiskConfig::default()
        }],
        cpus: Some(CpusConfig::new(2)),
        memory_bytes: Some(1 << 30),
        backing: Some(Backing::default()),
        nets: vec![NetConfig {
            mac: Some([0x06, 0, 0xac, 0x10, 0, 2]),
            id: Some("eth0".to_owned()),
            ..NetConfig::new(NetSource::Tap("tap0".to_owned()))
        }],
        log_path: Some("fc.log".into()),
        level: Some(LevelFilter::Warn),
        log_origin: Some(true),
        log_module: Some("vmm::api".to_owned()),
        metrics: Some(MetricsConfig {
            properties: serde_json::json!({"a": "b"}),
            ..MetricsConfig::to("m.fifo".into())
        }),
        vsock: Some(VsockConfig { guest_cid: Some(52), socket: "v.sock".into(), ready_port: None }),
        rng: Some(true),
        ..VmConfig::default()
    };
    assert_eq!(parse(FIRECRACKER.as_bytes()).unwrap(), expected);
}

#[test]
fn our_own_keys_say_what_the_flags_can_say() {
    let text = r#"{
      "boot-source": {
        "kernel_image_path": "k",
        "initrd_path": "i",
        "append_args": ["a", "b"],
        "protocol": "pvh"
      },
      "drives": [{ "path_on_host": "d", "is_read_only": true, "serial": "S", "format": "raw", "io_engine": "Async", "direct": true, "overlay": "o", "queues": 2, "iothread": "a" }],
      "machine-config": { "vcpu_count": 8, "cores": 2, "threads": 2, "sockets": 2, "pin": [0, 1, 0, 1, 0, 1, 0, 1], "huge_pages": "1G", "prefault": true, "shared": true },
      "network-interfaces": [
        { "fd": 7, "mtu": 1400 },
        { "fds": [8, 9], "queues": 2, "iothread": "b" }
      ],
      "iothreads": [{ "id": "a" }, { "id": "b", "pin": [2, 3] }],
      "entropy": { "enabled": false },
      "balloon": {
        "amount_mib": 64, "deflate_on_oom": true, "stats_polling_interval_s": 2,
        "free_page_hinting": true, "free_page_reporting": true
      },
      "console": { "type": "socket", "path": "c" },
      "serial": { "type": "file", "path": "s" },
      "id": "box",
      "timeout": "30s",
      "vsock": { "guest_cid": 9, "uds_path": "v", "ready_port": 52 },
      "wait-ready": "5s",
      "ready-pattern": "login:",
      "grace": "500ms",
      "on-reboot": "restart"
    }"#;
    let expected = VmConfig {
        kernel: Some("k".into()),
        initrd: Some("i".into()),
        append: vec!["a".to_owned(), "b".to_owned()],
        boot: Some(BootProtocol::Pvh),
        disks: vec![DiskConfig {
            path: "d".into(),
            read_only: Some(true),
            serial: Some("S".to_owned()),
            format: Some(DiskFormat::Raw),
            engine: Some(DiskEngine::Uring),
            direct: Some(true),
            overlay: Some(DiskOverlay::Kept("o".into())),
            queues: Some(2),
            iothread: Some("a".to_owned()),
            ..DiskConfig::default()
        }],
        backing: Some(Backing { pages: Pages::Huge1G, prefault: true, shared: true }),
        cpus: Some(CpusConfig {
            cores: Some(2),
            threads: Some(2),
            sockets: Some(2),
            pin: vec![0, 1, 0, 1, 0, 1, 0, 1],
            ..CpusConfig::new(8)
        }),
        nets: vec![
            NetConfig { mtu: Some(1400), ..NetConfig::new(NetSource::Fds(vec![7])) },
            NetConfig {
                queues: Some(2),
                iothread: Some("b".to_owned()),
                ..NetConfig::new(NetSource::Fds(vec![8, 9]))
            },
        ],
        iothreads: vec!["a".parse().unwrap(), "b,pin=2-3".parse().unwrap()],
        rng: Some(false),
        balloon: Some("64M,deflate-on-oom,stats=2s,hinting,reporting".parse().unwrap()),
        console: Some(ConsoleTarget::Socket("c".into())),
        serial: Some(ConsoleTarget::File("s".into())),
        id: Some("box".to_owned()),
        timeout: Some(Duration::from_secs(30)),
        grace: Some(Duration::from_millis(500)),
        vsock: Some("cid=9,socket=v,ready=52".parse().unwrap()),
        ready: Ready { pattern: Some("login:".to_owned()), within: Some(Duration::from_secs(5)) },
        on_reboot: Some(OnReboot::Restart),
        ..VmConfig::default()
    };
    assert_eq!(parse(text.as_bytes()).unwrap(), expected);
    assert_eq!(parse(b"{}").unwrap(), VmConfig::default());
}

#[test]
fn what_does_not_exist_here_is_refused_by_name() {
    for (text, key) in [
        (r#"{"memory-hotplug": {"total_size_mib": 1024}}"#, "memory-hotplug"),
        (r#"{"pmem": [{"id": "p"}]}"#, "pmem"),
        (r#"{"machine-config": {"cpu_template": "T2"}}"#, "machine-config.cpu_template"),
        (
            r#"{"drives": [{"path_on_host": "a"}, {"path_on_host": "b", "socket": "s"}]}"#,
            "drives[1].socket",
        ),
        (r#"{"entropy": {"rate_limiter": {}}}"#, "entropy.rate_limiter"),
    ] {
        let message = refusal(text);
        assert!(message.starts_with(&format!("{key} is not supported: ")), "{message}");
    }
}

#[test]
fn an_unknown_key_names_itself_its_place_and_the_nearest() {
    for (text, message) in [
        ("{\n  \"drivs\": []\n}", "line 2, column 9: unknown key `drivs`; did you mean `drives`?"),
        (
            r#"{"boot_source": {}}"#,
            "line 1, column 14: unknown key `boot_source`; did you mean `boot-source`?",
        ),
        (
            r#"{"drives": [{"is_readonly": true}]}"#,
            "line 1, column 26: unknown key `is_readonly`; did you mean `is_read_only`?",
        ),
        (r#"{"xyzzy": 1}"#, "line 1, column 8: unknown key `xyzzy`"),
        (r#"{"`, expected `a\n": 1}"#, "line 1, column 19: unknown key ``, expected `a?`"),
        (
            r#"{"console": {"type": "off", "pth": "x"}}"#,
            "line 1, column 33: unknown key `pth`; did you mean `path`?",
        ),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn what_has_the_wrong_shape_names_its_place() {
    for (text, message) in [
        ("", "line 1, column 0: EOF while parsing a value"),
        ("{", "line 1, column 1: EOF while parsing an object"),
        ("{} x", "line 1, column 4: trailing characters"),
        (r#"{"id": 1}"#, "line 1, column 8: id: invalid type: integer `1`, expected a string"),
        (r#"{"id": "a", "id": "b"}"#, "line 1, column 16: duplicate field `id`"),
        (
            r#"{"machine-config": {"vcpu_count": -1}}"#,
            "line 1, column 36: machine-config.vcpu_count: invalid value: integer `-1`, expected u16",
        ),
        (
            r#"{"on-reboot": "stop"}"#,
            "line 1, column 20: on-reboot: unknown variant `stop`, expected `exit` or `restart`",
        ),
        (
            r#"{"drives": [{"format": "qcow2"}]}"#,
            "line 1, column 30: drives[0].format: unknown variant `qcow2`, expected `raw`",
        ),
    ] {
        assert_eq!(refusal(text), message);
    }
    assert!(parse(b"{\"id\": \"\xff\"}").is_err());
    let deep = "[".repeat(100_000);
    assert!(refusal(&format!("{{\"pmem\": {deep}")).contains("recursion limit"));
}

#[test]
fn values_that_make_no_sense_name_their_key() {
    for (text, message) in [
        (r#"{"timeout": "5d"}"#, "timeout: \"5d\" is not a duration"),
        (r#"{"grace": "x"}"#, "grace: \"x\" is not a duration"),
        (
            r#"{"machine-config": {"mem_size_mib": 18446744073709551615}}"#,
            "machine-config.mem_size_mib: \"18446744073709551615\" is too large",
        ),
        (
            r#"{"machine-config": {"smt": true, "threads": 2}}"#,
            "machine-config: smt and threads say the same: keep one",
        ),
        (r#"{"drives": [{}]}"#, "drives[0]: path_on_host is missing"),
        (r#"{"network-interfaces": [{}]}"#, "network-interfaces[0]: say where it leads to"),
        (
            r#"{"network-interfaces": [{"fd": 3, "host_dev_name": "t"}]}"#,
            "network-interfaces[0]: say where it leads to",
        ),
        (
            r#"{"network-interfaces": [{"fd": 3, "guest_mac": "01:00:00:00:00:00"}]}"#,
            "network-interfaces[0].guest_mac: \"01:00:00:00:00:00\" is a multicast",
        ),
        (r#"{"metrics": 5}"#, "metrics: it must be an object"),
        (r#"{"metrics": {}}"#, "metrics: metrics_path is missing"),
        (
            r#"{"metrics": {"metrics_path": "m", "properties": {"a": 1}}}"#,
            "metrics: properties must be an object of strings",
        ),
        (
            r#"{"metrics": {"metrics_path": "m", "emit": 1}}"#,
            "metrics: only metrics_path and properties are known",
        ),
        (r#"{"logger": {"level": "loud"}}"#, "logger.level: level: \"loud\" is none of"),
        (r#"{"console": {"type": "file"}}"#, "console: path is missing"),
        (r#"{"console": {}}"#, "console: type is missing"),
        (r#"{"serial": {"type": "pty", "path": "x"}}"#, "serial: this type has no path"),
    ] {
        let refused = refusal(text);
        assert!(refused.starts_with(message), "{refused}");
    }
}

#[test]
fn smt_pairs_the_vcpus() {
    let threads = |count: u16, smt: bool| {
        let text = format!(r#"{{"machine-config": {{"vcpu_count": {count}, "smt": {smt}}}}}"#);
        parse(text.as_bytes()).unwrap().cpus.unwrap().threads
    };
    assert_eq!(threads(4, true), Some(2));
    assert_eq!(threads(4, false), None);
    assert_eq!(threads(1, true), None);
}

#[test]
fn files_are_bounded_and_must_exist() {
    assert!(matches!(read(Path::new("/dev/zero")), Err(FileError::TooLarge)));
    assert!(matches!(read(Path::new("/nowhere/vm.json")), Err(FileError::Read(_))));
    assert!(matches!(read(Path::new("/")), Err(FileError::Read(_))));
    let empty = VmConfig::from_file(Path::new("/dev/null")).unwrap_err();
    assert_eq!(empty.to_string(), "config file \"/dev/null\"");
}

#[test]
fn a_configuration_is_an_object() {
    for text in ["[]", " [1]", "7", "\"x\"", "null"] {
        let message = parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(message, "line 1, column 1: a configuration is an object, in braces", "{text}");
    }
}

#[test]
fn rate_limiters_are_firecrackers_buckets() {
    let text = r#"{
      "drives": [
        { "path_on_host": "a", "rate_limiter": {
            "bandwidth": { "size": 1000, "one_time_burst": 50, "refill_time": 100 },
            "ops": { "size": 5, "refill_time": 1000 } } },
        { "path_on_host": "b", "rate_limiter": { "bandwidth": null } },
        { "path_on_host": "c", "rate_limiter": {
            "bandwidth": { "size": 0, "refill_time": 100 },
            "ops": { "size": 5, "refill_time": 0 } } }
      ],
      "network-interfaces": [{ "host_dev_name": "t",
        "rx_rate_limiter": { "ops": { "size": 1, "one_time_burst": null, "refill_time": 2 } },
        "tx_rate_limiter": { "bandwidth": { "size": 18446744073709551615,
            "one_time_burst": 18446744073709551615, "refill_time": 18446744073709551615 } } }]
    }"#;
    let config = parse(text.as_bytes()).unwrap();
    let rate =
        |size, milliseconds, burst| Rate::new(size, Duration::from_millis(milliseconds), burst);
    let limits: Vec<_> = config.disks.iter().map(|disk| disk.limits).collect();
    let both = Limits { bandwidth: rate(1000, 100, 50), ops: rate(5, 1000, 0) };
    assert_eq!(limits, [both, Limits::NONE, Limits::NONE]);
    let [net] = &config.nets[..] else { panic!("one net") };
    assert_eq!(net.rx_limits, Limits { bandwidth: None, ops: rate(1, 2, 0) });
    assert_eq!(net.tx_limits, Limits { bandwidth: rate(u64::MAX, u64::MAX, u64::MAX), ops: None });

    for (bucket, message) in [
        (r#"{ "size": 1 }"#, "missing field `refill_time`"),
        (r#"{ "refill_time": 1 }"#, "missing field `size`"),
        (r#"{ "size": -1, "refill_time": 1 }"#, "drives[0].rate_limiter.ops.size: invalid value"),
        (r#"{ "size": 1, "refil_time": 1 }"#, "did you mean `refill_time`?"),
    ] {
        let drive = format!(r#"{{ "path_on_host": "a", "rate_limiter": {{ "ops": {bucket} }} }}"#);
        let refusal = refusal(&format!(r#"{{ "drives": [{drive}] }}"#));
        assert!(refusal.contains(message), "{refusal}");
    }
}

#[test]
fn a_metadata_service_is_on_the_cards_that_are_named() {
    let file = |mmds: &str| {
        let nets = r#"[{ "iface_id": "a", "fd": 7 }, { "iface_id": "b", "fd": 8 }]"#;
        format!("{{ \"network-interfaces\": {nets}, \"mmds-config\": {mmds} }}")
    };
    let text = file(
        r#"{
            "network_interfaces": ["b"], "version": "V2", "ipv4_address": "169.254.170.2",
            "imds_compat": true
        }"#,
    );
    let config = parse(text.as_bytes()).unwrap();
    assert_eq!(config.nets.iter().map(|net| net.metadata).collect::<Vec<_>>(), [false, true]);
    let expected = MetadataConfig {
        version: Some(Version::V2),
        address: Some([169, 254, 170, 2].into()),
        imds_compat: Some(true),
        ..MetadataConfig::default()
    };
    assert_eq!(config.metadata, expected);
    for (mmds, message) in [
        (
            r#"{ "network_interfaces": [] }"#,
            "mmds-config.network_interfaces: name at least one of network-interfaces by its iface_id",
        ),
        (
            r#"{ "network_interfaces": ["a", "c"] }"#,
            "mmds-config.network_interfaces[1]: none of network-interfaces has this iface_id",
        ),
        (
            r#"{ "network_interfaces": ["a"], "ipv4_address": "x" }"#,
            "mmds-config.ipv4_address: \"x\" is not an IPv4 address: write four numbers, such as 169.254.169.254",
        ),
    ] {
        assert_eq!(refusal(&file(mmds)), message);
    }
    let message = refusal(&file(r#"{ "network_interfaces": ["a"], "version": "V3" }"#));
    assert!(message.contains("mmds-config.version: unknown variant `V3`"), "{message}");
}
