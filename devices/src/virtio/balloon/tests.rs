mod free;
mod inflate;
mod saved;
mod statistics;
mod support;

use std::time::Duration;

use super::*;
use crate::virtio::transport::status;
use support::{ALL, MEMORY_MIB, Rig, Setup, config};

#[test]
fn features_follow_the_options() {
    let features = |setup: Setup| setup.balloon().features();
    assert_eq!(features(Setup::default()), ALL);
    assert_eq!(features(Setup { statistics: None, ..Setup::default() }), ALL & !F_STATS_VQ);
    assert_eq!(features(Setup { reporting: false, ..Setup::default() }), ALL & !F_PAGE_REPORTING);
    assert_eq!(features(Setup { hinting: false, ..Setup::default() }), ALL & !F_FREE_PAGE_HINT);
    let without = Setup { deflate_on_oom: false, ..Setup::default() };
    assert_eq!(features(without), ALL & !F_DEFLATE_ON_OOM);
}

#[test]
fn the_target_is_in_the_configuration_and_a_new_one_interrupts() {
    let rig = Rig::new(Setup { target_mib: 3, ..Setup::default() }, ALL);
    assert_eq!(config(&rig, 0), 3 * 256);
    let edges = rig.running.line.edges();
    rig.control.set_target(5).unwrap();
    assert_eq!((config(&rig, 0), rig.running.line.edges()), (5 * 256, edges + 1));
    rig.control.set_target(5).unwrap();
    assert_eq!(rig.running.line.edges(), edges + 1, "the same target is no news");
    assert_eq!((rig.control.target(), rig.control.target_pages()), (5, 5 * 256));
}

#[test]
fn a_target_set_before_the_driver_is_ready_is_news_to_it() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.running.transport.write_status(0);
    let edges = rig.running.line.edges();
    rig.control.set_target(5).unwrap();
    assert_eq!(rig.running.line.edges(), edges);
    rig.running.bring_up(ALL);
    assert_eq!(rig.running.line.edges(), edges + 1);
}

#[test]
fn targets_beyond_the_memory_are_refused() {
    let rig = Rig::new(Setup::default(), ALL);
    rig.control.set_target(MEMORY_MIB).unwrap();
    for asked in [MEMORY_MIB + 1, u32::MAX] {
        let error = rig.control.set_target(asked).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "a balloon of {asked} MiB is larger than the guest's memory of {MEMORY_MIB} MiB"
            )
        );
    }
    assert_eq!(rig.control.target(), MEMORY_MIB);
}

#[test]
fn the_driver_says_how_large_the_balloon_is() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.running.transport.write_config(4, &(2 * 256_u32).to_le_bytes());
    assert_eq!((rig.control.actual(), rig.control.actual_pages()), (2, 512));
    assert_eq!(config(&rig, 4), 512);
    // In pieces, and over the edges.
    rig.running.transport.write_config(5, &[3]);
    assert_eq!(rig.control.actual_pages(), 0x300);
    rig.running.transport.write_config(2, &[0xff, 0xff, 0x11, 0x22]);
    assert_eq!(rig.control.actual_pages(), 0x2211);
    rig.running.transport.write_config(6, &[0x33, 0x44, 0xff, 0xff]);
    assert_eq!(rig.control.actual_pages(), 0x4433_2211);
    // The other fields are the device's.
    for offset in [0, 8, 12, 1000, u64::MAX] {
        rig.running.transport.write_config(offset, &[0xff; 4]);
    }
    assert_eq!((config(&rig, 0), config(&rig, 4), config(&rig, 8)), (0, 0x4433_2211, 0));
    assert_eq!(config(&rig, 12), 0, "beyond the end");
    rig.running.transport.write_status(0);
    assert_eq!(rig.control.actual_pages(), 0, "a driver that is gone holds nothing");
}

#[test]
fn queues_of_features_are_found_in_either_numbering() {
    // Fixed numbers, as the specification has them: reports by queue 4.
    for (enabled, kicked) in [([true, true, false, false, true], 4), ([true; 5], 2)] {
        let setup = Setup { statistics: None, hinting: false, ..Setup::default() };
        let mut rig = Rig::with_queues(setup, F_PAGE_REPORTING, enabled);
        rig.running.queues[kicked].add(&[(support::PAGES, 0x2000, true)]);
        assert!(rig.running.kick(u32::try_from(kicked).unwrap()));
        assert_eq!(rig.reclaim.taken(), [(support::PAGES, 0x2000)], "queue {kicked}");
    }
}

#[test]
fn a_feature_without_its_queue_needs_a_reset() {
    for enabled in [[true, true, true, false, false], [true, false, true, true, true]] {
        let rig = Rig::with_queues(Setup::default(), ALL, enabled);
        assert!(!rig.running.host.is_running());
        assert_ne!(rig.running.transport.status() & status::NEEDS_RESET, 0);
    }
}

#[test]
fn nothing_wakes_the_loop_without_being_asked_to() {
    // The shortest interval there is, and none of it runs for a driver that did not take the feature.
    let statistics = Some(Duration::from_nanos(1));
    let rig = Rig::new(Setup { statistics, ..Setup::default() }, ALL & !F_STATS_VQ);
    assert!(!rig.control.is_poll_armed());
    let rig = Rig::new(Setup { statistics: Some(Duration::ZERO), ..Setup::default() }, ALL);
    assert!(!rig.control.is_poll_armed());
}
