//! Where the serial port and the virtio console lead to.
//!
//! Opens nothing. How two of them share one terminal is the console backend's business.

use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use super::error::ConfigError;
use super::value::ValueError;

/// Bytes of a Unix socket's path (unix(7): 108 with the NUL).
pub const SOCKET_PATH_MAX: usize = 107;

/// The host's end of a console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "path", rename_all = "lowercase")]
pub enum ConsoleTarget {
    /// No such device.
    Off,
    /// Standard input and output. Both consoles may lead here; they share the terminal.
    Stdio,
    /// A new pseudo-terminal.
    Pty,
    /// Output is written to this file; there is no input.
    #[serde(serialize_with = "super::plan::path_as_text")]
    File(PathBuf),
    /// A Unix socket is listened on at this path.
    #[serde(serialize_with = "super::plan::path_as_text")]
    Socket(PathBuf),
}

impl ConsoleTarget {
    /// The forms that [`ConsoleTarget::from_str`] reads.
    pub const FORMS: &str = "stdio, pty, off, file=PATH, socket=PATH";

    /// Checks what can be known without opening anything; `flag` is the name in the error.
    pub(super) fn check(&self, flag: &'static str) -> Result<(), ConfigError> {
        use std::os::unix::ffi::OsStrExt;
        match self {
            Self::Socket(path) if path.as_os_str().as_bytes().len() > SOCKET_PATH_MAX => {
                Err(ConfigError::SocketPath { flag, path: path.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Reads `stdio|pty|off|file=PATH|socket=PATH`.
impl FromStr for ConsoleTarget {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let form = |key: &str, form| ValueError::Form { key: key.to_owned(), form };
        match text.split_once('=') {
            None => match text {
                "off" => Ok(Self::Off),
                "stdio" => Ok(Self::Stdio),
                "pty" => Ok(Self::Pty),
                "file" => Err(form(text, "file=PATH")),
                "socket" => Err(form(text, "socket=PATH")),
                _ => Err(ValueError::Word {
                    what: "target",
                    text: text.to_owned(),
                    known: Self::FORMS,
                }),
            },
            Some((key @ "file", "")) => Err(form(key, "file=PATH")),
            Some((key @ "socket", "")) => Err(form(key, "socket=PATH")),
            Some(("file", path)) => Ok(Self::File(path.into())),
            Some(("socket", path)) => Ok(Self::Socket(path.into())),
            Some(_) => {
                Err(ValueError::Word { what: "target", text: text.to_owned(), known: Self::FORMS })
            }
        }
    }
}

/// Resolves the two consoles: both on the terminal when nothing is said, and only the one that is spoken of
/// otherwise.
pub(super) fn resolve(
    console: Option<ConsoleTarget>,
    serial: Option<ConsoleTarget>,
) -> Result<(ConsoleTarget, ConsoleTarget), ConfigError> {
    let unsaid = if console.is_none() && serial.is_none() {
        ConsoleTarget::Stdio
    } else {
        ConsoleTarget::Off
    };
    let console = console.unwrap_or_else(|| unsaid.clone());
    let serial = serial.unwrap_or(unsaid);
    console.check("console")?;
    serial.check("serial")?;
    Ok((console, serial))
}

#[cfg(test)]
mod tests {
    use super::ConsoleTarget::{File, Off, Pty, Socket, Stdio};
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, target) in [
            ("stdio", Stdio),
            ("pty", Pty),
            ("off", Off),
            ("file=a=b,c", File("a=b,c".into())),
            ("socket=/run/c.sock", Socket("/run/c.sock".into())),
        ] {
            assert_eq!(text.parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn every_other_form_is_refused_with_the_remedy() {
        for (text, message) in [
            ("file", "\"file\" must be written file=PATH"),
            ("file=", "\"file\" must be written file=PATH"),
            ("socket=", "\"socket\" must be written socket=PATH"),
            (
                "stdoi",
                "target: \"stdoi\" is none of stdio, pty, off, file=PATH, socket=PATH; \
                 did you mean \"stdio\"?",
            ),
            (
                "tcp=1.2.3.4:5",
                "target: \"tcp=1.2.3.4:5\" is none of stdio, pty, off, file=PATH, socket=PATH",
            ),
            ("", "target: \"\" is none of stdio, pty, off, file=PATH, socket=PATH"),
        ] {
            assert_eq!(text.parse::<ConsoleTarget>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn defaults_depend_on_what_is_said() {
        let (stdio, off, pty) = (|| Some(Stdio), Off, || Some(Pty));
        assert_eq!(resolve(None, None).unwrap(), (Stdio, Stdio));
        assert_eq!(resolve(pty(), None).unwrap(), (Pty, off.clone()));
        assert_eq!(resolve(None, pty()).unwrap(), (off.clone(), Pty));
        assert_eq!(resolve(Some(off.clone()), None).unwrap(), (off.clone(), off));
        assert_eq!(resolve(stdio(), stdio()).unwrap(), (Stdio, Stdio));
    }

    #[test]
    fn a_socket_path_has_the_kernels_limit() {
        let socket = |len: usize| Some(Socket("s".repeat(len).into()));
        assert!(resolve(socket(SOCKET_PATH_MAX), None).is_ok());
        let error = resolve(None, socket(SOCKET_PATH_MAX + 1)).unwrap_err();
        assert!(error.to_string().starts_with("serial: socket path"), "{error}");
    }
}
