use super::super::features;
use super::super::tests::fake::{BUFFERS, Card, FakeCard, FakeNet, frame};
use super::*;
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::virtio::transport::status;

/// Writes `frame` into memory and sends it in one buffer; `false` when the card failed.
fn send_one(card: &mut FakeCard, frame: &[u8]) -> bool {
    card.put(BUFFERS, frame);
    card.give(1, &[(BUFFERS, u32::try_from(frame.len()).unwrap(), false)])
}

#[test]
fn a_frame_is_sent_as_it_is_with_its_header() {
    for features in [0, EVENT_IDX, features::CSUM | features::HOST_TSO4] {
        for len in [14, 60, 1514, 9014, 65549] {
            let mut card = FakeCard::new(features);
            let mut sent = frame(len, 5);
            sent[..10].copy_from_slice(&[1, 1, 54, 0, 0xdc, 5, 34, 0, 16, 0]);
            assert!(send_one(&mut card, &sent));
            assert_eq!(card.used(1), [(0, 0)]);
            assert!(card.net.sent(0) == [sent]);
            assert_eq!(card.counters.tx_frames.get(), 1);
            assert_eq!(card.counters.tx_bytes.get(), len as u64);
        }
    }
}

#[test]
fn framing_does_not_matter() {
    let sent = frame(200, 5);
    for pieces in
        [&[212_u32][..], &[12, 200], &[1, 11, 200], &[10, 2, 14, 186], &[13, 199], &[211, 1]]
    {
        for is_indirect in [false, true] {
            let mut card = FakeCard::new(INDIRECT_DESC);
            card.put(BUFFERS, &sent);
            let mut at = BUFFERS;
            let mut buffers = Vec::new();
            for &len in pieces {
                buffers.push((at, len, false));
                at += u64::from(len);
            }
            let queue = &mut card.running.queues[1];
            if is_indirect {
                queue.add_indirect(BUFFERS + 0x10000, &buffers);
            } else {
                queue.add(&buffers);
            }
            assert!(card.running.kick(1));
            assert_eq!(card.used(1), [(0, 0)]);
            assert_eq!(card.net.sent(0), [&sent[..]], "{pieces:?}");
        }
    }
}

#[test]
fn frames_that_are_none_are_dropped_and_counted() {
    let mut card = FakeCard::new(0);
    for len in [1, 11, 12, 25, header::MAX_FRAME + 1, 1 << 20] {
        assert!(send_one(&mut card, &vec![0; len]));
        assert_eq!(card.used(1).len(), 1, "{len} bytes");
    }
    // Nothing to read at all.
    assert!(card.give(1, &[(BUFFERS, 100, true)]));
    assert_eq!(card.used(1).len(), 1);
    assert_eq!(card.counters.tx_rejected.get(), 7);
    assert!(card.net.sent(0).is_empty());
    assert!(send_one(&mut card, &vec![0; header::MAX_FRAME]));
    assert_eq!(card.net.sent(0).len(), 1);
}

#[test]
fn what_the_host_refuses_is_completed_and_counted_by_reason() {
    let mut card = FakeCard::new(0);
    for errno in
        [libc::EAGAIN, libc::ENOBUFS, libc::EINVAL, libc::EMSGSIZE, libc::EIO, libc::ENOMEM]
    {
        card.net.fail_send(0, errno);
        assert!(send_one(&mut card, &frame(60, 1)));
        assert_eq!(card.used(1).len(), 1, "errno {errno}");
    }
    assert!(card.net.sent(0).is_empty());
    let counters = &card.counters;
    assert_eq!(counters.tx_no_room.get(), 2);
    assert_eq!(counters.tx_rejected.get(), 2);
    assert_eq!(counters.tx_errors.get(), 2);
    assert_eq!(counters.tx_frames.get(), 0);
    assert!(send_one(&mut card, &frame(60, 1)));
    assert_eq!(card.net.sent(0).len(), 1);
}

#[test]
fn a_full_ring_goes_out_in_order_and_in_turns() {
    let mut card = FakeCard::new(EVENT_IDX);
    card.restart(EVENT_IDX, 256);
    for (at, seed) in (BUFFERS..).step_by(0x1000).zip(0..200) {
        card.put(at, &frame(100, seed));
        card.running.queues[1].add(&[(at, 112, false)]);
    }
    assert!(card.running.kick(1));
    let first = card.used(1).len();
    assert_eq!(first, MAX_TURN);
    assert!(card.run(5));
    assert_eq!(first + card.used(1).len(), 200);
    let sent = card.net.sent(0);
    for (seed, sent) in sent.iter().enumerate() {
        assert_eq!(*sent, frame(100, seed));
    }
    assert_eq!(sent.len(), 200);
}

#[test]
fn a_malformed_chain_needs_a_reset() {
    for buffers in [
        &[(0x1_0000_0000, 100, false)][..],
        &[(BUFFERS, 12, false), (BUFFERS, 0, false)],
        &[(BUFFERS, 12, true), (BUFFERS, 60, false)],
    ] {
        let mut card = FakeCard::new(0);
        assert!(!card.give(1, buffers));
        assert_ne!(card.running.transport.status() & status::NEEDS_RESET, 0);
        card.restart(0, 16);
        assert!(send_one(&mut card, &frame(60, 1)));
        assert_eq!(card.used(1), [(0, 0)]);
        assert_eq!(card.net.sent(0).len(), 1);
    }
}

#[test]
fn what_comes_before_a_malformed_chain_is_sent() {
    let mut card = FakeCard::new(0);
    for seed in 0..3 {
        let at = BUFFERS + 0x1000 * seed as u64;
        card.put(at, &frame(100, seed));
        card.running.queues[1].add(&[(at, 112, false)]);
    }
    assert!(!card.give(1, &[(BUFFERS, 12, false), (BUFFERS, 0, false)]));
    assert_eq!(card.used(1).len(), 3);
    assert_eq!(card.net.sent(0), [0, 1, 2].map(|seed| frame(100, seed)));
}

#[test]
fn a_pair_that_is_not_in_use_sends_nothing() {
    let features = features::CTRL_VQ | features::MQ;
    let mut card = Card::on(FakeNet::new(2, true), features);
    assert!(card.run(1));
    card.put(BUFFERS, &frame(60, 1));
    assert!(card.give(3, &[(BUFFERS, 72, false)]));
    assert_eq!(card.used(3), [(0, 0)]);
    assert!(card.net.sent(1).is_empty());
    assert_eq!(card.counters.tx_rejected.get(), 1);
    card.put(BUFFERS + 0x1000, &[4, 0, 2, 0]);
    card.give(4, &[(BUFFERS + 0x1000, 4, false), (BUFFERS + 0x1010, 1, true)]);
    assert!(card.give(3, &[(BUFFERS, 72, false)]));
    assert_eq!(card.net.sent(1).len(), 1);
}
