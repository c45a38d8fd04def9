//! Each device at work, asked byte by byte: what it answers to correct requests, and to well-formed ones that make no
//! sense.

use std::fs;
use std::path::Path;
use std::time::Instant;

use harness::network::{Tap, in_own_network, interface_counter};
use harness::puppet::Puppet;
use harness::virtio::{Answer, Descriptor, Device, Kind, Queue, register};
use harness::{Need, Scratch, Vmm, patience};
use libtest_mimic::Trial;

use super::subject::{SECTORS, Subject, disk_contents};
use crate::suite::trial;

crate::suite::tests! { "bare::devices" needs &[Need::Kvm];
    rng_never_repeats,
    rng_answers_empty_and_huge_requests,
    block_configuration,
    block_reads_and_writes,
    block_identifies_itself,
    block_refuses_what_makes_no_sense,
    block_takes_any_framing,
    block_of_a_read_only_disk,
    block_discards_and_writes_zeroes,
    block_disk_truncated_under_the_guest,
    console_sends_and_receives,
    console_receive_buffers_malformed,
    disks_are_in_order,
    most_devices_that_fit,
}

/// The tests that need a network as well.
pub fn network_tests() -> Vec<Trial> {
    const NEEDS: &[Need] = &[Need::Kvm, Need::Network];
    let own = |name, test: fn()| trial(name, NEEDS, move || in_own_network(test));
    vec![
        own("bare::devices::net_configuration", net_configuration),
        own("bare::devices::net_sends_and_receives", net_sends_and_receives),
        own("bare::devices::net_receive_buffers_malformed", net_receive_buffers_malformed),
        own("bare::devices::net_frames_that_make_no_sense", net_frames_that_make_no_sense),
        own("bare::devices::net_flood_with_a_stalled_driver", net_flood_with_a_stalled_driver),
        own("bare::devices::net_tap_vanishes", net_tap_vanishes),
    ]
}

/// `VIRTIO_BLK_T_*` (virtio 1.3, 5.2.6)
mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A disk ready for requests.
struct Disk<'p> {
    puppet: &'p Puppet,
    queue: Queue<'p>,
}

impl<'p> Disk<'p> {
    fn ready(device: &Device<'p>, features: u64) -> Self {
        Self { puppet: device.puppet(), queue: Subject::Block.set_up(device, features) }
    }

    /// Makes a request with `data` as its one data buffer; the status, and how many bytes were written.
    #[track_caller]
    fn request(&mut self, kind: u32, sector: u64, data: Option<Descriptor>) -> (u8, u32) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let (head, status) = (self.queue.buffer(0), self.queue.buffer(2));
        self.puppet.store(head, &header);
        self.puppet.store(status, &[0x77]);
        let status = Descriptor::writable(status, 1);
        let chain = match data {
            Some(data) => vec![Descriptor::readable(head, 16).then(1), data.then(2), status],
            None => vec![Descriptor::readable(head, 16).then(1), status],
        };
        match self.queue.request(&chain) {
            Answer::Used(0, written) => (self.status(), written),
            other => panic!("request {kind} of sector {sector}: {other:?}"),
        }
    }

    fn status(&self) -> u8 {
        self.puppet.load(self.queue.buffer(2), 1)[0]
    }

    fn data(&self, len: u32) -> Descriptor {
        Descriptor::writable(self.queue.buffer(1), len)
    }

    fn sent(&self, bytes: &[u8]) -> Descriptor {
        self.puppet.store(self.queue.buffer(1), bytes);
        Descriptor::readable(self.queue.buffer(1), u32::try_from(bytes.len()).unwrap())
    }
}

