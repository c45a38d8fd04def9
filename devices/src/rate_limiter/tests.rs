use super::*;
use crate::test_util::Random;

/// A clock that stands still until it is told.
#[derive(Clone)]
pub(crate) struct FakeClock(Arc<Mutex<Instant>>);

impl FakeClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(crate) fn advance(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn rate(size: u64, refill_time: Duration) -> Rate {
    Rate::new(size, refill_time, 0).unwrap()
}

fn bandwidth(rate: Rate) -> Limits {
    Limits { bandwidth: Some(rate), ops: None }
}

/// From 1 on, each length up to `bits` bits as likely as the others.
fn up_to_bits(random: &mut Random, bits: u64) -> u64 {
    let bits = 1 + random.below(bits);
    1 + random.below(1 << bits)
}

#[test]
fn nothing_times_anything_is_no_limit() {
    assert_eq!(Rate::new(0, SECOND, 5), None);
    assert_eq!(Rate::new(5, Duration::ZERO, 5), None);
}

#[test]
fn operations_are_counted_exactly() {
    let start = Instant::now();
    let mut bucket = Bucket::new(rate(3, SECOND), start);
    assert_eq!(bucket.charge(1, start), Duration::ZERO);
    assert_eq!(bucket.charge(1, start), Duration::ZERO);
    let third = SECOND.div_f64(3.0) + Duration::from_nanos(1);
    assert_eq!(bucket.charge(1, start), third, "the last of three: wait for one, rounded up");
    assert_eq!(bucket.charge(1, start + third), third - Duration::from_nanos(1), "the rest counts");
}

/// Whatever comes when: what passed is never more than the bucket, the burst, what was earned, and one.
#[test]
fn no_more_passes_than_was_earned_and_in_the_long_run_no_less() {
    let mut random = Random::new(1);
    for _ in 0..300 {
        let size = up_to_bits(&mut random, 40);
        let refill = Duration::from_nanos(up_to_bits(&mut random, 34));
        let burst = random.below(2) * random.below(size);
        let largest = 1 + random.below(2 * size);
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate::new(size, refill, burst).unwrap(), start);
        let (mut now, mut passed) = (start, 0_u128);
        for _ in 0..200 {
            let tokens = 1 + random.below(largest);
            let elapsed = now.duration_since(start).as_nanos();
            let earned = elapsed * u128::from(size) / refill.as_nanos();
            let most = u128::from(size) + u128::from(burst) + earned;
            assert!(passed < most, "{passed} of {most} before the next of {tokens}");
            passed += u128::from(tokens);
            let wait = bucket.charge(tokens, now);
            if !wait.is_zero() {
                // One nanosecond earlier the bucket is still empty.
                bucket.refill(now + wait - Duration::from_nanos(1));
                assert!(bucket.level < 1, "{} tokens too early", bucket.level);
                bucket.refill(now + wait);
                assert!(bucket.level >= 1, "{} tokens in time", bucket.level);
            }
            // Always busy: the next one comes as soon as it may.
            now += wait;
        }
        let elapsed = now.duration_since(start).as_nanos();
        let earned = elapsed * u128::from(size) / refill.as_nanos();
        assert!(passed + 1 >= earned, "{passed} of {earned} earned: tokens were lost");
    }
}

#[test]
fn odd_times_do_not_drift() {
    let start = Instant::now();
    let mut bucket = Bucket::new(rate(7, Duration::from_nanos(1_000_000_007)), start);
    let mut passed = 0_u64;
    let mut next = start;
    for step in 1..1_000_000 {
        let now = start + Duration::from_nanos(step * 1_000_003);
        if now >= next {
            next = now + bucket.charge(1, now);
            passed += 1;
        }
        bucket.refill(now);
    }
    // 7 at once and 7 for each of the 999 refills; the last one may be waiting.
    let expected = 7 + 1_000_002_999_997_u64 * 7 / 1_000_000_007;
    assert!((expected - 1..=expected).contains(&passed), "{passed} of {expected}");
}

#[test]
fn a_burst_is_there_once() {
    let start = Instant::now();
    let mut bucket = Bucket::new(Rate::new(10, SECOND, 5).unwrap(), start);
    assert_eq!(bucket.charge(14, start), Duration::ZERO);
    assert_eq!(bucket.charge(1, start), SECOND / 10);
    let later = start + 100 * SECOND;
    assert_eq!(bucket.charge(9, later), Duration::ZERO);
    assert_eq!(bucket.charge(1, later), SECOND / 10, "the burst did not come back");
}

#[test]
fn what_is_larger_than_the_bucket_passes_and_is_paid_for() {
    let start = Instant::now();
    let mut bucket = Bucket::new(rate(100, SECOND), start);
    assert_eq!(bucket.charge(1100, start), 10 * SECOND + SECOND / 100);
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let start = Instant::now();
    let huge = Duration::from_nanos(u64::MAX);
    for (size, refill) in [(u64::MAX, huge), (1, huge), (u64::MAX, Duration::from_nanos(1))] {
        let mut bucket = Bucket::new(Rate::new(size, refill, u64::MAX).unwrap(), start);
        for step in 0..8 {
            let _ = bucket.charge(u64::MAX, start + Duration::from_secs(step) * 100_000_000);
            let _ = bucket.charge(u64::MAX, start);
        }
        assert!(bucket.level <= i128::from(size));
    }
    let mut bucket = Bucket::new(rate(1, Duration::MAX), start);
    assert!(bucket.charge(u64::MAX, start) > FOREVER);
    let limiter = Limiter::new(bandwidth(rate(1, Duration::MAX)));
    let mut gate = Gate::new(limiter);
    gate.charge(u64::MAX);
    assert!(gate.is_closed());
}

