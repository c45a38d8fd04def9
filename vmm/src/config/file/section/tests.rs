use crate::config::{Change, ConsoleTarget, Plan, Section, VmConfig};

fn put(config: &mut VmConfig, section: Section, text: &str) {
    Change::parse(section, text.as_bytes()).unwrap().put_into(config).unwrap();
}

/// The same machine said in three ways.
#[test]
fn sections_make_the_machine_that_the_file_makes() {
    let file = br#"{
        "boot-source": {"kernel_image_path": "k", "boot_args": "console=ttyS0"},
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 256, "smt": true},
        "drives": [{"drive_id": "a", "path_on_host": "a.img", "is_root_device": true, "is_read_only": true},
                   {"drive_id": "b", "path_on_host": "b.img", "is_root_device": false, "io_engine": "Async"}],
        "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0", "mtu": 1400}],
        "serial": {"serial_out_path": "serial.log"},
        "entropy": {}
    }"#;
    let mut config = VmConfig::default();
    put(&mut config, Section::Entropy, "{}");
    put(&mut config, Section::Drive, r#"{"drive_id": "a", "path_on_host": "other.img"}"#);
    put(
        &mut config,
        Section::Drive,
        r#"{"drive_id": "b", "path_on_host": "b.img", "is_root_device": false, "io_engine": "Async"}"#,
    );
    put(
        &mut config,
        Section::Drive,
        r#"{"drive_id": "a", "path_on_host": "a.img", "is_root_device": true, "is_read_only": true}"#,
    );
    put(
        &mut config,
        Section::NetworkInterface,
        r#"{"iface_id": "eth0", "host_dev_name": "tap0", "mtu": 1400}"#,
    );
    put(
        &mut config,
        Section::BootSource,
        r#"{"kernel_image_path": "k", "boot_args": "console=ttyS0"}"#,
    );
    put(&mut config, Section::MachineConfig, r#"{"vcpu_count": 4, "mem_size_mib": 64}"#);
    put(
        &mut config,
        Section::MachineConfig,
        r#"{"vcpu_count": 2, "mem_size_mib": 256, "smt": true}"#,
    );
    put(&mut config, Section::Serial, r#"{"serial_out_path": "serial.log"}"#);
    let from_file = Plan::resolve(VmConfig::from_json(file).unwrap()).unwrap();
    assert_eq!(Plan::resolve(config).unwrap(), from_file);
}

#[test]
fn what_is_shown_can_be_said() {
    for text in [
        r#"{"boot-source": {"kernel_image_path": "k"}}"#,
        r#"{"boot-source": {"kernel_image_path": "k", "initrd_path": "i", "boot_args": "a b",
            "append_args": ["c", "d"], "protocol": "pvh"},
            "machine-config": {"vcpu_count": 8, "cores": 2, "threads": 2, "sockets": 2, "mem_size_mib": 64},
            "drives": [{"path_on_host": "x", "serial": "s", "direct": true, "queues": 3, "format": "raw",
                        "iothread": "io", "rate_limiter": {"ops": {"size": 10, "refill_time": 100}}},
                       {"path_on_host": "y", "is_root_device": true, "partuuid": "12-34", "overlay": true},
                       {"path_on_host": "z", "overlay": "kept"}],
            "network-interfaces": [{"host_dev_name": "t", "guest_mac": "02:00:00:00:00:09", "queues": 1,
                "tx_rate_limiter": {"bandwidth": {"size": 1000, "refill_time": 7, "one_time_burst": 5}}}],
            "balloon": {"amount_mib": 5, "deflate_on_oom": true, "stats_polling_interval_s": 3},
            "vsock": {"guest_cid": 7, "uds_path": "v.sock", "ready_port": 1}, "iothreads": [{"id": "io", "pin": [0]}],
            "entropy": {"enabled": false}, "logger": {"level": "Debug", "log_path": "l"},
            "cpu-config": {"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0,
                "modifiers": [{"register": "ecx", "bitmap": "0b0xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}]}]},
            "console": {"type": "pty"}, "serial": {"type": "socket", "path": "p"},
            "id": "m", "timeout": "3s", "grace": "250ms", "on-reboot": "restart",
            "wait-ready": "1s", "ready-pattern": "x"}"#,
        r#"{"boot-source": {"kernel_image_path": "k", "exact_args": "only this"},
            "machine-config": {"vcpu_count": 4, "smt": true}, "serial": {"type": "off"}}"#,
    ] {
        let said = VmConfig::from_json(text.as_bytes()).unwrap();
        let shown = said.to_json().to_string();
        let again =
            VmConfig::from_json(shown.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{shown}"));
        assert_eq!(Plan::resolve(again).unwrap(), Plan::resolve(said).unwrap(), "{shown}");
    }
}

#[test]
fn names_that_were_not_given_are_those_of_the_plan() {
    let text = br#"{"boot-source": {"kernel_image_path": "k"},
        "drives": [{"path_on_host": "x"}, {"path_on_host": "y", "is_root_device": true}],
        "network-interfaces": [{"host_dev_name": "t"}]}"#;
    let mut config = VmConfig::from_json(text).unwrap();
    let plan = Plan::resolve(config.clone()).unwrap();
    config.name_devices().unwrap();
    let of_path = |path: &str| {
        let disk = config.disks.iter().find(|disk| disk.path.as_os_str() == path);
        disk.and_then(|disk| disk.id.clone()).unwrap()
    };
    for disk in &plan.disks {
        assert_eq!(of_path(disk.path.to_str().unwrap()), disk.id);
    }
    assert_eq!(config.nets[0].id.as_deref(), Some(plan.nets[0].id.as_str()));
}

#[test]
fn part_of_a_machine_changes_and_the_rest_stays() {
    let mut config = VmConfig::default();
    put(
        &mut config,
        Section::MachineConfig,
        r#"{"vcpu_count": 4, "mem_size_mib": 64, "smt": true}"#,
    );
    for (patch, expected) in [
        (r#"{"mem_size_mib": 128}"#, (4, 128, true)),
        (r#"{"vcpu_count": 2}"#, (2, 128, true)),
        (r#"{"smt": false}"#, (2, 128, false)),
    ] {
        let patch = serde_json::from_str(patch).unwrap();
        Change::of_machine(&patch, &config).unwrap().put_into(&mut config).unwrap();
        let machine = config.machine_to_json();
        let (cpus, memory, smt) = expected;
        assert_eq!(
            machine,
            serde_json::json!({"vcpu_count": cpus, "mem_size_mib": memory, "smt": smt,
                "cpu_template": "None", "track_dirty_pages": false, "huge_pages": "None"})
        );
    }
}

#[test]
fn a_serial_port_is_said_in_either_way() {
    let of = |text: &str| {
        let change = Change::parse(Section::Serial, text.as_bytes());
        change.map(|change| change.said().serial.clone().unwrap()).map_err(|e| e.to_string())
    };
    assert_eq!(of("{}"), Ok(ConsoleTarget::Stdio));
    assert_eq!(of(r#"{"serial_out_path": "f"}"#), Ok(ConsoleTarget::File("f".into())));
    assert_eq!(of(r#"{"type": "off"}"#), Ok(ConsoleTarget::Off));
    assert!(of(r#"{"type": "off", "serial_out_path": "f"}"#).unwrap_err().contains("keep one"));
}

#[test]
fn mistakes_name_the_key_without_the_section() {
    for (section, text, message) in [
        (
            Section::Drive,
            r#"{"drive_id": "a"}"#,
            "drives: path_on_host is missing: add the path of the image",
        ),
        (
            Section::Drive,
            r#"{"path_on_host": "a", "socket": "s"}"#,
            "socket is not supported: there are no vhost-user disks",
        ),
        (Section::NetworkInterface, r#"{"host_dev_name": "t", "guest_mac": "x"}"#, "guest_mac"),
        (
            Section::MachineConfig,
            r#"{"cpu_template": "T2"}"#,
            "cpu_template is not supported: there are no named templates; use \"None\" or a cpu-config",
        ),
        (Section::BootSource, r#"{"kernel": "k"}"#, "line 1, column 9: unknown key `kernel`"),
        (
            Section::Logger,
            r#"{"level": 3}"#,
            "line 1, column 11: level: invalid type: integer `3`, expected a string",
        ),
        (Section::Entropy, "{} {}", "line 1, column 4: trailing characters"),
        (Section::Entropy, "", "line 1, column 0: EOF while parsing a value"),
    ] {
        let error = Change::parse(section, text.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), message, "{section:?} {text}");
    }
}

#[test]
fn the_metadata_service_is_given_to_cards_by_name() {
    let mut config = VmConfig::default();
    config.metadata.path = Some("m.json".into());
    let card = |id| format!("{{\"iface_id\": \"{id}\", \"host_dev_name\": \"t{id}\"}}");
    put(&mut config, Section::NetworkInterface, &card("a"));
    put(&mut config, Section::NetworkInterface, &card("b"));
    let has = |config: &VmConfig| config.nets.iter().map(|net| net.metadata).collect::<Vec<_>>();
    put(&mut config, Section::Metadata, r#"{"network_interfaces": ["a"], "version": "V2"}"#);
    assert_eq!(has(&config), [true, false]);
    assert_eq!(config.metadata.version, Some(devices::metadata::Version::V2));
    assert_eq!(config.metadata.path, Some("m.json".into()), "is said elsewhere");
    // Said again, it is all that is said; a card that is said again keeps it.
    put(&mut config, Section::Metadata, r#"{"network_interfaces": ["b"]}"#);
    put(&mut config, Section::NetworkInterface, &card("b"));
    assert_eq!((has(&config), config.metadata.version), (vec![false, true], None));
    let before = config.clone();
    let change = Change::parse(Section::Metadata, br#"{"network_interfaces": ["b", "c"]}"#);
    assert_eq!(change.unwrap().put_into(&mut config), Err("c".to_owned()));
    assert_eq!(config, before);
    let error = Change::parse(Section::Metadata, br#"{"network_interfaces": []}"#).unwrap_err();
    assert!(error.to_string().starts_with("network_interfaces: name at least one"), "{error}");
}
