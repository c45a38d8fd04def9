//! A snapshot that the machine is to go on from, as the user says it.

use std::path::PathBuf;
use std::str::FromStr;

use super::value::{ValueError, rejoin, split_list};

/// What to go on from, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreConfig {
    /// A directory, or a file of state.
    pub path: PathBuf,
    /// The memory file, if it is not the one that the state names.
    pub memory: Option<PathBuf>,
    /// The socket of a process that provides pages of memory as they are touched; it has the memory file then.
    pub provider: Option<PathBuf>,
    /// The guest goes on although the host is another, where that is safe.
    pub force: bool,
    /// The guest's clock goes on as if it had never stood still.
    pub is_real_time: bool,
    /// The machine stays at rest.
    pub paused: bool,
    /// What changes from here on is to be known.
    pub track_dirty: bool,
    /// Which pages the machine touches is written down when it rests for the first time, or ends.
    pub record: bool,
    /// What was written down so is not read ahead.
    pub no_prefetch: bool,
}

/// Reads `DIR[,force][,paused][,real-time][,record][,prefetch=off][,uffd=SOCKET]`. A comma in the path is doubled.
impl FromStr for RestoreConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const KNOWN: &str = "force, paused, real-time, record, prefetch=off, uffd=SOCKET";
        let mut order = Self::default();
        for (index, part) in split_list(text)?.into_iter().enumerate() {
            match part.key.as_str() {
                _ if index == 0 => order.path = rejoin(part).into(),
                "force" => order.force = part.word("force").map(|()| true)?,
                "paused" => order.paused = part.word("paused").map(|()| true)?,
                "real-time" => order.is_real_time = part.word("real-time").map(|()| true)?,
                "record" => order.record = part.word("record").map(|()| true)?,
                "prefetch" if part.value.as_deref() == Some("off") => order.no_prefetch = true,
                key @ "prefetch" => {
                    return Err(ValueError::Form { key: key.to_owned(), form: "prefetch=off" });
                }
                "uffd" => order.provider = Some(part.value("uffd=SOCKET")?.into()),
                _ => return Err(ValueError::UnknownPart { text: part.key, known: KNOWN }),
            }
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_its_words() {
        let read = |text: &str| text.parse::<RestoreConfig>();
        let plain = RestoreConfig { path: "a=b,c".into(), ..RestoreConfig::default() };
        assert_eq!(read("a=b,,c"), Ok(plain.clone()));
        let provided = RestoreConfig { provider: Some("s".into()), ..plain.clone() };
        assert_eq!(read("a=b,,c,uffd=s"), Ok(provided));
        let recorded = RestoreConfig { record: true, ..plain.clone() };
        assert_eq!(read("a=b,,c,record"), Ok(recorded));
        let all = RestoreConfig { force: true, paused: true, is_real_time: true, ..plain };
        let all = RestoreConfig { no_prefetch: true, ..all };
        assert_eq!(read("a=b,,c,paused,force,real-time,prefetch=off"), Ok(all));
        for (text, words) in [
            ("", "empty part"),
            ("dir,force=1", "must be written force"),
            ("dir,uffd", "uffd=SOCKET"),
            ("dir,prefetch", "must be written prefetch=off"),
            ("dir,prefetch=no", "must be written prefetch=off"),
            ("dir,pause", "did you mean \"paused\"?"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
