use std::net::Shutdown;

use vm_memory::{Bytes, GuestAddress};

use super::super::tests::fake::{FakeHost, HUNG_UP, READABLE, WRITABLE};
use super::*;
use crate::memory::{GuestMemory, Segment};
use crate::test_util::guest_memory;

const CID: u64 = 42;
/// A host's port on which a program listens.
const ECHO: u32 = 52;
/// The guest's room for data.
const GUEST_ROOM: u32 = 64 << 10;

/// A muxer between a guest without queues and a host without sockets.
struct Setup {
    muxer: Muxer,
    host: FakeHost,
    memory: GuestMemory,
    counters: Arc<Counters>,
}

/// What the guest got.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    op: Op,
    ports: Ports,
    flags: u32,
    data: Vec<u8>,
}

impl Setup {
    fn new() -> Self {
        let host = FakeHost::new(&[ECHO]);
        let counters = Arc::<Counters>::default();
        let muxer = Muxer::new(CID, host.backend(), counters.clone());
        Self { muxer, host, memory: guest_memory(4 << 20), counters }
    }

    /// The guest sends a packet in pieces of an odd size.
    fn packet(&mut self, header: Header, data: &[u8]) {
        let bytes = [&header.to_bytes()[..], data].concat();
        self.memory.write_slice(&bytes, GuestAddress(0)).unwrap();
        let pieces: Vec<Segment> = (0..bytes.len())
            .step_by(4093)
            .map(|start| Segment {
                address: GuestAddress(start as u64),
                len: u32::try_from((bytes.len() - start).min(4093)).unwrap(),
            })
            .collect();
        self.muxer.receive(&Buffers::new(&self.memory, &pieces)).unwrap();
    }

    fn send(&mut self, op: Op, guest: u32, host: u32) {
        self.packet(header(op, guest, host), &[]);
    }

    fn send_data(&mut self, guest: u32, host: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.packet(Header { len, ..header(Op::ReadWrite, guest, host) }, data);
    }

    /// The guest has connected from its port `guest`.
    fn connect(&mut self, guest: u32) -> StreamId {
        self.send(Op::Request, guest, ECHO);
        assert_eq!(ops(&self.take()), [Op::Response]);
        self.host.last()
    }

    /// A program of the host has connected to `port` of the guest, from the port that it is told.
    fn be_connected(&mut self, port: u32) -> (StreamId, u32) {
        let id = self.host.ask(port);
        self.muxer.poll();
        let got = self.take();
        assert_eq!(ops(&got), [Op::Request]);
        let host = got[0].ports.host;
        self.send(Op::Response, port, host);
        (id, host)
    }

    /// Hears what the host has told, then takes everything for the guest, 4000 bytes of data at a time.
    fn turn(&mut self) -> Vec<Got> {
        self.muxer.poll();
        self.take()
    }

    fn take(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        let room = Segment { address: GuestAddress(0x10_0000), len: 4000 };
        while let Some(next) = self.muxer.next() {
            let (header, data) = match next {
                Next::Packet(header) => (header, Vec::new()),
                Next::Data { id, limit, .. } => {
                    let len = room.len.min(u32::try_from(limit).unwrap());
                    let room = [Segment { len, ..room }];
                    let Some(count) = self.muxer.read(id, &Buffers::new(&self.memory, &room))
                    else {
                        continue;
                    };
                    let header = self.muxer.data_header(id, count);
                    self.muxer.has_read(id);
                    let mut data = vec![0; count];
                    self.memory.read_slice(&mut data, room[0].address).unwrap();
                    (header, data)
                }
            };
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
            let ports = Ports { host: header.src_port, guest: header.dst_port };
            all.push(Got { op: header.op().unwrap(), ports, flags: header.flags, data });
        }
        assert!(!self.muxer.has_next());
        all
    }
}

fn header(op: Op, guest: u32, host: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: guest,
        dst_port: host,
        kind: TYPE_STREAM,
        op: op as u16,
        buf_alloc: GUEST_ROOM,
        ..Header::default()
    }
}

fn ops(got: &[Got]) -> Vec<Op> {
    got.iter().map(|got| got.op).collect()
}

fn data(got: &[Got]) -> Vec<u8> {
    got.iter().flat_map(|got| got.data.clone()).collect()
}

