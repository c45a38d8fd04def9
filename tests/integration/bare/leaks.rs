//! Many lives: nothing may be left of any of them but the files that the user named. Processes are looked for
//! whenever a machine is dropped.

use harness::network::{in_own_network, interfaces};
use harness::virtio::{Device, Kind};
use harness::{Need, Puppet, Scratch, Vmm};
use libtest_mimic::Trial;

use super::subject::Subject;
use crate::suite::trial;

mod plain {
    use super::*;

    crate::suite::tests! { "bare::leaks" needs &[Need::Kvm];
        twenty_in_a_row,
        ten_at_once,
        killed_at_any_time,
        many_reboots,
        stormy_life,
    }
}

/// All of them.
pub fn tests() -> Vec<Trial> {
    let taps = trial("bare::leaks::taps", &[Need::Kvm, Need::Network], || in_own_network(taps));
    plain::tests().into_iter().chain([taps]).collect()
}

fn with_everything(scratch: &Scratch, number: usize) -> Vmm {
    let disk = scratch.sparse_file(&format!("disk{number}"), 1 << 20);
    Vmm::puppet("mute exit=0")
        .inside(scratch)
        .disk(disk, "")
        .serial(&format!("socket=serial{number}"))
        .console(&format!("socket=console{number}"))
}

fn twenty_in_a_row() {
    let scratch = Scratch::new();
    for round in 0..20 {
        with_everything(&scratch, 0).run().expect_code(0);
        assert_eq!(scratch.names(), ["disk0"], "after round {round}");
    }
}

fn ten_at_once() {
    let scratch = Scratch::new();
    let machines: Vec<_> =
        (0..10).map(|number| with_everything(&scratch, number).without_input().spawn()).collect();
    for machine in machines {
        machine.expect_exit(0);
    }
    assert_eq!(scratch.names().len(), 10, "only the disks: {:?}", scratch.names());
}

/// What a killed process leaves, the next one with the same command line replaces.
fn killed_at_any_time() {
    let scratch = Scratch::new();
    for round in 0_u32..30 {
        let machine = with_everything(&scratch, 0).without_input().spawn();
        // Somewhere between the first instruction and the end, which this is not a test of the speed of.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 500));
        machine.kill();
    }
    with_everything(&scratch, 0).run().expect_code(0);
    assert_eq!(scratch.names(), ["disk0"]);
}

fn many_reboots() {
    let scratch = Scratch::new();
    let disk = scratch.sparse_file("disk", 1 << 20);
    let vmm = Vmm::puppet("").args(["--on-reboot", "restart", "--cpus", "2"]).disk(disk, "");
    let puppet = Puppet::start(vmm);
    let mut machine = puppet.release();
    let before = (machine.open_files(), machine.threads());
    for _ in 0..20 {
        machine.send("o 1 64 fe\n");
        machine.wait_for("puppet: \n");
    }
    assert_eq!((machine.open_files(), machine.threads()), before, "descriptors and threads");
    machine.send("o 1 f4 0\n");
    machine.expect_exit(0);
}

fn stormy_life() {
    let scratch = Scratch::new();
    let disk = scratch.sparse_file("disk", 1 << 20);
    let console = format!("file={}", scratch.join("console").display());
    let puppet = Puppet::start(Vmm::puppet("").disk(disk, "").console(&console));
    let devices = Device::all(&puppet);
    let count = || {
        devices.iter().for_each(Device::reset);
        puppet.sync();
        puppet.with_machine(|machine| (machine.open_files(), machine.threads()))
    };
    let before = count();
    for seed in 1..=5_u32 {
        puppet.storm(seed.wrapping_mul(0x85eb_ca6b), 2000);
        assert_eq!(count(), before, "descriptors and threads after storm {seed}");
        for subject in [Subject::Rng, Subject::Console] {
            subject.good_request(&Device::find(&puppet, subject.kind()));
        }
    }
    let memory = puppet.with_machine(|machine| machine.own_memory());
    assert!(memory < 8 << 20, "{memory} bytes of its own after five storms");
    assert!(devices.iter().any(|device| device.get(8) == Kind::Block as u32));
    puppet.finish();
}

fn taps() {
    for _ in 0..5 {
        let vmm = Vmm::puppet("mute exit=0").args(["--net", "tap=one", "--net", "tap=two"]);
        vmm.run().expect_code(0);
        assert_eq!(interfaces(), ["lo"]);
    }
    let machine = Puppet::start(Vmm::puppet("").args(["--net", "tap=one"])).release();
    assert_eq!(interfaces().len(), 2, "{:?}", interfaces());
    machine.kill();
    assert_eq!(interfaces(), ["lo"], "after being killed");
}
