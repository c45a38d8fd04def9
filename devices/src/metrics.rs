//! Numbers that somebody counts and others read: how often, how much, how long.
//!
//! Each number has one writer at a time, the thread that serves a queue or runs a vCPU, so that to count needs no
//! locked instruction. Whoever reads sees every number as of some moment, not all of them as of the same. Under
//! which names they are published is decided elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that one thread raises and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The count so far.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds `n`. What two threads add at the same time may be lost.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one and returns the new number.
    #[inline]
    pub fn increment(&self) -> u64 {
        self.add(1);
        self.get()
    }
}

/// Bounds of the buckets that times are counted in: 1, 2, 4... microseconds, up to 8 seconds.
pub const TIME_BOUNDS: usize = 24;

/// How long things of one kind took.
#[derive(Debug, Default)]
pub struct Times {
    /// By the first bound that a time does not exceed; the last one is for what exceeds them all.
    buckets: [Counter; TIME_BOUNDS + 1],
    sum_ns: AtomicU64,
    /// One more than the shortest, so that zero means that there is none.
    shortest_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Times {
    /// One thing took `time`; with the writers' rule of [`Counter`].
    pub fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Up to a bound with the bound itself, as is usual for histograms.
        let bits = (u64::BITS - (ns.saturating_sub(1) / 1000).leading_zeros()) as usize;
        if let Some(bucket) = self.buckets.get(bits.min(TIME_BOUNDS)) {
            bucket.add(1);
        }
        let sum = self.sum_ns.load(Ordering::Relaxed).saturating_add(ns);
        self.sum_ns.store(sum, Ordering::Relaxed);
        let shortest = self.shortest_ns.load(Ordering::Relaxed);
        if shortest == 0 || ns < shortest - 1 {
            self.shortest_ns.store(ns.saturating_add(1), Ordering::Relaxed);
        }
        if ns > self.longest_ns.load(Ordering::Relaxed) {
            self.longest_ns.store(ns, Ordering::Relaxed);
        }
    }

    /// What they are at this moment.
    #[must_use]
    pub fn read(&self) -> TimeCounts {
        let time = |ns: &AtomicU64| Duration::from_nanos(ns.load(Ordering::Relaxed));
        TimeCounts {
            buckets: self.buckets.each_ref().map(Counter::get),
            sum: time(&self.sum_ns),
            shortest: time(&self.shortest_ns).saturating_sub(Duration::from_nanos(1)),
            longest: time(&self.longest_ns),
        }
    }
}

/// What [`Times`] were at some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeCounts {
    /// How many, by the first bound that they do not exceed.
    pub buckets: [u64; TIME_BOUNDS + 1],
    /// All together.
    pub sum: Duration,
    /// The shortest; zero when there is none.
    pub shortest: Duration,
    /// The longest.
    pub longest: Duration,
}

impl TimeCounts {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Numbers that have names, as they were at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    names: &'static str,
    values: Vec<u64>,
}

impl Numbers {
    /// `values` with `names` in the same order, which have spaces between them.
    #[inline(never)]
    #[must_use]
    pub fn new(names: &'static str, values: &[u64]) -> Self {
        Self { names, values: values.to_vec() }
    }

    /// What `counters` are at this moment.
    #[inline(never)]
    #[must_use]
    pub fn read(names: &'static str, counters: &[&Counter]) -> Self {
        Self { names, values: counters.iter().map(|counter| counter.get()).collect() }
    }

    /// The number called `name`.
    #[inline(never)]
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        let place = self.names.split_ascii_whitespace().position(|it| it == name)?;
        self.values.get(place).copied()
    }
}

/// Defines a structure of [`Counter`]s, and how it is read.
#[macro_export]
macro_rules! counters {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident { $($(#[$doc:meta])* $field:ident,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $name {
            $($(#[$doc])* pub $field: $crate::metrics::Counter,)+
        }

        impl $name {
            /// What they are at this moment, by the names of the fields.
            #[must_use]
            $vis fn read(&self) -> $crate::metrics::Numbers {
                let names = concat!($(stringify!($field), " "),+);
                $crate::metrics::Numbers::read(names, &[$(&self.$field),+])
            }
        }
    };
}

#[cfg(test)]
mod tests;
