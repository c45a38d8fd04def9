use std::sync::atomic::Ordering;

use super::super::BalloonCounters;
use super::support::{ALL, BUFFER, END, PAGES, Rig, Setup};

const INFLATE: u32 = 0;
const DEFLATE: u32 = 1;

fn page(address: u64) -> u32 {
    u32::try_from(address >> 12).unwrap()
}

#[test]
fn neighbours_are_released_together() {
    let mut rig = Rig::new(Setup::default(), ALL);
    let first = page(PAGES);
    assert!(rig.send_pages(INFLATE, &[first + 2, first, first + 1, first + 8]));
    assert_eq!(rig.used(0), [(0, 0)]);
    assert_eq!(rig.reclaim.taken(), [(PAGES, 0x3000), (PAGES + 0x8000, 0x1000)]);
    let counters = BalloonCounters {
        released: 4 << 12,
        inflated_pages: 4,
        inflations: 1,
        ..Default::default()
    };
    assert_eq!(rig.control.counters(), counters);
    assert_eq!(rig.running.line.edges(), 1);
}

#[test]
fn what_is_taken_out_needs_nothing() {
    let mut rig = Rig::new(Setup::default(), ALL);
    assert!(rig.send_pages(DEFLATE, &[1, 2, 3]));
    assert_eq!(rig.used(1), [(0, 0)]);
    assert_eq!(rig.reclaim.taken(), []);
    assert_eq!(rig.control.counters().deflated_pages, 3);
}

#[test]
fn pages_that_are_no_ram_are_survived() {
    let mut rig = Rig::new(Setup::default(), ALL);
    // A run that begins inside and ends outside, and the last page there can be.
    let last = page(END) - 1;
    assert!(rig.send_pages(INFLATE, &[last, last + 1, last + 2, u32::MAX]));
    assert_eq!(rig.reclaim.taken(), [(END - 0x1000, 0x1000)]);
    let counters = rig.control.counters();
    assert_eq!((counters.released, counters.outside), (1 << 12, 3 << 12));
    assert_eq!(rig.used(0), [(0, 0)]);
}

#[test]
fn odd_requests_are_answered() {
    let mut rig = Rig::new(Setup::default(), ALL);
    // Less than a number, a number and a half, nothing to read at all.
    assert!(rig.send(INFLATE, &[1]));
    assert_eq!(rig.reclaim.taken(), []);
    assert!(rig.send(INFLATE, &[&page(PAGES).to_le_bytes()[..], &[1, 0]].concat()));
    assert_eq!(rig.reclaim.taken(), [(PAGES, 0x1000)]);
    rig.running.queues[0].add(&[(BUFFER, 64, true)]);
    assert!(rig.running.kick(INFLATE));
    assert_eq!(rig.used(0).len(), 3);
    assert_eq!(rig.reclaim.taken(), []);
}

#[test]
fn a_number_may_lie_in_two_buffers() {
    let mut rig = Rig::new(Setup::default(), ALL);
    let number = page(PAGES).to_le_bytes();
    let (one, other) = (BUFFER, BUFFER + 0x100);
    vm_memory::Bytes::write_slice(&rig.memory, &number[..1], vm_memory::GuestAddress(one)).unwrap();
    vm_memory::Bytes::write_slice(&rig.memory, &number[1..], vm_memory::GuestAddress(other))
        .unwrap();
    rig.running.queues[0].add(&[(one, 1, false), (other, 3, false)]);
    assert!(rig.running.kick(INFLATE));
    assert_eq!(rig.reclaim.taken(), [(PAGES, 0x1000)]);
}

#[test]
fn a_request_without_end_costs_a_bounded_amount() {
    let mut rig = Rig::new(Setup::default(), ALL);
    // Every second page, so that no two are neighbours; more than are looked at.
    let pages: Vec<u32> = (0..1500).map(|n| page(PAGES) + 2 * n).collect();
    assert!(rig.send_pages(INFLATE, &pages));
    assert_eq!(rig.reclaim.taken().len(), 1024);
    let counters = rig.control.counters();
    assert_eq!((counters.inflated_pages, counters.excess), (1024, (1500 - 1024) << 12));
    // Many requests take several turns, and all are answered.
    for _ in 0..10 {
        rig.running.queues[0].add(&[(BUFFER, 4, false)]);
    }
    rig.running.transport.kick(INFLATE);
    let mut turns = 0;
    let mut answered = rig.used(0).len();
    while answered < 11 {
        assert!(rig.running.host.run());
        let now = rig.used(0).len();
        assert!((1..=4).contains(&now), "{now} requests at a time");
        answered += now;
        turns += 1;
    }
    assert_eq!(turns, 3);
}

#[test]
fn parts_of_larger_host_pages_are_kept_and_counted() {
    let huge = 2 << 20;
    let mut rig = Rig::new(Setup { page_size: huge, ..Setup::default() }, ALL);
    // From the middle of one huge page to the middle of the next but one.
    let start = 4 * huge + huge / 2;
    let all: Vec<u32> = (0..1024).map(|n| page(start) + n).collect();
    assert!(rig.send_pages(INFLATE, &all));
    assert_eq!(rig.reclaim.taken(), [(5 * huge, huge)]);
    let counters = rig.control.counters();
    assert_eq!((counters.released, counters.partial), (huge, huge));
    // Fewer pages than one huge page has, within it and over its edge.
    for start in [4 * huge + 0x1000, 5 * huge - 0x1000] {
        assert!(rig.send_pages(INFLATE, &[page(start), page(start) + 1]));
        assert_eq!(rig.reclaim.taken(), []);
    }
    assert_eq!(rig.control.counters().partial, huge + (4 << 12));
}

#[test]
fn a_host_that_refuses_is_counted_and_the_guest_goes_on() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.reclaim.refuses.store(true, Ordering::Relaxed);
    assert!(rig.send_pages(INFLATE, &[page(PAGES), page(PAGES) + 8]));
    assert_eq!(rig.used(0), [(0, 0)]);
    assert_eq!(rig.control.counters().failed, 2 << 12);
    rig.reclaim.refuses.store(false, Ordering::Relaxed);
    assert!(rig.send_pages(INFLATE, &[page(PAGES)]));
    assert_eq!(rig.control.counters().released, 1 << 12);
}

#[test]
fn a_broken_ring_needs_a_reset_and_a_reset_heals() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.running.queues[0].add(&[(END, 4, false)]);
    assert!(!rig.running.kick(INFLATE));
    assert_eq!(rig.reclaim.taken(), []);
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.running.transport.write_status(0);
    assert!(!rig.running.host.is_running());
    rig.running.bring_up(ALL);
    assert!(rig.send_pages(INFLATE, &[page(PAGES)]));
    assert_eq!(rig.reclaim.taken(), [(PAGES, 0x1000)]);
}
