//! What a queue of a block device has done so far.
//!
//! Counting only; who publishes the numbers, and under which names, is decided elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread raises and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds `n`. With a single writer this needs no locked instruction.
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }
}

/// The counters of one queue. Requests are counted when they are answered.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Reads that succeeded.
    pub reads: Counter,
    /// Bytes they read.
    pub read_bytes: Counter,
    /// Writes that succeeded.
    pub writes: Counter,
    /// Bytes they wrote.
    pub written_bytes: Counter,
    /// Flushes that succeeded.
    pub flushes: Counter,
    /// Discards and write-zeroes that succeeded.
    pub clears: Counter,
    /// Requests that the driver should not have sent: malformed, out of range, or not supported.
    pub refused: Counter,
    /// Requests that failed because the host did.
    pub failed: Counter,
}
