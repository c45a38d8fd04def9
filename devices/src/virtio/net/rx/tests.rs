mod script;

use super::super::tests::fake::{BUFFERS, Card, FakeCard, FakeNet, frame};
use super::*;
use crate::backend::net::NetBackend;
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::virtio::transport::status;

const MERGEABLE: u64 = features::MRG_RXBUF | features::GUEST_CSUM;
const SEGMENTING: u64 = MERGEABLE | features::GUEST_TSO4 | features::GUEST_TSO6;

/// The header that the driver sees on an empty one.
fn header(buffers: u16) -> [u8; 12] {
    let [a, b] = buffers.to_le_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b]
}

/// Posts `count` buffers of `len` bytes, one after the other in memory.
fn post(card: &mut FakeCard, count: u64, len: u32) {
    for i in 0..count {
        card.running.queues[0].add(&[(BUFFERS + i * u64::from(len), len, true)]);
    }
    assert!(card.running.kick(0));
}

#[test]
fn a_frame_lands_in_one_buffer_with_its_exact_length() {
    for features in [0, MERGEABLE, SEGMENTING, MERGEABLE | INDIRECT_DESC | EVENT_IDX] {
        let mut card = FakeCard::new(features);
        card.net.arrive(0, Ok(frame(60, 3)));
        card.give(0, &[(BUFFERS, 2048, true)]);
        assert_eq!(card.used(0), [(0, 72)]);
        assert_eq!(card.bytes(BUFFERS, 12), header(1));
        assert_eq!(card.bytes(BUFFERS + 12, 60), frame(60, 3)[12..]);
        assert_eq!(card.bytes(BUFFERS + 72, 16), [0; 16], "nothing beyond the frame is written");
        assert_eq!(card.counters.rx_frames.get(), 1);
        assert_eq!(card.counters.rx_bytes.get(), 60);
    }
}

#[test]
fn a_frame_of_any_length_spreads_over_buffers_of_any_length() {
    for buffer in [1_u32, 7, 12, 64, 1500, 4096, 65536] {
        for len in [60, 1514, 4084, 4085, 9014, 65535, 65550] {
            let count = (len + 12_usize).div_ceil(buffer as usize);
            if count > 250 {
                continue;
            }
            let mut card = FakeCard::new(SEGMENTING);
            card.restart(SEGMENTING, 256);
            // A large frame comes unexpected the first time, and expected the second.
            for seed in [1, 2] {
                post(&mut card, count as u64, buffer);
                card.net.arrive(0, Ok(frame(len, seed)));
                assert!(card.run(2));
                let used = card.used(0);
                assert_eq!(used.len(), count, "{len} bytes in buffers of {buffer}");
                let lens: Vec<_> = used.iter().map(|&(_, len)| len as usize).collect();
                assert!(lens[..count - 1].iter().all(|&l| l == buffer as usize));
                assert_eq!(lens.iter().sum::<usize>(), len + 12);
                let seen = card.bytes(BUFFERS, len + 12);
                assert_eq!(seen[..12], header(u16::try_from(count).unwrap()));
                assert!(seen[12..] == frame(len, seed)[12..]);
            }
        }
    }
}

#[test]
fn a_chain_of_many_descriptors_is_one_buffer() {
    for features in [INDIRECT_DESC, MERGEABLE | INDIRECT_DESC] {
        let mut card = FakeCard::new(features);
        let pieces: Vec<_> = (0..10).map(|i| (BUFFERS + i * 200, 200, true)).collect();
        card.net.arrive(0, Ok(frame(1514, 1)));
        card.running.queues[0].add_indirect(BUFFERS + 0x10000, &pieces);
        assert!(card.running.kick(0));
        assert_eq!(card.used(0), [(0, 1526)]);
        assert_eq!(card.bytes(BUFFERS, 12), header(1));
        assert_eq!(card.bytes(BUFFERS + 12, 1514), frame(1514, 1)[12..]);
    }
}