fn noise(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn a_guest_talks_to_a_program_of_the_host() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.send_data(1000, ECHO, b"hello");
    assert_eq!(setup.host.with(id, |program| program.got.clone()), b"hello");
    setup.host.send(id, b"world");
    let got = setup.turn();
    assert_eq!((ops(&got), data(&got)), (vec![Op::ReadWrite], b"world".to_vec()));
    assert_eq!(got[0].ports, Ports { host: ECHO, guest: 1000 });
    assert_eq!((setup.counters.tx_bytes.get(), setup.counters.rx_bytes.get()), (5, 5));
}

#[test]
fn nobody_listens() {
    let mut setup = Setup::new();
    setup.send(Op::Request, 1000, 53);
    let got = setup.take();
    assert_eq!((ops(&got), got[0].ports), (vec![Op::Reset], Ports { host: 53, guest: 1000 }));
    assert_eq!(setup.counters.refused.get(), 1);
}

#[test]
fn a_program_of_the_host_talks_to_the_guest() {
    let mut setup = Setup::new();
    let id = setup.host.ask(7);
    setup.host.send(id, b"early");
    let got = setup.turn();
    assert_eq!((ops(&got), got[0].ports.guest), (vec![Op::Request], 7));
    let host = got[0].ports.host;
    assert!(host >= 1 << 30);
    assert_eq!(setup.host.with(id, |program| program.accepted), None);
    setup.send(Op::Response, 7, host);
    assert_eq!(setup.host.with(id, |program| program.accepted), Some(host));
    assert_eq!(data(&setup.take()), b"early", "sent before the guest answered");
    let (_, other) = setup.be_connected(7);
    assert_ne!(other, host);
}

#[test]
fn the_guest_refuses() {
    let mut setup = Setup::new();
    let id = setup.host.ask(7);
    let host = setup.turn()[0].ports.host;
    setup.send(Op::Reset, 7, host);
    assert!(setup.host.with(id, |program| program.is_closed && program.accepted.is_none()));
    assert_eq!((setup.take(), setup.counters.refused.get()), (Vec::new(), 1));
}

#[test]
fn a_program_that_does_not_wait_for_the_answer_is_forgotten() {
    let mut setup = Setup::new();
    let id = setup.host.ask(7);
    let host = setup.turn()[0].ports.host;
    setup.host.ready(id, HUNG_UP);
    assert_eq!(ops(&setup.turn()), [Op::Reset]);
    assert!(setup.host.with(id, |program| program.is_closed));
    // The answer crosses the reset.
    setup.send(Op::Response, 7, host);
    assert_eq!(ops(&setup.take()), [Op::Reset]);
}

#[test]
fn the_guest_never_hears_of_a_program_that_comes_and_goes() {
    let mut setup = Setup::new();
    let id = setup.host.ask(7);
    setup.host.ready(id, HUNG_UP);
    assert_eq!(setup.turn(), []);
    assert!(setup.host.with(id, |program| program.is_closed));
    assert!(setup.muxer.round.is_empty() && setup.muxer.by_ports.is_empty());
}

#[test]
fn a_program_that_reads_nothing_costs_no_more_than_its_room() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.room = 10);
    let sent = noise(ROOM as usize);
    for piece in sent.chunks(60_000) {
        setup.send_data(1000, ECHO, piece);
    }
    assert_eq!(setup.host.with(id, |program| program.got.len()), 10);
    // Ten bytes have left, so that ten more fit, and none beyond.
    setup.send_data(1000, ECHO, &[1; 10]);
    assert_eq!(setup.take(), []);
    assert!(setup.host.with(id, |program| program.watches_room));

    setup.host.with(id, |program| program.room = usize::MAX);
    setup.host.ready(id, WRITABLE);
    assert_eq!(ops(&setup.turn()), [Op::CreditUpdate]);
    let got = setup.host.with(id, |program| program.got.clone());
    assert_eq!(got, [&sent[..], &[1; 10]].concat());
    assert!(!setup.host.with(id, |program| program.watches_room));
}

#[test]
fn a_guest_that_overruns_is_reset() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.room = 0);
    for _ in 0..ROOM >> 16 {
        setup.send_data(1000, ECHO, &noise(1 << 16));
    }
    assert_eq!(setup.take(), []);
    setup.send_data(1000, ECHO, b"x");
    assert_eq!(ops(&setup.take()), [Op::Reset]);
    assert!(setup.host.with(id, |program| program.is_closed));
}

