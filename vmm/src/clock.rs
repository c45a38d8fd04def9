//! The kernel's clocks that the standard library does not show.

#![expect(unsafe_code, reason = "clock_gettime fills a structure")]

use std::time::Duration;

/// Processor time that this process has used, all threads together. A system call, not to be made often.
#[must_use]
pub fn process_time() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Time since some moment before this process, the same moment for all processes of the host.
#[must_use]
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills one structure of ours. Both clocks are always there, and a failure would leave zeroes.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on() {
        let before = (process_time(), monotonic());
        let spent = (0..1_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        assert_eq!(spent, std::hint::black_box(spent));
        assert!(process_time() > before.0 && monotonic() > before.1);
    }
}
