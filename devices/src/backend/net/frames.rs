//! Several frames at once: in guest memory, to be sent, and in memory of our own, just received.

use crate::memory::{Buffers, GuestMemory, Segment};

/// Where some frames are. Reused from batch to batch, so that sending does not allocate.
#[derive(Debug, Default)]
pub struct Frames {
    /// The segments of all frames.
    segments: Vec<Segment>,
    /// Where in `segments` each frame ends.
    ends: Vec<usize>,
}

impl Frames {
    /// Puts a frame behind the others.
    pub fn push(&mut self, frame: &Buffers<'_>) {
        self.segments.extend_from_slice(frame.segments());
        self.ends.push(self.segments.len());
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.ends.clear();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The frames in `memory`, in order.
    pub fn iter<'a>(&'a self, memory: &'a GuestMemory) -> impl Iterator<Item = Buffers<'a>> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let segments = self.segments.get(start..end).unwrap_or_default();
            start = end;
            Buffers::new(memory, segments)
        })
    }
}

/// Room for some frames, each in a place of its own that holds the largest.
#[derive(Debug)]
pub struct Slots {
    bytes: Vec<u8>,
    len: usize,
    wanted: usize,
}

impl Slots {
    /// `count` slots of `len` bytes each. What is never used costs no memory.
    #[must_use]
    pub fn new(count: usize, len: usize) -> Self {
        Self { bytes: vec![0; count * len], len, wanted: count }
    }

    /// Asks for frames in the first `count` slots only.
    pub fn want(&mut self, count: usize) {
        self.wanted = count;
    }

    /// How many frames are asked for.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Slot `index`; empty if there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> &[u8] {
        self.bytes.chunks(self.len).nth(index).unwrap_or_default()
    }

    /// The same, to write to.
    pub fn get_mut(&mut self, index: usize) -> &mut [u8] {
        self.bytes.chunks_mut(self.len).nth(index).unwrap_or_default()
    }

    /// The slots in which frames are wanted, in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.bytes.chunks_mut(self.len).take(self.wanted)
    }

    /// Gives up the memory for good, because somebody else may still write to it, and takes other.
    pub(super) fn leak(&mut self) {
        let others = vec![0; self.bytes.len()];
        std::mem::forget(std::mem::replace(&mut self.bytes, others));
    }
}