fn with_disk(path: &Path, options: &str, test: impl FnOnce(&Device<'_>)) {
    let puppet = Puppet::start(Vmm::puppet("").args(["--rng", "off"]).disk(path, options));
    test(&Device::find(&puppet, Kind::Block));
    puppet.finish();
}

fn rng_never_repeats() {
    Subject::Rng.with_device(|device| {
        let mut queue = Subject::Rng.set_up(device, 0);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let chain = [Descriptor::writable(queue.buffer(0), 32)];
            assert_eq!(queue.request(&chain), Answer::Used(0, 32));
            seen.push(device.puppet().load(queue.buffer(0), 32));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    });
}

fn rng_answers_empty_and_huge_requests() {
    Subject::Rng.with_device(|device| {
        let mut queue = Subject::Rng.set_up(device, 0);
        let nothing_to_write = [Descriptor::readable(queue.buffer(0), 64)];
        assert_eq!(queue.request(&nothing_to_write), Answer::Used(0, 0));
        let huge = [Descriptor::writable(queue.buffer(0), 16 << 20)];
        match queue.request(&huge) {
            Answer::Used(0, written) => assert!((1..=16 << 20).contains(&written), "{written}"),
            other => panic!("{other:?}"),
        }
    });
}

fn block_configuration() {
    Subject::Block.with_device(|device| {
        assert_eq!(device.get(register::CONFIG), u32::from(SECTORS), "capacity in sectors");
        assert_eq!(device.get(register::CONFIG + 4), 0);
        const FLUSH: u64 = 1 << 9;
        const READ_ONLY: u64 = 1 << 5;
        assert_eq!(device.offered() & (FLUSH | READ_ONLY), FLUSH);
    });
}

fn block_reads_and_writes() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", disk_contents());
    with_disk(&path, "", |device| {
        let mut disk = Disk::ready(device, 0);
        let pattern: Vec<u8> = (0..=255).chain(0..=255).collect();
        let sent = disk.sent(&pattern);
        assert_eq!(disk.request(request::OUT, 5, Some(sent)), (OK, 1));
        assert_eq!(disk.request(request::FLUSH, 0, None), (OK, 1));
        let data = disk.data(3 * 512);
        assert_eq!(disk.request(request::IN, 4, Some(data)), (OK, 3 * 512 + 1));
        let read = disk.puppet.load(disk.queue.buffer(1), 3 * 512);
        assert_eq!(read, [&[4; 512], &pattern[..], &[6; 512]].concat());
    });
    let mut wanted = disk_contents();
    wanted[5 * 512..6 * 512].copy_from_slice(&(0..=255).chain(0..=255).collect::<Vec<u8>>());
    assert_eq!(fs::read(path).unwrap(), wanted);
}

fn block_identifies_itself() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", disk_contents());
    with_disk(&path, ",serial=exactly-20-bytes-abc", |device| {
        let mut disk = Disk::ready(device, 0);
        let data = disk.data(20);
        assert_eq!(disk.request(request::GET_ID, 0, Some(data)), (OK, 21));
        assert_eq!(disk.puppet.load(disk.queue.buffer(1), 20), b"exactly-20-bytes-abc");
    });
}

