//! One descriptor chain, walked and checked as a whole (virtio 1.3, 2.7.5).
//!
//! The walk is bounded by the queue size, follows at most one level of indirection, and accepts only
//! buffers in RAM, readable ones before writable ones. It does not look at what the buffers hold.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, VolatileMemory, VolatileSlice};

use crate::memory::{Buffers, GuestMemory, Segment, is_ram, one_slice};

/// Size of a descriptor in a table.
const DESCRIPTOR_SIZE: usize = 16;

/// A chain off the available ring. Reused from request to request; holds no guest data.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    /// How many of `segments`, from the start, the device may read; it may write the rest.
    readable: usize,
}

/// What can be wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// An index is beyond the descriptor table.
    #[error("descriptor index {index} is beyond the table of {size}")]
    Index {
        /// The index.
        index: u16,
        /// Entries in the table.
        size: u16,
    },
    /// More descriptors than the queue has: a loop.
    #[error("longer than the queue, so it loops")]
    Loop,
    /// A descriptor of no bytes.
    #[error("a descriptor has length zero")]
    Empty,
    /// A buffer, or an indirect table, that is not wholly RAM.
    #[error("{address:#x}+{len:#x} is not guest memory")]
    NotMemory {
        /// Start of the buffer.
        address: u64,
        /// Its length.
        len: u32,
    },
    /// A buffer for the device to read after one for it to write.
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// The buffers add up to more than 32 bits can count.
    #[error("longer than 4 GiB in total")]
    TooLong,
    /// An indirect descriptor, although that was not negotiated.
    #[error("an indirect descriptor without the feature")]
    IndirectUnexpected,
    /// An indirect descriptor inside an indirect table.
    #[error("an indirect table inside an indirect table")]
    IndirectNested,
    /// An indirect descriptor that also says it has a successor.
    #[error("an indirect descriptor with a successor")]
    IndirectNext,
    /// The length of an indirect table is not a positive number of descriptors.
    #[error("an indirect table of {len} bytes")]
    IndirectLength {
        /// The length.
        len: u32,
    },
}

/// The table being walked: the queue's own, or an indirect one.
struct Table<'a> {
    entries: VolatileSlice<'a, ()>,
    size: u16,
    indirect: bool,
}

impl Chain {
    /// An empty chain to pop into.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The index by which the chain goes back to the driver.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What the driver sent.
    #[must_use]
    pub fn readable<'a>(&'a self, memory: &'a GuestMemory) -> Buffers<'a> {
        Buffers::new(memory, self.segments.get(..self.readable).unwrap_or_default())
    }

    /// Where the driver wants an answer.
    #[must_use]
    pub fn writable<'a>(&'a self, memory: &'a GuestMemory) -> Buffers<'a> {
        Buffers::new(memory, self.segments.get(self.readable..).unwrap_or_default())
    }

    /// Fills this chain from those of the `descriptors` that start at `head`.
    pub(super) fn walk(
        &mut self,
        memory: &GuestMemory,
        descriptors: VolatileSlice<'_, ()>,
        queue_size: u16,
        head: u16,
        indirect_allowed: bool,
    ) -> Result<(), ChainFault> {
        self.head = head;
        self.segments.clear();
        self.readable = 0;
        let mut table = Table { entries: descriptors, size: queue_size, indirect: false };
        let mut index = head;
        let mut total: u32 = 0;
        // The spec forbids chains longer than the queue, indirect or not (2.7.5.3.1), so the bound is
        // both a loop check and the most work that one head can cause.
        for _ in 0..=queue_size {
            let descriptor = table.read(index)?;
            if descriptor.refers_to_indirect_table() {
                table = table.enter(memory, descriptor, indirect_allowed)?;
                index = 0;
                continue;
            }
            total = self.add(memory, descriptor, total, queue_size)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(ChainFault::Loop)
    }

    fn add(
        &mut self,
        memory: &GuestMemory,
        descriptor: Descriptor,
        total: u32,
        queue_size: u16,
    ) -> Result<u32, ChainFault> {
        let (address, len) = (descriptor.addr(), descriptor.len());
        if len == 0 {
            return Err(ChainFault::Empty);
        }
        if self.segments.len() >= usize::from(queue_size) {
            return Err(ChainFault::Loop);
        }
        let total = total.checked_add(len).ok_or(ChainFault::TooLong)?;
        if !is_ram(memory, address, len as usize) {
            return Err(ChainFault::NotMemory { address: address.raw_value(), len });
        }
        if descriptor.is_write_only() {
            self.segments.push(Segment { address, len });
        } else if self.readable == self.segments.len() {
            self.segments.push(Segment { address, len });
            self.readable += 1;
        } else {
            return Err(ChainFault::Order);
        }
        Ok(total)
    }
}

impl Table<'_> {
    fn read(&self, index: u16) -> Result<Descriptor, ChainFault> {
        let fault = ChainFault::Index { index, size: self.size };
        if index >= self.size {
            return Err(fault);
        }
        let at = usize::from(index) * DESCRIPTOR_SIZE;
        Ok(self.entries.get_ref::<Descriptor>(at).map_err(|_| fault)?.load())
    }

    /// The indirect table that `descriptor` points to.
    fn enter<'a>(
        &self,
        memory: &'a GuestMemory,
        descriptor: Descriptor,
        allowed: bool,
    ) -> Result<Table<'a>, ChainFault> {
        let (start, len) = (descriptor.addr(), descriptor.len());
        if !allowed {
            return Err(ChainFault::IndirectUnexpected);
        }
        if self.indirect {
            return Err(ChainFault::IndirectNested);
        }
        if descriptor.has_next() {
            return Err(ChainFault::IndirectNext);
        }
        let bytes = len as usize;
        if len == 0 || !bytes.is_multiple_of(DESCRIPTOR_SIZE) {
            return Err(ChainFault::IndirectLength { len });
        }
        // A table has no reason to be spread over two regions of RAM, which begin and end at page
        // boundaries far apart.
        let entries = one_slice(memory, start, bytes)
            .ok_or_else(|| ChainFault::NotMemory { address: start.raw_value(), len })?;
        let size = u16::try_from(bytes / DESCRIPTOR_SIZE).unwrap_or(u16::MAX);
        Ok(Table { entries, size, indirect: true })
    }
}
