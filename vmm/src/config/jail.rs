//! The jail: what the user says about it.
//!
//! What it consists of is `crate::jail`'s business.

use std::path::PathBuf;
use std::str::FromStr;

use super::value::{ValueError, parse_u32, split_list};

/// What the user says about the jail. It is no part of the machine: nothing in the guest differs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JailConfig {
    /// The user that root becomes.
    pub uid: Option<u32>,
    /// The group that root becomes.
    pub gid: Option<u32>,
    /// The network namespace in which taps are looked for.
    pub netns: Option<PathBuf>,
}

const FORMS: &str = "uid=N, gid=N, netns=PATH";

/// Reads `[uid=N][,gid=N][,netns=PATH]`; nothing at all is a jail, too.
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
        let all = JailConfig { uid: Some(1), gid: Some(2), netns: Some("/run/netns/a".into()) };
        assert_eq!("uid=1,gid=2,netns=/run/netns/a".parse(), Ok(all));
    }

    #[test]
    fn every_mistake_has_its_message() {
        for (text, message) in [
            ("uid=root", "uid: \"root\" is not a whole number from 0 to 4294967295"),
            ("gid=", "\"gid\" must be written gid=N"),
            ("uid=1,uid=2", "\"uid\" is given twice"),
            ("user=1", "unknown part \"user\"; known: uid=N, gid=N, netns=PATH"),
        ] {
            assert_eq!(text.parse::<JailConfig>().unwrap_err().to_string(), message, "{text}");
        }
    }
}
