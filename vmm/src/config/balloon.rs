//! The memory balloon: what the user says about it, and what the plan makes of it.

use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::error::ConfigError;
use super::value::{ValueError, parse_duration, parse_size, split_list};

/// What the user says about the balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalloonConfig {
    /// Bytes to take from the guest.
    pub size_bytes: u64,
    /// Whether the guest may take memory back rather than kill processes.
    pub deflate_on_oom: bool,
    /// How often the guest is asked for statistics.
    pub statistics: Option<Duration>,
    /// Whether the guest reports pages as they become free.
    pub reporting: bool,
    /// Whether the guest can be asked for all its free pages.
    pub hinting: bool,
}

/// The parts of `--balloon`, for its errors.
const FORMS: &str = "deflate-on-oom, stats=TIME, reporting, hinting";

/// Reads `SIZE[,deflate-on-oom][,stats=TIME][,reporting][,hinting]`.
impl FromStr for BalloonConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (size, rest) = text.split_once(',').map_or((text, None), |(a, b)| (a, Some(b)));
        let mut balloon = Self { size_bytes: parse_size(size)?, ..Self::default() };
        for part in rest.map(split_list).transpose()?.into_iter().flatten() {
            match part.key.as_str() {
                "deflate-on-oom" => {
                    balloon.deflate_on_oom = part.word("deflate-on-oom").map(|()| true)?;
                }
                "stats" => balloon.statistics = Some(parse_duration(&part.value("stats=TIME")?)?),
                "reporting" => balloon.reporting = part.word("reporting").map(|()| true)?,
                "hinting" => balloon.hinting = part.word("hinting").map(|()| true)?,
                _ => return Err(ValueError::UnknownPart { text: part.key, known: FORMS }),
            }
        }
        Ok(balloon)
    }
}

/// The balloon of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BalloonPlan {
    /// What to take from the guest at first, in MiB; no more than it has.
    pub size_mib: u32,
    /// Whether the guest may take memory back rather than kill processes.
    pub deflate_on_oom: bool,
    /// How often the guest is asked for statistics; without a time it has none.
    #[serde(rename = "statistics_ms", serialize_with = "optional_milliseconds")]
    pub statistics: Option<Duration>,
    /// Whether the guest reports pages as they become free.
    pub reporting: bool,
    /// Whether the guest can be asked for all its free pages.
    pub hinting: bool,
}

/// Resolves the balloon of a machine with `memory_bytes`.
pub(super) fn resolve(
    balloon: Option<BalloonConfig>,
    memory_bytes: u64,
) -> Result<Option<BalloonPlan>, ConfigError> {
    let Some(BalloonConfig { size_bytes, deflate_on_oom, statistics, reporting, hinting }) =
        balloon
    else {
        return Ok(None);
    };
    if size_bytes % (1 << 20) != 0 {
        return Err(ConfigError::BalloonUneven { bytes: size_bytes });
    }
    let size_mib = u32::try_from(size_bytes >> 20).ok().filter(|_| size_bytes <= memory_bytes);
    let too_large = ConfigError::BalloonTooLarge { bytes: size_bytes, memory_bytes };
    let size_mib = size_mib.ok_or(too_large)?;
    Ok(Some(BalloonPlan { size_mib, deflate_on_oom, statistics, reporting, hinting }))
}

#[expect(clippy::ref_option, reason = "the signature is serde's")]
fn optional_milliseconds<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_millis()).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read() {
        let empty = BalloonConfig { size_bytes: 256 << 20, ..BalloonConfig::default() };
        assert_eq!("256M".parse(), Ok(empty));
        assert_eq!(
            "0,reporting,stats=1s,hinting,deflate-on-oom".parse(),
            Ok(BalloonConfig {
                size_bytes: 0,
                deflate_on_oom: true,
                statistics: Some(Duration::from_secs(1)),
                reporting: true,
                hinting: true,
            })
        );
    }

    #[test]
    fn every_mistake_has_its_message() {
        let size = "is not a size: write a whole number with K, M, G or T, such as 512M or 2G \
                    (a plain number is MiB)";
        for (text, message) in [
            ("", format!("\"\" {size}")),
            ("reporting", format!("\"reporting\" {size}")),
            (
                "1M,",
                "\"\" has an empty part: remove the comma, or double it if it belongs to a name"
                    .to_owned(),
            ),
            ("1M,stats", "\"stats\" must be written stats=TIME".to_owned()),
            ("1M,reporting=on", "\"reporting\" must be written reporting".to_owned()),
            ("1M,hinting,hinting", "\"hinting\" is given twice".to_owned()),
            (
                "1M,report",
                format!("unknown part \"report\"; did you mean \"reporting\"?; known: {FORMS}"),
            ),
        ] {
            assert_eq!(text.parse::<BalloonConfig>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn a_balloon_is_whole_mib_and_no_larger_than_the_memory() {
        let resolve = |bytes| {
            let config = BalloonConfig { size_bytes: bytes, ..BalloonConfig::default() };
            resolve(Some(config), 64 << 20).map(|plan| plan.unwrap().size_mib)
        };
        assert_eq!(resolve(0).unwrap(), 0);
        assert_eq!(resolve(64 << 20).unwrap(), 64);
        for (bytes, message) in [
            (65 << 20, "a balloon of 65 MiB does not fit into 64 MiB of memory: make it smaller"),
            (
                1 << 60,
                "a balloon of 1048576 TiB does not fit into 64 MiB of memory: make it smaller",
            ),
            (1 << 10, "a balloon of 1 KiB is not a whole number of MiB"),
        ] {
            assert_eq!(resolve(bytes).unwrap_err().to_string(), message);
        }
    }
}
