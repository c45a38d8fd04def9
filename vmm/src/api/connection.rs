//! One client: bytes in, requests out, replies in, bytes out, and never a wait.
//!
//! Knows neither what requests mean nor how descriptors are watched; the server asks what to wait for
//! ([`Connection::interest`]) and says what time it is.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::http::{self, ContentType, Head, HttpError, Method, Reply};

/// Bytes taken from a client at a time, so that one that sends much does not keep the others waiting.
const READ_MAX: usize = 16 << 10;
/// Bytes of a stream that wait for its reader.
const STREAM_MAX: usize = 64 << 10;
/// How long a client may take for the rest of a request, or for its reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that was refused may go on talking, so that it comes to read why.
const DRAIN: Duration = Duration::from_secs(1);

/// A request, its body complete.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// With what.
    pub path: String,
    /// The rest.
    pub body: Vec<u8>,
    /// Whether the connection can become one to a console.
    pub upgrades: bool,
}

/// What came of listening to a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing complete yet.
    Nothing,
    /// A request; the next one is not read before this one is answered.
    Request(Request),
    /// Something that is none; [`Connection::refuse`] is the only answer.
    Error(HttpError),
    /// The client is gone.
    Gone,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterestIn {
    /// Bytes from the client.
    pub input: bool,
    /// Room for bytes to the client.
    pub output: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// A request is awaited or on its way.
    Reading,
    /// A request is being obeyed.
    Waiting,
    /// Lines go out until their end; `next` is the number of the next one.
    Streaming { next: u64 },
    /// The last reply goes out, then what the client still says is dropped.
    Draining,
}

/// See the module.
pub struct Connection<S> {
    stream: S,
    input: Vec<u8>,
    /// The head that `input` begins with, once it is complete.
    head: Option<Head>,
    output: Vec<u8>,
    /// How much of `output` has gone out.
    sent: usize,
    state: State,
    keep_alive: bool,
    /// The client says no more, but may be listening.
    half_closed: bool,
    /// The last reply is out, and the client was told that nothing follows.
    said_goodbye: bool,
    /// When the client last did, or was told, something that counts.
    since: Instant,
}

impl<S: Read + Write> Connection<S> {
    /// A client that has said nothing yet. `stream` must not block.
    pub fn new(stream: S, now: Instant) -> Self {
        Self {
            stream,
            input: Vec::new(),
            head: None,
            output: Vec::new(),
            sent: 0,
            state: State::Reading,
            keep_alive: true,
            half_closed: false,
            said_goodbye: false,
            since: now,
        }
    }

    /// The client's stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// What to watch for.
    pub fn interest(&self) -> InterestIn {
        let output = self.sent < self.output.len();
        let input = !self.half_closed
            && match self.state {
                State::Reading => !output || self.head.is_some(),
                // Only to notice that a reader has gone.
                State::Streaming { .. } => true,
                State::Waiting => false,
                State::Draining => true,
            };
        InterestIn { input, output }
    }

