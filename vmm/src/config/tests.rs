use super::*;
use devices::metadata::Version;

/// A configuration that says everything, different for each `tag`.
fn full(tag: u16) -> VmConfig {
    let text = |name: &str| format!("{name}{tag}");
    let path = |name: &str| PathBuf::from(text(name));
    let odd = tag % 2 == 1;
    VmConfig {
        kernel: Some(path("kernel")),
        initrd: Some(path("initrd")),
        boot: Some(if odd { BootProtocol::Pvh } else { BootProtocol::Linux64 }),
        cmdline: Some(CmdlineConfig::Exact(text("cmdline"))),
        append: vec![text("append")],
        cpus: Some(CpusConfig::new(tag)),
        cpu_template: Some(CpuTemplateConfig::File(path("template"))),
        memory_bytes: Some(tag.into()),
        backing: Some(Backing { prefault: odd, shared: !odd, ..Backing::default() }),
        disks: vec![text("disk").parse().unwrap()],
        nets: vec![text("tap=tap").parse().unwrap()],
        iothreads: vec![text("io").parse().unwrap()],
        vsock: Some(text("socket=vsock").parse().unwrap()),
        console: Some(ConsoleTarget::File(path("console"))),
        serial: Some(ConsoleTarget::File(path("serial"))),
        rng: Some(odd),
        balloon: Some(format!("{tag}M").parse().unwrap()),
        metadata: MetadataConfig {
            path: Some(path("metadata")),
            version: Some(if odd { Version::V1 } else { Version::V2 }),
            address: Some([10, 0, 0, u8::try_from(tag).unwrap()].into()),
            imds_compat: Some(odd),
            size_limit: Some(tag.into()),
        },
        ready: Ready {
            pattern: Some(text("pattern")),
            within: Some(Duration::from_secs(tag.into())),
        },
        id: Some(text("id")),
        timeout: Some(Duration::from_secs(tag.into())),
        grace: Some(Duration::from_secs(tag.into())),
        on_reboot: Some(if odd { OnReboot::Exit } else { OnReboot::Restart }),
        log_path: Some(path("log")),
        level: Some(if odd { LevelFilter::Info } else { LevelFilter::Debug }),
        log_origin: Some(odd),
        log_module: Some(text("module")),
        track_dirty: Some(odd),
        metrics: Some(MetricsConfig::to(path("metrics"))),
    }
}

#[test]
fn values_replace_and_lists_are_appended() {
    let (below, over) = (full(1), full(2));
    let merged = below.clone().overridden_by(over.clone());
    let expected = VmConfig {
        append: vec!["append1".to_owned(), "append2".to_owned()],
        disks: [below.disks, over.disks.clone()].concat(),
        nets: [below.nets, over.nets.clone()].concat(),
        iothreads: [below.iothreads, over.iothreads.clone()].concat(),
        ..over
    };
    assert_eq!(merged, expected);
}

#[test]
fn what_is_not_said_changes_nothing() {
    assert_eq!(full(1).overridden_by(VmConfig::default()), full(1));
    assert_eq!(VmConfig::default().overridden_by(full(1)), full(1));
}

#[test]
fn levels() {
    for (text, level) in [
        ("off", LevelFilter::Off),
        ("Error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("Warning", LevelFilter::Warn),
        ("INFO", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ] {
        assert_eq!(parse_level(text), Ok(level));
    }
    assert_eq!(
        parse_level("inof").unwrap_err().to_string(),
        "level: \"inof\" is none of off, error, warn, info, debug, trace; did you mean \"info\"?"
    );
}
