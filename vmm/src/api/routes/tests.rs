use Method::{Delete, Get, Patch, Put};

use super::*;

fn command(method: Method, path: &str, body: &str) -> Command {
    match route(method, path, body.as_bytes()) {
        Ok(Target::Owner(command)) => command,
        other => panic!("{method:?} {path}: {other:?}"),
    }
}

fn refusal(method: Method, path: &str, body: &str) -> (Code, String) {
    let refusal = route(method, path, body.as_bytes()).unwrap_err();
    (refusal.code, refusal.message)
}

#[test]
fn questions() {
    for (path, expected) in [
        ("/", Command::Describe),
        ("/vm/config", Command::ShowConfig),
        ("/machine-config", Command::ShowMachine),
        ("/machine-config/?x=y", Command::ShowMachine),
    ] {
        assert_eq!(command(Get, path, ""), expected);
    }
    assert_eq!(route(Get, "/events", b""), Ok(Target::Events));
    assert_eq!(route(Get, "/vm/wait", b""), Ok(Target::Wait(For::End)));
    assert_eq!(route(Get, "/vm/wait/ready", b""), Ok(Target::Wait(For::Ready)));
    assert_eq!(route(Get, "/metrics/openmetrics", b""), Ok(Target::Metrics));
    let version = json!({ "firecracker_version": FIRECRACKER_VERSION });
    assert_eq!(route(Get, "/version", b""), Ok(Target::Now(Answer::Value(version))));
}

