use std::sync::Arc;
use std::time::Duration;

use super::super::features;
use super::super::tests::fake::{BUFFERS, Card, FakeCard, FakeNet, frame};
use super::*;
use crate::rate_limiter::tests::FakeClock;
use crate::rate_limiter::{Limiter, Rate};
use crate::virtio::feature::EVENT_IDX;
use crate::virtio::transport::status;

const SECOND: Duration = Duration::from_secs(1);

fn frames(per_second: u64) -> Limits {
    Limits { bandwidth: None, ops: Rate::new(per_second, SECOND, 0) }
}

fn bytes(per_second: u64) -> Limits {
    Limits { bandwidth: Rate::new(per_second, SECOND, 0), ops: None }
}

fn limited(limits: NetLimits, pairs: u16, features: u64) -> (FakeCard, FakeClock) {
    let clock = FakeClock::new();
    let limiter = |limits| Limiter::with_clock(limits, Box::new(clock.clone()));
    let limiters = (limiter(limits.rx), limiter(limits.tx));
    let card = Card::with_limiters(FakeNet::new(pairs, true), 1500, features, limiters);
    (card, clock)
}

/// Makes `count` frames of 60 bytes available for sending.
fn send(card: &mut FakeCard, count: usize) {
    card.put(BUFFERS, &frame(60, 1));
    for _ in 0..count {
        card.running.queues[1].add(&[(BUFFERS, 72, false)]);
    }
    assert!(card.running.kick(1));
}

/// Posts `count` receive buffers.
fn post(card: &mut FakeCard, count: u64) {
    for i in 0..count {
        card.running.queues[0].add(&[(BUFFERS + 2048 * i, 2048, true)]);
    }
    assert!(card.running.kick(0));
}

/// Kicks both queues, although a driver would not, and delivers what is ready.
fn nudge(card: &mut FakeCard) {
    assert!(card.running.kick(0) && card.running.kick(1) && card.run(2));
}

#[test]
fn frames_beyond_the_limit_are_sent_later() {
    for features in [0, EVENT_IDX] {
        for (limits, until_next) in [(frames(2), SECOND / 2), (bytes(120), SECOND / 100)] {
            let tx_only = NetLimits { tx: limits, ..NetLimits::default() };
            let (mut card, clock) = limited(tx_only, 1, features);
            send(&mut card, 6);
            assert_eq!(card.net.sent(0).len(), 2);
            assert_eq!(card.used(1).len(), 2);
            nudge(&mut card);
            assert_eq!(card.net.sent(0).len(), 0, "nothing before its time");
            clock.advance(until_next);
            nudge(&mut card);
            assert_eq!(card.net.sent(0).len(), 1);
            for _ in 0..3 {
                clock.advance(SECOND);
                nudge(&mut card);
            }
            assert_eq!(card.net.sent(0).len(), 3);
            assert_eq!(card.used(1).len(), 4, "none is lost");
        }
    }
}

#[test]
fn frames_beyond_the_limit_wait_in_the_host() {
    for features in [0, EVENT_IDX, features::MRG_RXBUF] {
        for limits in [frames(2), bytes(120)] {
            let rx_only = NetLimits { rx: limits, ..NetLimits::default() };
            let (mut card, clock) = limited(rx_only, 1, features);
            post(&mut card, 8);
            for seed in 0..5 {
                card.net.arrive(0, Ok(frame(60, seed)));
            }
            assert!(card.run(2));
            assert_eq!((card.used(0).len(), card.net.waiting(0)), (2, 3));
            nudge(&mut card);
            assert_eq!((card.used(0).len(), card.net.waiting(0)), (0, 3));
            // No news of frames any more: that they wait is remembered.
            card.net.quiet(0);
            for _ in 0..4 {
                clock.advance(SECOND);
                nudge(&mut card);
            }
            assert_eq!((card.used(0).len(), card.net.waiting(0)), (3, 0));
        }
    }
}

