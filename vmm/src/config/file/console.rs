//! The keys of a console.

use std::path::PathBuf;

use serde::Deserialize;

use super::FileError;
use super::keys::{Given, RATE_LIMITER, unsupported};
use crate::config::ConsoleTarget;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Console {
    /// Firecracker's only key of a serial port: a file instead of the terminal.
    serial_out_path: Option<PathBuf>,
    #[serde(default)]
    rate_limiter: Given,
    // Our own.
    #[serde(rename = "type")]
    kind: Option<ConsoleKind>,
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ConsoleKind {
    Off,
    Stdio,
    Pty,
    File,
    Socket,
}

impl Console {
    /// Where the console called `key` leads to.
    pub(super) fn into_target(self, key: &str) -> Result<ConsoleTarget, FileError> {
        let wrong = |what| Err(FileError::Keys { key: key.to_owned(), what });
        unsupported(self.rate_limiter.0, format!("{key}.rate_limiter"), RATE_LIMITER)?;
        let kind = match (self.serial_out_path, self.kind) {
            (None, Some(kind)) => kind,
            // A request about the serial port that says nothing leaves it on the terminal.
            (None, None) if key == "serial" => ConsoleKind::Stdio,
            (None, None) => return wrong("type is missing: add it"),
            (Some(path), None) if self.path.is_none() => return Ok(ConsoleTarget::File(path)),
            (Some(_), _) => return wrong("serial_out_path excludes type and path: keep one"),
        };
        match (kind, self.path) {
            (ConsoleKind::Off, None) => Ok(ConsoleTarget::Off),
            (ConsoleKind::Stdio, None) => Ok(ConsoleTarget::Stdio),
            (ConsoleKind::Pty, None) => Ok(ConsoleTarget::Pty),
            (ConsoleKind::File, Some(path)) => Ok(ConsoleTarget::File(path)),
            (ConsoleKind::Socket, Some(path)) => Ok(ConsoleTarget::Socket(path)),
            (ConsoleKind::File | ConsoleKind::Socket, None) => wrong("path is missing: add it"),
            (_, Some(_)) => wrong("this type has no path: remove it"),
        }
    }
}
