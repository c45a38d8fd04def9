//! The HTTP API with a bare-metal guest.

mod arbitrary;
mod clients;
mod devices;
mod ends;
mod metrics;
mod phases;
mod same;

use harness::api::Api;
use harness::virtio::{Descriptor, Queue};
use harness::{Machine, Puppet, Scratch, Vmm, artifacts};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::subject::disk_contents;

const FREE: u32 = 0x20_0000;

/// All of them.
pub fn tests() -> Vec<Trial> {
    let lists = [
        arbitrary::tests(),
        phases::tests(),
        same::tests(),
        ends::tests(),
        clients::tests(),
        devices::tests(),
        metrics::tests(),
    ];
    lists.into_iter().flatten().collect()
}

/// A machine with nothing configured, and its API.
fn bare(scratch: &Scratch, more: &[&str]) -> (Machine, Api) {
    serving(scratch, Vmm::new().args(more))
}

/// The same of `vmm`.
fn serving(scratch: &Scratch, vmm: Vmm) -> (Machine, Api) {
    let machine = vmm.inside(scratch).args(["--api-sock", "api.sock"]).spawn();
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
    started(Vmm::puppet(""), scratch, options)
}

/// The same of `vmm`.
fn started(vmm: Vmm, scratch: &Scratch, options: &str) -> (Puppet, Api) {
    let disk = scratch.file("disk", disk_contents());
    let vmm = vmm.inside(scratch).args(["--rng", "off", "--api-sock", "api.sock"]);
    let puppet = Puppet::start(vmm.disk(disk, options));
    let api = Api::at(&scratch.join("api.sock"));
    (puppet, api)
}

fn end(mut machine: Machine) {
    machine.send("o 1 f4 0\n");
    machine.expect_exit(0);
}
