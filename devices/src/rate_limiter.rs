//! Rate limits: token buckets that say how much may pass, and when the next may.
//!
//! A [`Bucket`] is arithmetic: time is passed in, nothing waits here. A [`Limiter`] holds the two buckets of a
//! device, one for bytes and one for operations, shared by its queues and changeable while they work. A
//! [`Gate`] is one queue's way past it, with the timer that opens it again.
//!
//! What comes to an open gate passes whole, whatever its size, and is charged afterwards; a debt keeps the
//! gate closed until it is paid. So nothing has to be put back, the largest request passes in the end, and
//! of several queues each gets its turn: every charge has its own place in time. A queue exceeds
//! [`Rate::size`] + [`Rate::one_time_burst`] + rate × time by one request at most.

mod gate;

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use gate::Gate;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    size: NonZeroU64,
    refill_ns: NonZeroU64,
    one_time_burst: u64,
}

impl Rate {
    /// A bucket of `size` tokens that fills from empty to full in `refill_time` (up to 584 years), with
    /// `one_time_burst` tokens on top that never come back. `None` when either of the first two is zero,
    /// which means no limit.
    #[must_use]
    pub fn new(size: u64, refill_time: Duration, one_time_burst: u64) -> Option<Self> {
        let refill_ns = u64::try_from(refill_time.as_nanos()).unwrap_or(u64::MAX);
        Some(Self {
            size: NonZeroU64::new(size)?,
            refill_ns: NonZeroU64::new(refill_ns)?,
            one_time_burst,
        })
    }

    /// The most tokens that a quiet time can save up.
    #[must_use]
    pub fn size(self) -> u64 {
        self.size.get()
    }

    /// How long filling the empty bucket takes.
    #[must_use]
    pub fn refill_time(self) -> Duration {
        Duration::from_nanos(self.refill_ns.get())
    }

    /// Tokens that are there once, at the beginning, on top of the full bucket.
    #[must_use]
    pub fn one_time_burst(self) -> u64 {
        self.one_time_burst
    }
}

/// What a limiter limits; without a rate there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of data.
    pub bandwidth: Option<Rate>,
    /// Requests or frames.
    pub ops: Option<Rate>,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self { bandwidth: None, ops: None };
}