#[test]
fn small_frames_leave_the_other_buffers_for_later() {
    let mut card = FakeCard::new(SEGMENTING);
    post(&mut card, 16, 2048);
    for seed in 0..16 {
        card.net.arrive(0, Ok(frame(100, seed)));
    }
    assert!(card.run(2));
    let used = card.used(0);
    assert_eq!(used.len(), 16);
    for (i, (head, len)) in used.into_iter().enumerate() {
        assert_eq!((head as usize, len), (i, 112));
        assert_eq!(card.bytes(BUFFERS + 2048 * i as u64 + 12, 100), frame(100, i)[12..]);
    }
}

#[test]
fn frames_wait_for_buffers() {
    let mut card = FakeCard::new(MERGEABLE);
    card.net.arrive(0, Ok(frame(60, 1)));
    assert!(card.run(5));
    assert_eq!(card.net.waiting(0), 1);
    card.net.quiet(0);
    card.give(0, &[(BUFFERS, 2048, true)]);
    assert_eq!(card.used(0), [(0, 72)]);
}

#[test]
fn a_flood_meets_a_stalled_driver_and_goes_on_after_it() {
    let mut card = FakeCard::new(SEGMENTING);
    for seed in 0..10_000 {
        card.net.arrive(0, Ok(frame(60, seed)));
        assert!(seed % 100 != 0 || card.run(1));
    }
    assert_eq!(card.net.waiting(0), 10_000, "frames stay where they are bounded");
    // No further news comes: kicks alone must do.
    card.net.quiet(0);
    let mut seen = 0;
    while seen < 10_000 {
        card.give(0, &[(BUFFERS, 2048, true)]);
        assert_eq!(card.used(0).len(), 1, "frame {seen}: one kick is enough");
        assert_eq!(card.bytes(BUFFERS + 12, 60), frame(60, seen)[12..]);
        seen += 1;
    }
    assert_eq!(card.net.waiting(0), 0);
    assert_eq!(card.counters.rx_no_buffer.get(), 0);
}

#[test]
fn a_kick_is_asked_for_only_while_buffers_are_wanted() {
    let wish = |card: &FakeCard, offset| {
        let used = card.running.queues[0].config().device;
        let bytes = card.bytes(used + offset, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    };
    let mut card = FakeCard::new(MERGEABLE);
    post(&mut card, 4, 2048);
    assert_eq!(wish(&card, 0), 1, "VIRTQ_USED_F_NO_NOTIFY while buffers are at hand");
    for seed in 0..5 {
        card.net.arrive(0, Ok(frame(60, seed)));
    }
    assert!(card.run(1));
    assert_eq!(wish(&card, 0), 0, "the fifth frame needs a buffer");
    post(&mut card, 2, 2048);
    assert_eq!(wish(&card, 0), 1);

    let mut card = FakeCard::new(MERGEABLE | EVENT_IDX);
    post(&mut card, 4, 2048);
    for seed in 0..5 {
        card.net.arrive(0, Ok(frame(60, seed)));
    }
    assert!(card.run(1));
    assert_eq!(wish(&card, 4 + 8 * 16), 4, "avail_event is the next entry");
}

#[test]
fn a_frame_too_large_for_what_is_posted_waits_without_loss() {
    let mut card = FakeCard::new(SEGMENTING);
    card.net.arrive(0, Ok(frame(5000, 9)));
    card.net.arrive(0, Ok(frame(60, 10)));
    // 5 bytes: not even the header fits.
    for (i, len) in [(0, 5), (1, 2000), (2, 2000)] {
        card.give(0, &[(BUFFERS + i * 2048, len, true)]);
        assert!(card.run(3));
        assert_eq!(card.used(0), []);
    }
    card.give(0, &[(BUFFERS + 3 * 2048, 2048, true)]);
    assert_eq!(card.used(0), [(0, 5), (1, 2000), (2, 2000), (3, 1007)]);
    let mut seen = card.bytes(BUFFERS, 5);
    seen.extend(card.bytes(BUFFERS + 2048, 2000));
    seen.extend(card.bytes(BUFFERS + 2 * 2048, 2000));
    seen.extend(card.bytes(BUFFERS + 3 * 2048, 1007));
    assert_eq!(seen[..12], header(4));
    assert_eq!(seen[12..], frame(5000, 9)[12..]);
    card.give(0, &[(BUFFERS, 2048, true)]);
    assert_eq!(card.used(0), [(4, 72)]);
    assert_eq!(card.counters.rx_no_buffer.get(), 0);
}

#[test]
fn a_frame_that_the_ring_can_never_hold_is_dropped() {
    let mut card = FakeCard::new(SEGMENTING);
    card.net.arrive(0, Ok(frame(60_000, 1)));
    card.net.arrive(0, Ok(frame(60, 2)));
    post(&mut card, 16, 1500);
    assert!(card.run(2));
    assert_eq!(card.counters.rx_no_buffer.get(), 1);
    assert_eq!(card.used(0), [(0, 72)], "and the next one uses the same buffers");
    assert_eq!(card.bytes(BUFFERS, 12), header(1));
    assert_eq!(card.bytes(BUFFERS + 12, 60), frame(60, 2)[12..]);
}

#[test]
fn a_driver_that_never_posts_enough_still_gets_small_frames() {
    let mut card = FakeCard::new(SEGMENTING);
    post(&mut card, 4, 1500);
    card.net.arrive(0, Ok(frame(20_000, 1)));
    card.net.arrive(0, Ok(frame(60, 2)));
    let hear = |card: &mut FakeCard, times: u32| {
        for _ in 0..times {
            card.net.news(0);
            assert!(card.run(1));
        }
    };
    hear(&mut card, PATIENCE - 1);
    // One more buffer is not enough, but shows that the driver is alive.
    card.give(0, &[(BUFFERS + 0x8000, 1500, true)]);
    hear(&mut card, PATIENCE - 5);
    assert_eq!(card.used(0), []);
    assert_eq!(card.counters.rx_no_buffer.get(), 0);
    hear(&mut card, 10);
    assert_eq!(card.used(0), [(0, 72)]);
    assert_eq!(card.counters.rx_no_buffer.get(), 1);
}

#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_dropped() {
    let mut card = FakeCard::new(features::GUEST_CSUM);
    for len in [1514, 1515, 1514, 70_000, 1514] {
        card.net.arrive(0, Ok(frame(len, 1)));
    }
    post(&mut card, 4, 1526);
    assert!(card.run(3));
    assert_eq!(card.used(0), [(0, 1526), (1, 1526), (2, 1526)]);
    assert_eq!(card.bytes(BUFFERS, 12), header(1));
    assert_eq!(card.counters.rx_no_buffer.get(), 2);
}

