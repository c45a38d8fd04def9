//! The three areas of an active split queue (virtio 1.3, 2.7), found in guest memory once.
//!
//! Indices are read and written in one piece and in the order that the specification demands. Whatever the
//! driver wrote is checked where it is used. Knows nothing of what chains hold, or of doorbells.

use std::sync::atomic::{Ordering, fence};

use vm_memory::{GuestAddress, GuestMemoryError, VolatileSlice};

use super::{QueueConfig, QueuePosition};
use crate::memory::{Area, GuestMemory};

/// Both rings start with 16 bits of flags and a 16-bit index.
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// Size of an entry of the available ring, of the used ring, and of a descriptor.
const AVAIL_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;
const DESCRIPTOR: usize = 16;
/// Size of `used_event` and `avail_event`, which follow the entries.
const EVENT: usize = 2;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (virtio 1.3, 2.7.7).
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY` (virtio 1.3, 2.7.10).
const NO_NOTIFY: u16 = 1;

/// What is wrong with a ring.
#[derive(Debug, thiserror::Error)]
pub enum RingFault {
    /// The driver says that it has put more chains on the ring than the ring has room for.
    #[error("available index {index} is more than {size} ahead of {next}")]
    Ahead {
        /// The driver's index.
        index: u16,
        /// The next entry to be looked at.
        next: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// A chain that is handed back has a head beyond the table: the device's own mistake.
    #[error("head {head} is beyond the table of {size}")]
    Head {
        /// The head.
        head: u16,
        /// Entries of the table.
        size: u16,
    },
    /// Guest memory could not be accessed.
    #[error(transparent)]
    Memory(#[from] GuestMemoryError),
}

/// The areas, and how far the device has come in them.
pub(super) struct Rings {
    size: u16,
    has_event_idx: bool,
    descriptors: Area,
    avail: Area,
    used: Area,
    next_avail: u16,
    next_used: u16,
    /// The used index that the driver sees.
    published: u16,
    /// The driver's index when it was last looked at: up to there, entries need no second look.
    seen_avail: u16,
}

impl Rings {
    /// The areas that `config` names, at index 0; `None` when one of them is not in RAM. `config` was
    /// checked otherwise.
    pub(super) fn find(
        memory: &GuestMemory,
        config: &QueueConfig,
        has_event_idx: bool,
    ) -> Option<Self> {
        let size = usize::from(config.size);
        let area = |address, len| Area::find(memory, GuestAddress(address), len);
        Some(Self {
            size: config.size,
            has_event_idx,
            descriptors: area(config.descriptors, DESCRIPTOR * size)?,
            avail: area(config.driver, ENTRIES + AVAIL_ENTRY * size + EVENT)?,
            used: area(config.device, ENTRIES + USED_ENTRY * size + EVENT)?,
            next_avail: 0,
            next_used: 0,
            published: 0,
            seen_avail: 0,
        })
    }

    /// Goes on at index `next` of both rings.
    pub(super) fn start_at(&mut self, next: u16) {
        self.next_avail = next;
        self.next_used = next;
        self.published = next;
        self.seen_avail = next;
    }

    /// Number of entries.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// The descriptor table.
    pub(super) fn descriptors(&self) -> Result<VolatileSlice<'_, ()>, GuestMemoryError> {
        self.descriptors.slice()
    }

    /// Where the device stands.
    pub(super) fn position(&self) -> QueuePosition {
        QueuePosition { next_avail: self.next_avail, next_used: self.next_used }
    }

    /// The head of the next chain, if the driver has put one there.
    pub(super) fn pop(&mut self) -> Result<Option<u16>, RingFault> {
        let next = self.next_avail;
        if next == self.seen_avail && !self.has_more()? {
            return Ok(None);
        }
        let slot = usize::from(next % self.size);
        let head = self.avail.load(ENTRIES + AVAIL_ENTRY * slot, Ordering::Relaxed)?;
        self.next_avail = next.wrapping_add(1);
        Ok(Some(u16::from_le(head)))
    }

    /// The last chain was not taken after all.
    pub(super) fn unpop(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Puts chains on the used ring, each with the number of bytes written to it. The driver sees none of them
    /// before [`Self::publish`].
    pub(super) fn put(&mut self, used: &[(u16, u32)]) -> Result<(), RingFault> {
        for &(head, written) in used {
            if head >= self.size {
                return Err(RingFault::Head { head, size: self.size });
            }
            let slot = usize::from(self.next_used % self.size);
            let entry = [u32::from(head).to_le(), written.to_le()];
            self.used.write(entry, ENTRIES + USED_ENTRY * slot)?;
            self.next_used = self.next_used.wrapping_add(1);
        }
        Ok(())
    }

    /// Shows the driver everything that was put on the used ring, at once.
    pub(super) fn publish(&mut self) -> Result<(), RingFault> {
        if self.published != self.next_used {
            // The entries must be there before the index says so (virtio 1.3, 2.7.8.2).
            self.used.store(self.next_used.to_le(), INDEX, Ordering::Release)?;
            self.published = self.next_used;
        }
        Ok(())
    }

    /// Whether the driver wants to hear of what was handed back since index `considered`.
    pub(super) fn wants_interrupt(&self, considered: u16) -> Result<bool, RingFault> {
        // The used index must be visible before the driver's wish is read (virtio 1.3, 2.7.7.2).
        fence(Ordering::SeqCst);
        if !self.has_event_idx {
            let flags = u16::from_le(self.avail.load(0, Ordering::Relaxed)?);
            return Ok(flags & NO_INTERRUPT == 0);
        }
        let at = ENTRIES + AVAIL_ENTRY * usize::from(self.size);
        let event = u16::from_le(self.avail.load(at, Ordering::Relaxed)?);
        let used = self.next_used;
        Ok(used.wrapping_sub(event).wrapping_sub(1) < used.wrapping_sub(considered))
    }

    /// Asks the driver not to kick. With `EVENT_IDX` there is nothing to say: it kicks only at the index
    /// that it was last asked to kick at, which is past.
    pub(super) fn silence_kicks(&self) -> Result<(), RingFault> {
        if !self.has_event_idx {
            self.used.store(NO_NOTIFY.to_le(), 0, Ordering::Relaxed)?;
        }
        Ok(())
    }

    /// Asks the driver to kick for the next chain; `true` when it was there before it could hear that.
    pub(super) fn expect_kicks(&mut self) -> Result<bool, RingFault> {
        if self.has_event_idx {
            let at = ENTRIES + USED_ENTRY * usize::from(self.size);
            self.used.store(self.next_avail.to_le(), at, Ordering::Relaxed)?;
        } else {
            self.used.store(0_u16, 0, Ordering::Relaxed)?;
        }
        // The driver must see that before its index is read (virtio 1.3, 2.7.10.2).
        fence(Ordering::SeqCst);
        self.has_more()
    }

    /// Looks at the driver's index: whether there is a chain that was not taken yet.
    pub(super) fn has_more(&mut self) -> Result<bool, RingFault> {
        // What the driver wrote before the index is read after it.
        let index = u16::from_le(self.avail.load(INDEX, Ordering::Acquire)?);
        let (next, size) = (self.next_avail, self.size);
        if index.wrapping_sub(next) > size {
            return Err(RingFault::Ahead { index, next, size });
        }
        self.seen_avail = index;
        Ok(index != next)
    }
}
