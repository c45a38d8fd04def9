//! Rate limits: how users say them, and how plans show them.
//!
//! A flag says a rate and for how long a quiet device saves it up; a file says the bucket itself, as in
//! Firecracker's API. Both become the same [`Limits`].

use std::time::Duration;

use devices::rate_limiter::{Limits, Rate};
use serde::{Serialize, Serializer};

use super::file::RateLimiter;
use super::value::{Part, ValueError, parse_bandwidth, parse_duration, parse_ops};

/// How long a quiet device saves up its rate when nothing is said: long enough for a batch of requests, too
/// short for anybody to notice.
const BURST_DEFAULT: Duration = Duration::from_millis(100);
/// What can be said.
const BURST: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3600);

/// Collects `bw=RATE`, `iops=RATE` (or `pps=RATE`) and `burst=TIME` from the parts of a flag.
pub(super) struct Words {
    /// What operations are called: iops or pps.
    ops_key: &'static str,
    bandwidth: Option<u64>,
    ops: Option<u64>,
    burst: Option<Duration>,
}

impl Words {
    /// Nothing said yet about a device whose operations are counted by `ops_key`.
    pub(super) fn new(ops_key: &'static str) -> Self {
        Self { ops_key, bandwidth: None, ops: None, burst: None }
    }

    /// Whether `key` is one of these parts.
    pub(super) fn has(&self, key: &str) -> bool {
        key == self.ops_key || matches!(key, "bw" | "burst")
    }

    /// Takes a part that [`Self::has`] its key.
    pub(super) fn take(&mut self, part: Part) -> Result<(), ValueError> {
        match part.key.as_str() {
            "bw" => self.bandwidth = Some(parse_bandwidth(&part.value("bw=RATE")?)?),
            "burst" => self.burst = Some(parse_burst(&part.value("burst=TIME")?)?),
            _ => {
                let form = if self.ops_key == "pps" { "pps=RATE" } else { "iops=RATE" };
                self.ops = Some(parse_ops(self.ops_key, &part.value(form)?)?);
            }
        }
        Ok(())
    }

    /// What was said.
    pub(super) fn limits(self) -> Result<Limits, ValueError> {
        if self.bandwidth.or(self.ops).is_none() && self.burst.is_some() {
            return Err(ValueError::LoneBurst { ops: self.ops_key });
        }
        let burst = self.burst.unwrap_or(BURST_DEFAULT);
        let rate = |per_second: u64| rate(per_second, burst);
        Ok(Limits { bandwidth: self.bandwidth.and_then(rate), ops: self.ops.and_then(rate) })
    }
}

/// Reads a change of limits: `bw=RATE`, `iops=RATE` (or `pps=RATE`) and `burst=TIME`, one in each of `words`. A rate of
/// `off` lifts a limit; one that is not named stays.
///
/// # Errors
/// [`ValueError`], as for the flag of a device.
pub fn parse_limit_change(
    ops_key: &'static str,
    words: &[&str],
) -> Result<RateLimiter, ValueError> {
    const KNOWN: [&str; 2] =
        ["bw=RATE|off, iops=RATE|off, burst=TIME", "bw=RATE|off, pps=RATE|off, burst=TIME"];
    let mut said = Words::new(ops_key);
    let (mut lifts_bandwidth, mut lifts_ops) = (false, false);
    for &word in words {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (word, None),
        };
        if !said.has(key) {
            let known = if ops_key == "pps" { KNOWN[1] } else { KNOWN[0] };
            return Err(ValueError::UnknownPart { text: key.to_owned(), known });
        }
        match (key, value.as_deref()) {
            ("bw", Some("off")) => lifts_bandwidth = true,
            (key, Some("off")) if key == ops_key => lifts_ops = true,
            _ => said.take(Part { key: key.to_owned(), value })?,
        }
    }
    Ok(RateLimiter::changing(said.limits()?, lifts_bandwidth, lifts_ops))
}

fn parse_burst(text: &str) -> Result<Duration, ValueError> {
    let burst = parse_duration(text).ok().filter(|burst| BURST.contains(burst));
    burst.ok_or_else(|| ValueError::Burst { text: text.to_owned() })
}

/// A bucket that holds what `per_second` brings in the time of `burst`, and one token at least.
fn rate(per_second: u64, burst: Duration) -> Option<Rate> {
    const SECOND: u128 = 1_000_000_000;
    let size = (u128::from(per_second) * burst.as_nanos() / SECOND).max(1);
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    // From the size that came out, so that the rate is as exact as nanoseconds are.
    let refill = u128::from(size) * SECOND / u128::from(per_second.max(1));
    Rate::new(size, Duration::from_nanos(u64::try_from(refill).unwrap_or(u64::MAX)), 0)
}

#[derive(Serialize)]
struct ShownRate {
    size: u64,
    one_time_burst: u64,
    refill_time_ns: u64,
}