#[test]
fn the_timers_bring_both_queues_back() {
    let fast = Limits { bandwidth: None, ops: Rate::new(1, Duration::from_millis(2), 0) };
    let limiters = (Limiter::new(fast), Limiter::new(fast));
    let mut card = Card::with_limiters(FakeNet::new(1, true), 1500, 0, limiters);
    post(&mut card, 8);
    for seed in 0..4 {
        card.net.arrive(0, Ok(frame(60, seed)));
    }
    send(&mut card, 4);
    let (mut received, mut sent) = (0, 0);
    while received < 4 || sent < 4 {
        std::thread::yield_now();
        assert!(card.run(1));
        received += card.used(0).len();
        sent += card.used(1).len();
    }
    assert_eq!((received, sent), (4, 4));
}

#[test]
fn a_reset_while_frames_wait_is_clean() {
    let limits = NetLimits { rx: frames(1), tx: frames(1) };
    let (mut card, clock) = limited(limits, 1, 0);
    post(&mut card, 4);
    card.net.arrive(0, Ok(frame(60, 1)));
    card.net.arrive(0, Ok(frame(60, 2)));
    send(&mut card, 3);
    assert!(card.run(1));
    card.restart(0, 16);
    clock.advance(10 * SECOND);
    post(&mut card, 4);
    send(&mut card, 1);
    assert!(card.run(1));
    assert_eq!((card.used(0).len(), card.used(1).len()), (1, 1));
    assert_eq!(card.running.transport.status() & status::NEEDS_RESET, 0);
}

#[test]
fn other_limits_hold_for_frames_that_wait() {
    let limits = NetLimits { rx: frames(1), tx: frames(1) };
    let (mut card, _) = limited(limits, 1, 0);
    assert_eq!(card.control.limits(), limits);
    post(&mut card, 8);
    for seed in 0..4 {
        card.net.arrive(0, Ok(frame(60, seed)));
    }
    send(&mut card, 4);
    assert!(card.run(1));
    assert_eq!((card.used(0).len(), card.used(1).len()), (1, 1));
    // No kick: the change itself wakes the queues.
    card.control.set_limits(NetLimits { rx: frames(2), ..NetLimits::default() });
    assert!(card.run(1));
    assert_eq!((card.used(0).len(), card.used(1).len()), (2, 3));
}

#[test]
fn limits_are_for_all_pairs_together() {
    let limits = NetLimits { rx: Limits::NONE, tx: frames(2) };
    let (mut card, clock) = limited(limits, 2, features::MQ | features::CTRL_VQ);
    // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: both pairs.
    card.put(BUFFERS + 0x8000, &[4, 0, 2, 0]);
    card.give(4, &[(BUFFERS + 0x8000, 4, false), (BUFFERS + 0x9000, 1, true)]);
    assert_eq!(card.bytes(BUFFERS + 0x9000, 1), [0]);
    send(&mut card, 4);
    for _ in 0..4 {
        card.running.queues[3].add(&[(BUFFERS, 72, false)]);
    }
    assert!(card.running.kick(3));
    assert_eq!((card.net.sent(0).len(), card.net.sent(1).len()), (2, 1), "one is owed");
    for _ in 0..5 {
        clock.advance(SECOND);
        assert!(card.running.kick(1) && card.running.kick(3));
    }
    assert_eq!((card.net.sent(0).len(), card.net.sent(1).len()), (2, 3));
}

#[test]
fn a_card_can_be_changed_before_it_is_used() {
    let backend: Arc<FakeNet> = FakeNet::new(1, true);
    let limiters = (Limiter::new(Limits::NONE), Limiter::new(Limits::NONE));
    let mut card = Card::with_limiters(backend, 1500, 0, limiters);
    card.running.transport.write_status(0);
    card.control.set_limits(NetLimits { rx: Limits::NONE, tx: frames(1) });
    card.restart(0, 16);
    send(&mut card, 3);
    assert_eq!(card.net.sent(0).len(), 1);
}