#[test]
fn a_guest_that_reads_nothing_leaves_the_data_on_the_host() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.send(id, &noise(100_000));
    let got = setup.turn();
    assert_eq!(data(&got), noise(GUEST_ROOM as usize));
    assert_eq!(got.last().unwrap().op, Op::CreditRequest);
    assert_eq!(setup.host.with(id, |program| program.sent.len()), 100_000 - GUEST_ROOM as usize);
    assert_eq!(setup.turn(), [], "the guest is asked once");
    setup.packet(Header { fwd_cnt: GUEST_ROOM, ..header(Op::CreditUpdate, 1000, ECHO) }, &[]);
    assert_eq!(data(&setup.take()), noise(100_000)[GUEST_ROOM as usize..]);
}

#[test]
fn connections_take_turns() {
    let mut setup = Setup::new();
    let ids = [setup.connect(1), setup.connect(2), setup.connect(3)];
    for id in ids {
        setup.host.send(id, &noise(12_000));
    }
    let order: Vec<u32> = setup.turn().iter().map(|got| got.ports.guest).collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_program_ends_its_half_and_the_guest_its_own() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.has_ended = true);
    setup.host.send(id, b"last");
    let got = setup.turn();
    assert_eq!((ops(&got), data(&got)), (vec![Op::ReadWrite, Op::Shutdown], b"last".to_vec()));
    assert_eq!(got[1].flags, 2, "no more is sent");
    setup.send_data(1000, ECHO, b"still heard");
    assert_eq!(setup.host.with(id, |program| program.got.clone()), b"still heard");
    setup.packet(Header { flags: 3, ..header(Op::Shutdown, 1000, ECHO) }, &[]);
    assert!(setup.host.with(id, |program| program.is_closed));
    assert_eq!(ops(&setup.take()), [Op::Reset]);
}

#[test]
fn the_guest_ends_its_half_after_what_it_sent() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.room = 2);
    setup.send_data(1000, ECHO, b"last");
    setup.packet(Header { flags: 2, ..header(Op::Shutdown, 1000, ECHO) }, &[]);
    assert_eq!(setup.host.with(id, |program| program.shut_down.clone()), []);
    setup.host.with(id, |program| program.room = 10);
    setup.host.ready(id, WRITABLE);
    setup.host.send(id, b"reply");
    assert_eq!(data(&setup.turn()), b"reply");
    setup.host.with(id, |program| {
        assert_eq!(
            (&program.got[..], &program.shut_down[..]),
            (&b"last"[..], &[Shutdown::Write][..])
        );
    });
}

#[test]
fn who_only_listens_is_done_with_the_guest() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.only_listens = true);
    setup.host.with(id, |program| program.room = 10);
    setup.send_data(1000, ECHO, b"READY=1");
    setup.packet(Header { flags: 2, ..header(Op::Shutdown, 1000, ECHO) }, &[]);
    let got = setup.take();
    assert_eq!((ops(&got), got[0].flags), (vec![Op::Shutdown], 3), "nothing will be said");
    setup.host.with(id, |program| {
        assert_eq!((&program.got[..], program.is_closed), (&b"READY=1"[..], true));
    });
    setup.send(Op::Reset, 1000, ECHO);
    assert_eq!(setup.take(), []);
}

#[test]
fn what_a_guest_sent_before_it_closed_still_arrives() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.room = 2);
    setup.send_data(1000, ECHO, b"last words");
    setup.packet(Header { flags: 3, ..header(Op::Shutdown, 1000, ECHO) }, &[]);
    assert_eq!(ops(&setup.take()), [Op::Reset]);
    // The ports are free for another connection.
    let other = setup.connect(1000);
    assert_ne!(id, other);
    assert!(!setup.host.with(id, |program| program.is_closed));
    setup.host.with(id, |program| program.room = 100);
    setup.host.ready(id, WRITABLE);
    assert_eq!(setup.turn(), []);
    setup.host.with(id, |program| {
        assert_eq!((&program.got[..], program.is_closed), (&b"last words"[..], true));
    });
}

