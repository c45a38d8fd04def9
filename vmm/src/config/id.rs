//! Names of devices and of the machine: which are well-formed, and which are taken.

use super::error::ConfigError;

/// Bytes of a name.
pub const ID_MAX: usize = 64;

/// The kinds of devices that the user can have several of. Names are unique within a kind, not across: the
/// configuration files of other tools call the first disk and the first network card both "1".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A disk.
    Disk,
    /// A network card.
    Net,
    /// A thread that serves some of them.
    IoThread,
}

impl Kind {
    /// As in the flag's name; default names begin with it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Net => "net",
            Self::IoThread => "iothread",
        }
    }
}

/// Checks that a name has 1 to [`ID_MAX`] characters of `A-Z a-z 0-9 _ -`: it becomes part of file names,
/// log lines and, for the machine, of generated MAC addresses.
pub(super) fn check(what: &'static str, id: &str) -> Result<(), ConfigError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(fits) {
        return Err(ConfigError::Id { what, id: id.to_owned() });
    }
    Ok(())
}

/// Hands out the names of one kind: the user's own, and `disk0`, `disk1`, … for the rest, leaving out those
/// that the user has taken.
pub(super) struct Ids {
    kind: Kind,
    taken: Vec<String>,
    next: usize,
}

impl Ids {
    /// Checks the names that the user gave.
    pub(super) fn new<'a>(
        kind: Kind,
        given: impl Iterator<Item = Option<&'a str>>,
    ) -> Result<Self, ConfigError> {
        let mut taken: Vec<String> = Vec::new();
        for id in given.flatten() {
            check(kind.name(), id)?;
            if taken.iter().any(|other| other == id) {
                return Err(ConfigError::DuplicateId { kind: kind.name(), id: id.to_owned() });
            }
            taken.push(id.to_owned());
        }
        Ok(Self { kind, taken, next: 0 })
    }

    /// The name of the next device of the kind.
    pub(super) fn take(&mut self, given: Option<String>) -> String {
        given.unwrap_or_else(|| {
            loop {
                let id = format!("{}{}", self.kind.name(), self.next);
                self.next += 1;
                if !self.taken.contains(&id) {
                    return id;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for id in ["a", "A-z_0", &"x".repeat(ID_MAX)] {
            assert!(check("id", id).is_ok(), "{id}");
        }
        for id in ["", "a b", "a/b", "é", "a.b", "a\n", &"x".repeat(ID_MAX + 1)] {
            assert!(check("id", id).is_err(), "{id}");
        }
    }

    #[test]
    fn defaults_step_over_names_that_are_taken() {
        let given = [None, Some("disk0"), None, Some("disk2"), None];
        let mut ids = Ids::new(Kind::Disk, given.into_iter()).unwrap();
        let names = given.map(|id| ids.take(id.map(str::to_owned)));
        assert_eq!(names, ["disk1", "disk0", "disk3", "disk2", "disk4"]);
    }

    #[test]
    fn a_name_cannot_be_given_twice() {
        let twice = Ids::new(Kind::Net, [Some("a"), Some("a")].into_iter());
        assert_eq!(
            twice.err().unwrap().to_string(),
            "two nets have the id \"a\": give each its own"
        );
    }
}
