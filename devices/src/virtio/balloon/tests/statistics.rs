use std::thread;
use std::time::{Duration, Instant};

use super::super::{BalloonError, Statistics};
use super::support::{ALL, BUFFER, Rig, Setup};
use vm_memory::{Bytes, GuestAddress};

const STATISTICS: u32 = 2;
const QUEUE: usize = 2;

fn entries(all: &[(u16, u64)]) -> Vec<u8> {
    all.iter()
        .flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat())
        .collect()
}

/// Delivers events until the driver's buffer is back.
fn asked(rig: &mut Rig) -> Vec<(u32, u32)> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(rig.running.host.run());
        let used = rig.used(QUEUE);
        if !used.is_empty() {
            return used;
        }
        assert!(Instant::now() < deadline, "nobody asks");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn numbers_are_read_by_their_tags() {
    let mut rig = Rig::new(Setup::default(), ALL);
    assert_eq!(rig.control.statistics().unwrap(), Statistics::default());
    let all: Vec<(u16, u64)> = (0..16).map(|tag| (tag, 1000 + u64::from(tag))).collect();
    assert!(rig.send(STATISTICS, &entries(&all)));
    assert_eq!(rig.used(QUEUE), [], "the device keeps the buffer");
    let statistics = rig.control.statistics().unwrap();
    assert_eq!(statistics.swap_in, Some(1000));
    assert_eq!(statistics.free_memory, Some(1004));
    assert_eq!(statistics.hugetlb_failures, Some(1009));
    assert_eq!(statistics.direct_reclaim, Some(1015));
}

#[test]
fn a_buffer_offered_before_the_driver_is_ready_is_not_forgotten() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.running.transport.write_status(0);
    let bytes = entries(&[(4, 7)]);
    rig.memory.write_slice(&bytes, GuestAddress(BUFFER)).unwrap();
    rig.running.queues[QUEUE].add(&[(BUFFER, 10, false)]);
    rig.running.bring_up(ALL);
    assert!(rig.running.host.run());
    assert_eq!(rig.control.statistics().unwrap().free_memory, Some(7));
}

#[test]
fn odd_numbers_are_survived() {
    let mut rig = Rig::new(Setup::default(), ALL);
    // An unknown tag, the same tag twice, and half an entry.
    let mut bytes = entries(&[(0xffff, 1), (4, 5), (4, 6)]);
    bytes.extend([4, 0, 9]);
    assert!(rig.send(STATISTICS, &bytes));
    let expected = Statistics { free_memory: Some(6), ..Statistics::default() };
    assert_eq!(rig.control.statistics().unwrap(), expected);
    // Far more than there are tags: what is beyond the limit is not read.
    assert!(rig.send(STATISTICS, &entries(&vec![(5, 7); 5000])));
    let last = [vec![(5, 7); 64], vec![(4, 8)]].concat();
    assert!(rig.send(STATISTICS, &entries(&last)));
    let expected = Statistics { total_memory: Some(7), ..Statistics::default() };
    assert_eq!(rig.control.statistics().unwrap(), expected);
}

#[test]
fn a_second_buffer_sends_the_first_one_back() {
    let mut rig = Rig::new(Setup::default(), ALL);
    assert!(rig.send(STATISTICS, &entries(&[(4, 1)])));
    assert!(rig.send(STATISTICS, &entries(&[(4, 2)])));
    assert_eq!(rig.used(QUEUE), [(0, 0)]);
    assert_eq!(rig.control.statistics().unwrap().free_memory, Some(2));
}

#[test]
fn the_guest_is_asked_at_intervals_and_no_longer_when_they_end() {
    let interval = Duration::from_millis(1);
    let mut rig = Rig::new(Setup { statistics: Some(interval), ..Setup::default() }, ALL);
    for round in 0..3 {
        assert!(rig.send(STATISTICS, &entries(&[(4, round)])));
        assert_eq!(asked(&mut rig).len(), 1);
        assert_eq!(rig.control.statistics().unwrap().free_memory, Some(round));
    }
    assert!(rig.control.is_poll_armed());
    rig.control.set_stats_interval(Duration::ZERO).unwrap();
    assert!(!rig.control.is_poll_armed());
    assert_eq!(rig.control.stats_interval().unwrap(), Duration::ZERO);
    // An event that was under way when the interval ended does not begin it again.
    assert!(rig.send(STATISTICS, &entries(&[(4, 9)])));
    assert!(rig.running.host.run());
    assert!(!rig.control.is_poll_armed());
}

#[test]
fn an_interval_can_begin_later() {
    let mut rig = Rig::new(Setup::default(), ALL);
    assert!(rig.send(STATISTICS, &entries(&[(4, 1)])));
    assert!(!rig.control.is_poll_armed());
    rig.control.set_stats_interval(Duration::from_millis(1)).unwrap();
    assert_eq!(asked(&mut rig), [(0, 0)]);
}

#[test]
fn a_reset_forgets_the_numbers_and_stops_the_timer() {
    let interval = Some(Duration::from_secs(3600));
    let mut rig = Rig::new(Setup { statistics: interval, ..Setup::default() }, ALL);
    assert!(rig.send(STATISTICS, &entries(&[(4, 1)])));
    assert!(rig.control.is_poll_armed());
    rig.running.transport.write_status(0);
    assert!(!rig.control.is_poll_armed());
    assert_eq!(rig.control.statistics().unwrap(), Statistics::default());
}

#[test]
fn a_balloon_without_statistics_says_so() {
    let rig = Rig::new(Setup { statistics: None, ..Setup::default() }, 0);
    let refused = |error| matches!(error, BalloonError::NoStatistics);
    assert!(refused(rig.control.statistics().unwrap_err()));
    assert!(refused(rig.control.stats_interval().unwrap_err()));
    assert!(refused(rig.control.set_stats_interval(Duration::ZERO).unwrap_err()));
}
