//! Bytes from the guest that the host's program has not made room for yet.
//!
//! Never more than the guest was told it may send; without any, no memory is held.

use vm_memory::GuestMemoryError;

use crate::memory::Buffers;

/// A queue of bytes.
#[derive(Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// How many of `bytes`, from the start, are gone.
    start: usize,
}

impl Backlog {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// What comes next.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Adds `len` bytes of `from` from `at` on.
    pub(super) fn add(
        &mut self,
        from: &Buffers<'_>,
        at: usize,
        len: usize,
    ) -> Result<(), GuestMemoryError> {
        let end = self.bytes.len();
        self.bytes.resize(end + len, 0);
        let count = from.read_at(at, self.bytes.get_mut(end..).unwrap_or_default())?;
        self.bytes.truncate(end + count);
        Ok(())
    }

    /// The first `count` bytes are gone.
    pub(super) fn remove(&mut self, count: usize) {
        self.start = self.bytes.len().min(self.start + count);
        if self.is_empty() {
            *self = Self::default();
        } else if self.start > self.len() {
            // Each byte is moved less than once on average.
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::Segment;
    use crate::test_util::guest_memory;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        let memory = guest_memory(1 << 20);
        let pattern: Vec<u8> = (0..=255).collect();
        memory.write_slice(&pattern, GuestAddress(0)).unwrap();
        let segments = [Segment { address: GuestAddress(0), len: 256 }];
        let from = Buffers::new(&memory, &segments);
        let mut backlog = Backlog::default();
        let (mut added, mut removed) = (0, 0);
        // More is added than removed at first, then the other way round.
        for round in 0..200 {
            if round < 100 {
                backlog.add(&from, added % 200, 50).unwrap();
                added += 50;
            }
            let step = if round % 2 == 0 { 13 } else { 37 };
            for byte in &backlog.bytes()[..step] {
                assert_eq!(usize::from(*byte), removed % 200);
                removed += 1;
            }
            backlog.remove(step);
            assert_eq!(backlog.len(), added - removed);
            assert!(backlog.bytes.len() <= 2 * backlog.len(), "what is gone costs memory");
        }
        assert!(backlog.is_empty());
        assert_eq!(backlog.bytes.capacity(), 0, "an empty backlog holds no memory");
    }
}
