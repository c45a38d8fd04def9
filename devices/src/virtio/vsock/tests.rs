pub(super) mod fake;
mod saved;
mod volume;

use vm_memory::{Bytes, GuestAddress};

use super::muxer::MAX_RESETS;
use super::packet::{HEADER_LEN, HOST_CID, Header, Op, TYPE_STREAM};
use super::*;
use crate::backend::vsock::StreamId;
use crate::memory::GuestMemory;
use crate::test_util::{Running, guest_memory};
use crate::virtio::feature;
use fake::FakeHost;

const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;
const CID: u32 = 3;
const ECHO: u32 = 52;
/// Where the tests keep packets from the guest, and its buffers.
const SEND: u64 = 0x10_0000;
const ROOM: u64 = 0x20_0000;
/// Size of a buffer, and the distance from each to the next.
const BUFFER: u32 = 4096;

struct Setup {
    memory: GuestMemory,
    running: Running,
    host: FakeHost,
    buffers: u64,
}

impl Setup {
    fn new(features: u64) -> Self {
        Self::with(features, |_| {})
    }

    fn with(features: u64, prepare: impl FnOnce(&mut Vsock)) -> Self {
        let host = FakeHost::new(&[ECHO]);
        let opened = host.clone();
        let mut device = Vsock::new(CID, Box::new(move || Ok(opened.backend())));
        prepare(&mut device);
        let memory = guest_memory(4 << 20);
        let running = Running::new(Box::new(device), &memory, features, 0);
        assert!(running.host.is_running());
        Self { memory, running, host, buffers: 0 }
    }

    /// Offers `count` receive buffers.
    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let at = ROOM + u64::from(BUFFER) * (self.buffers % 16);
            self.buffers += 1;
            self.running.queues[RX].add(&[(at, BUFFER, true)]);
        }
        assert!(self.running.kick(0));
    }

    /// The guest sends a packet in two descriptors; whether the device lives.
    fn send(&mut self, header: Header, data: &[u8]) -> bool {
        let bytes = [&header.to_bytes()[..], data].concat();
        self.memory.write_slice(&bytes, GuestAddress(SEND)).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        self.running.queues[TX].add(&[(SEND, 20, false), (SEND + 20, len - 20, false)]);
        self.running.kick(1)
    }

    /// The packets in the buffers that came back, which must have been offered one after the other.
    fn got(&mut self) -> Vec<(Header, Vec<u8>)> {
        let used = self.running.queues[RX].take_used();
        let packets = used.into_iter().map(|(head, len)| {
            let at = ROOM + u64::from(BUFFER) * u64::from(head);
            let mut bytes = vec![0; len as usize];
            self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            let (header, data) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
            let header = Header::from_bytes(header);
            assert_eq!(header.len as usize, data.len());
            (header, data.to_vec())
        });
        packets.collect()
    }

    fn connect(&mut self) -> StreamId {
        self.offer(1);
        assert!(self.send(header(Op::Request), &[]));
        let got = self.got();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].0.op(), Some(Op::Response));
        self.host.last()
    }

    fn turn(&mut self) {
        assert!(self.running.host.run());
    }
}

fn header(op: Op) -> Header {
    Header {
        src_cid: u64::from(CID),
        dst_cid: HOST_CID,
        src_port: 1000,
        dst_port: ECHO,
        kind: TYPE_STREAM,
        op: op as u16,
        buf_alloc: 1 << 20,
        ..Header::default()
    }
}

