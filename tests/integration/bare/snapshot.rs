//! Snapshots of machines with a bare-metal guest: it goes on at the very instruction, with its devices, elsewhere.

mod changes;
mod clones;
mod devices;
mod files;
mod firecracker;
mod overlays;
mod pause;
mod refusals;

pub use devices::network_tests;

use std::fs;
use std::path::{Path, PathBuf};

use harness::api::Api;
use harness::pages::Pages;
use harness::puppet::{FREE_MEMORY, Puppet};
use harness::virtio::{Answer, Device, Queue};
use harness::{Need, Scratch, Vmm, artifacts};
use libtest_mimic::Trial;
use serde_json::json;

use super::subject::{Subject, disk_contents};
use crate::suite::trial;

/// All of them.
pub fn tests() -> Vec<Trial> {
    const NEEDS: &[Need] = &[Need::Kvm];
    let own: [(&str, fn()); 6] = [
        ("goes_on_at_the_very_instruction", goes_on_at_the_very_instruction),
        ("copies_do_not_disturb_each_other", copies_do_not_disturb_each_other),
        ("ten_generations", ten_generations),
        ("many_vcpus_and_much_memory", many_vcpus_and_much_memory),
        ("into_a_jail", into_a_jail),
        ("a_restored_machine_boots_again", a_restored_machine_boots_again),
    ];
    let own = own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), NEEDS, test));
    let provided = trial(
        "bare::snapshot::memory_from_a_provider",
        &[Need::Kvm, Need::Userfaultfd],
        memory_from_a_provider,
    );
    let others = [
        vec![provided],
        changes::tests(),
        clones::tests(),
        devices::tests(),
        files::tests(),
        firecracker::tests(),
        overlays::tests(),
        pause::tests(),
        refusals::tests(),
    ];
    own.into_iter().chain(others.into_iter().flatten()).collect()
}

/// A machine that can be saved: without a jail, in which nobody makes files.
pub(super) fn parent(scratch: &Scratch) -> Vmm {
    let vmm = Vmm::puppet("").args(["--rng", "off", "--id", "parent"]).without_jail();
    vmm.arg("--api-sock").arg(scratch.join("api.sock"))
}

/// Saves the machine behind `scratch`'s API.
#[track_caller]
pub(super) fn save(scratch: &Scratch, words: &[&str]) -> PathBuf {
    let directory = scratch.join(words[0]);
    let _ = Api::at(&scratch.join("api.sock"));
    let end = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot").arg(&directory);
    let end = end.args(&words[1..]).run().expect_code(0);
    assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("", ""), "{}", end.story());
    directory
}

/// The puppet that goes on from there.
pub(super) fn copy_of(directory: &Path) -> Vmm {
    Vmm::restored(directory).serial("stdio")
}

/// Ends a machine whose guest is not to be asked any more.
pub(super) fn kill(puppet: Puppet) {
    puppet.release().kill();
}

fn goes_on_at_the_very_instruction() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    puppet.write(4, FREE_MEMORY, 0x1234_abcd);
    puppet.sync();
    // Half a number is in a register of the guest, half a command on its stack.
    puppet.with_machine(|machine| machine.send(format!("r 4 {:x}", FREE_MEMORY >> 4)));
    wait_until_read(&scratch);
    let saved = save(&scratch, &["saved"]);
    let answer = |puppet: &Puppet| {
        let rest = format!("{:x}\n", FREE_MEMORY & 0xf);
        puppet.with_machine(|machine| {
            machine.send(rest);
            machine.wait_for("\n")
        })
    };
    // The parent goes on as if nobody had asked.
    assert_eq!(answer(&puppet), "1234abcd\n");
    puppet.finish();
    for _ in 0..2 {
        let copy = Puppet::go_on(copy_of(&saved));
        assert_eq!(answer(&copy), "1234abcd\n");
        assert_eq!(copy.read(4, FREE_MEMORY), 0x1234_abcd);
        copy.finish();
    }
    // A file of state is as good as its directory, and a paused one goes on when it is told.
    let socket = scratch.join("copy.sock");
    let paused = format!("{},paused", saved.join("state").display());
    let copy = Vmm::restored(&paused).serial("stdio").arg("--api-sock").arg(&socket).spawn();
    let api = Api::at(&socket);
    assert_eq!(api.get("/")["state"], "Paused");
    let mut copy = copy;
    copy.send(format!("{:x}\no 1 f4 3\n", FREE_MEMORY & 0xf));
    api.patch("/vm", &json!({ "state": "Resumed" }));
    let end = copy.expect_exit(3);
    assert_eq!(end.stdout, "1234abcd\n");
}