#[test]
fn a_frame_beyond_all_limits_is_dropped_whole() {
    let mut card = FakeCard::new(SEGMENTING);
    card.net.arrive(0, Ok(frame(header::MAX_FRAME * 3, 1)));
    card.net.arrive(0, Ok(frame(60, 2)));
    card.give(0, &[(BUFFERS, 100, true)]);
    assert_eq!(card.used(0), [(0, 72)]);
    assert_eq!(card.counters.rx_no_buffer.get(), 1);
}

#[test]
fn flags_reach_only_a_driver_that_negotiated_them() {
    for (features, flags) in [(0, 0), (features::GUEST_CSUM, 2)] {
        let mut card = FakeCard::new(features);
        let mut checked = frame(60, 1);
        checked[0] = 2;
        card.net.arrive(0, Ok(checked));
        card.give(0, &[(BUFFERS, 2048, true)]);
        assert_eq!(card.used(0), [(0, 72)]);
        assert_eq!(card.bytes(BUFFERS, 1), [flags]);
    }
}

#[test]
fn one_interrupt_tells_of_many_frames() {
    let mut card = FakeCard::new(MERGEABLE);
    post(&mut card, 16, 2048);
    for seed in 0..10 {
        card.net.arrive(0, Ok(frame(60, seed)));
    }
    let before = card.running.line.edges();
    assert!(card.run(1));
    assert_eq!(card.used(0).len(), 10);
    assert_eq!(card.running.line.edges(), before + 1);
}

#[test]
fn an_event_index_within_a_spread_frame_is_not_missed() {
    // The driver wants to hear of each possible entry in turn; the frame takes entries 0 to 4.
    for wish in 0..8_u16 {
        let mut card = FakeCard::new(MERGEABLE | EVENT_IDX);
        card.running.queues[0].set_used_event(wish);
        post(&mut card, 8, 300);
        let before = card.running.line.edges();
        card.net.arrive(0, Ok(frame(1400, 1)));
        assert!(card.run(1));
        assert_eq!(card.used(0).len(), 5);
        let edges = card.running.line.edges() - before;
        assert_eq!(edges, usize::from(wish < 5), "wish for entry {wish}");
    }
}

