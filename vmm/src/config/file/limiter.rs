//! Rate limiters in files: Firecracker's token buckets.

use std::time::Duration;

use devices::rate_limiter::{Limits, Rate};
use serde::Deserialize;

/// A limiter; a bucket that is not there limits nothing.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
}

/// A bucket: `size` tokens every `refill_time` milliseconds. A zero in either is no limit.
#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct TokenBucket {
    size: u64,
    one_time_burst: Option<u64>,
    refill_time: u64,
}

impl RateLimiter {
    /// The limits.
    pub(in crate::config) fn limits(self) -> Limits {
        Limits {
            bandwidth: self.bandwidth.and_then(TokenBucket::rate),
            ops: self.ops.and_then(TokenBucket::rate),
        }
    }
}

impl TokenBucket {
    fn rate(self) -> Option<Rate> {
        let refill_time = Duration::from_millis(self.refill_time);
        Rate::new(self.size, refill_time, self.one_time_burst.unwrap_or(0))
    }
}
