//! What a program of the host says first: `CONNECT port` and a line feed, answered by `OK port`.
//!
//! The convention of Firecracker's vsock sockets. What comes after the line belongs to the guest.

use std::io;

/// Longest line, its end included. The longest that makes sense has 19 bytes.
pub(super) const MAX_LINE: usize = 32;

/// A line that is being read.
#[derive(Debug, Default)]
pub(super) struct Line {
    bytes: [u8; MAX_LINE],
    len: usize,
}

/// Where a connection stands after a look at it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The line is not complete.
    Waiting,
    /// The program wants this port.
    Port(u32),
    /// The program has left, or speaks another language.
    Hopeless,
}

/// Bytes that can be looked at before they are taken.
pub(super) trait Peek {
    /// Copies what there is to `to` and leaves it there; 0 is the end.
    fn peek(&mut self, to: &mut [u8]) -> io::Result<usize>;

    /// Takes the first `count` bytes, which were seen.
    fn take(&mut self, count: usize) -> io::Result<()>;
}

impl Line {
    /// Bytes read so far.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Reads on, up to the end of the line and no byte further.
    pub(super) fn advance(&mut self, from: &mut dyn Peek) -> Progress {
        let free = self.bytes.get_mut(self.len..).unwrap_or_default();
        let count = match from.peek(free) {
            Ok(0) => return Progress::Hopeless,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
            Err(_) => return Progress::Hopeless,
        };
        let seen = free.get(..count).unwrap_or_default();
        let end = seen.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(count, |end| end + 1);
        if from.take(taken).is_err() {
            return Progress::Hopeless;
        }
        self.len += taken;
        match end {
            Some(_) => port(self.bytes.get(..self.len - 1).unwrap_or_default())
                .map_or(Progress::Hopeless, Progress::Port),
            None if self.len == MAX_LINE => Progress::Hopeless,
            None => Progress::Waiting,
        }
    }
}

/// The port of a line without its end.
fn port(line: &[u8]) -> Option<u32> {
    let text = str::from_utf8(line).ok()?;
    let (word, number) = text.strip_suffix('\r').unwrap_or(text).split_once(' ')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if !word.eq_ignore_ascii_case("CONNECT") || !is_number {
        return None;
    }
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has arrived so far of what will.
    struct Pipe {
        arrived: Vec<u8>,
        ended: bool,
    }

    impl Peek for Pipe {
        fn peek(&mut self, to: &mut [u8]) -> io::Result<usize> {
            if self.arrived.is_empty() && !self.ended {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = to.len().min(self.arrived.len());
            to[..count].copy_from_slice(&self.arrived[..count]);
            Ok(count)
        }

        fn take(&mut self, count: usize) -> io::Result<()> {
            self.arrived.drain(..count);
            Ok(())
        }
    }

    fn read(text: &[u8]) -> (Progress, Vec<u8>) {
        let mut pipe = Pipe { arrived: text.to_vec(), ended: false };
        let progress = Line::default().advance(&mut pipe);
        (progress, pipe.arrived)
    }

    #[test]
    fn what_follows_the_line_is_left() {
        assert_eq!(read(b"CONNECT 52\nhello\n"), (Progress::Port(52), b"hello\n".to_vec()));
        assert_eq!(read(b"connect 4294967295\r\n"), (Progress::Port(u32::MAX), Vec::new()));
    }

    #[test]
    fn a_line_may_come_in_any_pieces() {
        let text = b"CONNECT 1024\nrest";
        for cut in 1..text.len() {
            let mut pipe = Pipe { arrived: text[..cut].to_vec(), ended: false };
            let mut line = Line::default();
            let mut progress = line.advance(&mut pipe);
            pipe.arrived.extend(&text[cut..]);
            if progress == Progress::Waiting {
                progress = line.advance(&mut pipe);
            }
            assert_eq!(
                (progress, &pipe.arrived[..]),
                (Progress::Port(1024), &b"rest"[..]),
                "{cut}"
            );
        }
    }

    #[test]
    fn anything_else_is_hopeless() {
        for text in [
            &b"\n"[..],
            b"CONNECT\n",
            b"CONNECT \n",
            b"CONNECT  1\n",
            b"CONNECT -1\n",
            b"CONNECT +1\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 1 2\n",
            b"GET / HTTP/1.1\r\n",
            b"CONNECT \xff\n",
            &[b'1'; MAX_LINE],
            &[b'1'; 4096],
        ] {
            assert_eq!(read(text).0, Progress::Hopeless, "{:?}", text.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_program_that_leaves_before_the_end_of_the_line_is_hopeless() {
        let mut pipe = Pipe { arrived: b"CONNECT 5".to_vec(), ended: true };
        let mut line = Line::default();
        assert_eq!(line.advance(&mut pipe), Progress::Waiting);
        assert_eq!(line.advance(&mut pipe), Progress::Hopeless);
    }
}