fn block_refuses_what_makes_no_sense() {
    Subject::Block.with_device(|device| {
        let mut disk = Disk::ready(device, 0);
        let beyond = u64::from(SECTORS);
        for (kind, sector, len) in [
            (request::IN, beyond, 512),
            (request::IN, beyond - 1, 1024),
            (request::IN, u64::MAX, 512),
            (request::IN, u64::MAX / 512, 512),
            (request::IN, u64::MAX / 512 + 1, 512),
            (request::IN, 0, 511),
            (request::IN, 0, 513),
            (request::IN, 0, 1),
        ] {
            let data = disk.data(len);
            let (status, _) = disk.request(kind, sector, Some(data));
            assert_eq!(status, IO_ERROR, "read of {len} bytes at sector {sector}");
        }
        for (sector, len) in [(beyond, 512), (u64::MAX, 512), (0, 100)] {
            let sent = disk.sent(&vec![9; len]);
            let (status, _) = disk.request(request::OUT, sector, Some(sent));
            assert_eq!(status, IO_ERROR, "write of {len} bytes at sector {sector}");
        }
        for kind in [2, 3, 5, 99, u32::MAX] {
            let data = disk.data(512);
            assert_eq!(disk.request(kind, 0, Some(data)).0, UNSUPPORTED, "type {kind}");
        }
        // Buffers of the wrong direction: the device can neither write nor read what it is given.
        let readable = disk.sent(&[1; 512]);
        let (status, _) = disk.request(request::IN, 0, Some(readable));
        assert!(matches!(status, OK | IO_ERROR), "{status}");
        let writable = disk.data(512);
        let (status, _) = disk.request(request::OUT, 0, Some(writable));
        assert!(matches!(status, OK | IO_ERROR), "{status}");
        let data = disk.data(512);
        assert_eq!(disk.request(request::IN, 0, Some(data)), (OK, 513));
        assert_eq!(disk.puppet.load(disk.queue.buffer(1), 512), [0; 512], "sector 0 is as it was");
    });
    Subject::Block.with_device(|device| {
        let head = |queue: &Queue<'_>| queue.buffer(0);
        let cases: [fn(u32) -> Vec<Descriptor>; 4] = [
            |head| vec![Descriptor::readable(head, 16)],
            |head| vec![Descriptor::readable(head, 16).then(1), Descriptor::readable(head, 512)],
            |head| vec![Descriptor::readable(head, 1)],
            |head| vec![Descriptor::readable(head, 8)],
        ];
        for without_status in cases {
            let mut queue = Subject::Block.set_up(device, 0);
            let chain = without_status(head(&queue));
            assert_eq!(
                queue.request(&chain),
                Answer::NeedsReset,
                "no room for a status: {chain:x?}"
            );
        }
        for header_len in [1, 15] {
            let mut disk = Disk::ready(device, 0);
            let status = Descriptor::writable(disk.queue.buffer(2), 1);
            let chain = [Descriptor::readable(head(&disk.queue), header_len).then(1), status];
            assert_eq!(disk.queue.request(&chain), Answer::Used(0, 1));
            assert_eq!(disk.status(), IO_ERROR, "header of {header_len} bytes");
        }
        Subject::Block.good_request(device);
    });
}

fn block_takes_any_framing() {
    Subject::Block.with_device(|device| {
        let mut disk = Disk::ready(device, 0);
        Subject::Block.fill_buffers(disk.puppet, &disk.queue);
        let (head, data) = (disk.queue.buffer(0), disk.queue.buffer(1));
        // Header and status in pieces of one buffer each, the status behind the data in one buffer.
        let chain = [
            Descriptor::readable(head, 1).then(1),
            Descriptor::readable(head + 1, 14).then(2),
            Descriptor::readable(head + 15, 1).then(3),
            Descriptor::writable(data, 511).then(4),
            Descriptor::writable(data + 511, 2),
        ];
        assert_eq!(disk.queue.request(&chain), Answer::Used(0, 513));
        assert_eq!(disk.puppet.load(data, 513), [&[3; 512][..], &[OK]].concat());
        // Header and data of a write in one buffer.
        disk.puppet.store(head, &[1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        disk.puppet.store(head + 16, &[0xee; 512]);
        disk.puppet.store(disk.queue.buffer(2), &[0x77]);
        let status = Descriptor::writable(disk.queue.buffer(2), 1);
        let chain = [Descriptor::readable(head, 16 + 512).then(1), status];
        assert_eq!(disk.queue.request(&chain), Answer::Used(0, 1));
        let buffer = disk.data(512);
        assert_eq!(disk.request(request::IN, 7, Some(buffer)), (OK, 513));
        assert_eq!(disk.puppet.load(data, 512), [0xee; 512]);
    });
}

fn block_of_a_read_only_disk() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", disk_contents());
    with_disk(&path, ",readonly", |device| {
        const READ_ONLY: u64 = 1 << 5;
        assert_eq!(device.offered() & READ_ONLY, READ_ONLY);
        let mut disk = Disk::ready(device, READ_ONLY);
        let sent = disk.sent(&[9; 512]);
        assert_eq!(disk.request(request::OUT, 0, Some(sent)).0, IO_ERROR);
        let data = disk.data(512);
        assert_eq!(disk.request(request::IN, 1, Some(data)).0, OK);
    });
    assert_eq!(fs::read(path).unwrap(), disk_contents());
}

fn block_discards_and_writes_zeroes() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", disk_contents());
    with_disk(&path, "", |device| {
        const DISCARD: u64 = 1 << 13;
        const WRITE_ZEROES: u64 = 1 << 14;
        assert_eq!(device.offered() & (DISCARD | WRITE_ZEROES), DISCARD | WRITE_ZEROES);
        let mut disk = Disk::ready(device, DISCARD | WRITE_ZEROES);
        let segment = |sector: u64, sectors: u32, flags: u32| {
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        };
        for (kind, bytes, wanted) in [
            (request::WRITE_ZEROES, segment(8, 8, 0), OK),
            (request::WRITE_ZEROES, segment(16, 8, 1), OK),
            (request::DISCARD, segment(24, 8, 0), OK),
            (request::WRITE_ZEROES, segment(60, 8, 0), IO_ERROR),
            (request::WRITE_ZEROES, segment(u64::MAX, 8, 0), IO_ERROR),
            (request::DISCARD, segment(u64::MAX, u32::MAX, 0), IO_ERROR),
            (request::WRITE_ZEROES, segment(0, 1, 0xfffe), UNSUPPORTED),
            (request::DISCARD, segment(0, 1, 1), UNSUPPORTED),
            (request::DISCARD, segment(0, 1, 0)[..15].to_vec(), IO_ERROR),
        ] {
            let sent = disk.sent(&bytes);
            assert_eq!(disk.request(kind, 0, Some(sent)).0, wanted, "type {kind}: {bytes:x?}");
        }
        let data = disk.data(8 * 512);
        assert_eq!(disk.request(request::IN, 8, Some(data)).0, OK);
        assert_eq!(disk.puppet.load(disk.queue.buffer(1), 512), [0; 512]);
    });
    let after = fs::read(path).unwrap();
    assert_eq!(after.len(), disk_contents().len(), "the disk keeps its size");
    assert!(after[8 * 512..24 * 512].iter().all(|&byte| byte == 0), "zeroes were written");
    assert_eq!(after[..8 * 512], disk_contents()[..8 * 512]);
    assert_eq!(after[32 * 512..], disk_contents()[32 * 512..]);
}

