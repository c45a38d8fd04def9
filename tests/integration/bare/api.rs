//! The HTTP API with a bare-metal guest: phases, replies, the same machine by every way, clients of every kind.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use harness::api::{Api, Connection};
use harness::virtio::{Answer, Descriptor, Device, Kind, Queue, register};
use harness::{Machine, Need, Puppet, Scratch, Vmm, artifacts, openapi, patience};
use serde_json::{Value, json};

use super::subject::{SECTORS, Subject, disk_contents};

crate::suite::tests! { "bare::api" needs &[Need::Kvm];
    from_nothing_to_the_end,
    every_phase_has_its_requests,
    refusals_leave_everything_as_it_was,
    one_machine_by_three_ways,
    what_a_launcher_of_firecracker_says,
    a_start_that_fails_can_be_tried_again,
    ends_and_their_reports,
    events_on_a_descriptor,
    the_power_button_and_the_end_of_patience,
    the_balloon_has_another_size,
    statistics_and_hints_of_the_balloon,
    metadata_before_and_after_the_start,
    a_disk_changes_while_the_guest_reads_it,
    pauses_under_load_lose_nothing,
    reset_keeps_the_machine_and_forgets_its_memory,
    the_socket_and_its_file,
    a_socket_of_the_parent,
    sixty_four_clients,
    clients_that_misbehave,
    requests_sent_ahead,
}

const FREE: u32 = 0x20_0000;

/// A machine with nothing configured, and its API.
fn bare(scratch: &Scratch, more: &[&str]) -> (Machine, Api) {
    let vmm = Vmm::new().inside(scratch).args(["--api-sock", "api.sock"]).args(more);
    let machine = vmm.spawn();
    let api = Api::at(&scratch.join("api.sock"));
    (machine, api)
}

fn boot_source(words: &str) -> Value {
    json!({"kernel_image_path": artifacts::puppet(), "exact_args": words})
}

/// Configures the smallest machine and starts it; the puppet is on standard input and output.
fn start(machine: &mut Machine, api: &Api) {
    api.put("/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    api.put("/boot-source", &boot_source("api"));
    api.put("/serial", &json!({}));
    api.action("InstanceStart");
    machine.wait_for("puppet: api\n");
}

fn ask(machine: &mut Machine, question: &str) -> String {
    machine.send(format!("{question}\n"));
    machine.wait_for("\n").trim().to_owned()
}

fn state(api: &Api) -> String {
    api.get("/")["state"].as_str().unwrap().to_owned()
}

fn from_nothing_to_the_end() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &["--id", "first"]);
    let info = api.get("/");
    assert_eq!((&info["id"], &info["state"]), (&json!("first"), &json!("Not started")));
    start(&mut machine, &api);
    assert_eq!(state(&api), "Running");
    machine.send(format!("w 4 {FREE:x} 12345678\n"));
    assert_eq!(ask(&mut machine, &format!("r 4 {FREE:x}")), "12345678");

    api.patch("/vm", &json!({"state": "Paused"}));
    api.patch("/vm", &json!({"state": "Paused"}));
    assert_eq!(state(&api), "Paused");
    let before = machine.stdout();
    machine.send(format!("r 4 {FREE:x}\n"));
    assert_eq!(api.get("/machine-config")["mem_size_mib"], 32, "the API answers meanwhile");
    assert_eq!(machine.stdout(), before, "the guest does not");
    api.patch("/vm", &json!({"state": "Resumed"}));
    assert_eq!(machine.wait_for("\n").trim(), "12345678");
    assert_eq!(state(&api), "Running");
    machine.send("o 1 f4 7\n");
    machine.expect_exit(7);
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());
}