#[derive(Serialize)]
struct Shown {
    bandwidth: Option<ShownRate>,
    ops: Option<ShownRate>,
}

/// Limits in a plan: the buckets, null without a limit.
pub(super) fn as_json<S: Serializer>(limits: &Limits, to: S) -> Result<S::Ok, S::Error> {
    let shown = |rate: Option<Rate>| {
        rate.map(|rate| ShownRate {
            size: rate.size(),
            one_time_burst: rate.one_time_burst(),
            refill_time_ns: u64::try_from(rate.refill_time().as_nanos()).unwrap_or(u64::MAX),
        })
    };
    Shown { bandwidth: shown(limits.bandwidth), ops: shown(limits.ops) }.serialize(to)
}

#[cfg(test)]
mod tests {
    use super::super::value::split_list;
    use super::*;

    fn read(text: &str) -> Result<Limits, String> {
        let mut words = Words::new("iops");
        for part in split_list(text).unwrap() {
            assert!(words.has(&part.key), "{text}");
            words.take(part).map_err(|error| error.to_string())?;
        }
        words.limits().map_err(|error| error.to_string())
    }

    fn rate(size: u64, milliseconds: u64) -> Option<Rate> {
        Rate::new(size, Duration::from_millis(milliseconds), 0)
    }

    #[test]
    fn a_rate_becomes_a_bucket_of_its_burst() {
        for (text, bandwidth, ops) in [
            ("bw=100M", rate(10 << 20, 100), None),
            ("iops=5k", None, rate(500, 100)),
            ("bw=1G,iops=2M,burst=2s", rate(2 << 30, 2000), rate(4_000_000, 2000)),
            ("bw=1000,burst=1ms", rate(1, 1), None),
            ("iops=10,burst=1h", None, rate(36000, 3_600_000)),
        ] {
            assert_eq!(read(text), Ok(Limits { bandwidth, ops }), "{text}");
        }
    }

    #[test]
    fn a_small_rate_is_kept_whatever_the_burst() {
        let third = Rate::new(1, Duration::from_nanos(333_333_333), 0);
        assert_eq!(read("iops=3").unwrap().ops, third);
        assert_eq!(read("iops=1,burst=1ms").unwrap().ops, rate(1, 1000));
    }

    fn change(words: &[&str]) -> Result<Limits, String> {
        let old = Limits { bandwidth: rate(7, 7), ops: rate(9, 9) };
        let change = parse_limit_change("iops", words);
        change.map(|change| change.changed(old)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_change_names_what_becomes_another_and_what_goes() {
        let (bandwidth, ops) = (rate(7, 7), rate(9, 9));
        for (words, expected) in [
            (&[][..], Limits { bandwidth, ops }),
            (&["bw=100M"], Limits { bandwidth: rate(10 << 20, 100), ops }),
            (&["iops=off"], Limits { bandwidth, ops: None }),
            (&["bw=off", "iops=5k", "burst=1s"], Limits { bandwidth: None, ops: rate(5000, 1000) }),
        ] {
            assert_eq!(change(words), Ok(expected), "{words:?}");
        }
        for (words, message) in [
            (&["bw=fast"][..], "bw: \"fast\" is not a rate"),
            (&["bw"], "\"bw\" must be written bw=RATE"),
            (&["burst=1s"], "burst is nothing by itself"),
            (&["burst=off"], "burst: \"off\" is not possible"),
            (&["pps=5"], "unknown part \"pps\""),
            (&["bw=1M,iops=5"], "bw: \"1M,iops=5\" is not a rate"),
        ] {
            let refusal = change(words).unwrap_err();
            assert!(refusal.starts_with(message), "{words:?}: {refusal}");
        }
    }

    #[test]
    fn mistakes() {
        for (text, message) in [
            ("bw=0", "bw: \"0\" is not a rate: write bytes per second"),
            ("bw=fast", "bw: \"fast\" is not a rate"),
            ("bw=1T", "bw: \"1T\" is not a rate"),
            ("bw", "\"bw\" must be written bw=RATE"),
            ("bw=99999999999G", "\"99999999999G\" is too large"),
            ("iops=0", "iops: \"0\" is not a rate: write a whole number above 0 per second"),
            ("iops=-1", "iops: \"-1\" is not a rate"),
            ("iops=5m", "iops: \"5m\" is not a rate"),
            ("iops", "\"iops\" must be written iops=RATE"),
            ("burst=1s", "burst is nothing by itself: give bw or iops as well"),
            ("bw=1M,burst=0", "burst: \"0\" is not possible: write how long"),
            ("bw=1M,burst=61m", "burst: \"61m\" is not possible"),
            ("bw=1M,burst=20M", "burst: \"20M\" is not possible"),
        ] {
            let refusal = read(text).unwrap_err();
            assert!(refusal.starts_with(message), "{text}: {refusal}");
        }
    }
}
