//! One queue's way past a limiter.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::{Closed, Limiter};
use crate::event::Interest;

/// The gate of one queue. Its handler asks [`Self::is_closed`] before it takes the next request off the ring
/// and [`Self::charge`]s it after; the timer, which exists from the first time on that the gate was found
/// closed, brings the handler back. Without limits both calls are one comparison.
pub struct Gate {
    limiter: Arc<Limiter>,
    closed: Option<Closed>,
    timer: Option<TimerFd>,
    /// The event loop does not know the timer yet.
    is_timer_new: bool,
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new(limiter: Arc<Limiter>) -> Self {
        Self { limiter, closed: None, timer: None, is_timer_new: false }
    }

    /// Whether nothing may pass now. If so, the timer is armed: the caller goes back to the event loop.
    #[inline]
    #[must_use]
    pub fn is_closed(&mut self) -> bool {
        self.closed.is_some() && self.is_still_closed()
    }

    /// One operation on `bytes` of data passes.
    #[inline]
    pub fn charge(&mut self, bytes: u64) {
        if self.limiter.is_limited.load(Ordering::Relaxed) {
            self.closed = self.limiter.charge(bytes);
        }
    }

    /// The timer, if there is one: for [`QueueHandler::interests`](crate::virtio::device::QueueHandler).
    #[must_use]
    pub fn interest(&self, token: u16) -> Option<Interest> {
        // Edge-triggered, so that it need not be read.
        self.timer.as_ref().map(|timer| Interest::readable_edge(timer.as_raw_fd(), token))
    }

    /// The timer when it was made after the last call: for
    /// [`QueueHandler::late_interest`](crate::virtio::device::QueueHandler).
    #[inline]
    pub fn late_interest(&mut self, token: u16) -> Option<Interest> {
        if std::mem::take(&mut self.is_timer_new) { self.interest(token) } else { None }
    }

    #[cold]
    fn is_still_closed(&mut self) -> bool {
        let Some(closed) = self.closed else {
            return false;
        };
        let left = closed.until.saturating_duration_since(self.limiter.clock.now());
        let is_outdated = closed.changes != self.limiter.changes.load(Ordering::Acquire);
        if left.is_zero() || is_outdated {
            self.closed = None;
            return false;
        }
        if !closed.is_armed {
            if let Err(error) = self.arm(left.saturating_add(closed.slack)) {
                // Better too much than never again anything.
                log::error!("a rate limit cannot be kept, there is no timer: {error}");
                self.closed = None;
                return false;
            }
            self.limiter.count_closure();
        }
        self.closed = Some(Closed { is_armed: true, ..closed });
        true
    }

    fn arm(&mut self, after: Duration) -> std::io::Result<()> {
        let timer = match &mut self.timer {
            Some(timer) => timer,
            none => {
                let timer = none.insert(TimerFd::new()?);
                self.is_timer_new = true;
                timer
            }
        };
        Ok(timer.reset(after, None)?)
    }
}
