//! Our queue beside `virtio-queue`'s, on two copies of the same memory, with a driver that is right at times
//! and anything at others. Where ours hands out a chain, the other's walk must have found the same, and
//! their rings must look alike, byte for byte.

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue as Other, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::is_ram;
use crate::test_util::Random;

const SIZE: u16 = 16;
/// Queue, buffers and indirect tables of the driver.
const QUEUE_LEN: usize = 0x4000;

struct Pair {
    ours: Bench,
    other: Other,
    other_memory: GuestMemory,
    random: Random,
    has_event_idx: bool,
    has_indirect: bool,
}

impl Pair {
    fn new(seed: u64, features: u64) -> Self {
        let ours = bench(features);
        let config = ours.driver.config();
        let mut other = Other::new(256).unwrap();
        other.try_set_size(config.size).unwrap();
        other.try_set_desc_table_address(GuestAddress(config.descriptors)).unwrap();
        other.try_set_avail_ring_address(GuestAddress(config.driver)).unwrap();
        other.try_set_used_ring_address(GuestAddress(config.device)).unwrap();
        let has_event_idx = features & feature::EVENT_IDX != 0;
        let has_indirect = features & feature::INDIRECT_DESC != 0;
        other.set_event_idx(has_event_idx);
        other.set_ready(true);
        let other_memory = guest_memory(RAM);
        assert!(other.is_valid(&other_memory));
        Self { ours, other, other_memory, random: Random::new(seed), has_event_idx, has_indirect }
    }

    fn memory(&self) -> &GuestMemory {
        self.ours.queue.memory()
    }

    /// A table of descriptors of which most are right.
    fn fill_table(&mut self, table: u64, size: u16, may_enter: bool) {
        let random = &mut self.random;
        let writable_from = random.below(size + 1);
        for index in 0..size {
            let is_last = random.one_in(3) || index + 1 == size;
            let mut flags = if is_last { 0 } else { NEXT };
            if index >= writable_from || random.one_in(100) {
                flags |= WRITE;
            }
            let mut len = 1 + random.below(512_u32);
            let mut address = random.of(&[BUFFER, BUFFER + 0x1000, 0, RAM as u64 - 1024]);
            let mut next = if random.one_in(50) { random.below(size + 2) } else { index + 1 };
            if random.one_in(12) && may_enter {
                (address, len) = (TABLE, 16 * (1 + random.below(8_u32)));
                flags = INDIRECT;
            }
            if random.one_in(100) {
                match random.below(5_u32) {
                    0 => len = 0,
                    1 => len = random.of(&[u32::MAX, 1 << 31, 24]),
                    2 => address = random.of(&[RAM as u64, RAM as u64 - 1, u64::MAX - 8]),
                    // Its length is seldom that of a table.
                    3 if may_enter => flags = INDIRECT,
                    _ => next = u16::MAX,
                }
            }
            let words = [address, u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48];
            let at = GuestAddress(table + 16 * u64::from(index));
            self.ours.queue.memory().write_obj(words, at).unwrap();
        }
    }

    /// What the driver does between two visits of the device.
    fn drive(&mut self) {
        self.fill_table(BASE, SIZE, self.has_indirect);
        self.fill_table(TABLE, 8, false);
        let free = SIZE - self.pending();
        for _ in 0..self.random.below(u64::from(free) + 1) {
            let head = if self.random.one_in(100) { SIZE } else { self.random.below(SIZE) };
            self.ours.driver.offer(head);
        }
        if self.has_event_idx {
            let used = self.ours.queue.position().next_used;
            let event = used.wrapping_add(self.random.below(6_u16)).wrapping_sub(2);
            self.ours.driver.set_used_event(event);
        } else {
            self.ours.driver.set_avail_flags(self.random.below(2_u16));
        }
        self.copy_to_other();
    }

    fn pending(&self) -> u16 {
        self.ours.driver.avail_index().wrapping_sub(self.ours.queue.position().next_avail)
    }

    /// The other queue sees the same driver; what devices write was compared before.
    fn copy_to_other(&self) {
        for (start, len) in [(BASE, QUEUE_LEN), (TABLE, 0x1000)] {
            let mut bytes = vec![0; len];
            self.memory().read_slice(&mut bytes, GuestAddress(start)).unwrap();
            self.other_memory.write_slice(&bytes, GuestAddress(start)).unwrap();
        }
    }

