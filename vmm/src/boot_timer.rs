//! How long a guest takes from the request for its start to the first sign that it is ready.
//!
//! One per process, like the log. For a write to the boot timer (`devices::platform::BootTimer`) it logs the line that
//! Firecracker's tools look for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;
use crate::logger;

/// How long a guest took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTime {
    /// By the clock on the wall.
    pub wall: Duration,
    /// Processor time of this process, its vCPUs' in it.
    pub processor: Duration,
}

/// What a launcher tells of the times before this process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LauncherTimes {
    /// When it began, by the clock that all processes share.
    pub began: Duration,
    /// How much processor time this process had used by then, as it says.
    pub processor_began: Duration,
    /// How much the launcher used itself.
    pub own_processor: Duration,
}

impl LauncherTimes {
    /// How long it took from there until now.
    #[must_use]
    pub fn until_now(self) -> BootTime {
        let processor = clock::process_time().saturating_sub(self.processor_began);
        BootTime {
            wall: clock::monotonic().saturating_sub(self.began),
            processor: processor.saturating_add(self.own_processor),
        }
    }
}

static TIMER: Mutex<Timer> = Mutex::new(Timer { begun: None, took: None });

struct Timer {
    /// When, and how much processor time the process had used by then.
    begun: Option<(Instant, Duration)>,
    took: Option<BootTime>,
}

/// A machine was asked for at `wall`, when this process had used `processor` of time.
pub fn begin(wall: Instant, processor: Duration) {
    *lock() = Timer { begun: Some((wall, processor)), took: None };
}

/// The guest tells that it is there, by the boot timer or otherwise. Only the first time counts for each machine.
pub fn reached(by_timer: bool) {
    let mut timer = lock();
    let Some((wall, processor)) = timer.begun.take() else { return };
    let processor = clock::process_time().saturating_sub(processor);
    let took = BootTime { wall: wall.elapsed(), processor };
    timer.took = Some(took);
    drop(timer);
    if by_timer {
        logger::boot_time(&line(took));
    }
}

/// How long the present machine's guest took, once it got there.
#[must_use]
pub fn took() -> Option<BootTime> {
    lock().took
}

fn line(took: BootTime) -> String {
    let (wall, processor) = (took.wall, took.processor);
    format!(
        "Guest-boot-time = {:>6} us {} ms, {:>6} CPU us {} CPU ms",
        wall.as_micros(),
        wall.as_millis(),
        processor.as_micros(),
        processor.as_millis()
    )
}

fn lock() -> MutexGuard<'static, Timer> {
    TIMER.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_as_firecrackers_tools_read_it() {
        let took = BootTime {
            wall: Duration::from_micros(279_446),
            processor: Duration::from_micros(1_456),
        };
        assert_eq!(line(took), "Guest-boot-time = 279446 us 279 ms,   1456 CPU us 1 CPU ms");
    }

    #[test]
    fn a_launchers_time_is_added() {
        let launcher = LauncherTimes {
            began: clock::monotonic().saturating_sub(Duration::from_secs(2)),
            processor_began: Duration::ZERO,
            own_processor: Duration::from_secs(5),
        };
        let took = launcher.until_now();
        assert!(took.wall >= Duration::from_secs(2) && took.processor > Duration::from_secs(5));
    }

    #[test]
    fn each_machine_is_timed_once() {
        begin(Instant::now(), Duration::ZERO);
        assert_eq!(took(), None);
        reached(true);
        let first = took().unwrap();
        assert!(!first.processor.is_zero());
        reached(true);
        assert_eq!(took(), Some(first));
        begin(Instant::now(), clock::process_time());
        assert_eq!(took(), None);
    }
}
