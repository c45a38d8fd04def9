//! Devices go on, with the same resources of the host or with others.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use harness::api::Api;
use harness::network::{Tap, in_own_network};
use harness::puppet::Puppet;
use harness::virtio::{Answer, Device, Queue};
use harness::{Need, Scratch, Vmm};
use libtest_mimic::Trial;

use super::{Subject, copy_of, disk_contents, kill, parent, save};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    let own: [(&str, fn()); 2] =
        [("devices_go_on", devices_go_on), ("resources_are_exchanged", resources_are_exchanged)];
    own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), &[Need::Kvm], test)).into()
}

/// The tests that need a network as well.
pub fn network_tests() -> Vec<Trial> {
    const NEEDS: &[Need] = &[Need::Kvm, Need::Network];
    let test = || in_own_network(a_network_card_goes_on);
    vec![trial("bare::snapshot::a_network_card_goes_on", NEEDS, test)]
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
