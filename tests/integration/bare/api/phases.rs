//! The phases of a machine: which requests each has, what they change, what a refusal leaves.

use std::time::Instant;

use harness::{Need, Scratch, Vmm, artifacts, patience};
use serde_json::{Value, json};

use super::{FREE, ask, bare, boot_source, end, serving, start, state};

crate::suite::tests! { "bare::api::phases" needs &[Need::Kvm];
    from_nothing_to_the_end,
    every_phase_has_its_requests,
    refusals_leave_everything_as_it_was,
    what_is_not_said_is_firecracker_s_default,
    a_start_that_fails_can_be_tried_again,
    reset_keeps_the_machine_and_forgets_its_memory,
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

fn what_is_not_said_is_firecracker_s_default() {
    let scratch = Scratch::new();
    let (machine, api) = bare(&scratch, &[]);
    let config = api.get("/machine-config");
    assert_eq!((&config["vcpu_count"], &config["mem_size_mib"]), (&json!(1), &json!(128)));
    drop(machine);
    let (machine, api) = bare(&scratch, &["--memory", "64M"]);
    assert_eq!(api.get("/machine-config")["mem_size_mib"], 64, "flags count");
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
        ("PUT", "/hotplug/memory", json!({}), "unsupported"),
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

fn a_start_that_fails_can_be_tried_again() {
    let scratch = Scratch::new();
    let (mut machine, api) = serving(&scratch, Vmm::new().without_jail());
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