#[test]
fn a_program_that_goes_takes_what_waits_for_it_along() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.room = 0);
    setup.send_data(1000, ECHO, &noise(1000));
    setup.host.with(id, |program| {
        program.sent.extend(b"bye");
        (program.has_ended, program.is_deaf) = (true, true);
    });
    setup.host.ready(id, HUNG_UP);
    let got = setup.turn();
    assert_eq!((ops(&got), data(&got)), (vec![Op::ReadWrite, Op::Shutdown], b"bye".to_vec()));
    assert_eq!(got[1].flags, 3);
    assert!(setup.host.with(id, |program| program.is_closed));
    // What is under way is taken and dropped, until the guest has closed as well.
    for _ in 0..10 {
        setup.send_data(1000, ECHO, &noise(60_000));
        assert!(setup.take().iter().all(|got| got.op == Op::CreditUpdate));
    }
    setup.send(Op::Reset, 1000, ECHO);
    assert_eq!(setup.take(), []);
    setup.connect(1000);
}

#[test]
fn a_program_that_goes_while_the_guest_has_no_room_is_read_to_the_end() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.has_ended = true);
    setup.host.send(id, &noise(GUEST_ROOM as usize + 5));
    setup.host.ready(id, HUNG_UP);
    assert_eq!(data(&setup.turn()).len(), GUEST_ROOM as usize);
    setup.packet(Header { fwd_cnt: GUEST_ROOM, ..header(Op::CreditUpdate, 1000, ECHO) }, &[]);
    let got = setup.take();
    assert_eq!(data(&got), noise(GUEST_ROOM as usize + 5)[GUEST_ROOM as usize..]);
    assert_eq!((got.last().unwrap().op, got.last().unwrap().flags), (Op::Shutdown, 3));
}

#[test]
fn failures_of_the_host_reset_the_connection() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.is_broken = true);
    setup.host.ready(id, READABLE);
    assert_eq!(ops(&setup.turn()), [Op::Reset]);
    assert!(setup.host.with(id, |program| program.is_closed));

    let id = setup.host.ask(7);
    setup.host.with(id, |program| program.is_deaf = true);
    let host = setup.turn()[0].ports.host;
    setup.send(Op::Response, 7, host);
    assert_eq!(ops(&setup.take()), [Op::Reset], "the program could not be told");
    assert_eq!(setup.counters.broken.get(), 2);
}

#[test]
fn a_program_that_reads_no_more_is_told_of() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.host.with(id, |program| program.is_deaf = true);
    setup.send_data(1000, ECHO, b"lost");
    let got = setup.take();
    assert_eq!((ops(&got), got[0].flags), (vec![Op::Shutdown], 1));
    setup.host.send(id, b"it still speaks");
    assert_eq!(data(&setup.turn()), b"it still speaks");
}

#[test]
fn packets_that_make_no_sense_are_reset() {
    let good = header(Op::Request, 1000, ECHO);
    for bad in [
        Header { src_cid: CID + 1, ..good },
        Header { src_cid: CID | 1 << 32, ..good },
        Header { dst_cid: 7, ..good },
        Header { dst_cid: HOST_CID | 1 << 32, ..good },
        Header { kind: 0, ..good },
        Header { kind: 2, ..good },
        Header { op: 0, ..good },
        Header { op: 9, ..good },
        header(Op::Response, 1000, ECHO),
        header(Op::Shutdown, 1000, ECHO),
        header(Op::ReadWrite, 1000, ECHO),
        header(Op::CreditUpdate, 1000, ECHO),
        header(Op::CreditRequest, 1000, ECHO),
    ] {
        let mut setup = Setup::new();
        setup.packet(bad, &[]);
        let Some(Next::Packet(reset)) = setup.muxer.next() else { panic!("no answer: {bad:?}") };
        assert_eq!((reset.op(), reset.dst_cid), (Some(Op::Reset), CID));
        assert_eq!((reset.src_cid, reset.kind), (bad.dst_cid, bad.kind));
        assert_eq!((reset.src_port, reset.dst_port), (ECHO, 1000));
        assert_eq!((setup.take(), setup.counters.tx_rejected.get()), (Vec::new(), 1));
    }
}

#[test]
fn a_reset_is_never_answered() {
    let mut setup = Setup::new();
    setup.send(Op::Reset, 1000, ECHO);
    setup.packet(Header { dst_cid: 9, ..header(Op::Reset, 1000, ECHO) }, &[]);
    assert_eq!(setup.take(), []);
}

