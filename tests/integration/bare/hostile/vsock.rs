//! The socket device: packets that make no sense are answered with a reset, or not at all.

use harness::virtio::{Answer, Descriptor, Device, Queue};
use harness::vsock::{Header, op};

use super::{Case, MakeChain, Named, Verdict};
use crate::bare::subject::Subject;

/// A change to a request for a connection that nobody on the host waits for.
type Change = fn(&mut Header);

/// Packets, each without data.
const PACKETS: &[Named<Change>] = &[
    ("to_nobody", |_| {}),
    ("from_somebody_else", |h| h.src_cid = 4),
    ("from_the_host_itself", |h| h.src_cid = 2),
    ("from_everybody", |h| h.src_cid = u64::MAX),
    ("to_the_hypervisor", |h| h.dst_cid = 0),
    ("to_itself", |h| h.dst_cid = h.src_cid),
    ("to_an_address_of_64_bits", |h| h.dst_cid |= 1 << 40),
    ("of_no_type", |h| h.kind = 0),
    ("of_whole_messages", |h| h.kind = 2),
    ("of_datagrams", |h| h.kind = 3),
    ("of_the_last_type", |h| h.kind = u16::MAX),
    ("without_operation", |h| h.op = 0),
    ("with_an_unknown_operation", |h| h.op = 8),
    ("with_the_last_operation", |h| h.op = u16::MAX),
    ("response_to_nothing", |h| h.op = op::RESPONSE),
    ("reset_of_nothing", |h| h.op = op::RESET),
    ("shutdown_of_nothing", |h| h.op = op::SHUTDOWN),
    ("shutdown_with_all_flags", |h| {
        h.op = op::SHUTDOWN;
        h.flags = u32::MAX;
    }),
    ("data_to_nothing", |h| h.op = op::READ_WRITE),
    ("room_for_nothing", |h| h.op = op::CREDIT_UPDATE),
    ("question_for_room", |h| h.op = op::CREDIT_REQUEST),
    ("with_flags", |h| h.flags = u32::MAX),
    ("with_no_room", |h| h.buf_alloc = 0),
    ("with_all_room", |h| h.buf_alloc = u32::MAX),
    ("having_read_what_was_not_sent", |h| h.fwd_cnt = u32::MAX),
    ("from_port_0", |h| h.src_port = 0),
    ("to_the_last_port", |h| h.dst_port = u32::MAX),
    ("of_data_that_is_not_there", |h| h.len = 1),
    ("of_4_gib", |h| h.len = u32::MAX),
    ("of_more_than_a_packet_holds", |h| h.len = (64 << 10) + 1),
];

/// How a packet's header lies in memory.
const FRAMINGS: &[Named<MakeChain>] = &[
    ("one_byte", |q| vec![Descriptor::readable(q.buffer(0), 1)]),
    ("43_bytes", |q| vec![Descriptor::readable(q.buffer(0), 43)]),
    ("45_bytes", |q| vec![Descriptor::readable(q.buffer(0), 45)]),
    ("a_page", |q| vec![Descriptor::readable(q.buffer(0), 4096)]),
    ("16_mib", |q| vec![Descriptor::readable(q.buffer(0), 16 << 20)]),
    ("room", |q| vec![Descriptor::writable(q.buffer(0), 44)]),
    ("half_of_it_room", |q| {
        vec![Descriptor::readable(q.buffer(0), 22).then(1), Descriptor::writable(q.buffer(1), 22)]
    }),
    ("pieces", |q| {
        let piece = |n: u16| {
            let len = if n == 7 { 9 } else { 5 };
            Descriptor::readable(q.buffer(0) + 5 * u32::from(n), len).then_if(n < 7, n + 1)
        };
        (0..8).map(piece).collect()
    }),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, change) in PACKETS {
        all.push(Case::new(format!("packet_{name}"), move |device| {
            let mut header = Header { op: op::REQUEST, ..Header::default() };
            change(&mut header);
            let [_, mut send, _] = queues(device);
            device.puppet().store(send.buffer(0), &header.bytes());
            let sent = send.request(&[Descriptor::readable(send.buffer(0), 44)]);
            assert_eq!(sent, Answer::Used(0, 0));
            Verdict::Pass
        }));
    }
    for (name, framing) in FRAMINGS {
        all.push(Case::new(format!("header_in_{name}"), move |device| {
            let [_, mut send, _] = queues(device);
            let header = Header { op: op::REQUEST, ..Header::default() };
            device.puppet().store(send.buffer(0), &header.bytes());
            assert_eq!(send.request(&framing(&send)), Answer::Used(0, 0));
            Verdict::Pass
        }));
    }
    all.push(Case::new("requests_without_end", requests_without_end));
    all.push(Case::new("answers_to_bad_buffers", answers_to_bad_buffers));
    all.push(Case::new("answers_to_buffers_of_a_header", answers_to_small_buffers));
    all.push(Case::new("events_for_the_device_to_read", events));
    all
}