    /// When patience with this client ends; `None` while nothing is owed.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            _ if self.sent < self.output.len() => Some(self.since + PATIENCE),
            State::Reading if !self.input.is_empty() => Some(self.since + PATIENCE),
            State::Draining => Some(self.since + DRAIN),
            _ => None,
        }
    }

    /// Whether the client owes the rest of a request.
    pub fn is_mid_request(&self) -> bool {
        self.state == State::Reading && !self.input.is_empty()
    }

    /// Whether nothing would be lost if this client had to make room for another one, which it has left idle for
    /// `time`.
    pub fn is_idle_for(&self, time: Duration, now: Instant) -> bool {
        let is_silent = match self.state {
            State::Reading => now.saturating_duration_since(self.since) >= time,
            State::Draining => true,
            State::Waiting | State::Streaming { .. } => false,
        };
        is_silent && self.sent == self.output.len()
    }

    /// Whether a request is being obeyed.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// The number of the next line, if this client reads a stream and has room for more of it.
    pub fn next_line(&self) -> Option<u64> {
        match self.state {
            State::Streaming { next } if self.output.len() - self.sent < STREAM_MAX => Some(next),
            _ => None,
        }
    }

    /// Whether this client reads a stream.
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming { .. })
    }

    /// Whether there can be more to hear.
    pub fn may_say_more(&self) -> bool {
        !self.half_closed
    }

    /// Takes what the client has sent.
    pub fn listen(&mut self, body_limit: usize, now: Instant) -> Heard {
        let mut bytes = [0; READ_MAX];
        match self.stream.read(&mut bytes) {
            Ok(0) => {
                self.half_closed = true;
                // A request that is under way gets its answer, and a stream goes on; anything less is worth nothing.
                let listens = self.state == State::Waiting || self.is_streaming();
                if !listens && self.sent == self.output.len() {
                    return Heard::Gone;
                }
                return Heard::Nothing;
            }
            Ok(count) if self.state == State::Reading => {
                if self.input.is_empty() {
                    self.since = now;
                }
                self.input.extend(bytes.get(..count).unwrap_or_default());
            }
            // Whoever reads a stream, or was refused, has nothing to say any more.
            Ok(_) => return Heard::Nothing,
            Err(error) if is_transient(&error) => return Heard::Nothing,
            Err(_) => return Heard::Gone,
        }
        self.next_request(body_limit)
    }

    /// The next request among what the client has sent so far.
    pub fn next_request(&mut self, body_limit: usize) -> Heard {
        if self.state != State::Reading {
            return Heard::Nothing;
        }
        if self.head.is_none() {
            // An empty line before a request is none (RFC 9112, 2.2).
            let blank = self.input.iter().take_while(|byte| b"\r\n".contains(byte)).count();
            self.input.drain(..blank);
            match http::parse(&self.input, body_limit) {
                Ok(None) => return Heard::Nothing,
                Ok(Some(head)) => self.head = Some(head),
                Err(error) => return Heard::Error(error),
            }
        }
        let Some(head) = &mut self.head else { return Heard::Nothing };
        if self.input.len() < head.len.saturating_add(head.body) {
            if std::mem::take(&mut head.expects_continue) {
                self.output.extend(http::CONTINUE);
            }
            return Heard::Nothing;
        }
        let Some(head) = self.head.take() else { return Heard::Nothing };
        let mut body = self.input.split_off(head.len);
        self.input = body.split_off(head.body);
        self.keep_alive = head.keep_alive;
        self.state = State::Waiting;
        // Nothing may stand before or behind what a console says.
        let upgrades = head.upgrades && self.input.is_empty() && self.sent == self.output.len();
        Heard::Request(Request { method: head.method, path: head.path, body, upgrades })
    }

    /// Answers the request that was heard last.
    pub fn answer(&mut self, reply: &Reply, now: Instant) {
        self.output.extend(reply.bytes(self.keep_alive));
        self.since = now;
        self.state = if self.keep_alive { State::Reading } else { State::Draining };
    }

    /// Answers what was no request; the connection ends with that.
    pub fn refuse(&mut self, reply: &Reply, now: Instant) {
        self.keep_alive = false;
        self.answer(reply, now);
        self.input = Vec::new();
    }

    /// Answers with a stream of lines, beginning with number 0.
    pub fn start_stream(&mut self, now: Instant) {
        self.output.extend(http::stream_head(ContentType::JsonLines));
        self.since = now;
        self.state = State::Streaming { next: 0 };
    }

    /// Adds lines to the stream; `next` is the number after the last of them.
    pub fn add_lines<'a>(
        &mut self,
        lines: impl IntoIterator<Item = &'a str>,
        next: u64,
        now: Instant,
    ) {
        let was_idle = self.sent == self.output.len();
        for line in lines {
            self.output.extend(http::chunk(line.as_bytes()));
        }
        if was_idle {
            self.since = now;
        }
        self.state = State::Streaming { next };
    }

    /// The stream is complete.
    pub fn end_stream(&mut self, now: Instant) {
        self.output.extend(http::chunk(b""));
        self.since = now;
        self.state = State::Draining;
    }

    /// Sends what the client takes. `false` when it is gone.
    pub fn speak(&mut self, now: Instant) -> bool {
        while let Some(rest) = self.output.get(self.sent..)
            && !rest.is_empty()
        {
            match self.stream.write(rest) {
                Ok(0) => return false,
                Ok(count) => {
                    self.sent += count;
                    self.since = now;
                }
                Err(error) if is_transient(&error) => return true,
                Err(_) => return false,
            }
        }
        // What one large reply needed is not kept for the next small one.
        self.output = Vec::new();
        self.sent = 0;
        let listens = self.state == State::Waiting || self.is_streaming();
        listens || !self.half_closed || !self.input.is_empty()
    }

    /// Whether the last reply has just gone out: the server then says that nothing follows.
    pub fn takes_leave(&mut self) -> bool {
        let is_last = self.state == State::Draining && self.sent == self.output.len();
        is_last && !std::mem::replace(&mut self.said_goodbye, true)
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
