//! Configuration files: Firecracker's `--config-file` layout, with keys of our own in the same style.
//!
//! A file that starts a machine there starts the same machine here, or is refused by the name of the key that
//! cannot be honoured: no key is ever skipped. Harmless are those whose effect a guest cannot see and a user
//! does not miss (`cache_type`, `show_level`). Relative paths start at the working directory.

mod console;
mod keys;
mod limiter;
mod section;
mod show;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::VmConfig;
use super::nearest::nearest;
use super::value::ValueError;

pub use limiter::RateLimiter;
pub use section::{Change, Section};
pub(super) use show::{balloon, machine_config, whole};

/// Bytes of a file; enough for any machine, and a bound when someone names a device or a disk instead.
const FILE_MAX: u64 = 1 << 20;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It cannot be a configuration.
    #[error("is larger than {} MiB: it is not a configuration", FILE_MAX >> 20)]
    TooLarge,
    /// It is not JSON, or not of the right shape.
    #[error("line {line}, column {column}: {what}")]
    Shape {
        /// Line, from 1.
        line: usize,
        /// Column, from 1; the end of what is wrong.
        column: usize,
        /// What is wrong.
        what: String,
    },
    /// A value that cannot be read.
    #[error("{key}")]
    Value {
        /// The key's place, such as `network-interfaces[0].guest_mac`.
        key: String,
        /// What is wrong with its value.
        source: ValueError,
    },
    /// A key that belongs to something that does not exist here.
    #[error("{key} is not supported: {why}")]
    Unsupported {
        /// The key's place.
        key: String,
        /// Why, or what to do instead.
        why: &'static str,
    },
    /// A key is missing, or excludes another.
    #[error("{key}: {what}")]
    Keys {
        /// The place.
        key: String,
        /// What to do.
        what: &'static str,
    },
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<VmConfig, FileError> {
    parse(&read_text(path)?)
}

/// The text of the file at `path`, if it is not too large for a configuration.
pub(super) fn read_text(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(FileError::Read)?;
    file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(FileError::Read)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > FILE_MAX) {
        return Err(FileError::TooLarge);
    }
    Ok(text)
}

/// Reads the text of a file.
pub(super) fn parse(text: &[u8]) -> Result<VmConfig, FileError> {
    parse_json::<keys::Root>(text)?.into_config()
}

/// Reads one JSON object; what is wrong with it is told with its place.
pub(super) fn parse_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, FileError> {
    // To serde a list can be a structure, too: one without names.
    if text.trim_ascii_start().first().is_some_and(|byte| *byte != b'{') {
        let what = "a configuration is an object, in braces".to_owned();
        return Err(FileError::Shape { line: 1, column: 1, what });
    }
    let mut from = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut from)
        .map_err(|error| shape(&error.path().to_string(), error.inner()))?;
    from.end().map_err(|error| shape(NOWHERE, &error))?;
    Ok(value)
}

/// The path of the file as a whole.
const NOWHERE: &str = ".";

/// Puts the parser's complaint into our words: a key that is unknown gets the nearest known one, a value that
/// is wrong gets its place.
fn shape(place: &str, error: &serde_json::Error) -> FileError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    // A key can contain anything, a line end too.
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let is_value = error.is_data() && place != NOWHERE;
    let what = unknown_key(&text)
        .unwrap_or_else(|| if is_value { format!("{place}: {text}") } else { text });
    FileError::Shape { line, column, what }
}

/// "unknown field `drivs`, expected one of `drives`, `vsock`" in our words.
fn unknown_key(text: &str) -> Option<String> {
    let (unknown, expected) = text.strip_prefix("unknown field `")?.rsplit_once("`, expected ")?;
    // Known names stand between backticks: every second piece.
    let known = expected.split('`').skip(1).step_by(2);
    let hint = nearest(unknown, known).map(|word| format!("; did you mean `{word}`?"));
    Some(format!("unknown key `{unknown}`{}", hint.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