/// Until the guest has taken all of its input: the machine is asked until nothing is left on the way.
fn wait_until_read(scratch: &Scratch) {
    let api = Api::at(&scratch.join("api.sock"));
    // Each pause finds the guest between two instructions; a few of them leave it time enough.
    for _ in 0..20 {
        api.patch("/vm", &json!({ "state": "Paused" }));
        api.patch("/vm", &json!({ "state": "Resumed" }));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Pages come from another process when they are touched, at the latest for the next snapshot.
fn memory_from_a_provider() {
    const FAR: u32 = FREE_MEMORY + 0x80_0000;
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    puppet.write(4, FREE_MEMORY, 7);
    puppet.write(4, FAR, 8);
    puppet.sync();
    let saved = save(&scratch, &["saved"]);
    kill(puppet);
    let memory = fs::read_dir(&saved).unwrap().map(|entry| entry.unwrap().path());
    let memory = memory.into_iter().find(|path| !path.ends_with("state")).unwrap();

    let (pages, socket) = (scratch.join("pages"), scratch.join("copy.sock"));
    let provider = Pages::provide(&pages, &memory);
    let order = format!("{},uffd={}", saved.display(), pages.display());
    let copy = Vmm::restored(&order).serial("stdio").arg("--api-sock").arg(&socket);
    let copy = Puppet::go_on(copy.without_jail());
    assert_eq!(copy.read(4, FREE_MEMORY), 7);
    let touched = provider.count();
    assert!((1..2000).contains(&touched), "{touched} pages of 8192");
    // What nobody touched is saved as well.
    let again = scratch.join("again");
    let ctl = Vmm::new().arg("ctl").arg(&socket).arg("snapshot").arg(&again);
    ctl.run().expect_code(0);
    kill(copy);
    let copy = Puppet::go_on(copy_of(&again));
    assert_eq!((copy.read(4, FREE_MEMORY), copy.read(4, FAR)), (7, 8));
    copy.finish();

    let order = format!("{},uffd={}", saved.display(), scratch.join("nobody").display());
    Vmm::restored(&order).without_jail().run().expect_code(152).expect_one_line(&["no provider"]);
    let jailed = Vmm::restored(&order).arg("--jail").run().expect_code(152);
    jailed.expect_one_line(&["uffd", "--jail"]);
}

fn copies_do_not_disturb_each_other() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    puppet.write(4, FREE_MEMORY, 7);
    puppet.sync();
    let saved = save(&scratch, &["saved"]);
    let copies = [0, 1, 2].map(|_| Puppet::go_on(copy_of(&saved)));
    for (copy, number) in copies.iter().zip(1..) {
        assert_eq!(copy.read(4, FREE_MEMORY), 7);
        copy.write(4, FREE_MEMORY, number);
        copy.sync();
    }
    for (copy, number) in copies.into_iter().zip(1..) {
        assert_eq!(copy.read(4, FREE_MEMORY), number);
        copy.finish();
    }
    assert_eq!(puppet.read(4, FREE_MEMORY), 7);
    puppet.finish();
    // Nor what is on disk.
    let copy = Puppet::go_on(copy_of(&saved));
    assert_eq!(copy.read(4, FREE_MEMORY), 7);
    copy.finish();
}

fn ten_generations() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    let mut puppet = Puppet::start(parent(&scratch).disk(&disk, ""));
    let device = Device::find(&puppet, Subject::Block.kind());
    let _queue = Subject::Block.set_up(&device, 0);
    for generation in 0..10 {
        puppet.write(4, FREE_MEMORY + 0x8_0000 + generation * 0x1000, generation + 1);
        puppet.sync();
        // The third and the fifth take the place of others.
        let name = format!("generation-{}", generation % 4);
        let saved = save(&scratch, &[&name]);
        kill(puppet);
        fs::remove_file(scratch.join("api.sock")).unwrap();
        puppet = Puppet::go_on(
            copy_of(&saved).without_jail().arg("--api-sock").arg(scratch.join("api.sock")),
        );
        for before in 0..=generation {
            assert_eq!(puppet.read(4, FREE_MEMORY + 0x8_0000 + before * 0x1000), before + 1);
        }
        let device = Device::find(&puppet, Subject::Block.kind());
        let mut queue = Queue::go_on(device, 0);
        Subject::Block.fill_buffers(&puppet, &queue);
        let answer = queue.request(&Subject::Block.chain(&queue));
        assert_eq!(answer, Answer::Used(0, 513), "generation {generation}");
    }
    puppet.finish();
}