#[test]
fn a_packet_with_less_data_than_it_says_ends_the_connection() {
    for (len, data) in [(5, &b"four"[..]), (1, b""), (u32::MAX, b"x")] {
        let mut setup = Setup::new();
        let id = setup.connect(1000);
        setup.packet(Header { len, ..header(Op::ReadWrite, 1000, ECHO) }, data);
        assert_eq!(ops(&setup.take()), [Op::Reset], "{len}");
        setup.host.with(id, |program| assert!(program.is_closed && program.got.is_empty()));
    }
}

#[test]
fn what_follows_the_data_is_nobodys() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.packet(Header { len: 4, ..header(Op::ReadWrite, 1000, ECHO) }, b"datatail");
    setup.packet(Header { len: 0, ..header(Op::ReadWrite, 1000, ECHO) }, b"tail");
    assert_eq!(setup.host.with(id, |program| program.got.clone()), b"data");
}

#[test]
fn a_packet_too_short_for_a_header_is_dropped() {
    let mut setup = Setup::new();
    let piece = [Segment { address: GuestAddress(0), len: 43 }];
    setup.muxer.receive(&Buffers::new(&setup.memory, &piece)).unwrap();
    setup.muxer.receive(&Buffers::new(&setup.memory, &[])).unwrap();
    assert_eq!((setup.take(), setup.counters.tx_rejected.get()), (Vec::new(), 2));
}

#[test]
fn there_is_a_limit_to_connections_on_both_sides() {
    let mut setup = Setup::new();
    for port in 0..u32::try_from(MAX_CONNECTIONS).unwrap() {
        setup.connect(port);
    }
    setup.send(Op::Request, 5000, ECHO);
    assert_eq!(ops(&setup.take()), [Op::Reset]);
    let id = setup.host.ask(7);
    assert_eq!(setup.turn(), []);
    assert!(setup.host.with(id, |program| program.is_closed));
    // One goes, another one comes.
    setup.send(Op::Reset, 0, ECHO);
    setup.connect(5000);
    assert_eq!(setup.counters.refused.get(), 2);
}

#[test]
fn resets_that_nobody_takes_stop_the_flow_of_packets() {
    let mut setup = Setup::new();
    let mut count = 0;
    while setup.muxer.takes_packets() {
        setup.send(Op::Request, 1000, 53);
        count += 1;
    }
    assert_eq!(count, MAX_RESETS);
    assert!(setup.muxer.next().is_some());
    assert!(setup.muxer.takes_packets());
}

#[test]
fn a_guest_that_opens_and_resets_without_end_costs_nothing() {
    let mut setup = Setup::new();
    for _ in 0..10_000 {
        setup.send(Op::Request, 1000, ECHO);
        setup.send(Op::Reset, 1000, ECHO);
    }
    assert_eq!(setup.host.closed(), (10_000, 10_000));
    assert_eq!((setup.muxer.round.len(), setup.muxer.resets.len()), (0, 0));
    assert_eq!(setup.muxer.by_ports.len(), 0);
}

#[test]
fn a_second_request_from_the_same_port_is_a_mistake() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.send(Op::Request, 1000, ECHO);
    assert_eq!(ops(&setup.take()), [Op::Reset]);
    assert!(setup.host.with(id, |program| program.is_closed));
}

#[test]
fn news_of_streams_that_are_gone_mean_nothing() {
    let mut setup = Setup::new();
    let id = setup.connect(1000);
    setup.send(Op::Reset, 1000, ECHO);
    setup.host.ready(id, HUNG_UP);
    setup.host.ready(StreamId(999), READABLE);
    assert_eq!(setup.turn(), []);
}

#[test]
fn room_is_smaller_when_there_are_many() {
    let mut setup = Setup::new();
    let mut rooms = Vec::new();
    for port in 0..=u32::try_from(MANY).unwrap() {
        setup.send(Op::Request, port, ECHO);
        let Some(Next::Packet(response)) = setup.muxer.next() else { panic!("no answer") };
        rooms.push(response.buf_alloc);
    }
    assert_eq!((rooms[0], rooms[MANY - 1], rooms[MANY]), (ROOM, ROOM, SMALL_ROOM));
}

#[test]
fn ports_of_host_programs_stay_above_those_of_listeners() {
    let mut setup = Setup::new();
    setup.muxer.next_port = (1 << 31) - 1;
    let (_, last) = setup.be_connected(7);
    let (_, first) = setup.be_connected(7);
    assert_eq!((last, first), ((1 << 31) - 1, 1 << 30));
}