/// A bucket of tokens. It may owe some: then it has to fill up to one token before anything passes again.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// At most `rate.size`; below zero it is a debt.
    level: i128,
    /// What was refilled beyond whole tokens, in tokens / `rate.refill_ns`; kept so that nothing drifts.
    fraction: u128,
    /// What is left of the one-time burst; it goes first.
    burst: u64,
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket.
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            level: i128::from(rate.size.get()),
            fraction: 0,
            burst: rate.one_time_burst,
            filled_at: now,
        }
    }

    /// Takes `tokens`, which may not be there yet, and says how long to wait before the next are taken.
    fn charge(&mut self, tokens: u64, now: Instant) -> Duration {
        self.refill(now);
        let from_burst = self.burst.min(tokens);
        self.burst -= from_burst;
        self.level = self.level.saturating_sub(i128::from(tokens - from_burst));
        if self.burst > 0 { Duration::ZERO } else { self.until_one_token() }
    }

    fn refill(&mut self, now: Instant) {
        // A clock that goes backwards stands still.
        let elapsed = now.saturating_duration_since(self.filled_at).as_nanos();
        self.filled_at = self.filled_at.max(now);
        let size = self.rate.size.get();
        let refill = u128::from(self.rate.refill_ns.get());
        let earned = elapsed.saturating_mul(size.into()).saturating_add(self.fraction);
        let tokens = i128::try_from(earned / refill).unwrap_or(i128::MAX);
        self.level = self.level.saturating_add(tokens);
        self.fraction = earned % refill;
        if self.level >= i128::from(size) {
            self.level = size.into();
            self.fraction = 0;
        }
    }

    fn until_one_token(&self) -> Duration {
        let missing = u128::try_from(1_i128.saturating_sub(self.level)).unwrap_or(0);
        let refill = u128::from(self.rate.refill_ns.get());
        let unearned = missing.saturating_mul(refill).saturating_sub(self.fraction);
        let nanoseconds = unearned.div_ceil(self.rate.size.get().into());
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// Where a limiter gets the time from.
pub trait Clock: Send + Sync {
    /// The time now; it never goes backwards.
    fn now(&self) -> Instant;
}

/// The host's monotonic clock.
struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// The limits of one direction of a device, shared by the gates of its queues.
pub struct Limiter {
    /// Whether there is a bucket, for those who only want to pass.
    is_limited: AtomicBool,
    /// How often the limits were changed; a gate that was closed by other limits is open.
    changes: AtomicU32,
    clock: Box<dyn Clock>,
    state: Mutex<State>,
    /// How often a gate had to close.
    closures: AtomicU64,
    on_closure: OnceLock<OnClosure>,
}

/// Called on the thread that serves the queue.
type OnClosure = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    limits: Limits,
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

impl Limiter {
    /// A limiter with full buckets.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Self::with_clock(limits, Box::new(Monotonic))
    }

    /// The same by another clock.
    #[must_use]
    pub fn with_clock(limits: Limits, clock: Box<dyn Clock>) -> Arc<Self> {
        let limiter = Self {
            is_limited: AtomicBool::new(false),
            changes: AtomicU32::new(0),
            clock,
            state: Mutex::default(),
            closures: AtomicU64::new(0),
            on_closure: OnceLock::new(),
        };
        limiter.set_limits(limits);
        Arc::new(limiter)
    }

    /// How often a queue had used up what it may, and had to stand still.
    #[must_use]
    pub fn closures(&self) -> u64 {
        self.closures.load(Ordering::Relaxed)
    }

    /// Has `tell` called whenever that happens, on the thread that serves the queue: it must not wait. Only the first
    /// one is.
    pub fn on_closure(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_closure.set(Box::new(tell));
    }

    /// A gate closes.
    fn count_closure(&self) {
        self.closures.fetch_add(1, Ordering::Relaxed);
        if let Some(tell) = self.on_closure.get() {
            tell();
        }
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).limits
    }

    /// Sets other limits. A rate that stays the same keeps its bucket and what it owes; another one begins
    /// with a full bucket. Gates that are closed notice when they are asked again.
    pub fn set_limits(&self, limits: Limits) {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { limits: old, bandwidth, ops } = &mut *state;
        for (old, new, bucket) in
            [(old.bandwidth, limits.bandwidth, bandwidth), (old.ops, limits.ops, ops)]
        {
            if old != new {
                *bucket = new.map(|rate| Bucket::new(rate, now));
            }
        }
        state.limits = limits;
        self.is_limited.store(limits != Limits::NONE, Ordering::Release);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Charges one operation on `bytes` and says when the next may pass; `None` at once.
    fn charge(&self, bytes: u64) -> Option<Closed> {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { limits, bandwidth, ops } = &mut *state;
        let wait_for_bytes = bandwidth.as_mut().map(|bucket| bucket.charge(bytes, now));
        let wait_for_ops = ops.as_mut().map(|bucket| bucket.charge(1, now));
        let wait = wait_for_bytes.max(wait_for_ops).filter(|wait| !wait.is_zero())?;
        let slack = [limits.bandwidth, limits.ops].into_iter().flatten().map(slack).min();
        Some(Closed {
            // Beyond the clock's end is not within anybody's life.
            until: now.checked_add(wait.min(FOREVER)).unwrap_or(now),
            slack: slack.unwrap_or_default(),
            changes: self.changes.load(Ordering::Relaxed),
            is_armed: false,
        })
    }
}

/// The longest that a gate stays closed: ten years, which a clock can count.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How much later than necessary a closed gate opens at most, so that one wake-up lets several requests pass.
const MAX_SLACK: Duration = Duration::from_millis(1);

/// How late a gate at a bucket with this `rate` may open without a loss: what the bucket earns meanwhile must
/// fit into it beside the one token that it has by then.
fn slack(rate: Rate) -> Duration {
    if rate.size() == 1 { Duration::ZERO } else { (rate.refill_time() / 4).min(MAX_SLACK) }
}

/// Why and how long a gate is closed.
#[derive(Debug, Clone, Copy)]
struct Closed {
    until: Instant,
    /// How much later the timer may come.
    slack: Duration,
    /// Whose limits closed it.
    changes: u32,
    is_armed: bool,
}

#[cfg(test)]
pub(crate) mod tests;