fn many_vcpus_and_much_memory() {
    let scratch = Scratch::new();
    let vmm = Vmm::new().kernel(artifacts::puppet_64()).args(["--memory", "5G", "--cpus", "4"]);
    let vmm = vmm.args(["--cmdline", "", "--rng", "off"]).without_jail();
    let puppet = Puppet::start(vmm.arg("--api-sock").arg(scratch.join("api.sock")));
    for (address, value) in [(0x800_0000, 5), (0x3fff_fff0, 6)] {
        puppet.write(4, address, value);
    }
    puppet.sync();
    let saved = save(&scratch, &["saved"]);
    kill(puppet);
    let memory = saved.join(
        fs::read_dir(&saved)
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .find(|it| it != "state")
            .unwrap(),
    );
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(memory).unwrap());
    assert!(blocks * 512 < 2 << 20, "{blocks} blocks");
    let copy = Puppet::go_on(copy_of(&saved));
    let values = [0x800_0000, 0x3fff_fff0, 0x900_0000].map(|address| copy.read(4, address));
    assert_eq!(values, [5, 6, 0]);
    copy.finish();
}

fn into_a_jail() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    let puppet = Puppet::start(parent(&scratch).disk(&disk, ""));
    let device = Device::find(&puppet, Subject::Block.kind());
    let _queue = Subject::Block.set_up(&device, 0);
    puppet.write(4, FREE_MEMORY + 0x8_0000, 77);
    puppet.sync();
    let saved = save(&scratch, &["saved"]);
    kill(puppet);
    // Nobody needs the kernel any more.
    let copy = Puppet::go_on(copy_of(&saved).arg("--jail"));
    assert_eq!(copy.read(4, FREE_MEMORY + 0x8_0000), 77);
    assert!(copy.with_machine(|machine| machine.inside()).is_some());
    let device = Device::find(&copy, Subject::Block.kind());
    let mut queue = Queue::go_on(device, 0);
    Subject::Block.fill_buffers(&copy, &queue);
    assert_eq!(queue.request(&Subject::Block.chain(&queue)), Answer::Used(0, 513));
    copy.finish();
}

fn a_restored_machine_boots_again() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    puppet.write(4, FREE_MEMORY + 0x8_0000, 77);
    puppet.sync();
    let saved = save(&scratch, &["saved"]);
    kill(puppet);
    let copy = Puppet::go_on(copy_of(&saved).args(["--on-reboot", "restart"]));
    assert_eq!(copy.read(4, FREE_MEMORY + 0x8_0000), 77);
    // The keyboard controller's reset.
    copy.port_out(1, 0x64, 0xfe);
    copy.send();
    copy.with_machine(|machine| machine.wait_for("puppet: \n"));
    assert_eq!(copy.read(4, FREE_MEMORY + 0x8_0000), 0, "memory of another life");
    copy.finish();
}
