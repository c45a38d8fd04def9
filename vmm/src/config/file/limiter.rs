//! Rate limiters in files: Firecracker's token buckets.

use std::time::Duration;

use devices::rate_limiter::{Limits, Rate};
use serde::Deserialize;

/// A limiter; a bucket that is not there limits nothing.
#[derive(Debug, Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
}

/// A bucket: `size` tokens every `refill_time` milliseconds. A zero in either is no limit.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct TokenBucket {
    size: u64,
    one_time_burst: Option<u64>,
    refill_time: u64,
}

impl RateLimiter {
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
    fn rate(self) -> Option<Rate> {
        let refill_time = Duration::from_millis(self.refill_time);
        Rate::new(self.size, refill_time, self.one_time_burst.unwrap_or(0))
    }
}
