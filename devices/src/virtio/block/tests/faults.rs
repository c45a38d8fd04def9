//! Mistakes of the driver and failures of the host: each request is answered once, and the next works.

use std::io;

use super::support::*;
use crate::backend::disk::io::{Engine, Op};
use crate::test_util::DriverQueue;
use crate::virtio::transport::status;

const ENGINES: [Engine; 2] = [Engine::Sync, Engine::IoUring];

#[test]
fn a_malformed_request_is_refused_and_the_next_one_works() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        let out = |len| [(DATA, len, false)];
        let into = |len| [(DATA, len, true)];
        assert_eq!(rig.ask(IN, 0, &into(511)), (IOERR, 1));
        assert_eq!(rig.ask(IN, 0, &into(513)), (IOERR, 1));
        assert_eq!(rig.ask(OUT, 0, &out(1)), (IOERR, 1));
        assert_eq!(rig.ask(DISCARD, 0, &[]), (IOERR, 1));
        assert_eq!(rig.ask(DISCARD, 0, &out(15)), (IOERR, 1));
        assert_eq!(rig.ask(DISCARD, 0, &out(17 * 16)), (IOERR, 1));
        assert_eq!(rig.ask(WRITE_ZEROES, 0, &out(32)), (IOERR, 1));
        for kind in [2, 3, 5, 10, 14, 15, 16, 0x8000_0000, u32::MAX] {
            assert_eq!(rig.ask(kind, 0, &into(512)), (UNSUPP, 1), "{kind}");
        }
        assert_eq!(rig.counters[0].refused.get(), 16);
        rig.assert_alive();
    }
}

#[test]
fn a_header_that_is_too_short_is_refused() {
    let mut rig = Setup::default().start();
    for len in [1, 15] {
        let (header, status) = rig.place(IN, 0);
        rig.running.queues[0].add(&[(header, len, false), (DATA, 512, true), (status, 1, true)]);
        assert_eq!(rig.finish(1)[0].1, 1);
        assert_eq!(rig.get(status, 1), [IOERR]);
    }
    let (_, status) = rig.place(IN, 0);
    rig.running.queues[0].add(&[(status, 1, true)]);
    assert_eq!(rig.finish(1)[0].1, 1);
    assert_eq!(rig.get(status, 1), [IOERR]);
    rig.assert_alive();
}

#[test]
fn a_request_of_no_data_is_no_mistake() {
    let mut rig = Setup::default().start();
    assert_eq!(rig.ask(IN, SECTORS, &[]), (OK, 1));
    assert_eq!(rig.ask(OUT, 0, &[]), (OK, 1));
    assert_eq!(rig.ask(IN, SECTORS + 1, &[]), (IOERR, 1));
    rig.assert_alive();
}

#[test]
fn a_range_that_is_not_acceptable_leaves_the_others_untouched() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        rig.fill_disk(0, &[0xaa; 4096]);
        rig.put_range(DATA, 0, 8, 0);
        let cases = [
            (SECTORS, 1, 0, IOERR),
            (SECTORS - 1, 2, 0, IOERR),
            (u64::MAX, 1, 0, IOERR),
            (u64::MAX / 512 + 1, 1, 0, IOERR),
            (0, u32::MAX, 0, IOERR),
            (0, 8, 1, UNSUPP),
            (0, 8, 0x8000_0000, UNSUPP),
        ];
        for (sector, sectors, flags, status) in cases {
            rig.put_range(DATA + 16, sector, sectors, flags);
            assert_eq!(rig.ask(DISCARD, 0, &[(DATA, 32, false)]), (status, 1), "{sector:#x}");
        }
        for (sector, sectors, flags, status) in [(SECTORS, 1, 0, IOERR), (0, 8, 2, UNSUPP)] {
            rig.put_range(DATA, sector, sectors, flags);
            assert_eq!(rig.ask(WRITE_ZEROES, 0, &[(DATA, 16, false)]), (status, 1));
        }
        assert_eq!(rig.on_disk(0, 4096), [0xaa; 4096]);
        rig.assert_alive();
    }
}

#[test]
fn what_was_not_negotiated_is_not_supported() {
    let mut rig = Setup { features: F_FLUSH, ..Setup::default() }.start();
    rig.put_range(DATA, 0, 8, 0);
    assert_eq!(rig.ask(DISCARD, 0, &[(DATA, 16, false)]), (UNSUPP, 1));
    assert_eq!(rig.ask(WRITE_ZEROES, 0, &[(DATA, 16, false)]), (UNSUPP, 1));
    rig.assert_alive();
}

