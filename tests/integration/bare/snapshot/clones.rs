//! Copies of a machine by one verb of `vmm ctl`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use harness::api::Api;
use harness::puppet::{FREE_MEMORY, Puppet};
use harness::{Need, Scratch, Vmm, artifacts};
use libtest_mimic::Trial;
use serde_json::json;

use super::super::storage::{DATA, Disk, OK, OUT};
use super::{disk_contents, parent};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    let own: [(&str, fn()); 3] = [
        ("copies_by_one_verb", copies_by_one_verb),
        ("copies_by_one_request", copies_by_one_request),
        ("copies_that_would_share", copies_that_would_share),
    ];
    own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), &[Need::Kvm], test)).into()
}

fn copies_by_one_verb() {
    let scratch = Scratch::new();
    let vsock = format!("socket={}", scratch.join("vsock").display());
    let disk = scratch.file("disk", disk_contents());
    let vmm = parent(&scratch).args(["--vsock", &vsock]).disk(&disk, ",readonly");
    let image = scratch.file("image", disk_contents());
    let puppet = Puppet::start(vmm.disk(&image, ",id=data,snapshot=overlay"));
    puppet.write(4, FREE_MEMORY, 7);
    puppet.sync();
    let clones = scratch.join("clones");
    // The copies outlive the verb, which those of the harness may not.
    let mut verb = Command::new(artifacts::vmm());
    verb.arg("ctl").arg(scratch.join("api.sock")).args(["clone", "--count", "3", "--dir"]);
    let end = verb.arg(&clones).args(["--", "--grace", "0s"]).output().unwrap();
    assert!(end.status.success(), "{end:?}");
    let said = String::from_utf8(end.stdout).unwrap();
    let ids: Vec<_> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(ids, ["parent-1", "parent-2", "parent-3"], "{said}");
    for (id, number) in ids.iter().zip(1..) {
        let own = clones.join(number.to_string());
        let api = Api::at(&own.join("api.sock"));
        assert_eq!(
            (api.get("/")["id"].as_str(), api.get("/")["state"].as_str()),
            (Some(*id), Some("Running"))
        );
        assert!(own.join("vsock").with_extension("sock").exists());
        // The puppet's serial port is a socket.
        let mut serial = UnixStream::connect(own.join("serial.sock")).unwrap();
        serial.write_all(format!("r 4 {FREE_MEMORY:x}\no 1 f4 0\n").as_bytes()).unwrap();
        let mut said = String::new();
        serial.read_to_string(&mut said).unwrap();
        assert!(said.ends_with("7\n"), "{said:?}");
    }
    puppet.finish();
}

/// A machine with a disk whose overlay has one sector.
fn with_overlay(scratch: &Scratch) -> Puppet {
    let disk = scratch.file("disk", disk_contents());
    let puppet = Puppet::start(parent(scratch).disk(&disk, ",id=data,snapshot=overlay"));
    puppet.store(DATA, &[77; 512]);
    assert_eq!(Disk::ready(&puppet).one(OUT, 1, 512), OK);
    puppet
}

fn copies_by_one_request() {
    let scratch = Scratch::new();
    let puppet = with_overlay(&scratch);
    let directory = scratch.join("clones");
    fs::create_dir(&directory).unwrap();
    let api = Api::at(&scratch.join("api.sock"));
    let order = json!({ "count": 2, "dir": directory, "args": ["--grace", "0s"] });
    let answer = api.request("POST", "/snapshot/clone", &order.to_string()).expect(200).body;
    puppet.finish();
    let clones = answer["clones"].as_array().unwrap();
    assert_eq!(clones.len(), 2, "{answer}");
    let copies: Vec<_> = clones
        .iter()
        .map(|clone| {
            fs::create_dir(clone["directory"].as_str().unwrap()).unwrap();
            let argv = clone["argv"].as_array().unwrap().iter();
            let mut argv = argv.map(|word| word.as_str().unwrap());
            assert_eq!(argv.next(), Some("vmm"));
            Vmm::new().args(argv).without_jail().spawn()
        })
        .collect();
    for ((number, clone), copy) in (1..).zip(clones).zip(copies) {
        let own = directory.join(number.to_string());
        assert_eq!(clone["socket"].as_str(), own.join("api.sock").to_str());
        let api = Api::at(&own.join("api.sock"));
        assert_eq!(
            (&api.get("/")["id"], &clone["id"]),
            (&clone["id"], &json!(format!("parent-{number}")))
        );
        // What the guest wrote before is under an overlay that is the copy's own.
        assert_eq!(api.get("/vm/config")["drives"][0]["overlay"], true);
        let mut serial = UnixStream::connect(own.join("serial.sock")).unwrap();
        serial.write_all(b"o 1 f4 0\n").unwrap();
        copy.expect_exit(0);
    }
}

fn copies_that_would_share() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    let puppet = Puppet::start(parent(&scratch).disk(&disk, ",id=data"));
    let api = Api::at(&scratch.join("api.sock"));
    let verb = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).args(["clone", "--dir"]);
    let end = verb.arg(scratch.join("clones")).run().expect_code(115);
    end.expect_one_line(&["disk \"data\" can be written", "snapshot=overlay"]);
    let ask = |body: serde_json::Value| api.request("POST", "/snapshot/clone", &body.to_string());
    let directory = scratch.join("clones");
    ask(json!({ "dir": directory })).refused("bad_configuration");
    ask(json!({ "dir": directory, "count": 0 })).refused("bad_value");
    ask(json!({ "count": 1 })).refused("malformed_body");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing was made");
    let words = ["--disk", "other,id=data"];
    let nowhere = ask(json!({ "dir": scratch.join("nowhere"), "args": words }));
    assert!(nowhere.refused("host_failure").contains("cannot be made"));
    puppet.finish();
}
