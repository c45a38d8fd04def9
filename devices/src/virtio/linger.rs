//! Staying at an empty ring for a moment instead of sleeping at once.
//!
//! To be woken costs more than a small request: a driver with one request at a time would wait for the host's
//! scheduler rather than for its disk. Whether a driver comes back that soon shows in how long the device was
//! away before: [`Linger`] keeps count of that, and of the times that staying was in vain. It never waits
//! itself, and a device that nobody uses never has reason to stay.

use std::time::{Duration, Instant};

/// The longest stay. It is what a wake-up may cost at worst, and what a stay in vain takes from others on the
/// loop.
const LONGEST: Duration = Duration::from_micros(20);
/// After a stay in vain, this many quick returns of the driver must be seen before the next; after each
/// further one twice as many, up to the second number.
const FIRST_DOUBT: u32 = 2;
const MOST_DOUBT: u32 = 256;

/// Decides whether to stay at a ring that has just become empty.
#[derive(Debug)]
pub(super) struct Linger {
    left_at: Option<Instant>,
    /// Quick returns still to be seen.
    unconvinced: u32,
    /// How many to ask for after the next stay in vain.
    doubt: u32,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self { left_at: None, unconvinced: FIRST_DOUBT, doubt: FIRST_DOUBT }
    }

    /// The driver called at `now`.
    pub(super) fn called(&mut self, now: Instant) {
        let Some(left_at) = self.left_at.take() else { return };
        if now.saturating_duration_since(left_at) <= LONGEST {
            self.unconvinced = self.unconvinced.saturating_sub(1);
        }
    }

    /// Until when to stay at the ring that became empty at `now`; `None` when there is no point in it.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        (self.unconvinced == 0).then(|| now + LONGEST)
    }

    /// The driver came while the device stayed.
    pub(super) fn paid_off(&mut self) {
        self.doubt = FIRST_DOUBT;
    }

    /// It did not.
    pub(super) fn was_in_vain(&mut self) {
        self.unconvinced = self.doubt;
        self.doubt = (2 * self.doubt).min(MOST_DOUBT);
    }

    /// The device leaves the ring at `now`, to be called again.
    pub(super) fn left(&mut self, now: Instant) {
        self.left_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(5);
    const LONG: Duration = Duration::from_millis(5);

    /// The device leaves, and the driver calls after `gap`.
    fn call_after(linger: &mut Linger, gap: Duration) -> Option<Instant> {
        let now = Instant::now();
        linger.left(now);
        linger.called(now + gap);
        linger.until(now + gap)
    }

    #[test]
    fn a_driver_that_takes_its_time_is_not_waited_for() {
        let mut linger = Linger::new();
        assert_eq!(linger.until(Instant::now()), None);
        for _ in 0..100 {
            assert_eq!(call_after(&mut linger, LONG), None);
        }
    }

    #[test]
    fn a_driver_that_comes_back_at_once_is_waited_for_but_not_long() {
        let mut linger = Linger::new();
        assert_eq!(call_after(&mut linger, SHORT), None);
        let before = Instant::now();
        let until = call_after(&mut linger, SHORT).unwrap();
        assert!(until - before < Duration::from_millis(1) + before.elapsed());
    }

    #[test]
    fn staying_in_vain_is_tried_ever_more_seldom() {
        let mut linger = Linger::new();
        let calls_until_it_stays =
            |linger: &mut Linger| (1..).find(|_| call_after(linger, SHORT).is_some()).unwrap();
        assert_eq!(calls_until_it_stays(&mut linger), FIRST_DOUBT);
        for expected in [2, 4, 8, 16, 32, 64, 128, 256, 256, 256] {
            linger.was_in_vain();
            assert_eq!(calls_until_it_stays(&mut linger), expected);
        }
        linger.paid_off();
        assert!(linger.until(Instant::now()).is_some(), "as long as it pays off");
        linger.was_in_vain();
        assert_eq!(calls_until_it_stays(&mut linger), FIRST_DOUBT);
    }
}