fn block_disk_truncated_under_the_guest() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", disk_contents());
    with_disk(&path, "", |device| {
        let mut disk = Disk::ready(device, 0);
        fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        let data = disk.data(512);
        assert_eq!(disk.request(request::IN, 32, Some(data)).0, IO_ERROR);
        let data = disk.data(512);
        assert_eq!(disk.request(request::IN, 1, Some(data)).0, OK);
    });
}

fn console_sends_and_receives() {
    let scratch = Scratch::new();
    let socket = scratch.join("socket");
    let target = format!("socket={}", socket.display());
    let puppet = Puppet::start(Vmm::puppet("").args(["--rng", "off"]).console(&target));
    let device = Device::find(&puppet, Kind::Console);
    device.negotiate(0);
    let (mut receive, mut send) = (device.queue(0), device.queue(1));
    device.driver_ok();
    puppet.store(send.buffer(0), b"sent before anybody listens\n");
    let chain = [Descriptor::readable(send.buffer(0), 28)];
    assert_eq!(send.request(&chain), Answer::Used(0, 0));

    let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    client.set_read_timeout(Some(patience())).unwrap();
    let mut heard = [0; 28];
    std::io::Read::read_exact(&mut client, &mut heard).unwrap();
    assert_eq!(&heard, b"sent before anybody listens\n");

    std::io::Write::write_all(&mut client, b"typed").unwrap();
    receive.describe(&[Descriptor::writable(receive.buffer(0), 64)]);
    receive.offer(0);
    receive.kick();
    let Answer::Used(0, len) = receive.answer() else { panic!("no input") };
    assert!(b"typed".starts_with(&puppet.load(receive.buffer(0), len)), "{len} bytes");
    assert!(len > 0);
    puppet.finish();
    assert_eq!(scratch.names(), [""; 0], "the socket is gone");
}

fn console_receive_buffers_malformed() {
    let scratch = Scratch::new();
    let socket = scratch.join("socket");
    let target = format!("socket={}", socket.display());
    let puppet = Puppet::start(Vmm::puppet("").args(["--rng", "off"]).console(&target));
    let device = Device::find(&puppet, Kind::Console);
    let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    for spoil in RECEIVE_DEFECTS {
        device.negotiate(0);
        let (mut receive, _send) = (device.queue(0), device.queue(1));
        device.driver_ok();
        std::io::Write::write_all(&mut client, b"input\n").unwrap();
        let chain = spoil(&receive);
        assert_eq!(receive.request(&chain), Answer::NeedsReset, "{chain:x?}");
    }
    Subject::Console.good_request(&device);
    puppet.finish();
}

