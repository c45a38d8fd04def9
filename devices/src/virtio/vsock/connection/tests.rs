use super::*;

const CID: u64 = 3;
const PORTS: Ports = Ports { host: 52, guest: 1000 };
const ROOM: u32 = 1000;

/// A packet from the guest that has room for 100 bytes and has forwarded `forwarded`.
fn packet(op: u16, len: u32, flags: u32, forwarded: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: PORTS.guest,
        dst_port: PORTS.host,
        len,
        kind: TYPE_STREAM,
        op,
        flags,
        buf_alloc: 100,
        fwd_cnt: forwarded,
    }
}

fn simple(op: Op) -> Header {
    packet(op as u16, 0, 0, 0)
}

fn requested() -> Connection {
    Connection::requested(CID, PORTS, ROOM)
}

fn established() -> Connection {
    let mut connection = Connection::accepted(CID, &simple(Op::Request), ROOM);
    assert_eq!(sent(&mut connection, false), Some(Op::Response));
    connection
}

/// The guest gets the next packet without data.
fn sent(connection: &mut Connection, readable: bool) -> Option<Op> {
    let is_pending = connection.is_pending(readable);
    let next = connection.next(readable);
    assert_eq!(next.is_some(), is_pending, "{next:?}");
    match next? {
        Outgoing::Control(header) => {
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
            assert_eq!((header.src_port, header.dst_port), (PORTS.host, PORTS.guest));
            assert_eq!((header.kind, header.len), (TYPE_STREAM, 0));
            header.op()
        }
        Outgoing::Data(limit) => panic!("data up to {limit}"),
    }
}

#[test]
fn every_operation_in_every_state() {
    use Reaction::{Accepted, Broken, Deliver, Gone, HalfOver, None};
    let over = || {
        let mut connection = established();
        connection.end();
        connection
    };
    let ops = [0, 1, 2, 3, 4, 5, 6, 7, 8, u16::MAX];
    for (make, reactions) in [
        (
            &requested as &dyn Fn() -> Connection,
            [Broken, Broken, Accepted, Gone, Broken, Broken, Broken, Broken, Broken, Broken],
        ),
        (
            &established,
            [Broken, Broken, Broken, Gone, HalfOver, Deliver, None, None, Broken, Broken],
        ),
        (&over, [Broken, None, None, Gone, None, None, None, None, Broken, Broken]),
    ] {
        for (op, reaction) in ops.into_iter().zip(reactions) {
            let mut connection = make();
            let phase = connection.phase;
            let found = connection.receive(&packet(op, 0, 0, 0));
            assert_eq!(found, reaction, "operation {op} in {phase:?}");
            if found == Broken {
                assert_eq!(sent(&mut connection, true), Some(Op::Reset), "operation {op}");
            }
        }
    }
}

#[test]
fn a_request_is_sent_once_and_data_waits_for_the_answer() {
    let mut connection = requested();
    assert!(connection.is_requested());
    assert_eq!(sent(&mut connection, true), Some(Op::Request));
    assert_eq!(sent(&mut connection, true), None);
    assert_eq!(connection.receive(&simple(Op::Response)), Reaction::Accepted);
    assert!(!connection.is_requested());
    assert_eq!(connection.next(true), Some(Outgoing::Data(100)));
}

