use super::*;
use crate::config::VmConfig;

fn machine(said: &str) -> Plan {
    let config = format!(r#"{{"boot-source": {{"kernel_image_path": "k"}}, {said}}}"#);
    Plan::resolve(VmConfig::from_json(config.as_bytes()).unwrap()).unwrap()
}

fn order(count: u16, tap: Option<&str>, args: &[&str]) -> CloneOrder {
    CloneOrder {
        count,
        directory: "/d".into(),
        tap: tap.map(str::to_owned),
        args: args.iter().map(|it| (*it).to_owned()).collect(),
    }
}

fn disk(more: &str) -> Plan {
    let drive = format!(
        r#""drives": [{{"drive_id": "data", "path_on_host": "p", "is_root_device": false{more}}}]"#
    );
    machine(&drive)
}

#[test]
fn each_has_names_and_sockets_of_its_own() {
    let net = r#""network-interfaces": [{"iface_id": "net0", "host_dev_name": "t"}],
        "vsock": {"guest_cid": 3, "uds_path": "v"}, "serial": {"type": "stdio"}"#;
    let plans = plan(&order(2, Some("tap"), &["--jail"]), &machine(net)).unwrap();
    assert_eq!(plans.len(), 2);
    let second = &plans[1];
    assert_eq!(second.id, "vm-2");
    assert_eq!(second.socket, Path::new("/d/2/api.sock"));
    assert_eq!(
        second.argv.join(" "),
        "vmm --restore /d --id vm-2 --api-sock /d/2/api.sock --serial socket=/d/2/serial.sock \
         --vsock socket=/d/2/vsock.sock --net id=net0,tap=tap2 --jail"
    );
    assert_eq!(from_json(&to_json(&plans)), Some(plans));
    assert_eq!(from_json(&json!({ "clones": [{ "id": "x" }] })), None);
    let refused = plan(&order(1, None, &[]), &machine(net)).unwrap_err();
    assert_eq!(refused, CloneError::NoTap { id: "net0".to_owned() });
}

#[test]
fn nothing_that_is_written_is_shared() {
    let alone = order(1, None, &[]);
    let refused = plan(&alone, &disk("")).unwrap_err();
    assert_eq!(refused, CloneError::Writable { id: "data".to_owned() });
    assert!(refused.to_string().contains("snapshot=overlay"));
    for shared in [r#", "is_read_only": true"#, r#", "overlay": true"#, r#", "overlay": "kept""#] {
        let plans = plan(&alone, &disk(shared)).unwrap();
        assert!(!plans[0].argv.contains(&"--disk".to_owned()), "{shared}: {plans:?}");
    }
    for word in ["--disk", "--disk=x,id=data"] {
        assert!(plan(&order(1, None, &[word]), &disk("")).is_ok());
    }
}