#[test]
fn without_room_for_a_status_the_device_needs_a_reset_and_works_after_it() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        let (header, _) = rig.place(FLUSH, 0);
        rig.running.queues[0].add(&[(header, 16, false)]);
        assert!(!rig.running.kick(0));
        assert_eq!(rig.running.transport.status() & status::NEEDS_RESET, status::NEEDS_RESET);
        restart(&mut rig);
        rig.assert_alive();
    }
}

#[test]
fn a_broken_ring_is_not_touched_again_but_what_was_in_flight_is_waited_for() {
    let (mut rig, script) = Setup::default().start_scripted();
    rig.send(IN, 0, &[(DATA, 512, true)]);
    assert!(rig.running.kick(0));
    rig.running.queues[0].add(&[(DATA, 16, false)]);
    assert!(!rig.running.kick(0));
    rig.running.transport.write_status(0);
    assert_eq!(rig.running.queues[0].take_used(), []);
    assert_eq!(script.lock().dropped, 1);
}

#[test]
fn a_reset_waits_for_what_is_in_flight() {
    let (mut rig, script) = Setup::default().start_scripted();
    let sent: Vec<_> = (0..4).map(|i| rig.send(IN, i, &[(DATA, 512, true)])).collect();
    assert!(rig.running.kick(0));
    assert_eq!(script.lock().in_flight.len(), 4);
    rig.running.transport.write_status(0);
    assert_eq!(script.lock().in_flight.len(), 0);
    assert_eq!(rig.running.queues[0].take_used().len(), 4);
    assert!(sent.iter().all(|&s| rig.status(s) == OK));
    assert_eq!(script.lock().dropped, 1);
}

#[test]
fn a_reset_in_the_middle_of_ring_transfers_loses_none() {
    for _ in 0..50 {
        let mut rig = Setup { direct: true, ..Setup::engine(Engine::IoUring) }.start();
        rig.put(DATA, &[0x5a; 256 << 10]);
        let sent: Vec<_> =
            (0..5).map(|i| rig.send(OUT, i * 128, &[(DATA, 64 << 10, false)])).collect();
        rig.running.transport.kick(0);
        rig.running.host.run();
        rig.running.transport.write_status(0);
        assert_eq!(rig.running.queues[0].take_used().len(), 5);
        assert!(sent.iter().all(|&s| rig.status(s) == OK));
        restart(&mut rig);
        rig.assert_alive();
    }
}

#[test]
fn a_device_can_be_restarted_any_number_of_times() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        for _ in 0..20 {
            restart(&mut rig);
            rig.assert_alive();
        }
        assert_eq!(rig.counters[0].reads.get(), 20);
    }
}

#[test]
fn a_file_that_was_truncated_behind_our_back_reads_as_an_error() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        rig.file.set_len(10 * 512).unwrap();
        assert_eq!(rig.ask(IN, 10, &[(DATA, 512, true)]), (IOERR, 1));
        // The part that is there was read; the status still says that not everything was.
        assert_eq!(rig.ask(IN, 8, &[(DATA, 4096, true)]), (IOERR, 1025));
        assert_eq!(rig.counters[0].failed.get(), 2);
        rig.assert_alive();
    }
}

#[test]
fn a_failure_of_the_host_is_an_error_of_one_request() {
    let (mut rig, script) = Setup::default().start_scripted();
    for errno in [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EFAULT, libc::EROFS] {
        let sent = rig.send(OUT, 0, &[(DATA, 512, false)]);
        let good = rig.send(OUT, 1, &[(DATA, 512, false)]);
        rig.running.kick(0);
        script.end(0, Err(io::Error::from_raw_os_error(errno)));
        script.end(0, Ok(512));
        assert_eq!(rig.finish(2).len(), 2);
        assert_eq!((rig.status(sent), rig.status(good)), (IOERR, OK));
    }
    assert_eq!(rig.counters[0].failed.get(), 5);
    assert_eq!(rig.counters[0].writes.get(), 5);
}

#[test]
fn a_failed_flush_is_told() {
    let (mut rig, script) = Setup::default().start_scripted();
    let sent = rig.send(FLUSH, 0, &[]);
    rig.running.kick(0);
    script.end(0, Err(io::Error::from_raw_os_error(libc::EIO)));
    rig.finish(1);
    assert_eq!(rig.status(sent), IOERR);
    assert_eq!(rig.counters[0].flushes.get(), 0);
}