#[test]
fn data_goes_as_far_as_the_guest_has_room_and_then_it_is_asked_once() {
    let mut connection = established();
    assert_eq!(connection.next(true), Some(Outgoing::Data(100)));
    assert_eq!(connection.data_header(60).len, 60);
    assert_eq!(connection.next(true), Some(Outgoing::Data(40)));
    connection.data_header(40);
    assert_eq!(sent(&mut connection, true), Some(Op::CreditRequest));
    assert_eq!(sent(&mut connection, true), None);
    // An answer that gives nothing is no reason to ask again.
    connection.receive(&packet(Op::CreditUpdate as u16, 0, 0, 0));
    assert_eq!(sent(&mut connection, true), None);
    connection.receive(&packet(Op::CreditUpdate as u16, 0, 0, 30));
    assert_eq!(connection.next(true), Some(Outgoing::Data(30)));
    connection.data_header(30);
    assert_eq!(sent(&mut connection, true), Some(Op::CreditRequest));
    assert_eq!(sent(&mut connection, false), None, "without data nobody asks");
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_reset() {
    let mut connection = established();
    let data = |len| packet(Op::ReadWrite as u16, len, 0, 0);
    assert_eq!(connection.receive(&data(ROOM)), Reaction::Deliver);
    connection.forwarded(10);
    assert_eq!(connection.receive(&data(10)), Reaction::Deliver);
    assert_eq!(connection.receive(&data(1)), Reaction::Broken);
    assert_eq!(established().receive(&data(u32::MAX)), Reaction::Broken);
}

#[test]
fn the_guest_is_told_of_room_when_half_of_it_is_free_again_or_when_it_asks() {
    let mut connection = established();
    connection.receive(&packet(Op::ReadWrite as u16, ROOM, 0, 0));
    connection.forwarded(ROOM / 2 - 1);
    assert_eq!(sent(&mut connection, false), None);
    connection.receive(&simple(Op::CreditRequest));
    match connection.next(false) {
        Some(Outgoing::Control(header)) => {
            assert_eq!(header.op(), Some(Op::CreditUpdate));
            assert_eq!((header.buf_alloc, header.fwd_cnt), (ROOM, ROOM / 2 - 1));
        }
        other => panic!("{other:?}"),
    }
    connection.forwarded(ROOM / 2);
    // Data tells it as well.
    assert_eq!(connection.data_header(1).fwd_cnt, ROOM - 1);
    assert_eq!(sent(&mut connection, false), None);
}

#[test]
fn halves_end_one_after_the_other() {
    let mut connection = established();
    let shutdown = |flags| packet(Op::Shutdown as u16, 0, flags, 0);
    assert_eq!(connection.receive(&shutdown(2)), Reaction::HalfOver);
    assert_eq!(connection.guest_over(), Directions::SEND);
    assert_eq!(connection.next(true), Some(Outgoing::Data(100)), "the other half goes on");
    let late = packet(Op::ReadWrite as u16, 1, 0, 0);
    assert_eq!(connection.receive(&shutdown(1)), Reaction::Closed);
    assert_eq!(connection.receive(&late), Reaction::None, "the reset is on its way");
    assert_eq!(sent(&mut connection, true), Some(Op::Reset));
}

#[test]
fn data_after_the_end_is_a_mistake() {
    let mut connection = established();
    connection.receive(&packet(Op::Shutdown as u16, 0, 2, 0));
    assert_eq!(connection.receive(&packet(Op::ReadWrite as u16, 1, 0, 0)), Reaction::Broken);
}

#[test]
fn a_guest_that_receives_no_more_gets_no_more_data() {
    let mut connection = established();
    connection.receive(&packet(Op::Shutdown as u16, 0, 1, 0));
    assert_eq!(sent(&mut connection, true), None);
    assert_eq!(connection.receive(&packet(Op::ReadWrite as u16, 1, 0, 0)), Reaction::Deliver);
}

#[test]
fn the_guest_is_told_what_is_over_on_the_host() {
    let mut connection = established();
    connection.host_is_over(Directions::RECEIVE);
    // Data that waits comes first.
    assert_eq!(connection.next(true), Some(Outgoing::Data(100)));
    for (directions, flags) in [(Directions::default(), 1), (Directions::SEND, 3)] {
        connection.host_is_over(directions);
        match connection.next(false) {
            Some(Outgoing::Control(header)) => {
                assert_eq!((header.op(), header.flags), (Some(Op::Shutdown), flags));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(sent(&mut connection, false), None);
    }
    assert_eq!(connection.receive(&packet(Op::ReadWrite as u16, 9, 0, 0)), Reaction::Discard);
    assert_eq!(sent(&mut connection, true), None, "no data after the end");
    assert_eq!(connection.receive(&simple(Op::Reset)), Reaction::Gone);
}
