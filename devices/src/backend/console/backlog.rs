//! What a console has shown and not yet delivered, bounded.
//!
//! Pure bookkeeping, no descriptor in sight. A [`Backlog`] keeps the newest bytes of a stream; each reader
//! has a [`Cursor`] in it. A reader that falls behind the oldest byte kept loses what is in between, is
//! told how much, and goes on from there: a slow reader costs no memory and delays nobody.

use std::collections::VecDeque;

/// Storage kept by a backlog that has run empty. Enough for a screenful; more goes back to the host, so
/// that one burst does not make a machine bigger for good.
const SPARE: usize = 8 << 10;

/// The newest bytes of a stream, addressed by their position since its beginning.
#[derive(Debug)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
    capacity: usize,
    start: u64,
}

impl Backlog {
    /// An empty stream of which the last `capacity` bytes are kept.
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, start: 0 }
    }

    /// Position of the oldest byte kept.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Position of the next byte: the length of the stream so far.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Adds to the stream; the oldest bytes give way.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(self.capacity);
        let kept = bytes.get(skipped..).unwrap_or_default();
        let overflow = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..overflow.min(self.bytes.len()));
        self.bytes.extend(kept);
        self.start += (overflow + skipped) as u64;
    }

    /// Copies what is kept from `position` on; returns how much there was.
    pub(super) fn copy_from(&self, position: u64, to: &mut [u8]) -> usize {
        let skip = position.saturating_sub(self.start);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let (front, back) = self.bytes.as_slices();
        let parts = [front.get(skip..), back.get(skip.saturating_sub(front.len())..)];
        let mut copied = 0;
        for from in parts.into_iter().flatten() {
            copied += copy(from, to.get_mut(copied..).unwrap_or_default());
        }
        copied
    }

    /// Forgets everything before `position`: it was delivered and nobody will ask again.
    pub(super) fn discard_before(&mut self, position: u64) {
        let count = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let count = count.min(self.bytes.len());
        self.bytes.drain(..count);
        self.start += count as u64;
        if self.bytes.is_empty() && self.bytes.capacity() > SPARE {
            self.bytes.shrink_to(SPARE);
        }
    }

    /// Forgets everything and keeps nothing from now on; positions go on counting.
    pub(super) fn close(&mut self) {
        self.discard_before(u64::MAX);
        self.bytes.shrink_to_fit();
        self.capacity = 0;
    }

    /// All that is kept.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }
}

/// One reader's place in a [`Backlog`].
#[derive(Debug)]
pub(super) struct Cursor {
    position: u64,
    /// Words of the monitor itself that go out before the stream goes on.
    aside: Vec<u8>,
    lost: u64,
}

impl Cursor {
    /// A reader that begins with the oldest byte kept.
    pub(super) fn at_start_of(backlog: &Backlog) -> Self {
        Self { position: backlog.start(), aside: Vec::new(), lost: 0 }
    }

    /// A reader that is told `words`, and begins with whatever comes next.
    pub(super) fn at_end_of(backlog: &Backlog, words: Vec<u8>) -> Self {
        Self { position: backlog.end(), aside: words, lost: 0 }
    }

    /// The same reader, told `words` first.
    pub(super) fn after(self, words: Vec<u8>) -> Self {
        Self { aside: words, ..self }
    }

    /// Position of the next byte to deliver.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the reader has everything that there is so far.
    pub(super) fn is_at_end(&self, backlog: &Backlog) -> bool {
        self.aside.is_empty() && self.position >= backlog.end()
    }

    /// Fills `to` with what comes next; nothing counts as delivered before [`Self::advance`]. Returns the
    /// number of bytes; 0 when the reader has everything.
    pub(super) fn fill(&mut self, backlog: &Backlog, to: &mut [u8]) -> usize {
        let missed = backlog.start().saturating_sub(self.position);
        // The words said already must go out whole before the next marker.
        if missed > 0 && self.aside.is_empty() {
            self.lost += missed;
            self.position = backlog.start();
            self.aside.extend(format!("\r\n[vmm: {missed} bytes lost]\r\n").bytes());
        }
        let filled = copy(&self.aside, to);
        if self.aside.len() > filled || self.position < backlog.start() {
            return filled;
        }
        let rest = to.get_mut(filled..).unwrap_or_default();
        filled + backlog.copy_from(self.position, rest)
    }

    /// `count` bytes of the last [`Self::fill`] were delivered.
    pub(super) fn advance(&mut self, count: usize) {
        let said = count.min(self.aside.len());
        self.aside.drain(..said);
        self.position += (count - said) as u64;
    }

    /// Says something before the stream goes on; dropped when the last words are not out yet, so that
    /// they cannot pile up.
    pub(super) fn say(&mut self, words: &str) {
        if self.aside.is_empty() {
            self.aside.extend(words.bytes());
        }
    }

    /// Bytes of the stream that this reader will never get.
    pub(super) fn lost(&self, backlog: &Backlog) -> u64 {
        self.lost + backlog.start().saturating_sub(self.position)
    }
}

/// Copies as much of `from` as fits; returns how much.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
        to.copy_from_slice(from);
    }
    count
}

#[cfg(test)]
mod tests;
