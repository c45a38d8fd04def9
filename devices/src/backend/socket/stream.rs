//! A connection that is read and written as files are.

use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::net::UnixStream;

use super::sys;

/// A connection whose bytes go by read(2) and write(2), which a thread may make anyway, where the standard library has
/// calls for sockets alone. Who writes to one whose reader is gone must ignore SIGPIPE.
#[derive(Debug)]
pub struct ByteStream(UnixStream);

impl From<UnixStream> for ByteStream {
    fn from(stream: UnixStream) -> Self {
        Self(stream)
    }
}

impl Deref for ByteStream {
    type Target = UnixStream;

    fn deref(&self) -> &UnixStream {
        &self.0
    }
}

impl Read for ByteStream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        sys::read(&self.0, to)
    }
}

impl Write for ByteStream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        sys::write(&self.0, from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_both_ways_and_the_end_is_told() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (ByteStream::from(one), ByteStream::from(other));
        one.write_all(b"there").unwrap();
        other.write_all(b"back").unwrap();
        let mut bytes = [0; 8];
        assert_eq!(other.read(&mut bytes).unwrap(), 5);
        assert_eq!(&bytes[..5], b"there");
        assert_eq!(one.read(&mut bytes).unwrap(), 4);
        drop(other);
        assert_eq!(one.read(&mut bytes).unwrap(), 0);
        assert_eq!(one.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn nothing_waits_that_must_not() {
        let (one, _other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let error = ByteStream::from(one).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
