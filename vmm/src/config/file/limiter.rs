//! Rate limiters in files: Firecracker's token buckets.

use std::time::Duration;

use devices::rate_limiter::{Limits, Rate};
use serde::{Deserialize, Serialize};

/// A limiter; a bucket that is not there limits nothing.
#[derive(Debug, Deserialize, Serialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<TokenBucket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ops: Option<TokenBucket>,
}

/// A bucket: `size` tokens every `refill_time` milliseconds. A zero in either is no limit.
#[derive(Debug, Deserialize, Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct TokenBucket {
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    one_time_burst: Option<u64>,
    refill_time: u64,
}

impl RateLimiter {
    /// One that changes what `limits` has, and lifts the limits that are named to be lifted.
    pub(in crate::config) fn changing(
        limits: Limits,
        lifts_bandwidth: bool,
        lifts_ops: bool,
    ) -> Self {
        let bucket = |rate: Option<Rate>, lifts: bool| {
            let lifted =
                lifts.then_some(TokenBucket { size: 0, one_time_burst: None, refill_time: 0 });
            lifted.or_else(|| rate.map(TokenBucket::of))
        };
        Self {
            bandwidth: bucket(limits.bandwidth, lifts_bandwidth),
            ops: bucket(limits.ops, lifts_ops),
        }
    }

    /// The limits.
    #[must_use]
    pub fn limits(self) -> Limits {
        self.changed(Limits::NONE)
    }

    /// The limits that `old` become: a bucket that is not there changes nothing.
    #[must_use]
    pub fn changed(self, old: Limits) -> Limits {
        let changed = |bucket: Option<TokenBucket>, old| match bucket {
            Some(bucket) => bucket.rate(),
            None => old,
        };
        Limits {
            bandwidth: changed(self.bandwidth, old.bandwidth),
            ops: changed(self.ops, old.ops),
        }
    }
}

impl TokenBucket {
    /// The bucket of `rate`. Its time is in whole milliseconds.
    fn of(rate: Rate) -> Self {
        let millis = rate.refill_time().as_micros().div_ceil(1000);
        let refill_time = u64::try_from(millis).unwrap_or(u64::MAX);
        Self { size: rate.size(), one_time_burst: None, refill_time }
    }

    fn rate(self) -> Option<Rate> {
        let refill_time = Duration::from_millis(self.refill_time);
        Rate::new(self.size, refill_time, self.one_time_burst.unwrap_or(0))
    }
}
