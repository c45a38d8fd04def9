//! What a queue of a block device has done so far.
//!
//! Counting only; who publishes the numbers, and under which names, is decided elsewhere.

use std::sync::Arc;
use std::time::Instant;

use super::request::Kind;
use crate::counters;
use crate::metrics::{Counter, Times};

counters! {
    /// The counters of one queue. Requests are counted when they are answered.
    pub struct QueueCounters => QueueCounts {
        /// Kicks that were heard.
        kicks: Counter,
        /// Reads that succeeded.
        reads: Counter,
        /// Bytes they read.
        read_bytes: Counter,
        /// Writes that succeeded.
        writes: Counter,
        /// Bytes they wrote.
        written_bytes: Counter,
        /// Flushes that succeeded.
        flushes: Counter,
        /// Discards and write-zeroes that succeeded.
        clears: Counter,
        /// Requests that the driver should not have sent: malformed, out of range, or not supported.
        refused: Counter,
        /// Requests that failed because the host did.
        failed: Counter,
        /// How long reads took, where that is measured.
        read_times: Times,
        /// How long writes took.
        write_times: Times,
        /// How long flushes took.
        flush_times: Times,
    }
}

/// Measures how long requests take, from when they are found on the ring until the driver hears of the answer.
///
/// The clock is read for a batch, not for a request: those that are found together begin together, and the driver
/// hears of them together.
pub(super) struct Stopwatch {
    counters: Arc<QueueCounters>,
    found_at: Instant,
    answered: Vec<(Kind, Instant)>,
}

impl Stopwatch {
    pub(super) fn new(counters: Arc<QueueCounters>) -> Self {
        Self { counters, found_at: Instant::now(), answered: Vec::new() }
    }

    /// Requests that are found from now on begin now.
    pub(super) fn begin(&mut self) {
        self.found_at = Instant::now();
    }

    /// When a request that is found now begins.
    pub(super) fn found_at(&self) -> Instant {
        self.found_at
    }

    /// A request is answered, and the driver will hear of it.
    pub(super) fn answered(&mut self, kind: Kind, found_at: Instant) {
        self.answered.push((kind, found_at));
    }

    /// The driver hears of it.
    pub(super) fn announced(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        let now = Instant::now();
        for (kind, found_at) in self.answered.drain(..) {
            let times = match kind {
                Kind::Read => &self.counters.read_times,
                Kind::Write => &self.counters.write_times,
                Kind::Flush => &self.counters.flush_times,
                Kind::Discard | Kind::WriteZeroes | Kind::GetId | Kind::Refused => continue,
            };
            times.record(now.saturating_duration_since(found_at));
        }
    }
}
