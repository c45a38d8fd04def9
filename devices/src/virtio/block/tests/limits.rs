//! Limits: what is too much waits on the ring, and nothing is lost by waiting.

use std::time::Duration;

use super::faults::restart;
use super::support::*;
use crate::backend::disk::io::Engine;
use crate::rate_limiter::tests::FakeClock;
use crate::rate_limiter::{Limits, Rate};
use crate::virtio::feature::EVENT_IDX;

const ENGINES: [Engine; 2] = [Engine::Sync, Engine::IoUring];
const SECOND: Duration = Duration::from_secs(1);

fn ops(per_second: u64) -> Limits {
    Limits { bandwidth: None, ops: Rate::new(per_second, SECOND, 0) }
}

fn limited(limits: Limits) -> (Setup, FakeClock) {
    let clock = FakeClock::new();
    (Setup { limits, clock: Some(clock.clone()), ..Setup::default() }, clock)
}

/// Kicks and delivers events some more times: nothing else is answered.
fn assert_waiting(rig: &mut Rig) {
    for _ in 0..3 {
        assert!(rig.running.kick(0));
    }
    assert_eq!(rig.running.queues[0].take_used(), []);
}

fn send_reads(rig: &mut Rig, count: u64) -> Vec<Sent> {
    (0..count).map(|i| rig.send(IN, i, &[(DATA + 512 * i, 512, true)])).collect()
}

#[test]
fn operations_beyond_the_limit_wait_for_their_time() {
    for engine in ENGINES {
        for features in [F_ALL, F_ALL | EVENT_IDX] {
            let (setup, clock) = limited(ops(2));
            let mut rig = Setup { engine, features, ..setup }.start();
            let sent = send_reads(&mut rig, 5);
            rig.finish(2);
            assert_waiting(&mut rig);
            clock.advance(SECOND / 2);
            rig.finish(1);
            assert_waiting(&mut rig);
            clock.advance(SECOND * 100);
            rig.finish(2);
            assert!(sent.into_iter().all(|one| rig.status(one) == OK));
            clock.advance(SECOND);
            rig.assert_alive();
        }
    }
}

#[test]
fn bytes_beyond_the_limit_wait_for_their_time() {
    for engine in ENGINES {
        let limits = Limits { bandwidth: Rate::new(4096, SECOND, 1024), ops: None };
        let (setup, clock) = limited(limits);
        let mut rig = Setup { engine, ..setup }.start();
        // The burst and half of the bucket; the rest of it and as much again; what waits.
        assert_eq!(rig.ask(OUT, 0, &[(DATA, 3072, false)]), (OK, 1));
        assert_eq!(rig.ask(IN, 0, &[(DATA, 4096, true)]), (OK, 4097));
        let flush = rig.send(FLUSH, 0, &[]);
        assert_waiting(&mut rig);
        clock.advance(SECOND / 2);
        assert_waiting(&mut rig);
        clock.advance(SECOND / 100);
        rig.finish(1);
        assert_eq!(rig.status(flush), OK);
        assert_eq!(
            rig.ask(IN, 0, &[(DATA, 1 << 20, true)]),
            (OK, (1 << 20) + 1),
            "any size passes"
        );
        rig.send(IN, 0, &[(DATA, 512, true)]);
        assert_waiting(&mut rig);
    }
}

#[test]
fn zeroes_count_like_data_and_what_is_refused_or_discarded_does_not() {
    let limits = Limits { bandwidth: Rate::new(4096, SECOND, 0), ops: None };
    let (setup, clock) = limited(limits);
    let mut rig = setup.start();
    rig.put_range(DATA, 0, 64, 0);
    assert_eq!(rig.ask(DISCARD, 0, &[(DATA, 16, false)]), (OK, 1));
    assert_eq!(rig.ask(IN, SECTORS, &[(DATA, 65536, true)]), (IOERR, 1));
    assert_eq!(rig.ask(WRITE_ZEROES, 0, &[(DATA, 16, false)]), (OK, 1));
    rig.send(FLUSH, 0, &[]);
    // 32 KiB: a full bucket and seven seconds.
    clock.advance(7 * SECOND);
    assert_waiting(&mut rig);
    clock.advance(SECOND / 100);
    rig.finish(1);
}