/// Requests with bodies that would do in the right phase, and in which phase that is.
fn requests(scratch: &Scratch) -> Vec<(&'static str, String, Value, bool)> {
    let disk = scratch.sparse_file("disk", 1 << 20);
    let path = |path: &str| path.to_owned();
    vec![
        ("PUT", path("/boot-source"), boot_source("x"), true),
        ("PUT", path("/machine-config"), json!({"vcpu_count": 1, "mem_size_mib": 32}), true),
        ("PATCH", path("/machine-config"), json!({"vcpu_count": 1}), true),
        (
            "PUT",
            path("/drives/d"),
            json!({"drive_id": "d", "path_on_host": disk, "is_root_device": false}),
            true,
        ),
        (
            "PUT",
            path("/network-interfaces/n"),
            json!({"iface_id": "n", "host_dev_name": "tap0"}),
            true,
        ),
        ("PUT", path("/entropy"), json!({}), true),
        ("PUT", path("/balloon"), json!({"amount_mib": 1, "deflate_on_oom": true}), true),
        (
            "PUT",
            path("/vsock"),
            json!({"guest_cid": 3, "uds_path": "v.sock", "vsock_id": "v"}),
            true,
        ),
        ("PUT", path("/cpu-config"), json!({"cpuid_modifiers": [], "msr_modifiers": []}), true),
        ("PUT", path("/serial"), json!({}), true),
        ("PUT", path("/logger"), json!({"level": "Warning"}), true),
        ("PATCH", path("/vm"), json!({"state": "Paused"}), false),
        ("PATCH", path("/vm"), json!({"state": "Resumed"}), false),
        ("PATCH", path("/drives/d"), json!({"drive_id": "d", "path_on_host": disk}), false),
        ("PUT", path("/actions"), json!({"action_type": "SendCtrlAltDel"}), false),
        ("PUT", path("/actions"), json!({"action_type": "PowerButton"}), false),
        ("PUT", path("/actions"), json!({"action_type": "Reset"}), false),
    ]
}