/// Receive buffers that cannot be used.
const RECEIVE_DEFECTS: [fn(&Queue<'_>) -> Vec<Descriptor>; 4] = [
    |queue| vec![Descriptor::writable(queue.buffer(0), 4096).then(0)],
    |_| vec![Descriptor::writable(0xd000_0000, 4096)],
    |queue| vec![Descriptor::writable(queue.buffer(0), 0)],
    |queue| vec![Descriptor::writable(queue.buffer(0), 4096).then(Queue::SIZE)],
];

fn disks_are_in_order() {
    let scratch = Scratch::new();
    let mut vmm = Vmm::puppet("").args(["--rng", "off"]);
    for sectors in 1..=8 {
        vmm = vmm.disk(scratch.sparse_file(&format!("{sectors}"), sectors * 512), "");
    }
    let puppet = Puppet::start(vmm);
    let disks = Device::all(&puppet);
    let disks = disks.iter().filter(|device| device.get(register::DEVICE_ID) == Kind::Block as u32);
    let capacities: Vec<u32> = disks.map(|device| device.get(register::CONFIG)).collect();
    assert_eq!(capacities, [1, 2, 3, 4, 5, 6, 7, 8]);
    puppet.finish();
}

/// One more than fits is refused before anything starts.
fn most_devices_that_fit() {
    let scratch = Scratch::new();
    let with = |count: usize| {
        let vmm = Vmm::puppet("").args(["--rng", "off"]);
        (0..count).fold(vmm, |vmm, n| vmm.disk(scratch.sparse_file(&format!("{n}"), 512), ""))
    };
    let puppet = Puppet::start(with(17));
    assert_eq!(Device::all(&puppet).len(), 17);
    for device in Device::all(&puppet) {
        let mut queue = Subject::Block.set_up(&device, 0);
        puppet.store(queue.buffer(0), &[0; 16]);
        assert_eq!(queue.request(&Subject::Block.chain(&queue)), Answer::Used(0, 513));
    }
    puppet.finish();
    with(40).run().expect_code(152).expect_one_line(&["device"]);
}

fn net_with(options: &str) -> Puppet {
    let value = format!("tap=tap0{options}");
    Puppet::start(Vmm::puppet("").args(["--rng", "off", "--net", &value]))
}

fn net_configuration() {
    let _tap = Tap::new("tap0");
    let puppet = net_with(",mac=02:11:22:33:44:55,mtu=1400");
    let device = Device::find(&puppet, Kind::Net);
    assert_eq!(puppet.load(device.window + register::CONFIG, 6), [2, 0x11, 0x22, 0x33, 0x44, 0x55]);
    assert_eq!(puppet.read(2, device.window + register::CONFIG + 10), 1400, "mtu");
    puppet.finish();
}

fn net_sends_and_receives() {
    let tap = Tap::new("tap0");
    let puppet = net_with("");
    let device = Device::find(&puppet, Kind::Net);
    // The host counts what it receives from the guest.
    let before = interface_counter("tap0", "rx_packets");
    Subject::Net.good_request(&device);
    let deadline = Instant::now() + patience();
    while interface_counter("tap0", "rx_packets") == before {
        assert!(Instant::now() < deadline, "the frame did not arrive");
    }

    device.negotiate(0);
    let (mut receive, _send) = (device.queue(0), device.queue(1));
    device.driver_ok();
    tap.send_broadcast(333);
    wait_for_frame(&puppet, &mut receive, 333, || {});
    puppet.finish();
}

/// Waits for a frame of [`Tap::send_broadcast`]; others may come before. `again` runs after each of those, since
/// the one waited for may have been dropped by a full tap.
#[track_caller]
fn wait_for_frame(puppet: &Puppet, receive: &mut Queue<'_>, payload: u32, again: impl Fn()) {
    const HEADERS: u32 = 12 + 14 + 20 + 8;
    receive.describe(&[Descriptor::writable(receive.buffer(0), 4096)]);
    let deadline = Instant::now() + patience();
    while Instant::now() < deadline {
        receive.offer(0);
        receive.kick();
        let Answer::Used(0, len) = receive.answer() else { panic!("no frame") };
        if len == HEADERS + payload {
            let frame = puppet.load(receive.buffer(0), len);
            assert_eq!(frame[10..12], [1, 0], "number of buffers");
            let (_, received) = frame.split_at(HEADERS as usize);
            assert!(received.iter().all(|&byte| byte == 0x5a), "{received:x?}");
            return;
        }
        again();
    }
    panic!("the frame did not come");
}

fn net_receive_buffers_malformed() {
    let tap = Tap::new("tap0");
    let puppet = net_with("");
    let device = Device::find(&puppet, Kind::Net);
    for spoil in RECEIVE_DEFECTS {
        device.negotiate(0);
        let (mut receive, _send) = (device.queue(0), device.queue(1));
        device.driver_ok();
        let chain = spoil(&receive);
        receive.describe(&chain);
        receive.offer(0);
        receive.kick();
        tap.send_broadcast(100);
        assert_eq!(receive.answer(), Answer::NeedsReset, "{chain:x?}");
    }
    Subject::Net.good_request(&device);
    puppet.finish();
}

fn net_frames_that_make_no_sense() {
    let _tap = Tap::new("tap0");
    let puppet = net_with("");
    let device = Device::find(&puppet, Kind::Net);
    let mut send = Subject::Net.set_up(&device, 0);
    // Too short for the header, for an Ethernet header, for anything; then far too long.
    for len in [1, 11, 12, 13, 25, 70_000, 1 << 20] {
        match send.request(&[Descriptor::readable(send.buffer(0), len)]) {
            Answer::Used(0, 0) => {}
            Answer::NeedsReset => send = Subject::Net.set_up(&device, 0),
            other => panic!("frame of {len} bytes: {other:?}"),
        }
    }
    // Offloads that were not agreed on, and checksum positions outside of the frame.
    for header in
        [[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [0xff; 12]]
    {
        puppet.store(send.buffer(0), &header);
        match send.request(&[Descriptor::readable(send.buffer(0), 12 + 60)]) {
            Answer::Used(0, 0) => {}
            Answer::NeedsReset => send = Subject::Net.set_up(&device, 0),
            other => panic!("header {header:x?}: {other:?}"),
        }
    }
    // Nothing to read.
    match send.request(&[Descriptor::writable(send.buffer(0), 100)]) {
        Answer::Used(0, 0) | Answer::NeedsReset => {}
        other => panic!("{other:?}"),
    }
    Subject::Net.good_request(&device);
    puppet.finish();
}

fn net_flood_with_a_stalled_driver() {
    let tap = Tap::new("tap0");
    // Less to read afterwards, where that is allowed.
    let _ = tap.set_queue_len(8);
    let puppet = net_with("");
    let device = Device::find(&puppet, Kind::Net);
    device.negotiate(0);
    let (mut receive, _send) = (device.queue(0), device.queue(1));
    device.driver_ok();
    puppet.sync();
    let memory_before = puppet.with_machine(|machine| machine.own_memory());
    for _ in 0..20_000 {
        tap.send_broadcast(1400);
    }
    let memory_after = puppet.with_machine(|machine| machine.own_memory());
    assert!(memory_after < memory_before + (1 << 20), "{memory_before} to {memory_after} bytes");
    // What the tap's short queue kept of the flood is older than what comes now.
    tap.send_broadcast(77);
    wait_for_frame(&puppet, &mut receive, 77, || tap.send_broadcast(77));
    puppet.finish();
}

fn net_tap_vanishes() {
    let tap = Tap::new("tap0");
    let puppet = net_with("");
    let device = Device::find(&puppet, Kind::Net);
    Subject::Net.good_request(&device);
    tap.delete();
    let mut send = Subject::Net.set_up(&device, 0);
    Subject::Net.fill_buffers(&puppet, &send);
    for _ in 0..3 {
        match send.request(&Subject::Net.chain(&send)) {
            Answer::Used(0, 0) => {}
            Answer::NeedsReset => send = Subject::Net.set_up(&device, 0),
            other => panic!("{other:?}"),
        }
    }
    puppet.finish();
}
