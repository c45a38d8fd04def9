//! The network card: frames, headers and commands that make no sense. A card loses frames like any wire; only a broken
//! queue is a reason to give up.

use harness::virtio::{Answer, Descriptor, Device, Queue};

use super::{Case, Named, Verdict};
use crate::bare::subject::{Subject, frame};

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const CTRL_VQ: u64 = 1 << 17;

const OK: u8 = 0;
const REFUSED: u8 = 1;

/// Lengths of what is sent, header and all.
const LENGTHS: &[Named<u32>] = &[
    ("one_byte", 1),
    ("less_than_a_header", 11),
    ("header_alone", 12),
    ("header_and_a_byte", 13),
    ("half_an_ethernet_header", 20),
    ("ethernet_header_alone", 26),
    ("more_than_the_mtu", 12 + 3000),
    ("most_of_an_ip_packet", 12 + 14 + 65_535),
    ("more_than_any_frame", 70_000),
    ("a_megabyte", 1 << 20),
    ("all_of_free_memory", 16 << 20),
];

/// Headers (virtio 1.3, 5.1.6): flags, type of segmentation, its header's length, segment size, start and offset of the
/// checksum, number of buffers.
const HEADERS: &[Named<[u8; 12]>] = &[
    ("all_ones", [0xff; 12]),
    ("unknown_flags", [0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("checksum_beyond_the_frame", [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]),
    ("checksum_offset_beyond", [1, 0, 0, 0, 0, 0, 34, 0, 0xff, 0xff, 0, 0]),
    ("checksum_that_wraps", [1, 0, 0, 0, 0, 0, 0xff, 0xff, 2, 0, 0, 0]),
    ("checksum_at_the_last_byte", [1, 0, 0, 0, 0, 0, 59, 0, 0, 0, 0, 0]),
    ("segments_of_nothing", [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0]),
    ("segments_of_one_byte", [1, 1, 54, 0, 1, 0, 34, 0, 16, 0, 0, 0]),
    ("segments_of_64_kib", [1, 1, 54, 0, 0xff, 0xff, 34, 0, 16, 0, 0, 0]),
    ("segments_without_checksum", [0, 1, 54, 0, 100, 0, 0, 0, 0, 0, 0, 0]),
    ("segment_header_beyond", [1, 1, 0xff, 0xff, 100, 0, 34, 0, 16, 0, 0, 0]),
    ("segments_of_an_unknown_type", [1, 0x7f, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0]),
    ("congestion_marks_alone", [0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("tcp_over_ipv6_that_is_none", [1, 4, 54, 0, 100, 0, 54, 0, 16, 0, 0, 0]),
    ("udp_fragments", [1, 3, 42, 0, 100, 0, 34, 0, 6, 0, 0, 0]),
    ("many_buffers", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
];

/// Commands, the room for their answer, and the answer.
const COMMANDS: &[Named<(&[u8], u32, u8)>] = &[
    ("nothing", (&[0], 1, REFUSED)),
    ("class_alone", (&[4], 1, REFUSED)),
    ("receive_modes", (&[0, 0, 1], 1, REFUSED)),
    ("addresses", (&[1, 1, 2, 0, 0, 0, 0, 1], 1, REFUSED)),
    ("unknown_class", (&[0xff, 0, 0, 0], 1, REFUSED)),
    ("unknown_command", (&[4, 0xff, 1, 0], 1, REFUSED)),
    ("pairs_not_agreed_on", (&[4, 0, 1, 0], 1, REFUSED)),
    ("no_pairs", (&[4, 0, 0, 0], 1, REFUSED)),
    ("all_pairs", (&[4, 0, 0xff, 0xff], 1, REFUSED)),
    ("no_offloads", (&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1, OK)),
    ("offloads_cut_short", (&[5, 0, 2, 0, 0, 0, 0, 0, 0], 1, REFUSED)),
    ("offloads_and_a_byte", (&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0], 1, REFUSED)),
    (
        "offloads_not_agreed_on",
        (&[5, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1, REFUSED),
    ),
    ("segments_without_checksums", (&[5, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], 1, OK)),
    ("much_room", (&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0], 4096, OK)),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, len) in LENGTHS {
        all.push(Case::new(format!("frame_of_{name}"), move |device| {
            sends(device, &[Descriptor::readable(send_buffer(), *len)])
        }));
    }
    for (name, header) in HEADERS {
        for (with, features) in [("", 0), ("_agreed_on", CSUM | HOST_TSO4 | HOST_TSO6)] {
            all.push(Case::new(format!("header_with_{name}{with}"), move |device| {
                let mut queue = Subject::Net.set_up(device, features);
                device.puppet().store(queue.buffer(0), &[&header[..], &frame()].concat());
                for len in [72, 12 + 14, 12 + 4000] {
                    let sent = queue.request(&[Descriptor::readable(queue.buffer(0), len)]);
                    assert_eq!(sent, Answer::Used(0, 0));
                }
                Verdict::Pass
            }));
        }
    }
    for (name, (command, room, answer)) in COMMANDS {
        all.push(Case::new(format!("command_{name}"), move |device| {
            commands(device, command, *room, *answer)
        }));
    }
    all.push(Case::new("frame_that_is_writable", |device| {
        sends(device, &[Descriptor::writable(send_buffer(), 72)])
    }));
    all.push(Case::new("frame_in_pieces_of_a_byte", |device| {
        let mut queue = Subject::Net.set_up(device, 0);
        let byte = |at| Descriptor::readable(queue.buffer(0) + u32::from(at), 1);
        let mut chain: Vec<_> = (1..Queue::SIZE).map(|next| byte(next).then(next)).collect();
        chain.push(byte(0));
        assert_eq!(queue.request(&chain), Answer::Used(0, 0));
        Verdict::Pass
    }));
    all.push(Case::new("command_without_room_for_its_answer", |device| {
        let (mut queue, at) = command_queue(device);
        device.puppet().store(at, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(queue.request(&[Descriptor::readable(at, 10)]), Answer::Used(0, 0));
        Verdict::Pass
    }));
    all.push(Case::new("command_that_is_all_room", |device| {
        let (mut queue, at) = command_queue(device);
        assert_eq!(queue.request(&[Descriptor::writable(at, 10)]), Answer::Used(0, 1));
        Verdict::Pass
    }));
    all.push(Case::new("receive_buffers_for_the_device_to_read", |device| {
        let (mut receive, at) = receive_queue(device);
        assert_eq!(receive.request(&[Descriptor::readable(at, 2048)]), Answer::NeedsReset);
        Verdict::Reject
    }));
    all.push(Case::new("receive_buffers_of_a_byte", |device| {
        let (mut receive, at) = receive_queue(device);
        receive.describe(&[Descriptor::writable(at, 1)]);
        (0..Queue::SIZE).for_each(|_| receive.offer(0));
        receive.kick();
        device.puppet().sync();
        Verdict::Pass
    }));
    all
}

/// The first buffer of the queue that sends.
fn send_buffer() -> u32 {
    harness::puppet::FREE_MEMORY + 0x11_0000
}

fn sends(device: &Device<'_>, chain: &[Descriptor]) -> Verdict {
    let mut queue = Subject::Net.set_up(device, 0);
    assert_eq!(queue.buffer(0), send_buffer());
    device.puppet().store(send_buffer(), &[0; 12]);
    assert_eq!(queue.request(chain), Answer::Used(0, 0), "{chain:x?}");
    Verdict::Pass
}

fn receive_queue<'p>(device: &Device<'p>) -> (Queue<'p>, u32) {
    device.negotiate(0);
    let (receive, _send) = (device.queue(0), device.queue(1));
    device.driver_ok();
    let at = receive.buffer(0);
    (receive, at)
}

fn command_queue<'p>(device: &Device<'p>) -> (Queue<'p>, u32) {
    device.negotiate(CTRL_VQ | CTRL_GUEST_OFFLOADS | GUEST_CSUM | GUEST_TSO4);
    let (_receive, _send, commands) = (device.queue(0), device.queue(1), device.queue(2));
    device.driver_ok();
    let at = commands.buffer(0);
    (commands, at)
}

fn commands(device: &Device<'_>, command: &[u8], room: u32, answer: u8) -> Verdict {
    let (mut queue, at) = command_queue(device);
    let len = u32::try_from(command.len()).unwrap();
    device.puppet().store(at, command);
    device.puppet().store(queue.buffer(1), &[0x77]);
    let chain =
        [Descriptor::readable(at, len).then(1), Descriptor::writable(queue.buffer(1), room)];
    assert_eq!(queue.request(&chain), Answer::Used(0, 1));
    assert_eq!(device.puppet().load(queue.buffer(1), 1), [answer]);
    Verdict::Pass
}