fn noise(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn the_device_has_three_queues_and_tells_the_guest_its_address() {
    let setup = Setup::new(0);
    let transport = &setup.running.transport;
    assert_eq!(transport.device().device_type(), DeviceType::VSOCK);
    assert_eq!(transport.device().features(), F_STREAM);
    let sizes = [0, 1, 2, 3].map(|queue| transport.max_queue_size(queue));
    assert_eq!(sizes, [256, 256, 16, 0]);
    let mut config = [0xee; 12];
    transport.read_config(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn data_goes_both_ways() {
    for features in [0, feature::EVENT_IDX, F_STREAM] {
        let mut setup = Setup::new(features);
        let id = setup.connect();
        let data = noise(1000);
        assert!(setup.send(Header { len: 1000, ..header(Op::ReadWrite) }, &data));
        assert_eq!(setup.running.queues[TX].take_used().len(), 2);
        assert_eq!(setup.host.with(id, |program| program.got.clone()), data);

        setup.offer(1);
        setup.running.queues[RX].set_used_event(1);
        setup.host.send(id, b"answer");
        let edges = setup.running.line.edges();
        setup.turn();
        let got = setup.got();
        assert_eq!((got[0].0.op(), &got[0].1[..]), (Some(Op::ReadWrite), &b"answer"[..]));
        assert_eq!(setup.running.line.edges(), edges + 1);
    }
}

#[test]
fn a_program_reaches_the_guest() {
    let mut setup = Setup::new(0);
    setup.offer(1);
    let id = setup.host.ask(7);
    setup.turn();
    let got = setup.got();
    let (request, _) = got[0];
    assert_eq!((request.op(), request.dst_port), (Some(Op::Request), 7));
    let response = Header { src_port: 7, dst_port: request.src_port, ..header(Op::Response) };
    assert!(setup.send(response, &[]));
    assert_eq!(setup.host.with(id, |program| program.accepted), Some(request.src_port));
}

#[test]
fn data_larger_than_a_buffer_becomes_packets() {
    let mut setup = Setup::new(0);
    let id = setup.connect();
    let data = noise(20_000);
    setup.host.send(id, &data);
    setup.turn();
    assert_eq!(setup.got(), [], "there are no buffers");
    setup.offer(10);
    let got = setup.got();
    let most = BUFFER as usize - HEADER_LEN;
    let lengths: Vec<usize> = got.iter().map(|(_, data)| data.len()).collect();
    assert_eq!(lengths, [most, most, most, most, 20_000 - 4 * most]);
    assert_eq!(got.into_iter().flat_map(|(_, data)| data).collect::<Vec<_>>(), data);
    // The buffers that were not needed are still there for more.
    setup.host.send(id, b"more");
    setup.turn();
    assert_eq!(setup.got()[0].1, b"more");
}

#[test]
fn a_packet_holds_no_more_than_linux_takes() {
    let mut setup = Setup::new(0);
    let id = setup.connect();
    setup.host.send(id, &noise(100_000));
    for _ in 0..2 {
        setup.running.queues[RX].add(&[(ROOM, 1 << 20, true)]);
    }
    setup.turn();
    let used = setup.running.queues[RX].take_used();
    let lengths: Vec<u32> = used.into_iter().map(|(_, len)| len).collect();
    assert_eq!(lengths, [44 + (64 << 10), 44 + 100_000 - (64 << 10)]);
}

#[test]
fn packets_for_the_guest_wait_for_buffers() {
    for features in [0, feature::EVENT_IDX] {
        let mut setup = Setup::new(features);
        assert!(setup.send(header(Op::Request), &[]));
        assert_eq!(setup.got(), []);
        setup.offer(1);
        assert_eq!(setup.got()[0].0.op(), Some(Op::Response));
    }
}

#[test]
fn a_flood_without_buffers_stops_and_goes_on() {
    let mut setup = Setup::new(0);
    let nobody = Header { dst_port: 53, ..header(Op::Request) };
    let mut taken = 0;
    for _ in 0..MAX_RESETS + 8 {
        assert!(setup.send(nobody, &[]));
        taken += setup.running.queues[TX].take_used().len();
    }
    assert_eq!(taken, MAX_RESETS, "what cannot be answered is not taken");
    let mut answered = 0;
    while answered < MAX_RESETS + 8 {
        setup.offer(4);
        setup.turn();
        let got = setup.got();
        assert!(!got.is_empty(), "stuck after {answered}");
        assert!(got.iter().all(|(header, _)| header.op() == Some(Op::Reset)));
        answered += got.len();
        taken += setup.running.queues[TX].take_used().len();
    }
    assert_eq!(taken, MAX_RESETS + 8);
}

#[test]
fn a_receive_buffer_without_room_for_data_is_a_mistake() {
    for pieces in [vec![(ROOM, 44, true)], vec![(ROOM, 10, true), (ROOM + 10, 34, true)]] {
        let mut setup = Setup::new(0);
        setup.running.queues[RX].add(&pieces);
        assert!(setup.running.kick(0), "nobody has looked at it");
        assert!(!setup.send(header(Op::Request), &[]), "the device needs a reset");
    }
    let mut setup = Setup::new(0);
    setup.running.queues[RX].add(&[(ROOM, BUFFER, false)]);
    assert!(setup.running.kick(0));
    assert!(!setup.send(header(Op::Request), &[]), "not writable");
}

#[test]
fn a_reset_frees_everything_and_the_device_starts_again() {
    let mut setup = Setup::new(0);
    let id = setup.connect();
    setup.host.with(id, |program| program.room = 0);
    assert!(setup.send(Header { len: 5, ..header(Op::ReadWrite) }, b"stuck"));
    setup.running.transport.reset();
    assert_eq!(setup.host.closed(), (1, 1));
    for index in 0..3 {
        setup.memory.write_slice(&[0; 0x4000], GuestAddress(0x40000 * index)).unwrap();
    }
    let mut again = Setup {
        running: Running {
            queues: (0..3)
                .map(|i| crate::test_util::DriverQueue::new(&setup.memory, 0x40000 * i, 16))
                .collect(),
            ..setup.running
        },
        buffers: 0,
        ..setup
    };
    again.running.bring_up(0);
    let other = again.connect();
    assert_ne!(id, other);
}

#[test]
fn a_driver_that_lost_its_connections_is_told_so_once() {
    let mut setup = Setup::with(0, |device| device.restore(&State::new(), true).unwrap());
    // Nobody has kicked, and there is no buffer: it is told later.
    setup.turn();
    assert_eq!(setup.running.queues[EVENT].take_used(), []);
    setup.memory.write_slice(&[0xee; 8], GuestAddress(ROOM)).unwrap();
    for expected in [vec![(0, 4)], vec![]] {
        setup.running.queues[EVENT].add(&[(ROOM, 8, true)]);
        assert!(setup.running.kick(2));
        assert_eq!(setup.running.queues[EVENT].take_used(), expected);
    }
    let id: u32 = setup.memory.read_obj(GuestAddress(ROOM)).unwrap();
    assert_eq!(id, 0, "VIRTIO_VSOCK_EVENT_TRANSPORT_RESET");
}

#[test]
fn a_restored_driver_is_told_without_a_kick() {
    let memory = guest_memory(4 << 20);
    let host = FakeHost::new(&[]);
    let mut device = Vsock::new(CID, Box::new(move || Ok(host.backend())));
    device.restore(&State::new(), true).unwrap();
    let mut events = crate::test_util::DriverQueue::new(&memory, 0x40000 * 2, 16);
    events.add(&[(ROOM, 8, true)]);
    let mut running = Running::new(Box::new(device), &memory, 0, 0);
    assert!(running.host.run());
    assert_eq!(running.queues[EVENT].take_used(), [(0, 4)]);
}

#[test]
fn an_ordinary_driver_hears_of_no_event() {
    let mut setup = Setup::new(0);
    setup.running.queues[EVENT].add(&[(ROOM, 8, true)]);
    assert!(setup.running.kick(2));
    assert_eq!(setup.running.queues[EVENT].take_used(), []);
}