#[test]
fn many_frames_take_several_turns() {
    let mut card = FakeCard::new(MERGEABLE);
    card.restart(MERGEABLE, 256);
    post(&mut card, 200, 2048);
    for seed in 0..200 {
        card.net.arrive(0, Ok(frame(60, seed)));
    }
    assert!(card.run(1));
    let first = card.used(0).len();
    assert!((MAX_BATCH..200).contains(&first), "{first}");
    card.net.quiet(0);
    assert!(card.run(10));
    assert_eq!(first + card.used(0).len(), 200);
}

#[test]
fn failed_reads_are_counted_and_passed_over() {
    let mut card = FakeCard::new(MERGEABLE);
    post(&mut card, 4, 2048);
    for errno in [libc::EINVAL, libc::EFAULT, libc::ENOMEM] {
        card.net.arrive(0, Err(errno));
    }
    card.net.arrive(0, Ok(vec![0; 5]));
    card.net.arrive(0, Ok(frame(60, 1)));
    assert!(card.run(1));
    assert_eq!(card.used(0), [(0, 72)]);
    assert_eq!(card.counters.rx_errors.get(), 4);
}

#[test]
fn reads_that_keep_failing_do_not_spin() {
    let mut card = FakeCard::new(MERGEABLE);
    post(&mut card, 4, 2048);
    for _ in 0..100 {
        card.net.arrive(0, Err(libc::EINVAL));
    }
    assert!(card.run(1));
    assert!(card.net.waiting(0) >= 100 - 2 * MAX_FAILURES as usize);
}

#[test]
fn a_buffer_that_cannot_be_written_needs_a_reset() {
    let mut card = FakeCard::new(MERGEABLE);
    assert!(!card.give(0, &[(BUFFERS, 2048, false)]));
    assert_ne!(card.running.transport.status() & status::NEEDS_RESET, 0);
    card.restart(MERGEABLE, 16);
    card.net.arrive(0, Ok(frame(60, 1)));
    assert!(card.give(0, &[(BUFFERS, 2048, true)]));
    assert_eq!(card.used(0), [(0, 72)]);
}

#[test]
fn a_malformed_chain_needs_a_reset() {
    for (address, len) in [(0x1_0000_0000, 2048), (BUFFERS, 0), (u64::MAX - 10, 100)] {
        let mut card = FakeCard::new(MERGEABLE);
        card.net.arrive(0, Ok(frame(60, 1)));
        assert!(!card.give(0, &[(BUFFERS, 2048, true), (address, len, true)]));
        assert_eq!(card.used(0), []);
        card.restart(MERGEABLE, 16);
        assert!(card.give(0, &[(BUFFERS, 2048, true)]));
        assert_eq!(card.used(0), [(0, 72)], "the frame is still there");
    }
}

#[test]
fn swarms_of_tiny_segments_stay_within_what_one_call_takes() {
    // 255 indirect buffers of 255 single bytes: far more pieces than a readv takes.
    let features = SEGMENTING | INDIRECT_DESC;
    let mut card = FakeCard::new(features);
    card.restart(features, 256);
    let pieces: Vec<_> = (0..255).map(|i| (BUFFERS + i, 1, true)).collect();
    for _ in 0..255 {
        card.running.queues[0].add_indirect(BUFFERS + 0x10000, &pieces);
    }
    assert!(card.running.kick(0));
    card.net.arrive(0, Ok(frame(10_000, 1)));
    card.net.arrive(0, Ok(frame(300, 1)));
    assert!(card.run(3));
    assert_eq!(card.counters.rx_no_buffer.get(), 1);
    assert_eq!(card.used(0), [(0, 255), (1, 57)]);
}

