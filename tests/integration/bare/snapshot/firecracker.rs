//! The endpoints of Firecracker.

use std::fs;

use harness::api::Api;
use harness::puppet::{FREE_MEMORY, Puppet};
use harness::{Need, Scratch, Vmm};
use libtest_mimic::Trial;
use serde_json::json;

use super::parent;
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    let name = "bare::snapshot::by_the_api_of_firecracker";
    vec![trial(name, &[Need::Kvm], by_the_api_of_firecracker)]
}

fn by_the_api_of_firecracker() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    puppet.write(4, FREE_MEMORY, 5);
    puppet.sync();
    let api = Api::at(&scratch.join("api.sock"));
    let files = json!({
        "snapshot_path": scratch.join("snapshot_file"),
        "mem_file_path": scratch.join("mem_file"),
        "snapshot_type": "Full",
    });
    let refused = api.request("PUT", "/snapshot/create", &files.to_string());
    assert!(refused.refused("not_paused").contains("paused"));
    assert_eq!(scratch.names(), ["api.sock"]);
    api.patch("/vm", &json!({ "state": "Paused" }));
    api.put("/snapshot/create", &files);
    assert_eq!(api.get("/")["state"], "Paused");
    assert_eq!(scratch.names(), ["api.sock", "mem_file", "snapshot_file"]);
    api.patch("/vm", &json!({ "state": "Resumed" }));
    puppet.finish();

    let socket = scratch.join("copy.sock");
    let copy = Vmm::new().arg("--api-sock").arg(&socket).without_jail();
    let events = scratch.join("events");
    let copy = Puppet::go_on(copy.arg("--events").arg(&events));
    let api = Api::at(&socket);
    let load = |more: serde_json::Value| {
        let mut body = json!({
            "snapshot_path": scratch.join("snapshot_file"),
            "mem_backend": { "backend_type": "File", "backend_path": scratch.join("mem_file") },
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    // What cannot be leaves the API as it was.
    for (more, code) in [
        (
            json!({ "network_overrides": [{ "iface_id": "x", "host_dev_name": "y" }] }),
            "bad_configuration",
        ),
        (
            json!({ "mem_backend": { "backend_type": "Uffd", "backend_path": "x" } }),
            "bad_configuration",
        ),
        (
            json!({ "mem_backend": { "backend_type": "File", "backend_path": "/dev/null" } }),
            "bad_snapshot",
        ),
        (json!({ "snapshot_path": "/no/such/file" }), "bad_snapshot"),
        (json!({ "other": 1 }), "malformed_body"),
    ] {
        let message = api.request("PUT", "/snapshot/load", &load(more).to_string()).refused(code);
        assert!(!message.is_empty());
        assert_eq!(api.get("/")["state"], "Not started");
    }
    let over = json!({ "serial": { "type": "stdio" } });
    api.put("/snapshot/load", &load(json!({ "resume_vm": false, "overrides": over })));
    assert_eq!(api.get("/")["state"], "Paused");
    api.patch("/vm", &json!({ "state": "Resumed" }));
    assert_eq!(copy.read(4, FREE_MEMORY), 5);
    let again = api.request("PUT", "/snapshot/load", &load(json!({})).to_string());
    again.refused("after_start");
    let _end = copy.finish();
    let said = fs::read_to_string(events).unwrap();
    assert!(said.contains(r#""event":"restored""#), "{said}");
}
