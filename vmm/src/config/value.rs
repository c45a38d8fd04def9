//! The small grammars of values: sizes, durations, MAC addresses, and lists such as `a.img,readonly,id=x`.
//!
//! Flags and configuration files share them. Nothing here knows what a value is for; limits that depend on
//! that are checked where the plan is made.

use std::time::Duration;

use super::nearest::nearest;

/// Why a value cannot be read. Each text stands alone, because the parser of the command line shows only
/// that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a size.
    #[error(
        "{text:?} is not a size: write a whole number with K, M, G or T, such as 512M or 2G (a plain number is MiB)"
    )]
    Size {
        /// What was written.
        text: String,
    },
    /// Not a length of time.
    #[error(
        "{text:?} is not a duration: write a whole number with ms, s, m or h, such as 30s (a plain number is seconds)"
    )]
    Duration {
        /// What was written.
        text: String,
    },
    /// Not a rate of bytes.
    #[error(
        "bw: {text:?} is not a rate: write bytes per second as a whole number above 0 with K, M or G, such as 100M"
    )]
    Bandwidth {
        /// What was written.
        text: String,
    },
    /// Not a rate of operations.
    #[error(
        "{what}: {text:?} is not a rate: write a whole number above 0 per second, such as 500 or 5k"
    )]
    Ops {
        /// iops or pps.
        what: &'static str,
        /// What was written.
        text: String,
    },
    /// A burst without anything that it could be a burst of.
    #[error("burst is nothing by itself: give bw or {ops} as well")]
    LoneBurst {
        /// iops or pps.
        ops: &'static str,
    },
    /// Not a length of time that makes sense for a burst.
    #[error(
        "burst: {text:?} is not possible: write how long a quiet device saves up its rate, from 1ms to 1h, such as 200ms"
    )]
    Burst {
        /// What was written.
        text: String,
    },
    /// Not a list of CPUs.
    #[error("pin: {text:?} is not a list of CPUs: write numbers and ranges, such as 0:1 or 2-3:6")]
    CpuList {
        /// What was written.
        text: String,
    },
    /// A size or duration beyond 64 bits.
    #[error("{text:?} is too large")]
    TooLarge {
        /// What was written.
        text: String,
    },
    /// Not a MAC address.
    #[error(
        "{text:?} is not a MAC address: write six bytes in hexadecimal, such as 02:00:00:00:00:01"
    )]
    Mac {
        /// What was written.
        text: String,
    },
    /// A MAC address that no single card can have.
    #[error("{text:?} is a multicast or zero MAC address: make the first byte even, such as 02")]
    NotUnicast {
        /// What was written.
        text: String,
    },
    /// Not an IPv4 address.
    #[error("{text:?} is not an IPv4 address: write four numbers, such as 169.254.169.254")]
    Ipv4 {
        /// What was written.
        text: String,
    },
    /// Not a number.
    #[error("{what}: {text:?} is not a whole number from 0 to {max}")]
    Number {
        /// Which part of the value.
        what: &'static str,
        /// What was written.
        text: String,
        /// Largest number that fits.
        max: u64,
    },
    /// Not one of a few words.
    #[error("{what}: {text:?} is none of {known}{}", did_you_mean(.text, .known.split(", ")))]
    Word {
        /// Which value.
        what: &'static str,
        /// What was written.
        text: String,
        /// The words, separated by ", ".
        known: &'static str,
    },
    /// A part of a list that means nothing here.
    #[error("unknown part {text:?}{}; known: {known}", did_you_mean(.text, .known.split(", ")))]
    UnknownPart {
        /// The word, or the key before "=".
        text: String,
        /// The parts that exist, separated by ", ".
        known: &'static str,
    },
    /// A part that needs "=VALUE" without it, or the other way round.
    #[error("{key:?} must be written {form}")]
    Form {
        /// The key.
        key: String,
        /// How to write it.
        form: &'static str,
    },
    /// The same part twice.
    #[error("{key:?} is given twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// A part is missing.
    #[error("{what} is missing: write {form}")]
    Missing {
        /// What.
        what: &'static str,
        /// How to write it.
        form: &'static str,
    },
    /// Two commas with nothing between them at an end of the list.
    #[error("{text:?} has an empty part: remove the comma, or double it if it belongs to a name")]
    EmptyPart {
        /// The list.
        text: String,
    },
}

/// "; did you mean X?" when one of `known` is close to `text`. Forms such as "id=ID" count by their key.
fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let keys = known.into_iter().map(|form| form.split_once('=').map_or(form, |(key, _)| key));
    nearest(text, keys).map_or_else(String::new, |word| format!("; did you mean {word:?}?"))
}

/// Reads a size in bytes: a whole number with K, M, G or T (or KiB, MiB, …; powers of 1024), any case. A
/// plain number is MiB, as in `mem_size_mib`.
///
/// # Errors
/// [`ValueError::Size`], [`ValueError::TooLarge`].
pub fn parse_size(text: &str) -> Result<u64, ValueError> {
    let (number, unit) = split_unit(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kib" => 10,
        "" | "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => {
            return Err(ValueError::Size { text: text.to_owned() });
        }
    };
    whole(number, || ValueError::Size { text: text.to_owned() }, text)?
        .checked_mul(1 << shift)
        .ok_or_else(|| ValueError::TooLarge { text: text.to_owned() })
}

/// Reads a length of time: a whole number with ms, s, m or h. A plain number is seconds.
///
/// # Errors
/// [`ValueError::Duration`], [`ValueError::TooLarge`].
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let (number, unit) = split_unit(text);
    let millis: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        _ => {
            return Err(ValueError::Duration { text: text.to_owned() });
        }
    };
    whole(number, || ValueError::Duration { text: text.to_owned() }, text)?
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(|| ValueError::TooLarge { text: text.to_owned() })
}

