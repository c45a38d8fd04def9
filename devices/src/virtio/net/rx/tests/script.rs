//! Random drivers against random networks, checked by what a driver may believe.

use std::collections::VecDeque;

use super::super::super::tests::fake::{BUFFERS, FakeCard, frame};
use super::{MERGEABLE, SEGMENTING};
use crate::test_util::{Buffer, Random};
use crate::virtio::feature::EVENT_IDX;

#[test]
fn random_scripts_lose_and_invent_nothing() {
    for seed in 1..40 {
        Script::new(seed).run();
    }
}

/// A driver and a network that act at random, and what the driver must see.
struct Script {
    card: FakeCard,
    features: u64,
    random: Random,
    /// Frames that arrived and were not seen yet, oldest first.
    expected: VecDeque<Vec<u8>>,
    /// Posted buffers, oldest first: head and segments.
    posted: VecDeque<(u32, Vec<Buffer>)>,
    descriptors: u16,
}

impl Script {
    fn new(seed: u64) -> Self {
        let choices = [0, MERGEABLE, SEGMENTING, SEGMENTING | EVENT_IDX, MERGEABLE | EVENT_IDX];
        let features = choices[usize::try_from(seed % 5).unwrap()];
        Self {
            card: FakeCard::new(features),
            features,
            random: Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            expected: VecDeque::new(),
            posted: VecDeque::new(),
            descriptors: 0,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    fn run(mut self) {
        for step in 0..600 {
            match self.below(10) {
                0..4 => self.post(),
                4..7 => {
                    let limit = [100, 1500, 9000][usize::try_from(self.below(3)).unwrap()];
                    let len = 14 + usize::try_from(self.below(limit)).unwrap();
                    self.card.net.arrive(0, Ok(frame(len, step)));
                    self.expected.push_back(frame(len, step));
                }
                7..9 => {
                    self.card.running.transport.kick(0);
                    assert!(self.card.run(1));
                    self.look();
                }
                _ if self.below(20) == 0 => {
                    self.card.restart(self.features, 16);
                    self.posted.clear();
                    self.descriptors = 0;
                }
                _ => {}
            }
        }
        let counters = self.card.counters.clone();
        assert!(counters.rx_frames.get() > 20, "the script got somewhere");
        assert_eq!(counters.rx_errors.get(), 0);
    }

    /// Posts a buffer of one to three segments, if the ring has room.
    fn post(&mut self) {
        let segments = 1 + self.below(3);
        if self.descriptors + 3 > 16 {
            return;
        }
        let slot = BUFFERS + 0x4000 * u64::from(self.card.running.queues[0].next_head());
        let buffers: Vec<_> = (0..segments)
            .map(|i| (slot + 0x1000 * i, 1 + u32::try_from(self.below(2500)).unwrap(), true))
            .collect();
        let head = self.card.running.queues[0].add(&buffers);
        self.descriptors += u16::try_from(segments).unwrap();
        self.posted.push_back((head.into(), buffers));
    }

    /// Checks what came back: buffers in the order in which they were posted, filled to the brim but for
    /// a frame's last, and frames in the order in which they arrived, some left out and counted.
    fn look(&mut self) {
        let mut used = self.card.used(0).into_iter();
        while let Some(first) = used.next() {
            let mut seen = self.take(first);
            let mut taken = 1;
            // Buffers may be too small for even the header, which tells how many there are.
            while seen.len() < 12 || taken < u16::from_le_bytes([seen[10], seen[11]]) {
                seen.extend(self.take(used.next().expect("a frame is shown whole")));
                taken += 1;
            }
            assert_eq!(seen[10..12], taken.to_le_bytes());
            seen[10..12].fill(0);
            let skipped = self.expected.iter().position(|frame| *frame == seen);
            let skipped = skipped.expect("a frame that arrived, and was not seen before");
            self.expected.drain(..=skipped);
        }
        let counters = &self.card.counters;
        let unseen = self.expected.len() - self.card.net.waiting(0);
        assert!(unseen as u64 <= counters.rx_no_buffer.get() + 1, "one may be held");
    }

    fn take(&mut self, (head, len): (u32, u32)) -> Vec<u8> {
        let (expected, segments) = self.posted.pop_front().expect("a buffer that was posted");
        assert_eq!(head, expected);
        self.descriptors -= u16::try_from(segments.len()).unwrap();
        let mut bytes = Vec::new();
        for (address, size, _) in segments {
            bytes.extend(self.card.bytes(address, size as usize));
        }
        assert!(len as usize <= bytes.len() && len > 0);
        bytes.truncate(len as usize);
        bytes
    }
}
