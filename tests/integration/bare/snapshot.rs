//! Snapshots of machines with a bare-metal guest: it goes on at the very instruction, with its devices, elsewhere.

mod clones;
mod files;
mod refusals;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use harness::api::Api;
use harness::network::{Tap, in_own_network};
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
    let own: [(&str, fn()); 11] = [
        ("goes_on_at_the_very_instruction", goes_on_at_the_very_instruction),
        ("copies_do_not_disturb_each_other", copies_do_not_disturb_each_other),
        ("devices_go_on", devices_go_on),
        ("ten_generations", ten_generations),
        ("many_vcpus_and_much_memory", many_vcpus_and_much_memory),
        ("resources_are_exchanged", resources_are_exchanged),
        ("into_a_jail", into_a_jail),
        ("by_the_api_of_firecracker", by_the_api_of_firecracker),
        ("changes_alone", changes_alone),
        ("changes_that_are_tracked", changes_that_are_tracked),
        ("a_restored_machine_boots_again", a_restored_machine_boots_again),
    ];
    let own = own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), NEEDS, test));
    let provided = trial(
        "bare::snapshot::memory_from_a_provider",
        &[Need::Kvm, Need::Userfaultfd],
        memory_from_a_provider,
    );
    let others = [vec![provided], clones::tests(), files::tests(), refusals::tests()];
    own.into_iter().chain(others.into_iter().flatten()).collect()
}

/// The tests that need a network as well.
pub fn network_tests() -> Vec<Trial> {
    const NEEDS: &[Need] = &[Need::Kvm, Need::Network];
    let test = || in_own_network(a_network_card_goes_on);
    vec![trial("bare::snapshot::a_network_card_goes_on", NEEDS, test)]
}

/// A machine that can be saved: without a jail, in which nobody makes files.
fn parent(scratch: &Scratch) -> Vmm {
    let vmm = Vmm::puppet("").args(["--rng", "off", "--id", "parent"]).without_jail();
    vmm.arg("--api-sock").arg(scratch.join("api.sock"))
}

/// Saves the machine behind `scratch`'s API.
#[track_caller]
fn save(scratch: &Scratch, words: &[&str]) -> PathBuf {
    let directory = scratch.join(words[0]);
    let _ = Api::at(&scratch.join("api.sock"));
    let end = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot").arg(&directory);
    let end = end.args(&words[1..]).run().expect_code(0);
    assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("", ""), "{}", end.story());
    directory
}

/// The puppet that goes on from there.
fn copy_of(directory: &Path) -> Vmm {
    Vmm::restored(directory).serial("stdio")
}

/// Ends a machine whose guest is not to be asked any more.
fn kill(puppet: Puppet) {
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

/// One request before the snapshot, one after it, on the same rings.
#[track_caller]
fn goes_on(subject: Subject, scratch: &Scratch, vmm: Vmm) {
    let puppet = Puppet::start(vmm);
    let device = Device::find(&puppet, subject.kind());
    let mut queue = subject.set_up(&device, harness::virtio::feature::EVENT_IDX);
    let request = |puppet: &Puppet, queue: &mut Queue<'_>| {
        subject.fill_buffers(puppet, queue);
        let answer = queue.request(&subject.chain(queue));
        assert_eq!(answer, Answer::Used(0, subject.written()), "{subject:?}");
        subject.check_buffers(puppet, queue);
    };
    request(&puppet, &mut queue);
    request(&puppet, &mut queue);
    // One is on the ring and nobody has been kicked: it is found all the same.
    subject.fill_buffers(&puppet, &queue);
    queue.describe(&subject.chain(&queue));
    queue.offer(0);
    puppet.sync();
    let saved = save(scratch, &[&format!("saved-{}", subject.name())]);
    assert_eq!(queue.answer(), Answer::Used(0, subject.written()), "{subject:?}");
    request(&puppet, &mut queue);
    kill(puppet);

    let copy = Puppet::go_on(copy_of(&saved).args(["--id", "copy"]));
    let device = Device::find(&copy, subject.kind());
    assert!(!device.needs_reset(), "{subject:?}");
    let mut queue = Queue::go_on(device, subject.queue_index());
    // It may have been answered before the driver was asked where it stands.
    if queue.used_index() < 3 {
        assert_eq!(queue.answer(), Answer::Used(0, subject.written()), "{subject:?}");
    }
    for _ in 0..10 {
        request(&copy, &mut queue);
    }
    subject.good_request(&device);
    copy.finish();
}