    /// Serves both queues; `false` when the driver broke the protocol, which ours alone reports.
    fn serve(&mut self) -> bool {
        let mut chain = Chain::new();
        loop {
            self.ours.queue.silence_kicks().unwrap();
            self.other.disable_notification(&self.other_memory).unwrap();
            loop {
                let other = self.other.iter(&self.other_memory).unwrap().next();
                let found =
                    other.map(|chain| (chain.head_index(), chain.collect::<Vec<Descriptor>>()));
                match (self.ours.queue.pop(&mut chain), found) {
                    (Ok(false), None) => break,
                    (Ok(true), Some((head, descriptors))) => {
                        self.compare(&chain, head, &descriptors);
                        let written = self.random.below(100_u32);
                        self.ours.queue.push(head, written).unwrap();
                        self.other.add_used(&self.other_memory, head, written).unwrap();
                    }
                    (Err(QueueError::Chain { .. }), Some((_, descriptors))) => {
                        assert!(!self.is_flawless(&descriptors), "refused: {descriptors:x?}");
                        return false;
                    }
                    (ours, other) => panic!("{ours:?} here, {other:x?} there"),
                }
            }
            let more = self.ours.queue.expect_kicks().unwrap();
            assert_eq!(more, self.other.enable_notification(&self.other_memory).unwrap());
            if !more {
                break;
            }
        }
        let edges = self.ours.line.edges();
        let has_news = self.ours.queue.unannounced;
        self.ours.queue.announce().unwrap();
        let interrupted = self.ours.line.edges() > edges;
        if self.has_event_idx {
            let wanted = self.other.needs_notification(&self.other_memory).unwrap();
            assert_eq!(interrupted, has_news && wanted);
        } else {
            // The other one does not look at the driver's flag.
            let flags: u16 = self.memory().read_obj(GuestAddress(BASE + 0x2000)).unwrap();
            assert_eq!(interrupted, has_news && flags == 0);
        }
        self.compare_rings();
        true
    }

    fn compare(&self, ours: &Chain, head: u16, descriptors: &[Descriptor]) {
        assert_eq!(ours.head(), head);
        let memory = self.memory();
        let (readable, writable) = (ours.readable(memory), ours.writable(memory));
        let mine = readable.segments().iter().map(|s| (s.address, s.len, false));
        let mine = mine.chain(writable.segments().iter().map(|s| (s.address, s.len, true)));
        let theirs = descriptors.iter().map(|d| (d.addr(), d.len(), d.is_write_only()));
        assert!(mine.eq(theirs), "chain {head}: {descriptors:x?}");
    }

    /// Whether the other's walk came to an end of the chain, and found nothing that we do not accept.
    fn is_flawless(&self, descriptors: &[Descriptor]) -> bool {
        let total: u64 = descriptors.iter().map(|d| u64::from(d.len())).sum();
        let is_complete = descriptors.last().is_some_and(|last| !last.has_next());
        is_complete
            && descriptors.len() <= SIZE.into()
            && total <= u32::MAX.into()
            && descriptors.is_sorted_by_key(|d| d.is_write_only())
            && descriptors.iter().all(|d| {
                d.len() > 0
                    && !d.refers_to_indirect_table()
                    && is_ram(self.memory(), d.addr(), d.len() as usize)
            })
    }

    fn compare_rings(&self) {
        let (mut ours, mut theirs) = (vec![0; QUEUE_LEN], vec![0; QUEUE_LEN]);
        self.memory().read_slice(&mut ours, GuestAddress(BASE)).unwrap();
        self.other_memory.read_slice(&mut theirs, GuestAddress(BASE)).unwrap();
        assert!(ours == theirs, "the rings differ");
    }
}

#[test]
fn ours_and_virtio_queue_agree() {
    let both = feature::EVENT_IDX | feature::INDIRECT_DESC;
    let features = [0, feature::EVENT_IDX, feature::INDIRECT_DESC, both];
    let (mut survived, mut broken) = (0, 0);
    for (seed, features) in (1..=600_u64).zip(features.into_iter().cycle()) {
        let mut pair = Pair::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), features);
        for _ in 0..40 {
            pair.drive();
            if !pair.serve() {
                broken += 1;
                break;
            }
            survived += 1;
        }
    }
    // The test is worth something only when both happen often.
    assert!(survived > 300 && broken > 300, "{survived} rounds without a fault, {broken} with one");
}
