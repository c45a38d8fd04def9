//! HTTP/1.1 as far as a machine's API needs it, from the client's side: one connection, one request at a time, each call
//! waits.
//!
//! Knows no endpoint. An answer is taken with limits, so that what is not a machine costs no memory.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::CtlError;
use super::show::{at, printable};
use crate::api::http::CONSOLE;

/// Bytes of a reply's head.
const HEAD_MAX: usize = 16 << 10;
/// Headers of a reply.
const HEADERS_MAX: usize = 32;
/// Bytes of a reply's body, or of a line of a stream.
const BODY_MAX: usize = 16 << 20;
/// Bytes taken at a time.
const PIECE: usize = 16 << 10;

/// A connection to a machine.
pub(super) struct Client {
    stream: UnixStream,
    /// What has come and was not looked at.
    received: Vec<u8>,
    /// What has come of a stream's line.
    line: Vec<u8>,
    /// When to give up; `None` for never.
    deadline: Option<Instant>,
}

/// The head of a reply.
struct Head {
    status: u16,
    /// Bytes of the body, if they are told.
    len: usize,
    is_chunked: bool,
}

impl Client {
    /// Connects to the machine at `socket`.
    pub(super) fn connect(socket: &Path) -> Result<Self, CtlError> {
        let stream = UnixStream::connect(socket)
            .map_err(|source| CtlError::NoMachine { socket: socket.to_owned(), source })?;
        Ok(Self { stream, received: Vec::new(), line: Vec::new(), deadline: None })
    }