fn devices_go_on() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    let console = format!("file={}", scratch.join("console").display());
    let vsock = format!("socket={}", scratch.join("vsock").display());
    let rng = Vmm::puppet("").without_jail().arg("--api-sock").arg(scratch.join("api.sock"));
    goes_on(Subject::Rng, &scratch, rng);
    for options in ["", ",engine=uring", ",iothread=io0"] {
        let mut vmm = parent(&scratch).disk(&disk, options);
        if options.contains("iothread") {
            vmm = vmm.args(["--iothread", "io0"]);
        }
        goes_on(Subject::Block, &scratch, vmm);
    }
    goes_on(Subject::Console, &scratch, parent(&scratch).console(&console));
    goes_on(Subject::Vsock, &scratch, parent(&scratch).args(["--vsock", &vsock]));
    let balloon = "0,stats=3600s,reporting,hinting";
    goes_on(Subject::Balloon, &scratch, parent(&scratch).args(["--balloon", balloon]));
}

fn a_network_card_goes_on() {
    let scratch = Scratch::new();
    let _tap = Tap::new("tap0");
    goes_on(Subject::Net, &scratch, parent(&scratch).args(["--net", "tap=tap0"]));
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

fn resources_are_exchanged() {
    let scratch = Scratch::new();
    let (disk, other) =
        (scratch.file("disk", disk_contents()), scratch.file("other", disk_contents()));
    let socket = |name: &str| format!("socket={}", scratch.join(name).display());
    let vmm = parent(&scratch).disk(&disk, ",id=data").args(["--vsock", &socket("vsock")]);
    let puppet = Puppet::start(vmm.console(&socket("console")));
    let device = Device::find(&puppet, Subject::Block.kind());
    let _queue = Subject::Block.set_up(&device, 0);
    let vsock = Device::find(&puppet, Subject::Vsock.kind());
    let _sockets = Subject::Vsock.set_up(&vsock, 0);
    let console = Device::find(&puppet, Subject::Console.kind());
    let _console = Subject::Console.set_up(&console, 0);
    puppet.sync();
    let saved = save(&scratch, &["saved"]);

    // The parent lives and has its files; the copy has its own.
    let copy = copy_of(&saved).console(&socket("console2")).args(["--vsock", &socket("vsock2")]);
    let copy = copy.disk(&other, ",id=data").args(["--id", "copy"]).without_jail();
    let copy = Puppet::go_on(copy.arg("--api-sock").arg(scratch.join("copy.sock")));
    fs::write(&other, [9_u8; 512 * 4]).unwrap();
    let device = Device::find(&copy, Subject::Block.kind());
    let mut queue = Queue::go_on(device, 0);
    Subject::Block.fill_buffers(&copy, &queue);
    assert_eq!(queue.request(&Subject::Block.chain(&queue)), Answer::Used(0, 513));
    assert_eq!(copy.load(queue.buffer(1), 512), [9; 512], "the other disk");
    let api = Api::at(&scratch.join("copy.sock"));
    assert_eq!(api.get("/")["id"], "copy");
    let config = api.get("/vm/config");
    assert_eq!(config["drives"][0]["path_on_host"], other.to_str().unwrap());
    let mut client = UnixStream::connect(scratch.join("vsock2")).unwrap();
    client.write_all(b"CONNECT 7\n").unwrap();
    let mut visitor = UnixStream::connect(scratch.join("console2")).unwrap();
    let device = Device::find(&copy, Subject::Console.kind());
    let mut queue = Queue::go_on(device, Subject::Console.queue_index());
    Subject::Console.fill_buffers(&copy, &queue);
    assert_eq!(queue.request(&Subject::Console.chain(&queue)), Answer::Used(0, 0));
    let mut said = [0; 8];
    visitor.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"console\n");
    copy.finish();
    puppet.finish();
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

/// Bytes that the files of a snapshot take, and the number of files.
fn taken(directory: &Path) -> (u64, usize) {
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|it| it.unwrap()).collect();
    let blocks =
        |it: &fs::DirEntry| std::os::unix::fs::MetadataExt::blocks(&it.metadata().unwrap());
    (files.iter().map(|it| blocks(it) * 512).sum(), files.len())
}