#[test]
fn actions() {
    for (body, expected) in [
        (r#"{"action_type": "InstanceStart"}"#, Command::Start),
        (r#"{"action_type": "SendCtrlAltDel"}"#, Command::PowerButton),
        (r#"{"action_type": "PowerButton"}"#, Command::PowerButton),
        (r#"{"action_type": "Stop"}"#, Command::Stop { grace: None }),
        (
            r#"{"action_type": "Stop", "grace": "250ms"}"#,
            Command::Stop { grace: Some(Duration::from_millis(250)) },
        ),
        (r#"{"action_type": "Reset"}"#, Command::Reset),
    ] {
        assert_eq!(command(Put, "/actions", body), expected);
    }
    assert_eq!(command(Patch, "/vm", r#"{"state": "Paused"}"#), Command::Pause);
    assert_eq!(command(Patch, "/vm", r#"{"state": "Resumed"}"#), Command::Resume);
}

#[test]
fn what_a_refusal_quotes_stays_on_its_line() {
    for (path, body) in [
        ("/network-interfaces/n", "{\"\u{7f}\": 1}"),
        ("/network-interfaces/n", r#"{"a\nb": 1}"#),
        ("/drives/d\u{85}", r#"{"drive_id": "d\u001b[2J"}"#),
    ] {
        let (_, message) = refusal(Patch, path, body);
        assert!(!message.contains(char::is_control), "{message:?}");
        assert!(message.contains('?'), "{message:?}");
    }
}

#[test]
fn bodies_are_read_strictly() {
    for (method, path, body, words) in [
        (Put, "/actions", "", "EOF"),
        (Put, "/actions", "{}", "missing field `action_type`"),
        (Put, "/actions", r#"{"action_type": "Halt"}"#, "unknown variant `Halt`"),
        (
            Put,
            "/actions",
            r#"{"action_type": "Reset", "grace": "1s"}"#,
            "belongs to the action Stop",
        ),
        (Put, "/actions", r#"{"action_type": "Reset", "x": 1}"#, "unknown field `x`"),
        (Patch, "/vm", r#"{"state": "Stopped"}"#, "unknown variant"),
        (Patch, "/vm", "[]", "invalid"),
        (Put, "/boot-source", r#"{"boot_args": "x"}"#, "missing field `kernel_image_path`"),
        (Put, "/boot-source", r#"{"kernel_image_path": "k", "foo": 1}"#, "unknown key `foo`"),
        (Put, "/machine-config", r#"{"vcpu_count": 1}"#, "missing field `mem_size_mib`"),
        (
            Put,
            "/machine-config",
            r#"{"vcpu_count": null, "mem_size_mib": 1}"#,
            "missing field `vcpu_count`",
        ),
        (Put, "/machine-config", r#"{"vcpu_count": "1", "mem_size_mib": 1}"#, "vcpu_count"),
        (Patch, "/machine-config", "3", "not an object"),
        (Put, "/drives/a", r#"{"drive_id": "a"}"#, "missing field `is_root_device`"),
        (Put, "/network-interfaces/a", "{}", "missing field `iface_id`"),
        (Put, "/logger", r#"{"level": 1}"#, "level"),
        (Put, "/entropy", "{]", "column 2"),
        (Patch, "/drives/a", r#"{"drive_id": "a", "is_read_only": true}"#, "unknown field"),
    ] {
        let (code, message) = refusal(method, path, body);
        assert!(message.contains(words), "{path} {body}: {message}");
        assert_eq!(code, Code::MalformedBody, "{path} {body}: {message}");
    }
}

#[test]
fn values_that_cannot_be_and_things_that_are_not_here() {
    for (method, path, body, code) in [
        (Put, "/actions", r#"{"action_type": "Stop", "grace": "soon"}"#, Code::BadValue),
        (Put, "/logger", r#"{"level": "loud"}"#, Code::BadValue),
        (
            Put,
            "/machine-config",
            r#"{"vcpu_count": 1, "mem_size_mib": 64, "cpu_template": "T2"}"#,
            Code::Unsupported,
        ),
        (Put, "/balloon/hinting/start", "{}", Code::UnknownEndpoint),
        (Get, "/balloon/nothing", "", Code::UnknownEndpoint),
        (Get, "/mmds/config", "", Code::UnknownEndpoint),
        (Put, "/snapshot/create", "{}", Code::MalformedBody),
        (Put, "/snapshot/load", "{}", Code::MalformedBody),
        (Put, "/pmem/p", "{}", Code::Unsupported),
        (Delete, "/drives/d", "", Code::Unsupported),
        (Get, "/drives/d", "", Code::UnknownEndpoint),
        (Get, "/nothing", "", Code::UnknownEndpoint),
        (Put, "/", "", Code::UnknownEndpoint),
        (Delete, "/vm", "", Code::UnknownEndpoint),
    ] {
        assert_eq!(refusal(method, path, body).0, code, "{method:?} {path}");
    }
    let (_, message) = refusal(Get, "/x\u{1b}[2J", "");
    assert_eq!(message, "Invalid request method and/or path: GET /x[2J.");
}

#[test]
fn a_device_has_one_name() {
    let body = r#"{"drive_id": "a", "path_on_host": "p", "is_root_device": false}"#;
    assert!(matches!(command(Put, "/drives/a", body), Command::Configure(_)));
    let (code, message) = refusal(Put, "/drives/b", body);
    assert_eq!(code, Code::IdMismatch);
    assert!(message.contains("[b]") && message.contains("[a]"), "{message}");
    let patch = r#"{"drive_id": "a", "path_on_host": "p"}"#;
    let expected = Command::ChangeDisk {
        id: "a".to_owned(),
        path: Some("p".into()),
        limiter: RateLimiter::default(),
    };
    assert_eq!(command(Patch, "/drives/a", patch), expected);
    assert_eq!(refusal(Patch, "/drives/b", patch).0, Code::IdMismatch);
    assert_eq!(
        command(Patch, "/balloon", r#"{"amount_mib": 5}"#),
        Command::Balloon(BalloonCommand::Resize(5))
    );
    let net = r#"{"iface_id": "eth0", "host_dev_name": "t"}"#;
    assert_eq!(refusal(Put, "/network-interfaces/eth1", net).0, Code::IdMismatch);
}

#[test]
fn refusals_carry_text_and_code() {
    let reply = reply(Err(Refusal::new(Code::BeforeStart, "not yet")));
    assert_eq!(reply.status, Status::BadRequest);
    let (_, body) = reply.body.unwrap();
    assert_eq!(body, r#"{"code":"before_start","fault_message":"not yet"}"#);
    let refusal = Refusal::new(Code::TooManyConnections, "full");
    let (_, body) = refuse(Status::Unavailable, &refusal).body.unwrap();
    assert!(body.contains(r#""error":"full""#), "{body}");
}

#[test]
fn balloon_and_metadata_have_more_than_their_configuration() {
    let balloon = |method, path: &str, body| match command(method, path, body) {
        Command::Balloon(command) => command,
        other => panic!("{other:?}"),
    };
    let second = Duration::from_secs(1);
    let hint = |acknowledge| BalloonCommand::StartHinting { acknowledge };
    let polling = "/balloon/statistics";
    assert_eq!(balloon(Get, polling, ""), BalloonCommand::ShowStatistics);
    let body = r#"{"stats_polling_interval_s": 3}"#;
    assert_eq!(balloon(Patch, polling, body), BalloonCommand::Poll(3 * second));
    assert_eq!(balloon(Patch, "/balloon/hinting/start", ""), hint(true));
    assert_eq!(balloon(Patch, "/balloon/hinting/start", "{}"), hint(true));
    let body = r#"{"acknowledge_on_stop": false}"#;
    assert_eq!(balloon(Patch, "/balloon/hinting/start", body), hint(false));
    assert_eq!(balloon(Patch, "/balloon/hinting/stop", ""), BalloonCommand::StopHinting);
    assert_eq!(balloon(Get, "/balloon/hinting/status", ""), BalloonCommand::ShowHinting);
    for (path, body) in [
        (polling, r#"{"stats_polling_interval_s": 65536}"#),
        (polling, "{}"),
        ("/balloon/hinting/start", r#"{"x": 1}"#),
        ("/mmds", "{"),
    ] {
        assert_eq!(refusal(Patch, path, body).0, Code::MalformedBody, "{path}");
    }
    let metadata = |method, body| command(method, "/mmds", body);
    assert_eq!(metadata(Get, ""), Command::Metadata(MetadataCommand::Show));
    let value = json!({ "a": 1 });
    let put = Command::Metadata(MetadataCommand::Put(value.clone()));
    assert_eq!(metadata(Put, r#"{"a": 1}"#), put);
    let patch = Command::Metadata(MetadataCommand::Patch(value));
    assert_eq!(metadata(Patch, r#"{"a": 1}"#), patch);
    let too_large = reply(Err(Refusal::new(Code::MetadataTooLarge, "x")));
    assert_eq!(too_large.status, Status::TooLarge);
}

#[test]
fn what_will_go_away() {
    for (path, body, expected) in [
        ("/vsock", r#"{"guest_cid": 3, "uds_path": "v", "vsock_id": "x"}"#, true),
        ("/vsock", r#"{"guest_cid": 3, "uds_path": "v", "vsock_id": null}"#, false),
        ("/machine-config", r#"{"cpu_template": "None"}"#, true),
        ("/machine-config", r#"{"vcpu_count": 1}"#, false),
        ("/mmds/config", r#"{"network_interfaces": ["n"]}"#, true),
        ("/mmds/config", r#"{"network_interfaces": ["n"], "version": "V2"}"#, false),
        ("/mmds", r#"{"version": "V1"}"#, false),
    ] {
        assert_eq!(is_deprecated(path, body.as_bytes()), expected, "{path} {body}");
    }
}
