use super::*;

fn disk(text: &str) -> DiskConfig {
    text.parse().unwrap()
}

fn saved() -> VmConfig {
    VmConfig {
        disks: vec![disk("a,id=a,readonly"), disk("b,id=b,engine=uring")],
        nets: vec!["tap=t0,id=net0".parse().unwrap()],
        vsock: Some("socket=s,cid=7".parse().unwrap()),
        serial: Some(ConsoleTarget::Stdio),
        ..VmConfig::default()
    }
}

fn refusal(over: VmConfig) -> String {
    apply(saved(), over).unwrap_err().to_string()
}

#[test]
fn the_hosts_side_is_exchanged_and_the_rest_stays() {
    let over = VmConfig {
        disks: vec![disk("c,id=b")],
        nets: vec!["tap=t1,id=net0,mac=02:00:00:00:00:07".parse().unwrap()],
        vsock: Some("socket=x".parse().unwrap()),
        serial: Some(ConsoleTarget::Pty),
        id: Some("copy".to_owned()),
        ..VmConfig::default()
    };
    let config = apply(saved(), over).unwrap();
    assert_eq!(config.disks[0], saved().disks[0]);
    assert_eq!(config.disks[1], DiskConfig { path: "c".into(), ..saved().disks[1].clone() });
    assert_eq!(config.nets[0].mac, Some([2, 0, 0, 0, 0, 7]));
    let vsock = config.vsock.unwrap();
    assert_eq!((vsock.socket.to_str(), vsock.guest_cid), (Some("x"), Some(7)));
    assert_eq!(config.serial, Some(ConsoleTarget::Pty));
    // It was off, because only the other one was spoken of.
    assert_eq!(config.console, Some(ConsoleTarget::Off));
    assert_eq!(config.id.as_deref(), Some("copy"));
    let both = apply(VmConfig::default(), VmConfig::default()).unwrap();
    assert_eq!(
        (both.console, both.serial),
        (Some(ConsoleTarget::Stdio), Some(ConsoleTarget::Stdio))
    );
}

#[test]
fn nothing_that_the_guest_has_seen_is_exchanged() {
    let disks = |text: &str| refusal(VmConfig { disks: vec![disk(text)], ..VmConfig::default() });
    assert!(disks("x").contains("say which disk is meant with id=ID: [\"a\", \"b\"]"));
    assert!(disks("x,id=c").contains("the guest has no disk \"c\""));
    for words in ["x,id=b,readonly", "x,id=b,serial=9", "x,id=b,queues=2"] {
        assert!(disks(words).contains("disk \"b\" cannot be other"), "{words}");
    }
    let net = |text: &str| VmConfig { nets: vec![text.parse().unwrap()], ..VmConfig::default() };
    assert!(refusal(net("tap=t,mtu=1400")).contains("net \"net0\" cannot be other"));
    let console = VmConfig { console: Some(ConsoleTarget::Pty), ..VmConfig::default() };
    assert!(refusal(console).contains("the guest has no virtio console"));
    let serial = VmConfig { serial: Some(ConsoleTarget::Off), ..VmConfig::default() };
    assert!(refusal(serial).contains("the guest has a serial port"));
    let memory = VmConfig { memory_bytes: Some(1), ..VmConfig::default() };
    assert!(refusal(memory).contains("--memory cannot be other"));
}