fn changes_alone() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    for page in 0..256 {
        puppet.write(4, 0x100_0000 + page * 0x1000, 1);
    }
    puppet.sync();
    let base = save(&scratch, &["base"]);
    kill(puppet);
    fs::remove_file(scratch.join("api.sock")).unwrap();
    let copy = Puppet::go_on(
        copy_of(&base).without_jail().arg("--api-sock").arg(scratch.join("api.sock")),
    );
    for page in 0..3 {
        copy.write(4, 0x100_0000 + page * 0x5000, 2);
    }
    copy.write(4, 0x180_0000, 3);
    copy.sync();
    let first = save(&scratch, &["first", "--diff"]);
    assert!(taken(&first).0 < taken(&base).0 / 4, "{:?} {:?}", taken(&first), taken(&base));
    copy.write(4, 0x180_0000, 4);
    copy.sync();
    // In the place of the one before, whose base stays where it is.
    save(&scratch, &["first", "--diff"]);
    assert_eq!(taken(&first).1, 2);
    kill(copy);
    fs::remove_file(scratch.join("api.sock")).unwrap();
    let third = Puppet::go_on(
        copy_of(&first).without_jail().arg("--api-sock").arg(scratch.join("api.sock")),
    );
    let values = [0, 0x5000, 0xa000, 0x1000, 0x80_0000].map(|at| third.read(4, 0x100_0000 + at));
    assert_eq!(values, [2, 2, 2, 1, 4]);
    // A diff of a diff, and all in one.
    third.write(4, 0x180_0000, 5);
    third.sync();
    let second = save(&scratch, &["second", "--diff"]);
    let whole = save(&scratch, &["whole"]);
    kill(third);
    for saved in [&second, &whole] {
        let copy = Puppet::go_on(copy_of(saved));
        let values = [0, 0x5000, 0xa000, 0x1000, 0x80_0000].map(|at| copy.read(4, 0x100_0000 + at));
        assert_eq!(values, [2, 2, 2, 1, 5], "{saved:?}");
        copy.finish();
    }
    fs::remove_dir_all(&base).unwrap();
    Puppet::go_on(copy_of(&whole)).finish();
    let end = copy_of(&second).run().expect_code(152);
    end.expect_one_line(&["base/memory-", "cannot be read"]);
}

fn changes_that_are_tracked() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch).arg("--track-dirty"));
    let diff = |name: &str| {
        let end = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot");
        end.arg(scratch.join(name)).arg("--diff").run()
    };
    diff("x").expect_code(115).expect_one_line(&["nothing that a diff could differ from"]);
    puppet.write(4, 0x100_0000, 1);
    puppet.sync();
    save(&scratch, &["saved"]);
    for value in 2..5 {
        puppet.write(4, 0x100_0000 + value * 0x1000, value);
        puppet.sync();
        // Each into the directory of all that were before.
        save(&scratch, &["saved", "--diff"]);
        assert_eq!(taken(&scratch.join("saved")).1, value as usize + 1);
        assert_eq!(puppet.read(4, 0x100_0000), 1);
    }
    kill(puppet);
    let copy = Puppet::go_on(copy_of(&scratch.join("saved")));
    let values = [0, 2, 3, 4, 5].map(|page| copy.read(4, 0x100_0000 + page * 0x1000));
    assert_eq!(values, [1, 2, 3, 4, 0]);
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
