use super::*;

fn bucket_of(ns: u64) -> usize {
    let times = Times::default();
    times.record(Duration::from_nanos(ns));
    times.read().buckets.iter().position(|count| *count == 1).unwrap()
}

#[test]
fn a_time_is_counted_below_the_first_bound_that_it_does_not_exceed() {
    assert_eq!([0, 1, 999, 1000].map(bucket_of), [0; 4]);
    assert_eq!([1001, 2000].map(bucket_of), [1; 2]);
    assert_eq!([2001, 4000].map(bucket_of), [2; 2]);
    let last = 1000 << (TIME_BOUNDS - 1);
    assert_eq!(bucket_of(last), TIME_BOUNDS - 1);
    assert_eq!([last + 1, u64::MAX].map(bucket_of), [TIME_BOUNDS; 2]);
}

#[test]
fn times_have_a_sum_and_ends() {
    let times = Times::default();
    assert_eq!(times.read(), TimeCounts::default());
    for ns in [700, 0, 3_000] {
        times.record(Duration::from_nanos(ns));
    }
    let read = times.read();
    assert_eq!(read.count(), 3);
    let ns = [read.sum, read.shortest, read.longest].map(|time| time.as_nanos());
    assert_eq!(ns, [3_700, 0, 3_000]);
    times.record(Duration::MAX);
    assert_eq!(times.read().sum.as_nanos(), u128::from(u64::MAX), "it stays there");
}

counters! {
    /// Two things.
    struct Two {
        /// One.
        one,
        /// The other.
        other,
    }
}

#[test]
fn numbers_have_the_names_of_their_fields() {
    let two = Two::default();
    two.one.add(2);
    assert_eq!(two.other.increment(), 1);
    let read = two.read();
    assert_eq!((read.get("one"), read.get("other"), read.get("one o")), (Some(2), Some(1), None));
}