fn queues<'p>(device: &Device<'p>) -> [Queue<'p>; 3] {
    device.negotiate(0);
    let queues = [0, 1, 2].map(|index| device.queue(index));
    device.driver_ok();
    queues
}

/// A guest that asks and never takes an answer is kept waiting, not remembered for ever.
fn requests_without_end(device: &Device<'_>) -> Verdict {
    let [mut receive, mut send, _] = queues(device);
    let puppet = device.puppet();
    let memory = puppet.with_machine(|machine| machine.own_memory());
    send.describe(&[Descriptor::readable(send.buffer(0), 44)]);
    for port in 0..300 {
        let header = Header { op: op::REQUEST, src_port: port, ..Header::default() };
        puppet.store(send.buffer(0), &header.bytes());
        send.offer(0);
        send.kick();
        puppet.sync();
    }
    let now = puppet.with_machine(|machine| machine.own_memory());
    assert!(now < memory + (1 << 20), "{memory} bytes, then {now}");
    // The first answer is still there.
    let room = [Descriptor::writable(receive.buffer(0), 4096)];
    assert_eq!(receive.request(&room), Answer::Used(0, 44));
    Verdict::Pass
}

/// Asks for something, and offers `buffer` for the answer.
fn answer_to(device: &Device<'_>, buffer: Descriptor) -> Answer {
    let [mut receive, mut send, _] = queues(device);
    let header = Header { op: op::REQUEST, ..Header::default() };
    device.puppet().store(send.buffer(0), &header.bytes());
    let sent = send.request(&[Descriptor::readable(send.buffer(0), 44)]);
    assert_eq!(sent, Answer::Used(0, 0));
    receive.request(&[buffer])
}

fn answers_to_bad_buffers(device: &Device<'_>) -> Verdict {
    for buffer in [
        Descriptor::writable(0xd000_0000, 4096),
        Descriptor::readable(0x30_0000, 4096),
        Descriptor::writable(0x30_0000, 0),
        Descriptor::writable(0x30_0000, 4096).then(0),
    ] {
        assert_eq!(answer_to(device, buffer), Answer::NeedsReset, "{buffer:x?}");
    }
    Verdict::Reject
}

fn answers_to_small_buffers(device: &Device<'_>) -> Verdict {
    for len in [1, 43, 44] {
        let buffer = Descriptor::writable(0x30_0000, len);
        assert_eq!(answer_to(device, buffer), Answer::NeedsReset, "{len} bytes");
    }
    Verdict::Reject
}

/// There are no events, so that nobody looks at the buffers for them.
fn events(device: &Device<'_>) -> Verdict {
    let [_, mut send, mut events] = queues(device);
    events.describe(&[Descriptor::readable(events.buffer(0), 8)]);
    events.offer(0);
    events.offer(Queue::SIZE);
    events.kick();
    Subject::Vsock.fill_buffers(device.puppet(), &send);
    let answer = send.request(&Subject::Vsock.chain(&send));
    assert_eq!(events.used_index(), 0);
    answer.into()
}
