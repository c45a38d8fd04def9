//! From ranges that a guest names to whole pages of the host that can be let go.
//!
//! A guest may name anything: what is not its RAM is left alone, and so is a page of the host of which the guest
//! gave only a part.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::control::{Shared, count};
use crate::backend::reclaim::MemoryReclaim;
use crate::memory::{GuestMemory, Segment};

/// Gives ranges back to the host and counts what became of them.
pub(super) struct Releaser {
    reclaim: Arc<dyn MemoryReclaim>,
    pub(super) shared: Arc<Shared>,
}

impl Releaser {
    pub(super) fn new(reclaim: Arc<dyn MemoryReclaim>, shared: Arc<Shared>) -> Self {
        Self { reclaim, shared }
    }

    /// Releases the RAM in `len` bytes from guest-physical `start` on; says how much the host got.
    pub(super) fn release(&self, memory: &GuestMemory, start: u64, len: u64) -> u64 {
        let end = start.saturating_add(len);
        let (mut outside, mut released) = (len, 0);
        for region in memory.iter() {
            let first = region.start_addr().raw_value();
            let from = start.max(first);
            let to = end.min(first.saturating_add(region.len()));
            if let Some(inside) = to.checked_sub(from).filter(|len| *len > 0) {
                outside = outside.saturating_sub(inside);
                released += self.release_ram(memory, from, to);
            }
        }
        count(&self.shared.counting.outside, outside);
        released
    }

    /// Releases `segments` until `budget` bytes are reached: what the kernel does for each page takes time.
    /// Says how much the host got.
    pub(super) fn release_all(
        &self,
        memory: &GuestMemory,
        segments: &[Segment],
        budget: u64,
    ) -> u64 {
        let (mut left, mut released) = (budget, 0);
        for segment in segments {
            let len = u64::from(segment.len);
            let part = len.min(left);
            if part > 0 {
                released += self.release(memory, segment.address.raw_value(), part);
            }
            count(&self.shared.counting.excess, len - part);
            left -= part;
        }
        released
    }

    /// Releases the whole pages in `from..to`, which lies in one region of RAM.
    fn release_ram(&self, memory: &GuestMemory, from: u64, to: u64) -> u64 {
        let counting = &self.shared.counting;
        let page = self.reclaim.page_size();
        let start = from.checked_next_multiple_of(page).unwrap_or(to);
        let end = to - to % page;
        let Some(len) = end.checked_sub(start).filter(|len| *len > 0) else {
            count(&counting.partial, to - from);
            return 0;
        };
        count(&counting.partial, to - from - len);
        match self.reclaim.reclaim(memory, GuestAddress(start), len) {
            Ok(()) => {
                count(&counting.released, len);
                len
            }
            Err(error) => {
                // Once is enough: a guest can repeat it as often as it likes.
                if counting.failed.fetch_add(len, Ordering::Relaxed) == 0 {
                    let id = &self.shared.id;
                    log::error!("{id}: memory is not given back: {}", crate::event::chain(&error));
                }
                0
            }
        }
    }
}
