//! Where events are written.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;

use crate::inherited::duplicate;

/// Where events are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventSink {
    /// To the end of this file, or into this FIFO.
    Path(PathBuf),
    /// To a descriptor that the parent process has left open.
    Fd(RawFd),
}

/// Events cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("events cannot be written to {to}")]
pub struct EventSinkError {
    to: String,
    #[source]
    source: io::Error,
}

/// Reads `PATH` or `fd=N`.
impl FromStr for EventSink {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let number = text.strip_prefix("fd=").and_then(|number| number.parse::<u16>().ok());
        Ok(number.map_or_else(|| Self::Path(text.into()), |number| Self::Fd(number.into())))
    }
}

impl EventSink {
    /// Opens it so that a write does not wait, as far as the host can do that.
    ///
    /// # Errors
    /// [`EventSinkError`], with the host's answer.
    pub fn open(&self) -> Result<File, EventSinkError> {
        match self {
            Self::Fd(fd) => {
                let failed = |source| EventSinkError { to: format!("descriptor {fd}"), source };
                // Opened anew it has flags of its own: the parent's end may want to wait.
                let anew = OpenOptions::new()
                    .append(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(format!("/proc/self/fd/{fd}"));
                // A socket cannot be opened, and shares its flags with the parent's copy.
                anew.or_else(|_| non_blocking(*fd)).map_err(failed)
            }
            Self::Path(path) => {
                // A FIFO without a reader can be opened only for both; then it never breaks either.
                let is_fifo =
                    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
                OpenOptions::new()
                    .append(true)
                    .read(is_fifo)
                    .create(!is_fifo)
                    .mode(0o600)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(path)
                    .map_err(|source| EventSinkError { to: format!("{path:?}"), source })
            }
        }
    }
}

fn non_blocking(fd: RawFd) -> io::Result<File> {
    let socket = UnixStream::from(duplicate(fd)?);
    socket.set_nonblocking(true)?;
    Ok(File::from(OwnedFd::from(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_sink_is_a_path_or_a_descriptor() {
        assert_eq!("fd=7".parse(), Ok(EventSink::Fd(7)));
        assert_eq!("fd=x".parse(), Ok(EventSink::Path("fd=x".into())));
        assert_eq!("a/b".parse(), Ok(EventSink::Path("a/b".into())));
    }

    #[test]
    fn a_write_never_waits() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (theirs, ours) = UnixStream::pair().unwrap();
        for fd in [writer.as_raw_fd(), ours.as_raw_fd()] {
            let mut sink = EventSink::Fd(fd).open().unwrap();
            sink.write_all(b"x").unwrap();
            let error = loop {
                if let Err(error) = sink.write(&[b'x'; 4096]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        (&theirs).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [b'x']);
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let directory = TestDir::new();
        let error = EventSink::Path(directory.path().to_owned()).open().unwrap_err();
        assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
        assert!(EventSink::Fd(9999).open().unwrap_err().to_string().contains("descriptor 9999"));
    }
}
