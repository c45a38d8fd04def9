//! Guest memory: how much, and of what kind of pages.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::value::{ValueError, parse_size, split_list};

/// The pages that guest memory consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Pages {
    /// As the host gives them to everybody.
    #[default]
    #[serde(rename(serialize = "off", deserialize = "None"), alias = "off")]
    Usual,
    /// Transparent huge pages, where the host finds them.
    #[serde(rename = "thp")]
    Transparent,
    /// Pages of 2 MiB that the host has reserved.
    #[serde(rename = "2M")]
    Huge2M,
    /// Pages of 1 GiB that the host has reserved.
    #[serde(rename = "1G")]
    Huge1G,
}

impl Pages {
    /// Size in bytes of reserved pages; `None` for the others, which come in any number.
    #[must_use]
    pub fn reserved_size(self) -> Option<u64> {
        match self {
            Self::Usual | Self::Transparent => None,
            Self::Huge2M => Some(2 << 20),
            Self::Huge1G => Some(1 << 30),
        }
    }
}

/// What stands behind guest memory on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Backing {
    /// Its pages.
    #[serde(rename = "hugepages")]
    pub pages: Pages,
    /// All of it is there before the guest runs.
    pub prefault: bool,
    /// It is a file without a name, which can be handed to another process.
    pub shared: bool,
}

/// What a flag says about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Size in bytes.
    pub bytes: u64,
    /// What stands behind it; `None` when nothing is said of that.
    pub backing: Option<Backing>,
}

/// Reads `SIZE[,hugepages=2M|1G|thp|off][,prefault][,shared]`.
impl FromStr for MemoryConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const KNOWN: &str = "hugepages=2M|1G|thp|off, prefault, shared";
        let mut parts = split_list(text)?.into_iter();
        let bytes = match parts.next() {
            Some(part) if part.value.is_none() => parse_size(&part.key)?,
            _ => {
                return Err(ValueError::Missing {
                    what: "the size",
                    form: "SIZE[,hugepages=2M|1G|thp|off][,prefault][,shared]",
                });
            }
        };
        let mut memory = Self { bytes, backing: None };
        for part in parts {
            let backing = memory.backing.get_or_insert_default();
            match part.key.as_str() {
                "hugepages" => {
                    backing.pages = parse_pages(&part.value("hugepages=2M|1G|thp|off")?)?;
                }
                "prefault" => {
                    part.word("prefault")?;
                    backing.prefault = true;
                }
                "shared" => {
                    part.word("shared")?;
                    backing.shared = true;
                }
                _ => return Err(ValueError::UnknownPart { text: part.key, known: KNOWN }),
            }
        }
        Ok(memory)
    }
}

fn parse_pages(text: &str) -> Result<Pages, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "off" => Ok(Pages::Usual),
        "thp" => Ok(Pages::Transparent),
        "2m" => Ok(Pages::Huge2M),
        "1g" => Ok(Pages::Huge1G),
        _ => Err(ValueError::Word {
            what: "hugepages",
            text: text.to_owned(),
            known: "2M, 1G, thp, off",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<MemoryConfig, String> {
        text.parse().map_err(|error: ValueError| error.to_string())
    }

    #[test]
    fn sizes_and_backings() {
        let plain = Backing::default();
        for (text, backing) in [
            ("2G", None),
            ("2G,hugepages=off", Some(plain)),
            ("2G,hugepages=thp", Some(Backing { pages: Pages::Transparent, ..plain })),
            ("2G,hugepages=2M", Some(Backing { pages: Pages::Huge2M, ..plain })),
            (
                "2G,prefault,hugepages=1g",
                Some(Backing { pages: Pages::Huge1G, prefault: true, ..plain }),
            ),
            ("2G,shared", Some(Backing { shared: true, ..plain })),
            ("2G,shared,prefault", Some(Backing { shared: true, prefault: true, ..plain })),
        ] {
            assert_eq!(read(text), Ok(MemoryConfig { bytes: 2 << 30, backing }), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (text, words) in [
            ("", "empty part"),
            ("much", "is not a size"),
            ("shared", "is not a size"),
            ("hugepages=2M", "the size is missing"),
            ("1G,hugepages", "hugepages=2M|1G|thp|off"),
            ("1G,hugepages=4M", "none of 2M, 1G, thp, off"),
            ("1G,hugepage=2M", "did you mean \"hugepages\"?"),
            ("1G,prefault=on", "must be written prefault"),
            ("1G,shared=1", "must be written shared"),
            ("1G,shared,shared", "given twice"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