fn every_phase_has_its_requests() {
    let scratch = Scratch::new();
    let requests = requests(&scratch);
    let (mut machine, api) = bare(&scratch, &[]);
    for (method, path, body, is_before) in &requests {
        let reply = api.request(method, path, &body.to_string());
        if *is_before {
            reply.expect(204);
        } else {
            let text = reply.refused("before_start");
            assert_eq!(
                text,
                "The requested operation is not supported before starting the microVM."
            );
        }
    }
    // No tap: the card is taken back by a configuration without one, which only a new process has.
    drop(machine);
    let (new, api) = bare(&scratch, &[]);
    machine = new;
    let disk = &requests[3].2;
    api.put("/drives/d", disk);
    start(&mut machine, &api);
    for is_paused in [false, true] {
        if is_paused {
            api.patch("/vm", &json!({"state": "Paused"}));
        }
        for (method, path, body, is_before) in &requests {
            let reply = api.request(method, path, &body.to_string());
            if *is_before {
                let text = reply.refused("after_start");
                assert_eq!(
                    text,
                    "The requested operation is not supported after starting the microVM."
                );
            } else {
                reply.expect(204);
            }
        }
        let again = api.request("PUT", "/actions", r#"{"action_type": "InstanceStart"}"#);
        again.refused("after_start");
    }
    machine.kill();
    std::fs::remove_file(scratch.join("api.sock")).unwrap();
}

fn refusals_leave_everything_as_it_was() {
    let scratch = Scratch::new();
    let (machine, api) = bare(&scratch, &[]);
    let disk = scratch.sparse_file("disk", 1 << 20);
    let drive = |id: &str, root: bool| json!({"drive_id": id, "path_on_host": disk, "is_root_device": root});
    api.put("/drives/a", &drive("a", true));
    api.put("/machine-config", &json!({"vcpu_count": 2, "mem_size_mib": 64, "smt": true}));
    let before = api.get("/vm/config");
    for (method, path, body, code) in [
        ("PUT", "/drives/b", drive("a", false), "id_mismatch"),
        ("PUT", "/drives/b", drive("b", true), "bad_configuration"),
        ("PUT", "/drives/b!", drive("b!", false), "bad_configuration"),
        (
            "PUT",
            "/drives/b",
            json!({"drive_id": "b", "path_on_host": "/nowhere", "is_root_device": false}),
            "bad_configuration",
        ),
        (
            "PUT",
            "/drives/b",
            json!({"drive_id": "b", "path_on_host": "/", "is_root_device": false}),
            "bad_configuration",
        ),
        ("PUT", "/boot-source", json!({"kernel_image_path": "/nowhere"}), "bad_configuration"),
        (
            "PUT",
            "/boot-source",
            json!({"kernel_image_path": artifacts::puppet(), "boot_args": "x".repeat(3000)}),
            "bad_configuration",
        ),
        (
            "PUT",
            "/machine-config",
            json!({"vcpu_count": 0, "mem_size_mib": 64}),
            "bad_configuration",
        ),
        (
            "PUT",
            "/machine-config",
            json!({"vcpu_count": 3, "mem_size_mib": 64, "smt": true}),
            "bad_configuration",
        ),
        (
            "PUT",
            "/machine-config",
            json!({"vcpu_count": 1, "mem_size_mib": 1}),
            "bad_configuration",
        ),
        (
            "PUT",
            "/machine-config",
            json!({"vcpu_count": 1, "mem_size_mib": 64, "cpu_template": "T2"}),
            "unsupported",
        ),
        ("PATCH", "/machine-config", json!({"vcpus": 3}), "malformed_body"),
        (
            "PUT",
            "/network-interfaces/n",
            json!({"iface_id": "n", "host_dev_name": "t", "guest_mac": "x"}),
            "bad_value",
        ),
        ("PUT", "/logger", json!({"log_path": "/nowhere/log"}), "bad_configuration"),
        ("PUT", "/actions", json!({"action_type": "InstanceStart"}), "bad_configuration"),
        (
            "PUT",
            "/balloon",
            json!({"amount_mib": 1000, "deflate_on_oom": false}),
            "bad_configuration",
        ),
        ("GET", "/balloon", Value::Null, "unknown_device"),
        ("GET", "/balloon/statistics", Value::Null, "before_start"),
        ("PUT", "/mmds/config", json!({}), "malformed_body"),
        ("PUT", "/mmds/config", json!({"network_interfaces": ["n"]}), "unknown_device"),
        ("PATCH", "/mmds", json!({"a": 1}), "bad_value"),
        ("PUT", "/mmds", json!([1]), "bad_value"),
        ("PUT", "/snapshot/load", json!({}), "unsupported"),
        ("GET", "/nothing", Value::Null, "unknown_endpoint"),
    ] {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let text = api.request(method, path, &body).refused(code);
        assert!(!text.is_empty() && !text.contains('\n'), "{path}: {text:?}");
    }
    assert_eq!(api.get("/vm/config"), before);
    machine.signal(libc::SIGTERM);
    machine.expect_exit(143);
}

fn one_machine_by_three_ways() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", [7; 512]);
    let words = "same";
    let flags = Vmm::puppet(words)
        .inside(&scratch)
        .args(["--api-sock", "api.sock"])
        .disk(&disk, ",readonly,id=d");
    let by_flags = shown(&scratch, flags);
    let (mut machine, api) = bare(&scratch, &[]);
    api.put("/boot-source", &boot_source(words));
    api.put("/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    let drive = json!({"drive_id": "d", "path_on_host": disk, "is_root_device": null, "is_read_only": true});
    // A launcher says whether it is the root; flags leave that open, and the machine is the same.
    let drive_said = json!({"drive_id": "d", "path_on_host": disk, "is_root_device": true, "is_read_only": true});
    api.put("/drives/d", &drive_said);
    api.put("/serial", &json!({}));
    api.action("InstanceStart");
    machine.wait_for("puppet: same\n");
    let mut by_api = api.get("/vm/config");
    end(machine);
    let file = scratch.file("vm.json", by_api.to_string());
    let by_file = shown(
        &scratch,
        Vmm::new().inside(&scratch).arg("--config-file").arg(file).args(["--api-sock", "api.sock"]),
    );
    assert_eq!(by_file, by_api);
    by_api["drives"][0]["is_root_device"] = drive["is_root_device"].clone();
    assert_eq!(by_flags, by_api);
}

fn shown(scratch: &Scratch, vmm: Vmm) -> Value {
    let mut machine = vmm.serial("stdio").spawn();
    let api = Api::at(&scratch.join("api.sock"));
    machine.wait_for("puppet: same\n");
    let config = api.get("/vm/config");
    end(machine);
    config
}

fn end(mut machine: Machine) {
    machine.send("o 1 f4 0\n");
    machine.expect_exit(0);
}

/// Published names only, as firecracker-go-sdk sends them.
fn what_a_launcher_of_firecracker_says() {
    let scratch = Scratch::new();
    let directory = scratch.join("bin");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink(artifacts::vmm(), directory.join("firecracker")).unwrap();
    let vmm = Vmm::program(directory.join("firecracker")).inside(&scratch).args([
        "--api-sock",
        "fc.sock",
        "--id",
        "vm-1",
        "--seccomp-filter-level",
        "0",
    ]);
    vmm.run().expect_code(153).expect_one_line(&["--seccomp-filter-level"]);
    let vmm = Vmm::program(directory.join("firecracker")).inside(&scratch).args([
        "--api-sock",
        "fc.sock",
        "--id=vm-1",
        "--no-seccomp",
        "--start-time-us",
        "1",
        "--start-time-cpu-us",
        "1",
        "--parent-cpu-time-us",
        "1",
        "--boot-timer",
        "--level",
        "Warning",
        "--show-level",
        "--show-log-origin",
        "--http-api-max-payload-size",
        "1048576",
    ]);
    let mut machine = vmm.spawn();
    let api = Api::at(&scratch.join("fc.sock"));
    let disk = scratch.sparse_file("rootfs", 1 << 20);
    assert!(api.get("/version")["firecracker_version"].is_string());
    let log = scratch.file("log", "");
    api.put(
        "/logger",
        &json!({"log_path": log, "level": "Debug", "show_level": true, "show_log_origin": false}),
    );
    api.put(
        "/machine-config",
        &json!({"vcpu_count": 1, "mem_size_mib": 64, "smt": false, "track_dirty_pages": false}),
    );
    api.put(
        "/boot-source",
        &json!({"kernel_image_path": artifacts::puppet(), "boot_args": "console=ttyS0"}),
    );
    let drive = json!({"drive_id": "root_drive", "path_on_host": disk, "is_root_device": true, "is_read_only": false,
        "cache_type": "Unsafe", "partuuid": "", "io_engine": "Sync"});
    let refused = api.request("PUT", "/drives/root_drive", &drive.to_string());
    assert!(refused.refused("bad_configuration").contains("partuuid"));
    let drive = json!({"drive_id": "root_drive", "path_on_host": disk, "is_root_device": true, "is_read_only": false});
    api.put("/drives/root_drive", &drive);
    api.action("InstanceStart");
    machine.wait_for("puppet: console=ttyS0 root=/dev/vda rw\n");
    api.action("SendCtrlAltDel");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("vmm[vm-1] INFO") && text.contains("The API server received a PUT request"),
        "{text}"
    );
    end(machine);
}

