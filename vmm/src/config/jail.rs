//! The jail: what the user says about it.
//!
//! What it consists of is `crate::jail`'s business.

use std::path::PathBuf;
use std::str::FromStr;

use super::value::{ValueError, parse_bandwidth, parse_ops, parse_u32, split_list};

/// What the user says about the jail. It is no part of the machine: nothing in the guest differs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JailConfig {
    /// The user that root becomes.
    pub uid: Option<u32>,
    /// The group that root becomes.
    pub gid: Option<u32>,
    /// The network namespace in which taps are looked for.
    pub netns: Option<PathBuf>,
    /// The cgroup in which one with limits is made, from its hierarchy's root.
    pub cgroup: Option<PathBuf>,
}

/// Limits of the process that runs the machine, all its threads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupLimits {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u32>,
    /// Bytes of memory, the guest's that are in use included.
    pub memory_bytes: Option<u64>,
    /// Transfers of its disks.
    pub io: Option<IoLimit>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl CgroupLimits {
    /// The flag of one that is set.
    #[must_use]
    pub fn first_flag(&self) -> Option<&'static str> {
        [
            (self.cpu_millis.is_some(), "--cpu-limit"),
            (self.memory_bytes.is_some(), "--memory-limit"),
            (self.io.is_some(), "--io-limit"),
            (self.pids.is_some(), "--pids-limit"),
        ]
        .into_iter()
        .find_map(|(is_set, flag)| is_set.then_some(flag))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.first_flag().is_none()
    }
}

/// A limit of transfers on each device that holds a disk, for reading and for writing each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoLimit {
    /// Bytes per second.
    pub bytes: Option<u64>,
    /// Requests per second.
    pub requests: Option<u64>,
}

/// Reads `[bw=RATE][,iops=RATE]`.
impl FromStr for IoLimit {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const FORMS: &str = "bw=RATE, iops=RATE";
        let mut limit = Self { bytes: None, requests: None };
        for part in split_list(text)? {
            match part.key.as_str() {
                "bw" => limit.bytes = Some(parse_bandwidth(&part.value("bw=RATE")?)?),
                "iops" => limit.requests = Some(parse_ops("iops", &part.value("iops=RATE")?)?),
                _ => return Err(ValueError::UnknownPart { text: part.key, known: FORMS }),
            }
        }
        Ok(limit)
    }
}

/// Reads a number of processors with up to three decimals, such as `1.5`, as thousandths.
///
/// # Errors
/// [`ValueError::Word`].
pub fn parse_processors(text: &str) -> Result<u32, ValueError> {
    let wrong = || ValueError::Word {
        what: "cpu-limit",
        text: text.to_owned(),
        known: "a number of CPUs from 0.01 to 1000, such as 1.5",
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 3 {
        return Err(wrong());
    }
    let millis: u32 = format!("{whole}{part:0<3}").parse().map_err(|_| wrong())?;
    if (10..=1_000_000).contains(&millis) { Ok(millis) } else { Err(wrong()) }
}

const FORMS: &str = "uid=N, gid=N, netns=PATH, cgroup=PATH";

/// Reads `[uid=N][,gid=N][,netns=PATH][,cgroup=PATH]`; nothing at all is a jail, too.
impl FromStr for JailConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut config = Self::default();
        if text.is_empty() {
            return Ok(config);
        }
        for part in split_list(text)? {
            match part.key.as_str() {
                "uid" => config.uid = Some(parse_u32("uid", &part.value("uid=N")?)?),
                "gid" => config.gid = Some(parse_u32("gid", &part.value("gid=N")?)?),
                "netns" => config.netns = Some(part.value("netns=PATH")?.into()),
                "cgroup" => config.cgroup = Some(part.value("cgroup=PATH")?.into()),
                _ => return Err(ValueError::UnknownPart { text: part.key, known: FORMS }),
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read() {
        assert_eq!("".parse(), Ok(JailConfig::default()));
        let all = JailConfig {
            uid: Some(1),
            gid: Some(2),
            netns: Some("/run/netns/a".into()),
            cgroup: Some("a/b".into()),
        };
        assert_eq!("uid=1,gid=2,netns=/run/netns/a,cgroup=a/b".parse(), Ok(all));
    }

    #[test]
    fn processors_have_thousandths() {
        for (text, millis) in
            [("1", 1000), ("1.5", 1500), ("0.25", 250), ("0.01", 10), ("1000", 1_000_000)]
        {
            assert_eq!(parse_processors(text), Ok(millis), "{text}");
        }
        for bad in ["", "0", "0.001", "1.0005", "-1", "1.", ".5", "many", "1001", "99999999999"] {
            assert!(parse_processors(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn transfers_are_limited_by_bytes_and_requests() {
        let limit = IoLimit { bytes: Some(100 << 20), requests: Some(5000) };
        let parsed: IoLimit = "bw=100M,iops=5k".parse().unwrap();
        assert_eq!(parsed.requests, limit.requests);
        assert!(parsed.bytes.is_some_and(|bytes| bytes >= 100_000_000));
        assert!("fast".parse::<IoLimit>().is_err());
    }

    #[test]
    fn every_mistake_has_its_message() {
        for (text, message) in [
            ("uid=root", "uid: \"root\" is not a whole number from 0 to 4294967295"),
            ("gid=", "\"gid\" must be written gid=N"),
            ("uid=1,uid=2", "\"uid\" is given twice"),
            ("user=1", "unknown part \"user\"; known: uid=N, gid=N, netns=PATH, cgroup=PATH"),
        ] {
            assert_eq!(text.parse::<JailConfig>().unwrap_err().to_string(), message, "{text}");
        }
    }
}