#[test]
fn a_timer_that_comes_late_loses_nothing() {
    for (size, refill) in [(1, 1), (2, 1), (3, 7), (10, 3), (1000, 100), (1 << 30, 2)] {
        let clock = FakeClock::new();
        let refill = Duration::from_millis(refill);
        let limits = Limits { bandwidth: None, ops: Some(rate(size, refill)) };
        let limiter = Limiter::with_clock(limits, Box::new(clock.clone()));
        let (start, mut passed) = (clock.now(), 0_u128);
        for _ in 0..10_000 {
            passed += 1;
            if let Some(closed) = limiter.charge(0) {
                clock.advance(closed.until - clock.now() + closed.slack);
            }
        }
        let elapsed = (clock.now() - start).as_nanos();
        let earned = elapsed * u128::from(size) / refill.as_nanos();
        assert!(passed + 1 >= earned, "{passed} of {earned} with a bucket of {size}");
    }
}

#[test]
fn a_gate_without_limits_has_no_timer() {
    let mut gate = Gate::new(Limiter::new(Limits::NONE));
    for _ in 0..1000 {
        assert!(!gate.is_closed());
        gate.charge(1 << 30);
    }
    assert_eq!((gate.interest(3), gate.late_interest(3)), (None, None));
}

#[test]
fn a_closed_gate_opens_in_time() {
    let clock = FakeClock::new();
    let limits = Limits { bandwidth: Some(rate(1000, SECOND)), ops: Some(rate(100, SECOND)) };
    let mut gate = Gate::new(Limiter::with_clock(limits, Box::new(clock.clone())));
    gate.charge(999);
    assert!(!gate.is_closed(), "one byte and 99 operations are left");
    assert!(gate.interest(7).is_none(), "no timer before it is needed");
    gate.charge(501);
    assert!(gate.is_closed());
    let timer = gate.late_interest(7).unwrap();
    assert_eq!(timer.token, 7);
    assert_eq!((gate.late_interest(7), gate.interest(7)), (None, Some(timer)), "it is new once");
    clock.advance(Duration::from_millis(500));
    assert!(gate.is_closed(), "a debt of 500 bytes is paid, the next one is missing");
    clock.advance(Duration::from_millis(1));
    assert!(!gate.is_closed());
    // 0 bytes each: now the operations are the limit.
    for _ in 0..100 {
        assert!(!gate.is_closed());
        gate.charge(0);
    }
    assert!(gate.is_closed());
}

#[test]
fn the_timer_of_a_closed_gate_rings() {
    let limits = bandwidth(rate(1 << 20, Duration::from_millis(5)));
    let mut gate = Gate::new(Limiter::new(limits));
    gate.charge(2 << 20);
    while gate.is_closed() {
        let fd = gate.interest(0).unwrap().fd;
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd for the whole call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, -1) }, 1);
    }
}

/// Each queue passes as often as the other, however large their requests are.
#[test]
fn queues_take_turns() {
    let clock = FakeClock::new();
    let limiter = Limiter::with_clock(bandwidth(rate(1000, SECOND)), Box::new(clock.clone()));
    let mut gates = [Gate::new(limiter.clone()), Gate::new(limiter)];
    let (lens, mut passed) = ([10_000, 10], [0; 2]);
    for _ in 0..100_000 {
        for ((gate, len), passed) in gates.iter_mut().zip(lens).zip(&mut passed) {
            if !gate.is_closed() {
                gate.charge(len);
                *passed += 1;
            }
        }
        clock.advance(Duration::from_millis(7));
    }
    // 700 000 bytes were earned; a turn of both is 10 010 bytes.
    assert!(passed.iter().all(|&times| (68..=72).contains(&times)), "{passed:?}");
}

#[test]
fn other_limits_open_a_closed_gate_and_count_from_then_on() {
    let clock = FakeClock::new();
    let hour = Duration::from_secs(3600);
    let limiter = Limiter::with_clock(bandwidth(rate(1, hour)), Box::new(clock));
    let mut gate = Gate::new(limiter.clone());
    gate.charge(1000);
    assert!(gate.is_closed());
    let other = Limits { bandwidth: Some(rate(1000, hour)), ops: None };
    limiter.set_limits(other);
    assert_eq!(limiter.limits(), other);
    assert!(!gate.is_closed(), "what was owed to the old limit is forgotten");
    gate.charge(1000);
    assert!(gate.is_closed());
    limiter.set_limits(Limits { ops: Some(rate(1, hour)), ..other });
    assert!(!gate.is_closed());
    gate.charge(0);
    assert!(gate.is_closed(), "the rate that stayed is still used up");
    limiter.set_limits(Limits::NONE);
    for _ in 0..10 {
        assert!(!gate.is_closed());
        gate.charge(1 << 40);
    }
}

#[test]
fn each_closure_is_counted_and_told_once() {
    let clock = FakeClock::new();
    let limits = Limits { bandwidth: None, ops: Some(rate(1, SECOND)) };
    let limiter = Limiter::with_clock(limits, Box::new(clock.clone()));
    let told = Arc::new(AtomicU32::new(0));
    let count = told.clone();
    limiter.on_closure(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut gate = Gate::new(limiter.clone());
    for closures in 1..4 {
        gate.charge(1);
        assert!(gate.is_closed() && gate.is_closed(), "however often it is asked");
        assert_eq!((limiter.closures(), told.load(Ordering::Relaxed)), (closures.into(), closures));
        clock.advance(SECOND);
        assert!(!gate.is_closed());
    }
}