fn a_start_that_fails_can_be_tried_again() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    let noise = scratch.file("noise", [0x5a; 4096]);
    api.put("/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    api.put("/serial", &json!({}));
    api.put("/boot-source", &json!({"kernel_image_path": noise}));
    let before = machine.open_files();
    for _ in 0..3 {
        let reply = api.request("PUT", "/actions", r#"{"action_type": "InstanceStart"}"#);
        let text = reply.refused("bad_configuration");
        assert!(text.contains("noise"), "{text}");
        assert_eq!(state(&api), "Not started");
    }
    // Nothing of a failed start is left, once the server has noticed that its last client is gone.
    let deadline = Instant::now() + patience();
    while machine.open_files() > before {
        assert!(Instant::now() < deadline, "{} files, {before} before", machine.open_files());
    }
    api.put("/boot-source", &boot_source("api"));
    api.action("InstanceStart");
    machine.wait_for("puppet: api\n");
    end(machine);
}

fn ends_and_their_reports() {
    for (words, code, reason) in [
        ("o 1 f4 9", 9, "guest_exit"),
        ("o 1 600 34", 0, "power_off"),
        ("o 1 64 fe", 110, "reboot"),
        ("o 1 505 1", 111, "panic"),
        ("t", 112, "triple_fault"),
    ] {
        let scratch = Scratch::new();
        let (mut machine, api) = bare(&scratch, &[]);
        let (mut waiter, mut reader) = (api.connect(), api.connect());
        waiter.send("GET", "/vm/wait", "");
        reader.send("GET", "/events", "");
        start(&mut machine, &api);
        assert_eq!(reader.head().status, 200);
        assert_eq!(reader.line().unwrap()["event"], "started");
        machine.send("w 1 c0000000 7b\n");
        let ready = reader.line().unwrap();
        assert_eq!((&ready["event"], &ready["by"]), (&json!("ready"), &json!("boot_timer")));
        api.patch("/vm", &json!({"state": "Paused"}));
        api.patch("/vm", &json!({"state": "Resumed"}));
        assert_eq!(reader.line().unwrap()["event"], "paused");
        assert_eq!(reader.line().unwrap()["event"], "resumed");
        machine.send(format!("{words}\n"));
        if reason == "panic" {
            let panic = reader.line().unwrap();
            assert_eq!(panic["event"], "panic");
            assert!(panic["console"].as_str().unwrap().contains("puppet: api"), "{panic}");
        }
        let exit = reader.line().unwrap();
        assert_eq!((&exit["reason"], &exit["code"]), (&json!(reason), &json!(code)));
        assert_eq!(reader.line(), None, "the stream ends with the machine");
        let reply = waiter.reply();
        openapi::check("GET", "/vm/wait", &reply);
        assert_eq!(reply.body["detail"], exit["detail"]);
        machine.expect_exit(code);
    }
}

fn events_on_a_descriptor() {
    let scratch = Scratch::new();
    let end = Vmm::puppet("mute exit=3")
        .inside(&scratch)
        .args(["--events", "events.json"])
        .run()
        .expect_code(3);
    let text = std::fs::read_to_string(scratch.join("events.json")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter().for_each(openapi::check_event);
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["started", "exit"]);
    assert!(end.last_line().contains(lines[1]["detail"].as_str().unwrap()));
    let (mut reader, writer) = std::io::pipe().unwrap();
    // SAFETY: duplicates a descriptor that is open; the copy is inherited, and closed below.
    let inherited = unsafe { libc::dup(writer.as_raw_fd()) };
    Vmm::puppet("mute exit=0").args(["--events", &format!("fd={inherited}")]).run().expect_code(0);
    // SAFETY: it is the copy made above.
    unsafe { libc::close(inherited) };
    drop(writer);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    let refused = Vmm::puppet("").args(["--events", "/nowhere/events"]).run().expect_code(152);
    refused.expect_one_line(&["/nowhere/events"]);
}

fn the_power_button_and_the_end_of_patience() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    api.action("PowerButton");
    assert_eq!(ask(&mut machine, &format!("r 4 {FREE:x}")), "0", "the puppet has no use for it");
    api.patch("/vm", &json!({"state": "Paused"}));
    api.put("/actions", &json!({"action_type": "Stop", "grace": "100ms"}));
    machine.expect_exit(143);
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    api.put("/actions", &json!({"action_type": "Stop", "grace": "1h"}));
    end(machine);
}

