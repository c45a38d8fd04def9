//! A balloon that is being filled, asked and hinted at goes on elsewhere.

use std::time::Duration;

use super::super::{HintingStatus, Statistics};
use super::support::{ALL, BUFFER, PAGES, Rig, Setup, config};
use crate::state::State;
use crate::test_util::Random;
use crate::test_util::life::{Life, is_never_noticed};
use crate::virtio::feature;
use crate::virtio::transport::status;
use vm_memory::{Bytes, GuestAddress};

const STATISTICS: usize = 2;
const HINTS: usize = 3;

struct Management {
    rig: Rig,
    features: u64,
    /// Chains that the driver has put on each ring, and that came back.
    offered: [u64; 5],
    returned: [u64; 5],
}

/// What guest and host have of a balloon: its configuration, what the host took, what it was told, what came back.
type Outcome = (Vec<u32>, Vec<(u64, u64)>, Statistics, HintingStatus, [u64; 5]);

impl Management {
    fn begin(features: u64) -> Self {
        let rig = Rig::new(Setup::default(), ALL | features);
        Self { rig, features, offered: [0; 5], returned: [0; 5] }
    }

    fn offer(&mut self, queue: usize, at: u64, len: u32, is_writable: bool) {
        if self.offered[queue] - self.returned[queue] < 16 {
            self.offered[queue] += 1;
            self.rig.running.queues[queue].add(&[(at, len, is_writable)]);
            let has_event_idx = self.features & feature::EVENT_IDX != 0;
            self.rig.running.kick_if_wanted(queue, 1, has_event_idx);
        }
    }

    fn run(&mut self) {
        assert!(self.rig.running.host.run());
        for queue in 0..5 {
            self.returned[queue] += self.rig.used(queue).len() as u64;
        }
    }
}

impl Life for Management {
    type Outcome = Outcome;

    fn step(&mut self, random: &mut Random) {
        let page = PAGES + 4096 * random.below(256_u64);
        let number = u32::try_from(page >> 12).unwrap().to_le_bytes();
        match random.below(10_u32) {
            queue @ (0 | 1) => {
                let queue = queue as usize;
                let at = BUFFER + 64 * (self.offered[queue] % 16) + 0x1000 * queue as u64;
                self.rig.memory.write_slice(&number, GuestAddress(at)).unwrap();
                self.offer(queue, at, 4, false);
            }
            2 => {
                let at = BUFFER + 0x4000 + 16 * (self.offered[STATISTICS] % 16);
                let entry = [&[4, 0], &page.to_le_bytes()[..]].concat();
                self.rig.memory.write_slice(&entry, GuestAddress(at)).unwrap();
                self.offer(STATISTICS, at, 10, false);
            }
            3 => {
                // The command that the driver works on is the one in the configuration.
                let command = config(&self.rig, 8).to_le_bytes();
                let at = BUFFER + 0x5000 + 4 * (self.offered[HINTS] % 16);
                self.rig.memory.write_slice(&command, GuestAddress(at)).unwrap();
                self.offer(HINTS, at, 4, false);
            }
            4 => self.offer(HINTS, page, 4096, true),
            5 => self.offer(4, page, 4096, true),
            6 => self.rig.control.set_target(random.below(30_u32)).unwrap(),
            7 => self.rig.running.transport.write_config(4, &number),
            8 => self.rig.control.start_hinting(random.one_in(2)).unwrap(),
            _ => self.run(),
        }
    }

    fn copy(&mut self) -> Self {
        let rig = self.rig.copy(Setup::default());
        let &mut Self { features, offered, returned, .. } = self;
        Self { rig, features, offered, returned }
    }

    fn end(mut self) -> Outcome {
        (0..20).for_each(|_| self.run());
        let configuration = [0, 4, 8].map(|offset| config(&self.rig, offset)).to_vec();
        let control = &self.rig.control;
        let (statistics, hinting) = (control.statistics(), control.hinting_status());
        let taken = self.rig.reclaim.taken();
        (configuration, taken, statistics.unwrap(), hinting.unwrap(), self.returned)
    }
}

#[test]
fn pages_go_to_the_host_once_wherever_the_balloon_is_saved() {
    for features in [0, feature::EVENT_IDX] {
        is_never_noticed(1..3, || Management::begin(features));
    }
}

#[test]
fn a_buffer_for_statistics_is_there_to_ask_by() {
    let mut parent = Rig::new(Setup::default(), ALL);
    assert!(parent.send(2, &[4, 0, 7, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(parent.used(STATISTICS), []);
    parent.control.set_stats_interval(Duration::from_secs(3600)).unwrap();
    let mut copy = parent.copy(Setup::default());
    assert!(copy.running.host.run());
    assert_eq!(copy.control.statistics().unwrap().free_memory, Some(7));
    assert_eq!(copy.control.stats_interval().unwrap(), Duration::from_secs(3600));
    assert!(copy.control.is_poll_armed());
    copy.control.set_stats_interval(Duration::from_millis(1)).unwrap();
    while copy.used(STATISTICS).is_empty() {
        assert!(copy.running.host.run());
        std::thread::yield_now();
    }
    assert_eq!(parent.used(STATISTICS), [], "the parent keeps its own");
}

#[test]
fn a_balloon_whose_driver_failed_forgets_what_that_said() {
    let mut parent = Rig::new(Setup { target_mib: 9, ..Setup::default() }, ALL);
    parent.running.transport.write_config(4, &[0, 1, 0, 0]);
    parent.running.queues[0].add(&[(1 << 40, 4, false)]);
    assert!(!parent.running.kick(0));
    let mut copy = parent.copy(Setup::default());
    assert_ne!(copy.running.transport.status() & status::NEEDS_RESET, 0);
    copy.running.transport.write_status(0);
    assert_eq!((config(&copy, 0), config(&copy, 4)), (9 * 256, 0));
}

#[test]
fn a_target_beyond_the_memory_is_refused() {
    use crate::virtio::device::VirtioDevice;

    let mut state = State::new();
    state.set("target_pages", 32 * 256 + 1_u64);
    let error = Setup::default().balloon().restore(&state, false).unwrap_err();
    assert_eq!(error.to_string(), "target_pages is 8193, which is not a part of the memory");
}
