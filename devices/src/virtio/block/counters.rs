//! What a queue of a block device has done so far.
//!
//! Counting only; who publishes the numbers, and under which names, is decided elsewhere.

use std::sync::Arc;
use std::time::Instant;

use super::request::Kind;
use crate::counters;
use crate::metrics::{Numbers, TimeCounts, Times};

counters! {
    /// The counters of one queue. Requests are counted when they are answered.
    pub struct QueueCounters {
        /// Kicks that were heard.
        kicks,
        /// Reads that succeeded.
        reads,
        /// Bytes they read.
        read_bytes,
        /// Writes that succeeded.
        writes,
        /// Bytes they wrote.
        written_bytes,
        /// Flushes that succeeded.
        flushes,
        /// Discards and write-zeroes that succeeded.
        clears,
        /// Requests that the driver should not have sent: malformed, out of range, or not supported.
        refused,
        /// Requests that failed because the host did.
        failed,
    }
}

/// How long requests of one queue took.
#[derive(Debug, Default)]
pub(super) struct QueueTimes {
    read: Times,
    write: Times,
    flush: Times,
}

/// What a queue has counted, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCounts {
    /// By the names of [`QueueCounters`].
    pub numbers: Numbers,
    /// How long requests took, by what they were; nothing where that is not measured.
    pub times: Vec<(&'static str, TimeCounts)>,
}

impl QueueCounts {
    pub(super) fn read(counters: &QueueCounters, times: Option<&QueueTimes>) -> Self {
        let times = times.map(|it| {
            vec![("read", it.read.read()), ("write", it.write.read()), ("flush", it.flush.read())]
        });
        Self { numbers: counters.read(), times: times.unwrap_or_default() }
    }
}

/// Measures how long requests take, from when they are found on the ring until the driver hears of the answer.
///
/// The clock is read for a batch, not for a request: those that are found together begin together, and the driver
/// hears of them together.
pub(super) struct Stopwatch {
    times: Arc<QueueTimes>,
    found_at: Instant,
    answered: Vec<(Kind, Instant)>,
}

impl Stopwatch {
    pub(super) fn new(times: Arc<QueueTimes>) -> Self {
        Self { times, found_at: Instant::now(), answered: Vec::new() }
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
                Kind::Read => &self.times.read,
                Kind::Write => &self.times.write,
                Kind::Flush => &self.times.flush,
                Kind::Discard | Kind::WriteZeroes | Kind::GetId | Kind::Refused => continue,
            };
            times.record(now.saturating_duration_since(found_at));
        }
    }
}
