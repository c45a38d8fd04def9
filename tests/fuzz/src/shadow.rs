//! What a device may do with the guest's memory, kept apart from the device: which chains were offered, and where they
//! let it write.

use devices::virtio::queue::QueueConfig;

use crate::ram::{ALL, Ram};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A range of guest memory: start and length.
type Range = (u64, u64);

/// One queue, as its driver knows it.
struct Ledger {
    config: QueueConfig,
    seen_avail: u16,
    seen_used: u16,
    heads: Vec<Head>,
    /// The head that each entry of the available ring had.
    slots: Vec<Option<u16>>,
    offered: u64,
    returned: u64,
}

/// What became of the chains with one head.
#[derive(Clone, Copy, Default)]
struct Head {
    offered: u32,
    returned: u32,
    /// The most bytes that one of them let the device write.
    room: u64,
}

/// Everything since the driver was ready.
pub struct Shadow {
    /// The memory as it must be where the device may not write.
    copy: Vec<(u64, Vec<u8>)>,
    queues: Vec<Ledger>,
    writable: Vec<Range>,
    /// What decides about the rest: descriptors, available rings.
    tables: Vec<Range>,
    /// Nothing that the device writes decides about what else it may write.
    is_exact: bool,
}

impl Shadow {
    /// Of a memory that no device may write yet.
    pub fn new(memory: &Ram) -> Self {
        let copy = ALL.into_iter().map(|(start, len)| (start, vec![0; len as usize]));
        let mut new = Self {
            copy: copy.collect(),
            queues: Vec::new(),
            writable: Vec::new(),
            tables: Vec::new(),
            is_exact: true,
        };
        new.start(memory, &[]);
        new
    }

    /// The driver is ready with these queues.
    pub fn start(&mut self, memory: &Ram, configs: &[QueueConfig]) {
        for (start, copy) in &mut self.copy {
            assert!(memory.read(*start, copy));
        }
        self.writable.clear();
        self.tables.clear();
        self.is_exact = true;
        self.queues.clear();
        for config in configs.iter().filter(|config| config.ready) {
            let size = u64::from(config.size);
            self.writable.push((config.device, 4 + 8 * size + 2));
            // A driver that does not empty its ring cannot know what the device puts there, which begins at 0.
            self.is_exact &= index(memory, config.device) == 0;
            self.tables.push((config.driver, 4 + 2 * size + 2));
            self.tables.push((config.descriptors, 16 * size));
            self.queues.push(Ledger {
                config: *config,
                seen_avail: 0,
                seen_used: 0,
                heads: vec![Head::default(); usize::from(config.size)],
                slots: vec![None; usize::from(config.size)],
                offered: 0,
                returned: 0,
            });
        }
        self.judge();
    }

    /// From here on, what the device writes may be wrong: it was told lies about what it did before.
    pub fn doubt(&mut self) {
        self.is_exact = false;
    }