#[test]
fn short_and_interrupted_transfers_are_carried_on() {
    let (mut rig, script) = Setup::default().start_scripted();
    let sent = rig.send(OUT, 2, &[(DATA, 4096, false)]);
    rig.running.kick(0);
    let outcomes = [Ok(1), Err(libc::EINTR), Ok(1000), Err(libc::EAGAIN), Ok(3095)];
    for outcome in outcomes {
        script.end(0, outcome.map_err(io::Error::from_raw_os_error));
        assert_eq!(rig.status(sent), NONE);
        rig.running.host.run();
    }
    assert_eq!(rig.status(sent), OK);
    let positions: Vec<_> = script.lock().submitted.iter().map(|op| parts(*op)).collect();
    let expected = [(0, 4096), (1, 4095), (1, 4095), (1001, 3095), (1001, 3095)]
        .map(|(done, left)| (1024 + done as u64, 16 + done, left));
    assert_eq!(positions, expected);
}

#[test]
fn a_host_that_always_breaks_off_is_given_up() {
    let (mut rig, script) = Setup::default().start_scripted();
    let again = || Err(io::Error::from_raw_os_error(libc::EINTR));
    script.lock().at_once.extend((0..100).map(|_| again()));
    let sent = rig.send(IN, 0, &[(DATA, 512, true)]);
    rig.finish(1);
    assert_eq!(rig.status(sent), IOERR);
    let used = 100 - script.lock().at_once.len();
    assert!((2..50).contains(&used), "{used} attempts");
}

#[test]
fn what_the_host_does_not_take_now_is_submitted_later() {
    let (mut rig, script) = Setup::default().start_scripted();
    script.lock().refusals = 2;
    let sent = rig.send(IN, 0, &[(DATA, 512, true)]);
    rig.running.kick(0);
    while script.lock().in_flight.is_empty() {
        rig.running.host.run();
    }
    script.end(0, Ok(512));
    rig.finish(1);
    assert_eq!(rig.status(sent), OK);
}

/// A driver that offers the same descriptors again and again has no more in flight than the queue holds.
#[test]
fn requests_in_flight_are_bounded_and_all_are_answered() {
    let (mut rig, script) = Setup::default().start_scripted();
    let sent = rig.send(IN, 0, &[(DATA, 512, true)]);
    let head = u16::try_from(sent.head).unwrap();
    // As many again as are in flight may wait on the ring.
    for _ in 1..32 {
        rig.running.kick(0);
        rig.running.queues[0].offer(head);
    }
    rig.running.kick(0);
    assert_eq!(script.lock().in_flight.len(), 16);
    for _ in 0..32 {
        script.end(0, Ok(512));
        rig.running.host.run();
        assert!(script.lock().in_flight.len() <= 16);
    }
    assert_eq!(rig.running.queues[0].take_used().len(), 32);
}

#[test]
fn a_busy_driver_leaves_others_their_turn() {
    let mut rig = Setup::default().start();
    for _ in 0..4 {
        rig.send(IN, 0, &[(DATA, 512 << 10, true)]);
    }
    rig.running.kick(0);
    let first = rig.running.queues[0].take_used().len();
    assert!((1..4).contains(&first), "{first} answered in one turn");
    while rig.running.queues[0].take_used().is_empty() {
        rig.running.host.run();
    }
}

pub(super) fn restart(rig: &mut Rig) {
    rig.running.transport.write_status(0);
    let base = rig.running.queues[0].config().descriptors;
    let memory = rig.memory.clone();
    for (index, queue) in rig.running.queues.iter_mut().enumerate() {
        let at = base + 0x40000 * index as u64;
        // A driver clears its rings before it starts the device again.
        vm_memory::Bytes::write_slice(&memory, &[0; 0x4000], vm_memory::GuestAddress(at)).unwrap();
        *queue = DriverQueue::new(&memory, at, 16);
    }
    rig.running.bring_up(F_ALL);
}

fn parts(op: Op) -> (u64, usize, usize) {
    match op {
        Op::Read { offset, start, len } | Op::Write { offset, start, len } => (offset, start, len),
        _ => (0, 0, 0),
    }
}

#[test]
fn a_driver_that_adds_requests_as_fast_as_they_are_answered_starves_nobody() {
    let (mut rig, script) = Setup::default().start_scripted();
    script.lock().at_once.extend((0..1000).map(|_| Ok(512)));
    let sent = rig.send(IN, 0, &[(DATA, 512, true)]);
    let driver = DriverQueue::new(&rig.memory, QUEUES, 16);
    let head = u16::try_from(sent.head).unwrap();
    script.lock().at_submit = Some(Box::new(move || driver.offer(head)));
    let mut answered = 0;
    for round in 1..4 {
        assert!(rig.running.kick(0));
        // It came back, and will be called again.
        answered += rig.running.queues[0].take_used().len();
        assert!((round..20 * round).contains(&answered), "{answered} in {round} rounds");
    }
    script.lock().at_submit = None;
    assert!(rig.running.host.run());
    rig.running.queues[0].take_used();
}