#[test]
fn a_second_pair_is_silent_until_the_driver_asks_for_it() {
    let features = MERGEABLE | features::CTRL_VQ | features::MQ;
    let mut card = Card::on(FakeNet::new(2, true), features);
    assert!(card.run(1));
    card.net.arrive(1, Ok(frame(60, 1)));
    card.give(2, &[(BUFFERS, 2048, true)]);
    assert!(card.run(3));
    assert_eq!(card.used(2), []);
    card.put(BUFFERS + 0x1000, &[4, 0, 2, 0]);
    card.give(4, &[(BUFFERS + 0x1000, 4, false), (BUFFERS + 0x1010, 1, true)]);
    // A queue that is attached again is ready with its next frame.
    card.net.news(1);
    assert!(card.run(1));
    assert_eq!(card.used(2), [(0, 72)]);

    // A reset forgets that, even before the first command can be served.
    card.restart(features, 16);
    card.net.arrive(1, Ok(frame(60, 2)));
    card.give(2, &[(BUFFERS, 2048, true)]);
    assert_eq!(card.used(2), []);
}

#[test]
fn room_for_large_frames_is_made_while_they_come() {
    let mut card = FakeCard::new(SEGMENTING);
    card.restart(SEGMENTING, 256);
    post(&mut card, 250, 1600);
    let room = |card: &mut FakeCard, len| {
        card.net.arrive(0, Ok(frame(len, 1)));
        assert!(card.run(1));
        card.net.last_room(0)
    };
    // Small ones go through the device's own memory.
    assert_eq!(room(&mut card, 60), 0);
    assert_eq!(room(&mut card, 1514), 0);
    // The read after this one finds no frame, but has room for one.
    assert!(room(&mut card, 9000) >= header::SEGMENTING_BUFFER);
    for _ in 1..LARGE_STREAK {
        assert!(room(&mut card, 60) >= header::SEGMENTING_BUFFER);
    }
    assert_eq!(room(&mut card, 60), 0);
}

#[test]
fn the_real_read_path_spills_and_goes_on() {
    // Through readv on a socket instead of the fake's copy.
    let net = std::sync::Arc::new(SocketNet::new());
    let mut card = Card::on(net.clone(), SEGMENTING);
    for (len, seed) in [(60, 1), (9000, 2), (65_000, 3)] {
        net.peer.send(&frame(len, seed)).unwrap();
    }
    for i in 0..15 {
        card.running.queues[0].add(&[(BUFFERS + i * 5000, 5000, true)]);
    }
    // The first wake-up has 75000 bytes for three frames: the last one is held for want of a buffer.
    assert!(card.running.kick(0));
    assert!(card.run(2));
    assert_eq!(card.used(0), [(0, 72), (1, 5000), (2, 4012)]);
    assert_eq!(card.bytes(BUFFERS + 5000, 12), header(2));
    for i in 0..3 {
        card.running.queues[0].add(&[(BUFFERS + i * 5000, 5000, true)]);
    }
    assert!(card.running.kick(0));
    let used = card.used(0);
    assert_eq!(used.len(), 14);
    assert_eq!(used[13], (0, 12));
    let mut seen = card.bytes(BUFFERS + 3 * 5000, 12 * 5000);
    seen.extend(card.bytes(BUFFERS, 5012));
    assert_eq!(seen[..12], header(14));
    assert!(seen[12..65_012] == frame(65_000, 3)[12..]);
}

/// Frames over a pair of sockets, by the trait's own reading and writing.
struct SocketNet {
    device: std::os::unix::net::UnixDatagram,
    peer: std::os::unix::net::UnixDatagram,
}

impl SocketNet {
    fn new() -> Self {
        let (device, peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        Self { device, peer }
    }
}

impl NetBackend for SocketNet {
    fn name(&self) -> &str {
        "socket"
    }
    fn queues(&self) -> u16 {
        1
    }
    fn has_uso(&self) -> bool {
        false
    }
    fn fd(&self, queue: u16) -> Option<std::os::fd::BorrowedFd<'_>> {
        (queue == 0).then(|| std::os::fd::AsFd::as_fd(&self.device))
    }
    fn set_offloads(&self, _: crate::backend::net::Offloads) -> io::Result<()> {
        Ok(())
    }
    fn set_active_queues(&self, _: u16) -> io::Result<()> {
        Ok(())
    }
    fn set_mtu(&self, _: u16) -> io::Result<()> {
        Ok(())
    }
}