#[test]
fn the_timer_brings_the_queue_back() {
    for engine in ENGINES {
        let limits = Limits { bandwidth: None, ops: Rate::new(1, Duration::from_millis(2), 0) };
        let mut rig = Setup { engine, limits, ..Setup::default() }.start();
        let sent = send_reads(&mut rig, 5);
        rig.finish(5);
        assert!(sent.into_iter().all(|one| rig.status(one) == OK));
    }
}

#[test]
fn a_queue_without_limits_watches_no_timer() {
    let mut rig = Setup::default().start();
    let before = rig.running.host.watched();
    send_reads(&mut rig, 5);
    rig.finish(5);
    assert_eq!(rig.running.host.watched(), before);
    rig.control.set_limits(ops(1));
    rig.ask(IN, 0, &[(DATA, 512, true)]);
    assert_eq!(rig.running.host.watched(), before + 1);
}

#[test]
fn kicks_are_expected_again_after_a_wait() {
    let (setup, clock) = limited(ops(2));
    let mut rig = Setup { features: F_ALL | EVENT_IDX, ..setup }.start();
    send_reads(&mut rig, 3);
    rig.finish(2);
    clock.advance(SECOND * 10);
    rig.finish(1);
    clock.advance(SECOND * 10);
    assert!(rig.running.kick(0));
    // `avail_event`: kick for the next one (virtio 1.3, 2.7.10).
    let avail_event = rig.running.queues[0].config().device + 4 + 8 * 16;
    assert_eq!(rig.get(avail_event, 2), [3, 0]);
    rig.assert_alive();
}

#[test]
fn a_reset_while_requests_wait_is_clean() {
    for engine in ENGINES {
        let (setup, clock) = limited(ops(1));
        let mut rig = Setup { engine, ..setup }.start();
        send_reads(&mut rig, 4);
        rig.finish(1);
        restart(&mut rig);
        send_reads(&mut rig, 1);
        rig.finish(1);
        send_reads(&mut rig, 1);
        assert_waiting(&mut rig);
        clock.advance(SECOND * 5);
        rig.finish(1);
    }
}

#[test]
fn other_limits_hold_for_requests_that_wait() {
    for engine in ENGINES {
        let (setup, _) = limited(ops(1));
        let mut rig = Setup { engine, ..setup }.start();
        assert_eq!(rig.control.limits(), ops(1));
        send_reads(&mut rig, 5);
        rig.finish(1);
        rig.control.set_limits(ops(2));
        rig.finish(2);
        assert_waiting(&mut rig);
        // No kick: the change itself wakes the queue.
        rig.control.set_limits(Limits::NONE);
        assert!(rig.running.host.run());
        rig.finish(2);
        rig.assert_alive();
    }
}

#[test]
fn limits_are_for_all_queues_together() {
    let (setup, clock) = limited(ops(2));
    let mut rig = Setup { queues: 2, features: F_ALL | F_MQ, ..setup }.start();
    send_reads(&mut rig, 5);
    rig.finish(2);
    let (header, status) = rig.place(IN, 0);
    let chain = [(header, 16, false), (DATA, 512, true), (status, 1, true)];
    rig.running.queues[1].add(&chain);
    rig.running.queues[1].add(&chain);
    assert!(rig.running.kick(1));
    assert_eq!(rig.running.queues[1].take_used().len(), 1, "a queue owes one request at most");
    assert_waiting(&mut rig);
    clock.advance(SECOND / 2);
    assert!(rig.running.kick(1));
    assert_eq!(rig.running.queues[1].take_used(), [], "the first queue is first");
    rig.finish(1);
    clock.advance(SECOND / 2);
    assert!(rig.running.kick(1));
    assert_eq!(rig.running.queues[1].take_used().len(), 1);
}
