//! A driver's side of a split queue, written by hand into guest memory.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;
use crate::virtio::queue::QueueConfig;

/// One buffer of a chain: `(address, length, device may write)`.
pub type Buffer = (u64, u32, bool);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A queue laid out from `base`: descriptors, available ring, used ring, in 16 KiB.
pub struct DriverQueue {
    memory: GuestMemory,
    base: u64,
    size: u16,
    next_descriptor: u16,
    seen_used: u16,
}

#[expect(clippy::unwrap_used, reason = "test helper: the queue lies in the test's own memory")]
#[expect(missing_docs, reason = "names say it; the protocol is virtio 1.3, 2.7")]
impl DriverQueue {
    /// An empty queue of `size` entries at `base` (16 KiB aligned).
    #[must_use]
    pub fn new(memory: &GuestMemory, base: u64, size: u16) -> Self {
        Self { memory: memory.clone(), base, size, next_descriptor: 0, seen_used: 0 }
    }

    /// The same driver in a machine with a copy of its memory.
    #[must_use]
    pub fn in_copy(&self, memory: &GuestMemory) -> Self {
        Self { memory: memory.clone(), ..*self }
    }

    #[must_use]
    pub fn config(&self) -> QueueConfig {
        QueueConfig {
            size: self.size,
            ready: true,
            descriptors: self.base,
            driver: self.avail(),
            device: self.used(),
        }
    }

    /// Writes one raw descriptor; nothing is checked.
    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.descriptor_at(self.base, index, (address, len, flags, next));
    }

    /// Makes `head` available.
    pub fn offer(&self, head: u16) {
        let index = self.avail_index();
        let slot = self.avail() + 4 + 2 * u64::from(index % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.set_avail_index(index.wrapping_add(1));
    }

    /// Writes a chain of `buffers` and makes it available; returns its head.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor % self.size;
        let count = u16::try_from(buffers.len()).unwrap();
        for (i, &(address, len, write)) in (0..count).zip(buffers) {
            let index = (head + i) % self.size;
            let more = if i + 1 < count { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            self.descriptor(index, address, len, flags, (index + 1) % self.size);
        }
        self.next_descriptor = (head + count) % self.size;
        self.offer(head);
        head
    }

    /// The same through an indirect table at `table`.
    pub fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor % self.size;
        let count = u16::try_from(buffers.len()).unwrap();
        for (i, &(address, len, write)) in (0..count).zip(buffers) {
            let more = if i + 1 < count { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            self.descriptor_at(table, i, (address, len, flags, i + 1));
        }
        self.descriptor(head, table, 16 * u32::from(count), INDIRECT, 0);
        self.next_descriptor = (head + 1) % self.size;
        self.offer(head);
        head
    }

    /// What the device has handed back since the last call: `(head, bytes written)`.
    pub fn take_used(&mut self) -> Vec<(u32, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.used() + 2)).unwrap();
        let mut all = Vec::new();
        while self.seen_used != index {
            let slot = self.used() + 4 + 8 * u64::from(self.seen_used % self.size);
            let entry: [u32; 2] = self.memory.read_obj(GuestAddress(slot)).unwrap();
            all.push((entry[0], entry[1]));
            self.seen_used = self.seen_used.wrapping_add(1);
        }
        all
    }

    /// The head of the next chain that is added.
    #[must_use]
    pub fn next_head(&self) -> u16 {
        self.next_descriptor % self.size
    }

    #[must_use]
    pub fn avail_index(&self) -> u16 {
        self.memory.read_obj(GuestAddress(self.avail() + 2)).unwrap()
    }

    pub fn set_avail_index(&self, index: u16) {
        self.memory.write_obj(index, GuestAddress(self.avail() + 2)).unwrap();
    }

    pub fn set_avail_flags(&self, flags: u16) {
        self.memory.write_obj(flags, GuestAddress(self.avail())).unwrap();
    }

    /// The same ring as if `index` chains had gone through it; it is empty.
    pub fn wind_to(&mut self, index: u16) {
        self.set_avail_index(index);
        self.memory.write_obj(index, GuestAddress(self.used() + 2)).unwrap();
        self.seen_used = index;
    }

    /// Whether the device wants to hear of the `added` chains that were offered last.
    #[must_use]
    pub fn is_kick_wanted(&self, added: u16, has_event_idx: bool) -> bool {
        if !has_event_idx {
            let flags: u16 = self.memory.read_obj(GuestAddress(self.used())).unwrap();
            return flags & 1 == 0;
        }
        let at = self.used() + 4 + 8 * u64::from(self.size);
        let event: u16 = self.memory.read_obj(GuestAddress(at)).unwrap();
        self.avail_index().wrapping_sub(event).wrapping_sub(1) < added
    }

    /// `used_event`: interrupt when the used index passes this one.
    pub fn set_used_event(&self, index: u16) {
        let at = self.avail() + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(index, GuestAddress(at)).unwrap();
    }

    fn descriptor_at(&self, table: u64, index: u16, d: (u64, u32, u16, u16)) {
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory.write_obj(Descriptor::new(d.0, d.1, d.2, d.3), at).unwrap();
    }

    fn avail(&self) -> u64 {
        self.base + 0x2000
    }

    fn used(&self) -> u64 {
        self.base + 0x3000
    }
}
