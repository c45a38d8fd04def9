//! Copies of a machine by one verb of `vmm ctl`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use harness::api::Api;
use harness::puppet::{FREE_MEMORY, Puppet};
use harness::{Need, Scratch, Vmm, artifacts};
use libtest_mimic::Trial;

use super::{disk_contents, parent};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    vec![trial("bare::snapshot::copies_by_one_verb", &[Need::Kvm], copies_by_one_verb)]
}

fn copies_by_one_verb() {
    let scratch = Scratch::new();
    let vsock = format!("socket={}", scratch.join("vsock").display());
    let disk = scratch.file("disk", disk_contents());
    let puppet = Puppet::start(parent(&scratch).args(["--vsock", &vsock]).disk(&disk, ",readonly"));
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
    let puppet = Puppet::start(parent(&scratch).disk(&disk, ",id=data"));
    let verb = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("clone");
    verb.run().expect_code(153).expect_one_line(&["disk \"data\" can be written"]);
    puppet.finish();
}