/// Reads a rate in bytes per second: a whole number, with K, M or G for powers of 1024.
pub(super) fn parse_bandwidth(text: &str) -> Result<u64, ValueError> {
    let malformed = || ValueError::Bandwidth { text: text.to_owned() };
    let (number, unit) = split_unit(text);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(malformed()),
    };
    positive(number, scale, malformed, text)
}

/// Reads a rate in operations per second: a whole number, with k or M for powers of 1000; `what` names it.
pub(super) fn parse_ops(what: &'static str, text: &str) -> Result<u64, ValueError> {
    let malformed = || ValueError::Ops { what, text: text.to_owned() };
    let (number, unit) = split_unit(text);
    let scale = match unit {
        "" => 1,
        "k" | "K" => 1000,
        "M" => 1_000_000,
        _ => return Err(malformed()),
    };
    positive(number, scale, malformed, text)
}

fn positive(
    number: &str,
    scale: u64,
    malformed: impl Fn() -> ValueError,
    text: &str,
) -> Result<u64, ValueError> {
    match whole(number, &malformed, text)? {
        0 => Err(malformed()),
        number => {
            number.checked_mul(scale).ok_or_else(|| ValueError::TooLarge { text: text.to_owned() })
        }
    }
}

/// Largest number of a CPU: what Linux can be built for.
const CPU_MAX: u16 = 8191;

/// Reads CPUs: numbers and ranges, separated by ":", in the order in which they are meant.
pub(super) fn parse_cpu_list(text: &str) -> Result<Vec<u16>, ValueError> {
    let malformed = || ValueError::CpuList { text: text.to_owned() };
    let number = |text: &str| {
        let number = whole(text, malformed, text).map_err(|_| malformed())?;
        u16::try_from(number).ok().filter(|&cpu| cpu <= CPU_MAX).ok_or_else(malformed)
    };
    let mut cpus = Vec::new();
    for part in text.split(':') {
        match part.split_once('-') {
            None => cpus.push(number(part)?),
            Some((first, last)) => {
                let range = number(first)?..=number(last)?;
                if range.is_empty() {
                    return Err(malformed());
                }
                cpus.extend(range);
            }
        }
    }
    Ok(cpus)
}

/// Reads a unicast MAC address: six bytes of two hexadecimal digits, separated by ":" or "-".
///
/// # Errors
/// [`ValueError::Mac`], [`ValueError::NotUnicast`].
pub fn parse_mac(text: &str) -> Result<[u8; 6], ValueError> {
    let malformed = || ValueError::Mac { text: text.to_owned() };
    let separator = if text.contains(':') { ':' } else { '-' };
    let mut mac = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut mac {
        let part = parts.next().ok_or_else(malformed)?;
        // `from_str_radix` alone would take "+1".
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
    }
    if parts.next().is_some() {
        return Err(malformed());
    }
    // IEEE 802: the lowest bit of the first byte marks a group address.
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(ValueError::NotUnicast { text: text.to_owned() });
    }
    Ok(mac)
}

/// Reads a 16-bit number; `what` names it in the error.
///
/// # Errors
/// [`ValueError::Number`].
pub fn parse_u16(what: &'static str, text: &str) -> Result<u16, ValueError> {
    let number = || ValueError::Number { what, text: text.to_owned(), max: u16::MAX.into() };
    let value = whole(text, number, text).map_err(|_| number())?;
    u16::try_from(value).map_err(|_| number())
}

/// Reads a 32-bit number; `what` names it in the error.
///
/// # Errors
/// [`ValueError::Number`].
pub(super) fn parse_u32(what: &'static str, text: &str) -> Result<u32, ValueError> {
    let number = || ValueError::Number { what, text: text.to_owned(), max: u32::MAX.into() };
    let value = whole(text, number, text).map_err(|_| number())?;
    u32::try_from(value).map_err(|_| number())
}

/// One part of a list: a word, or a key with a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The word, or what is before the first "=".
    pub(super) key: String,
    /// What is after it.
    pub(super) value: Option<String>,
}

impl Part {
    /// The value of a part that must have one.
    pub(super) fn value(self, form: &'static str) -> Result<String, ValueError> {
        match self.value {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(ValueError::Form { key: self.key, form }),
        }
    }

    /// A part that must not have a value.
    pub(super) fn word(self, form: &'static str) -> Result<(), ValueError> {
        match self.value {
            None => Ok(()),
            Some(_) => Err(ValueError::Form { key: self.key, form }),
        }
    }
}

/// The text of a part that has no key: a name may contain "=".
pub(super) fn rejoin(part: Part) -> String {
    match part.value {
        Some(value) => format!("{}={value}", part.key),
        None => part.key,
    }
}

/// Splits a list at its commas; a doubled comma is one comma of a name. No part is empty and no key comes
/// twice. The first part is as the caller will read it: see [`Part::key`].
pub(super) fn split_list(text: &str) -> Result<Vec<Part>, ValueError> {
    let mut parts: Vec<Part> = Vec::new();
    for part in split_commas(text) {
        if part.is_empty() {
            return Err(ValueError::EmptyPart { text: text.to_owned() });
        }
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (part, None),
        };
        if parts.iter().any(|p| p.key == key) {
            return Err(ValueError::Twice { key });
        }
        parts.push(Part { key, value });
    }
    Ok(parts)
}

fn split_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// A number of decimal digits only: no sign, no space.
fn whole(digits: &str, malformed: impl Fn() -> ValueError, text: &str) -> Result<u64, ValueError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    digits.parse().map_err(|_| ValueError::TooLarge { text: text.to_owned() })
}

#[cfg(test)]
mod tests;