    /// The driver writes `bytes`.
    pub fn written(&mut self, address: u64, bytes: &[u8]) {
        for (start, copy) in &mut self.copy {
            let Some(at) = address.checked_sub(*start).and_then(|at| usize::try_from(at).ok())
            else {
                continue;
            };
            if let Some(place) = copy.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        let range = (address, bytes.len() as u64);
        let rings = self.queues.iter().map(|queue| used_ring(&queue.config));
        self.is_exact &= !rings.into_iter().any(|ring| overlap(ring, range));
    }

    /// The device is about to see what the driver has offered. What it has not taken yet may have changed.
    pub fn offer(&mut self, memory: &Ram) {
        let Self { queues, writable, tables, .. } = self;
        let before = (writable.len(), tables.len());
        for queue in queues {
            queue.look(memory, writable, tables);
        }
        if before != (self.writable.len(), self.tables.len()) {
            self.judge();
        }
    }

    /// The device has done what it wanted: what it returned was offered, and not more of it is filled than there was.
    pub fn check_used(&mut self, memory: &Ram) {
        for queue in &mut self.queues {
            let index = index(memory, queue.config.device);
            let more = index.wrapping_sub(queue.seen_used);
            let (first, size) = (queue.seen_used, queue.config.size);
            queue.seen_used = index;
            if !self.is_exact {
                continue;
            }
            queue.returned += u64::from(more);
            assert!(queue.returned <= queue.offered, "more chains came back than were offered");
            for n in 0..if more <= size { more } else { 0 } {
                let slot = first.wrapping_add(n) % size;
                let at = queue.config.device + 4 + 8 * u64::from(slot);
                let entry: [u8; 8] = memory.array(at).expect("the ring was found in RAM");
                let entry = u64::from_le_bytes(entry);
                let (head, len) = (entry & 0xffff_ffff, entry >> 32);
                let known = queue.heads.get_mut(head as usize).expect("a head that there is");
                known.returned += 1;
                assert!(known.returned <= known.offered, "chain {head} came back twice");
                assert!(len <= known.room, "{len} bytes in room for {}", known.room);
            }
        }
    }

    /// Nothing else was written than what may be.
    pub fn check_memory(&mut self, memory: &Ram) {
        if !self.is_exact {
            return;
        }
        for (start, copy) in &mut self.copy {
            let mut now = vec![0; copy.len()];
            assert!(memory.read(*start, &mut now));
            for (from, len) in &self.writable {
                let begin = from.saturating_sub(*start).min(copy.len() as u64) as usize;
                let end = (from + len).saturating_sub(*start).min(copy.len() as u64) as usize;
                copy[begin..end].copy_from_slice(&now[begin..end]);
            }
            if now != *copy {
                let at = now.iter().zip(&*copy).position(|(now, before)| now != before);
                panic!("the device wrote at {:#x}+{at:#x?}, which nobody gave it", start);
            }
        }
    }

    fn judge(&mut self) {
        let rings: Vec<_> = self.queues.iter().map(|queue| used_ring(&queue.config)).collect();
        let (rings_overlap, data) = (
            rings.iter().enumerate().any(|(n, one)| rings[..n].iter().any(|it| overlap(*it, *one))),
            &self.writable[rings.len().min(self.writable.len())..],
        );
        let touches = |ranges: &[Range]| {
            data.iter().any(|one| ranges.iter().any(|other| overlap(*one, *other)))
        };
        let tables_written = rings.iter().any(|r| self.tables.iter().any(|t| overlap(*r, *t)));
        self.is_exact &=
            !rings_overlap && !tables_written && !touches(&rings) && !touches(&self.tables);
    }
}

impl Ledger {
    /// Looks at all entries that may still be on the available ring.
    fn look(&mut self, memory: &Ram, writable: &mut Vec<Range>, tables: &mut Vec<Range>) {
        let QueueConfig { size, driver, .. } = self.config;
        let index = index(memory, driver);
        let more = index.wrapping_sub(self.seen_avail);
        // One that runs back, or far ahead, offers nothing that was not offered before.
        let new = if more <= size { more } else { 0 };
        self.seen_avail = self.seen_avail.wrapping_add(new);
        for back in 1..=size {
            let slot = self.seen_avail.wrapping_sub(back) % size;
            let at = driver + 4 + 2 * u64::from(slot);
            let head = memory.u16(at).expect("the ring was found in RAM");
            let known = &mut self.slots[usize::from(slot)];
            let is_new = back <= new || *known != Some(head);
            *known = Some(head);
            let room = walk(memory, &self.config, head, writable, tables);
            self.offered += u64::from(back <= new);
            if let Some(known) = self.heads.get_mut(usize::from(head)) {
                known.offered += u32::from(is_new);
                known.room = known.room.max(room);
            }
        }
    }
}

/// Notes what the chain from `head` on reads and lets the device write, well-formed or not; how much of the latter.
fn walk(
    memory: &Ram,
    config: &QueueConfig,
    head: u16,
    writable: &mut Vec<Range>,
    tables: &mut Vec<Range>,
) -> u64 {
    let (mut table, mut entries, mut is_indirect) =
        (config.descriptors, u32::from(config.size), false);
    let (mut index, mut room) = (u32::from(head), 0);
    for _ in 0..=config.size {
        if index >= entries {
            break;
        }
        let at = table.saturating_add(16 * u64::from(index));
        let Some(descriptor) = memory.array(at).map(u128::from_le_bytes) else { break };
        let (address, rest) = (descriptor as u64, (descriptor >> 64) as u64);
        let (len, flags, next) = (rest & 0xffff_ffff, (rest >> 32) as u16, (rest >> 48) as u32);
        if flags & INDIRECT != 0 {
            if is_indirect {
                break;
            }
            (table, entries, is_indirect, index) = (address, (len / 16) as u32, true, 0);
            note(tables, (address, len));
            continue;
        }
        if flags & WRITE != 0 && memory.has(address, len) {
            note(writable, (address, len));
            room += len;
        }
        if flags & NEXT == 0 {
            break;
        }
        index = next;
    }
    room
}

/// Adds a range that is not there yet.
fn note(ranges: &mut Vec<Range>, range: Range) {
    if !ranges.contains(&range) {
        ranges.push(range);
    }
}

fn used_ring(config: &QueueConfig) -> Range {
    (config.device, 4 + 8 * u64::from(config.size) + 2)
}

/// The index of a ring.
fn index(memory: &Ram, ring: u64) -> u16 {
    memory.u16(ring + 2).expect("the ring was found in RAM")
}

fn overlap((a, a_len): Range, (b, b_len): Range) -> bool {
    a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}
