//! Receive buffers that are off the ring but hold nothing yet.
//!
//! They are kept from frame to frame: each is popped and checked once, and one readv covers as many as
//! the largest frame needs. Those that are never used go back to the ring.

use crate::memory::{Buffers, GuestMemory, Segment};
use crate::virtio::queue::{Chain, Fault, Queue, QueueError};

/// Most segments at a time: the kernel takes 1024 in one call, one of which is for what spills over.
const MAX_SEGMENTS: usize = 1000;

/// Buffers in the order in which they will be used.
#[derive(Default)]
pub(super) struct Posted {
    chains: Vec<PostedChain>,
    segments: Vec<Segment>,
    len: usize,
    scratch: Chain,
}

struct PostedChain {
    head: u16,
    len: usize,
    segments: usize,
}

impl Posted {
    /// Total length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Number of buffers.
    pub(super) fn chains(&self) -> usize {
        self.chains.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// As many whole buffers, taken as one, as hold `len` bytes; all of them if they do not.
    pub(super) fn buffers<'a>(&'a self, memory: &'a GuestMemory, len: usize) -> Buffers<'a> {
        let mut covered = 0;
        let mut segments = 0;
        for chain in &self.chains {
            if covered >= len {
                break;
            }
            covered += chain.len;
            segments += chain.segments;
        }
        Buffers::new(memory, self.segments.get(..segments).unwrap_or_default())
    }

    /// Whether not even all that the driver can post would make it larger.
    pub(super) fn is_full(&self, queue: &Queue, max_chains: usize) -> bool {
        let size = usize::from(queue.size());
        self.chains.len() >= max_chains.min(size) || self.segments.len() + size > MAX_SEGMENTS
    }

    /// Takes chains off `queue` until there are `wanted` bytes or no more can be had. Returns whether
    /// there was at least one.
    pub(super) fn gather(
        &mut self,
        queue: &mut Queue,
        wanted: usize,
        max_chains: usize,
    ) -> Result<bool, QueueError> {
        let before = self.chains.len();
        while self.len < wanted
            && !self.is_full(queue, max_chains)
            && queue.pop(&mut self.scratch)?
        {
            let to = self.scratch.writable(queue.memory());
            if to.is_empty() {
                return Err(queue.fault(Fault::Protocol("a receive buffer must be writable")));
            }
            self.segments.extend_from_slice(to.segments());
            self.len += to.len();
            self.chains.push(PostedChain {
                head: self.scratch.head(),
                len: to.len(),
                segments: to.segments().len(),
            });
        }
        Ok(self.chains.len() > before)
    }

    /// Lists in `used` how many bytes of a frame of `len` bytes lie in each chain, from the first on.
    pub(super) fn spread(&self, len: usize, used: &mut Vec<(u16, u32)>) {
        used.clear();
        let mut left = len;
        for chain in &self.chains {
            if left == 0 {
                break;
            }
            let part = chain.len.min(left);
            used.push((chain.head, u32::try_from(part).unwrap_or(u32::MAX)));
            left -= part;
        }
    }

    /// Forgets the first `count` chains: they are the driver's again.
    pub(super) fn forget(&mut self, count: usize) {
        let mut segments = 0;
        for chain in self.chains.drain(..count.min(self.chains.len())) {
            segments += chain.segments;
            self.len -= chain.len;
        }
        self.segments.drain(..segments.min(self.segments.len()));
    }

    /// Puts every chain back on the available ring.
    pub(super) fn give_back(&mut self, queue: &mut Queue) {
        for _ in self.chains.drain(..) {
            queue.unpop();
        }
        self.segments.clear();
        self.len = 0;
    }
}