    /// Gives up at `deadline` from now on, with an error of the kind `WouldBlock` or `TimedOut`.
    pub(super) fn give_up_at(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Asks for the value at `path`.
    pub(super) fn get(&mut self, path: &str) -> Result<Value, CtlError> {
        let body = self.ask("GET", path, "")?;
        serde_json::from_slice(&body).map_err(|_| CtlError::Nonsense("its body is not JSON"))
    }

    /// Asks for the text at `path`.
    pub(super) fn get_text(&mut self, path: &str) -> Result<String, CtlError> {
        let body = self.ask("GET", path, "")?;
        String::from_utf8(body).map_err(|_| CtlError::Nonsense("its body is not text"))
    }

    /// Has something done.
    pub(super) fn order(&mut self, method: &str, path: &str, body: &str) -> Result<(), CtlError> {
        self.ask(method, path, body).map(drop)
    }

    /// Says what is wanted; [`Self::answer`] waits for what comes of it.
    pub(super) fn say(&mut self, method: &str, path: &str, body: &str) -> Result<(), CtlError> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        if !body.is_empty() {
            text +=
                &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body;
        self.send(&text)
    }

    /// The body of the answer.
    ///
    /// # Errors
    /// A refusal is one, with its text.
    pub(super) fn answer(&mut self) -> Result<Vec<u8>, CtlError> {
        let head = self.head()?;
        let body = self.body(&head)?;
        check(head.status, body)
    }

    /// Has the lines at `path` come one by one: see [`Self::line`].
    pub(super) fn start_stream(&mut self, path: &str) -> Result<(), CtlError> {
        self.say("GET", path, "")?;
        let head = self.head()?;
        if head.status != 200 || !head.is_chunked {
            let body = self.body(&head)?;
            check(head.status, body)?;
            return Err(CtlError::Nonsense("it is no stream"));
        }
        Ok(())
    }

    /// The next line of the stream, without its end; `None` when the stream has ended.
    pub(super) fn line(&mut self) -> Result<Option<String>, CtlError> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let rest = self.line.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.line, rest);
                line.truncate(end);
                let line = String::from_utf8(line);
                return line.map(Some).map_err(|_| CtlError::Nonsense("a line is not text"));
            }
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            self.line.extend(chunk);
            if self.line.len() > BODY_MAX {
                return Err(CtlError::Nonsense("a line has no end"));
            }
        }
    }

    /// Makes the connection one to the console at `path`; the bytes are what has come from there already.
    pub(super) fn into_console(mut self, path: &str) -> Result<(UnixStream, Vec<u8>), CtlError> {
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {CONSOLE}\r\n\r\n"
        );
        self.send(&text)?;
        let head = self.head()?;
        if head.status != 101 {
            let body = self.body(&head)?;
            check(head.status, body)?;
            return Err(CtlError::Nonsense("it leads to no console"));
        }
        Ok((self.stream, self.received))
    }

    pub(super) fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Vec<u8>, CtlError> {
        self.say(method, path, body)?;
        self.answer()
    }

    fn send(&mut self, text: &str) -> Result<(), CtlError> {
        match self.stream.write_all(text.as_bytes()) {
            // A server that is full has answered and hung up by now; what it said can still be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(CtlError::Broken),
        }
    }

    fn head(&mut self) -> Result<Head, CtlError> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut reply = httparse::Response::new(&mut headers);
            match reply.parse(&self.received) {
                Ok(httparse::Status::Complete(end)) => {
                    let head = Head::read(&reply)?;
                    self.received.drain(..end);
                    return Ok(head);
                }
                Ok(httparse::Status::Partial) if self.received.len() < HEAD_MAX => {
                    self.receive()?;
                }
                _ => return Err(CtlError::Nonsense("it is not HTTP")),
            }
        }
    }

    fn body(&mut self, head: &Head) -> Result<Vec<u8>, CtlError> {
        if !head.is_chunked {
            return self.take(head.len);
        }
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend(chunk);
            if body.len() > BODY_MAX {
                return Err(CtlError::Nonsense("its body has no end"));
            }
        }
    }

    /// The next chunk of a body; the empty one is the last.
    fn chunk(&mut self) -> Result<Vec<u8>, CtlError> {
        let malformed = CtlError::Nonsense("its body is not in chunks");
        let (start, len) = loop {
            match httparse::parse_chunk_size(&self.received) {
                Ok(httparse::Status::Complete(found)) => break found,
                Ok(httparse::Status::Partial) => self.receive()?,
                Err(_) => return Err(malformed),
            }
        };
        self.received.drain(..start);
        let len = usize::try_from(len).map_err(|_| malformed)?;
        let chunk = self.take(len)?;
        self.take(b"\r\n".len())?;
        Ok(chunk)
    }

    fn take(&mut self, len: usize) -> Result<Vec<u8>, CtlError> {
        if len > BODY_MAX {
            return Err(CtlError::Nonsense("it is too long"));
        }
        while self.received.len() < len {
            self.receive()?;
        }
        let rest = self.received.split_off(len);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    /// Waits for more.
    fn receive(&mut self) -> Result<(), CtlError> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            // No time at all would mean for ever.
            let left = left.max(Duration::from_micros(1));
            self.stream.set_read_timeout(Some(left)).map_err(CtlError::Broken)?;
        }
        let mut piece = [0; PIECE];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(CtlError::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    self.received.extend(piece.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CtlError::Broken(error)),
            }
        }
    }
}

impl Head {
    fn read(reply: &httparse::Response<'_, '_>) -> Result<Self, CtlError> {
        let mut head = Self { status: reply.code.unwrap_or(0), len: 0, is_chunked: false };
        for header in reply.headers.iter() {
            let value = str::from_utf8(header.value).unwrap_or_default().trim();
            if header.name.eq_ignore_ascii_case("content-length") {
                head.len =
                    value.parse().map_err(|_| CtlError::Nonsense("its length is not a number"))?;
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.is_chunked = value.eq_ignore_ascii_case("chunked");
            }
        }
        Ok(head)
    }
}

/// A body that says no is an error.
fn check(status: u16, body: Vec<u8>) -> Result<Vec<u8>, CtlError> {
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = at(&said, "fault_message").as_str();
    let message = message.map_or_else(|| format!("status {status}"), printable);
    Err(CtlError::Refused { status, message })
}

#[cfg(test)]
mod tests;