fn reset_keeps_the_machine_and_forgets_its_memory() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    for is_paused in [false, true, false] {
        machine.send(format!("w 4 {FREE:x} 77\n"));
        assert_eq!(ask(&mut machine, &format!("r 4 {FREE:x}")), "77");
        if is_paused {
            api.patch("/vm", &json!({"state": "Paused"}));
        }
        api.action("Reset");
        machine.wait_for("puppet: api\n");
        assert_eq!(state(&api), "Running");
        assert_eq!(ask(&mut machine, &format!("r 4 {FREE:x}")), "0");
    }
    end(machine);
}

fn the_socket_and_its_file() {
    let scratch = Scratch::new();
    let (machine, _api) = bare(&scratch, &[]);
    let mode = std::fs::metadata(scratch.join("api.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = Vmm::new().inside(&scratch).args(["--api-sock", "api.sock"]).run();
    second.expect_code(152).expect_one_line(&["api.sock", "in use"]);
    // What a killed process leaves, the next one replaces.
    machine.kill();
    let (machine, api) = bare(&scratch, &[]);
    assert_eq!(state(&api), "Not started");
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
    assert!(scratch.names().is_empty());
    scratch.file("file", "");
    let refused = Vmm::new().inside(&scratch).args(["--api-sock", "file"]).run();
    refused.expect_code(152).expect_one_line(&["file", "not a socket"]);
    assert_eq!(scratch.names(), ["file"]);
    // A machine that fails to start takes its socket along.
    let failed = Vmm::new().inside(&scratch).args(["--api-sock", "s", "--kernel", "file"]).run();
    failed.expect_code(152);
    assert_eq!(scratch.names(), ["file"]);
}

fn a_socket_of_the_parent() {
    let scratch = Scratch::new();
    let path = scratch.join("parent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: duplicates a descriptor that is open; the copy is inherited, and closed below.
    let inherited = unsafe { libc::dup(listener.as_raw_fd()) };
    let machine = Vmm::new().args(["--api-sock", &format!("fd={inherited}")]).spawn();
    // SAFETY: it is the copy made above.
    unsafe { libc::close(inherited) };
    drop(listener);
    assert_eq!(state(&Api::at(&path)), "Not started");
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
    let refused = Vmm::new().args(["--api-sock", "fd=0"]).run().expect_code(152);
    refused.expect_one_line(&["descriptor 0", "listening"]);
}

fn sixty_four_clients() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    let client = |number: u32| {
        let api = api.clone();
        move || {
            let mut served = 0;
            while served < 20 {
                let mut connection = api.connect();
                // A server that is full says so, and the next attempt may succeed.
                while served < 20 {
                    let reply = connection.request(
                        "GET",
                        if number.is_multiple_of(2) { "/" } else { "/vm/config" },
                        "",
                    );
                    if reply.status == 503 {
                        assert_eq!(reply.body["code"], "too_many_connections");
                        break;
                    }
                    assert_eq!(reply.status, 200);
                    served += 1;
                }
            }
        }
    };
    let clients: Vec<_> = (0..64).map(|number| thread::spawn(client(number))).collect();
    for _ in 0..50 {
        assert_eq!(ask(&mut machine, &format!("r 4 {FREE:x}")), "0", "the guest goes on");
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    end(machine);
}

fn clients_that_misbehave() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    let files = machine.open_files();
    // Nine that never finish a sentence leave a place for others.
    let mut slow: Vec<Connection> = (0..9).map(|_| api.connect()).collect();
    for connection in &mut slow {
        connection.stream.write_all(b"GET /vm/con").unwrap();
    }
    assert_eq!(state(&api), "Running");
    for (text, code) in [
        (&b"\0\xff\xfe garbage \r\n\r\n"[..], "malformed_request"),
        (b"PUT /actions HTTP/1.1\r\nContent-Length: 10485760\r\n\r\n", "body_too_large"),
        (b"PUT /actions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "malformed_request"),
        (b"BREW / HTTP/1.1\r\n\r\n", "malformed_request"),
    ] {
        let mut connection = api.connect();
        connection.stream.write_all(text).unwrap();
        let reply = connection.reply();
        assert_eq!((reply.status, reply.body["code"].as_str()), (400, Some(code)));
        assert_eq!(reply.body["error"], reply.body["fault_message"]);
        assert_eq!(connection.rest(), "", "and the connection is closed");
    }
    // Ten MiB that nobody asked for are dropped, and the reason can be read.
    let mut connection = api.connect();
    connection
        .stream
        .write_all(b"PUT /actions HTTP/1.1\r\nContent-Length: 10485760\r\n\r\n")
        .unwrap();
    let _ = connection.stream.write_all(&vec![b'x'; 10 << 20]);
    assert_eq!(connection.reply().body["code"], "body_too_large");
    assert_eq!(connection.rest(), "", "and its place is free again");
    // One that says no more is still answered.
    let mut connection = api.connect();
    connection.send("GET", "/version", "");
    connection.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.reply().status, 200);
    assert_eq!(connection.rest(), "");
    // One that leaves before its answer harms nobody.
    for _ in 0..50 {
        api.connect().send("GET", "/vm/config", "");
    }
    assert_eq!(api.get_in_turn("/")["state"], "Running");
    drop(slow);
    // Every client is forgotten in the end: only our own connections count.
    while machine.open_files() > files {
        api.get_in_turn("/version");
    }
    let memory = machine.own_memory();
    assert!(memory < 4 << 20, "{memory} bytes of its own after all that");
    end(machine);
}

fn requests_sent_ahead() {
    let scratch = Scratch::new();
    let (machine, api) = bare(&scratch, &[]);
    let mut connection = api.connect();
    for _ in 0..20 {
        connection.send("GET", "/version", "");
        connection.send("PUT", "/entropy", "{}");
        connection.send("GET", "/nothing", "");
    }
    for _ in 0..20 {
        assert_eq!([(); 3].map(|()| connection.reply().status), [200, 204, 400]);
    }
    let body = r#"{"vcpu_count": 1, "mem_size_mib": 64}"#;
    let head = format!(
        "PUT /machine-config HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(connection.head().status, 100);
    connection.stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(connection.reply().status, 204);
    assert_eq!(api.get("/machine-config")["mem_size_mib"], 64);
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
}

/// Sets up a request for one sector, and says where its data and status are.
fn read_sector(queue: &Queue<'_>, puppet: &Puppet, sector: u8) -> Vec<Descriptor> {
    let mut header = [0; 16];
    header[8] = sector;
    puppet.store(queue.buffer(0), &header);
    puppet.store(queue.buffer(2), &[0x77]);
    vec![
        Descriptor::readable(queue.buffer(0), 16).then(1),
        Descriptor::writable(queue.buffer(1), 512).then(2),
        Descriptor::writable(queue.buffer(2), 1),
    ]
}

fn started_with_disk(scratch: &Scratch, options: &str) -> (Puppet, Api) {
    let disk = scratch.file("disk", disk_contents());
    let vmm = Vmm::puppet("").inside(scratch).args(["--rng", "off", "--api-sock", "api.sock"]);
    let puppet = Puppet::start(vmm.disk(disk, options));
    let api = Api::at(&scratch.join("api.sock"));
    (puppet, api)
}

fn the_balloon_has_another_size() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    api.put("/balloon", &json!({"amount_mib": 2, "deflate_on_oom": true}));
    start(&mut machine, &api);
    api.patch("/balloon", &json!({"amount_mib": 5}));
    assert_eq!(api.get("/balloon")["amount_mib"], 5);
    let too_much = json!({"amount_mib": 5000}).to_string();
    api.request("PATCH", "/balloon", &too_much).refused("bad_configuration");
    assert_eq!(api.get("/vm/config")["balloon"], api.get("/balloon"));
    end(machine);
}

fn statistics_and_hints_of_the_balloon() {
    const STATS_VQ: u64 = 1 << 1;
    const FREE_PAGE_HINT: u64 = 1 << 3;
    let scratch = Scratch::new();
    let vmm = Vmm::puppet("").arg("--api-sock").arg(scratch.join("api.sock"));
    let puppet = Puppet::start(vmm.args(["--rng", "off", "--balloon", "2M,stats=3600s,hinting"]));
    let api = Api::at(&scratch.join("api.sock"));
    let sizes = json!({"target_pages": 512, "actual_pages": 0, "target_mib": 2, "actual_mib": 0});
    assert_eq!(api.get("/balloon/statistics"), sizes);
    api.request("PATCH", "/balloon/hinting/start", "").refused("bad_configuration");

    let device = Device::find(&puppet, Kind::Balloon);
    device.negotiate(STATS_VQ | FREE_PAGE_HINT);
    let (_inflate, _deflate) = (device.queue(0), device.queue(1));
    let (mut statistics, mut hints) = (device.queue(2), device.queue(3));
    device.driver_ok();
    // Free memory, by its tag.
    puppet.store(statistics.buffer(0), &[4, 0, 0x39, 0x30, 0, 0, 0, 0, 0, 0]);
    statistics.describe(&[Descriptor::readable(statistics.buffer(0), 10)]);
    statistics.offer(0);
    statistics.kick();
    puppet.sync();
    let deadline = Instant::now() + patience();
    while api.get("/balloon/statistics").get("free_memory") != Some(&json!(12345)) {
        assert!(Instant::now() < deadline, "{}", api.get("/balloon/statistics"));
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(statistics.used_index(), 0, "nobody asks for an hour");
    let off = json!({"stats_polling_interval_s": 0}).to_string();
    api.request("PATCH", "/balloon/statistics", &off).refused("bad_value");
    api.patch("/balloon/statistics", &json!({"stats_polling_interval_s": 1}));
    assert_eq!(api.get("/balloon")["stats_polling_interval_s"], 1);
    assert_eq!(statistics.answer(), Answer::Used(0, 0));

    let status = "/balloon/hinting/status";
    api.patch("/balloon/hinting/start", &json!({"acknowledge_on_stop": false}));
    assert_eq!(api.get(status), json!({"host_cmd": 2, "guest_cmd": null}));
    assert_eq!(device.get(register::CONFIG + 8), 2);
    puppet.write(4, hints.buffer(0), 2);
    let chain = [Descriptor::readable(hints.buffer(0), 4)];
    assert_eq!(hints.request(&chain), Answer::Used(0, 0));
    assert_eq!(api.get(status), json!({"host_cmd": 2, "guest_cmd": 2}));
    api.request("PATCH", "/balloon/hinting/stop", "").expect(204);
    assert_eq!(device.get(register::CONFIG + 8), 1);
    puppet.finish();
}

fn metadata_before_and_after_the_start() {
    let scratch = Scratch::new();
    let file = scratch.file("m.json", r#"{"a": {"b": 1}}"#);
    let file = file.display().to_string();
    let options = ["--metadata", &file, "--mmds-size-limit", "40"];
    let (mut machine, api) = bare(&scratch, &options);
    assert_eq!(api.get("/mmds"), json!({"a": {"b": 1}}));
    api.patch("/mmds", &json!({"a": {"b": null, "c": "d"}}));
    api.put("/network-interfaces/n", &json!({"iface_id": "n", "host_dev_name": "no-such-tap"}));
    let config =
        json!({"network_interfaces": ["n"], "version": "V2", "ipv4_address": "169.254.1.1"});
    api.put("/mmds/config", &config);
    let shown = api.get("/vm/config");
    assert_eq!(shown["mmds-config"]["version"], "V2");
    assert_eq!(shown["mmds-config"]["network_interfaces"], json!(["n"]));
    machine.kill();
    std::fs::remove_file(scratch.join("api.sock")).unwrap();

    let (new, api) = bare(&scratch, &options);
    machine = new;
    start(&mut machine, &api);
    api.patch("/mmds", &json!({"x": [1, 2]}));
    assert_eq!(api.get("/mmds"), json!({"a": {"b": 1}, "x": [1, 2]}));
    let long = json!({"y": "0123456789012345678901234567890123456789"}).to_string();
    for method in ["PUT", "PATCH"] {
        let reply = api.request(method, "/mmds", &long);
        assert_eq!((reply.status, &reply.body["code"]), (413, &json!("metadata_too_large")));
    }
    assert_eq!(api.get("/mmds"), json!({"a": {"b": 1}, "x": [1, 2]}));
    let late = api.request("PUT", "/mmds/config", &config.to_string());
    late.refused("after_start");
    api.put("/mmds", &json!({}));
    end(machine);
}

fn a_disk_changes_while_the_guest_reads_it() {
    let scratch = Scratch::new();
    let (puppet, api) = started_with_disk(&scratch, ",id=d");
    let other = scratch.file("other", [0xaa; 512 * 32]);
    let device = Device::find(&puppet, Kind::Block);
    let mut queue = Subject::Block.set_up(&device, 0);
    // The status, and the first byte of the sector.
    let mut read = |sector: u8| {
        let chain = read_sector(&queue, &puppet, sector);
        assert!(matches!(queue.request(&chain), Answer::Used(0, _)));
        (puppet.load(queue.buffer(2), 1)[0], puppet.load(queue.buffer(1), 1)[0])
    };
    assert_eq!(read(40), (0, 40));
    api.patch("/drives/d", &json!({"drive_id": "d", "path_on_host": other}));
    assert_eq!(read(3), (0, 0xaa));
    assert_eq!(read(40).0, 1, "the new disk has 32 sectors");
    assert_eq!(api.get("/vm/config")["drives"][0]["path_on_host"], json!(other));
    let gone = json!({"drive_id": "d", "path_on_host": "/nowhere"}).to_string();
    let text = api.request("PATCH", "/drives/d", &gone).refused("bad_configuration");
    assert!(text.contains("/nowhere"), "{text}");
    assert_eq!(read(4), (0, 0xaa));
    let unknown = json!({"drive_id": "e", "path_on_host": other}).to_string();
    api.request("PATCH", "/drives/e", &unknown).refused("unknown_device");
    let limiter = json!({"ops": {"size": 1000, "refill_time": 100}});
    api.patch("/drives/d", &json!({"drive_id": "d", "rate_limiter": limiter}));
    let shown = &api.get("/vm/config")["drives"][0]["rate_limiter"];
    assert_eq!((&shown["ops"]["size"], &shown["bandwidth"]), (&json!(1000), &Value::Null));
    assert_eq!(read(5), (0, 0xaa));
    puppet.finish();
}

/// Reads and pauses take turns in every way; each read is answered once, with the right data.
fn pauses_under_load_lose_nothing() {
    for engine in ["sync", "uring"] {
        let scratch = Scratch::new();
        let (puppet, api) = started_with_disk(&scratch, &format!(",id=d,engine={engine}"));
        let device = Device::find(&puppet, Kind::Block);
        let mut queue = Subject::Block.set_up(&device, 0);
        let pausing = {
            let api = api.clone();
            thread::spawn(move || {
                let mut connection = api.connect();
                for _ in 0..500 {
                    for state in ["Paused", "Resumed"] {
                        let body = json!({ "state": state }).to_string();
                        connection.request("PATCH", "/vm", &body).expect(204);
                    }
                }
            })
        };
        let mut reads = 0_u16;
        while !pausing.is_finished() {
            let sector = (reads % u16::from(SECTORS)) as u8;
            let chain = read_sector(&queue, &puppet, sector);
            assert_eq!(queue.request(&chain), Answer::Used(0, 513));
            assert_eq!(puppet.load(queue.buffer(2), 1), [0]);
            assert_eq!(puppet.load(queue.buffer(1), 512), [sector; 512]);
            reads += 1;
            assert_eq!(queue.used_index(), reads, "each request is answered once");
        }
        pausing.join().unwrap();
        assert!(reads > 0);
        puppet.finish();
    }
}
