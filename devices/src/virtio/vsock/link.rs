//! A connection together with the stream that it ends in on the host.
//!
//! Moves bytes between the two and tells each when the other is done. Which link's turn it is, and where
//! packets go, is the muxer's business.

use std::io;
use std::net::Shutdown;

use crate::backend::vsock::{Readiness, Stream};
use crate::memory::Buffers;

use super::backlog::Backlog;
use super::connection::{Connection, Outgoing};
use super::packet::{Directions, HEADER_LEN, Header};

/// A connection, its stream, and what lies between them.
pub(super) struct Link {
    connection: Connection,
    /// None once nothing can go either way.
    stream: Option<Box<dyn Stream>>,
    backlog: Backlog,
    /// The stream may have something to read.
    readable: bool,
    hung_up: bool,
    /// The last read left nothing of its room: the next one should have more.
    is_busy: bool,
    /// Whether the muxer has it in its round.
    pub(super) in_round: bool,
}

/// What a stream still has to take of the guest's data when the connection is over.
pub(super) struct Remainder {
    stream: Box<dyn Stream>,
    backlog: Backlog,
}

/// Whether the connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It does.
    Alive,
    /// It had to be ended because the host's side failed.
    Failed,
}

impl Link {
    pub(super) fn new(connection: Connection, stream: Box<dyn Stream>) -> Self {
        Self {
            connection,
            stream: Some(stream),
            backlog: Backlog::default(),
            readable: false,
            hung_up: false,
            is_busy: false,
            in_round: false,
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// For what changes only the guest's side.
    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Whether the guest should get something.
    pub(super) fn is_pending(&self) -> bool {
        self.connection.is_pending(self.readable)
    }

    /// What the guest should get first.
    pub(super) fn next(&mut self) -> Option<Outgoing> {
        self.connection.next(self.readable)
    }

    /// Whether more data is likely than fits into one buffer of the driver.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// The guest has accepted: tells the program.
    pub(super) fn accepted(&mut self) -> Outcome {
        let port = self.connection.ports().host;
        let told = self.stream.as_mut().is_some_and(|stream| stream.accepted(port).is_ok());
        if told { Outcome::Alive } else { self.fail() }
    }

    /// Passes the `len` bytes of data of `packet` on, or keeps what does not fit.
    pub(super) fn deliver(&mut self, packet: &Buffers<'_>, len: usize) -> Outcome {
        let Some(stream) = &mut self.stream else { return self.discard(len) };
        let (mut at, end) = (HEADER_LEN, HEADER_LEN + len);
        while at < end && self.backlog.is_empty() {
            match stream.write(packet, at, end - at) {
                Ok(count) => {
                    at += count;
                    self.connection.forwarded(u32_of(count));
                }
                Err(error) if is_later(&error) => break,
                Err(_) => {
                    self.program_reads_no_more();
                    return self.discard(end - at);
                }
            }
        }
        if at < end {
            if self.backlog.add(packet, at, end - at).is_err() {
                return self.fail();
            }
            stream.watch_room(true);
        }
        Outcome::Alive
    }

    /// Data that nobody wants any more leaves at once.
    pub(super) fn discard(&mut self, len: usize) -> Outcome {
        self.connection.forwarded(u32_of(len));
        Outcome::Alive
    }

    /// The guest has said that a direction is over.
    pub(super) fn guest_is_over(&mut self) {
        let over = self.connection.guest_over();
        let Some(stream) = &mut self.stream else { return };
        if over.has(Directions::SEND) && self.backlog.is_empty() {
            stream.shut_down(Shutdown::Write);
            if stream.only_listens() {
                self.connection.host_is_over(Directions::BOTH);
                self.stream = None;
                return;
            }
        }
        if over.has(Directions::RECEIVE) {
            stream.shut_down(Shutdown::Read);
        }
        self.settle();
    }

    /// There is news of the stream.
    pub(super) fn stream_is_ready(&mut self, news: Readiness) -> Outcome {
        self.readable |= news.readable;
        self.hung_up |= news.hung_up;
        if self.hung_up && self.connection.is_requested() {
            // The program did not want to wait.
            return self.fail();
        }
        if news.writable {
            self.flush();
        }
        self.settle();
        Outcome::Alive
    }

    /// Reads data for the guest into `to`, which has room for at least one byte. `None` when there is none
    /// now.
    pub(super) fn read(&mut self, to: &Buffers<'_>) -> Result<Option<usize>, Outcome> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        match stream.read(to) {
            Ok(0) => {
                self.readable = false;
                self.connection.host_is_over(Directions::SEND);
                self.settle();
                Ok(None)
            }
            Ok(count) => {
                self.is_busy = count == to.len();
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) if is_later(&error) => {
                self.readable = false;
                self.is_busy = false;
                Ok(None)
            }
            Err(_) => Err(self.fail()),
        }
    }

    /// The header of a packet of `len` bytes that were read.
    pub(super) fn data_header(&mut self, len: usize) -> Header {
        self.connection.data_header(u32_of(len))
    }

    /// Ends the connection: the guest gets a reset.
    pub(super) fn fail(&mut self) -> Outcome {
        self.connection.end();
        self.stream = None;
        self.backlog = Backlog::default();
        Outcome::Failed
    }

    /// The guest is done and has been, or will be, told so: what it has sent is the program's.
    pub(super) fn take_remainder(&mut self) -> Option<Remainder> {
        let stream = self.stream.take()?;
        let backlog = std::mem::take(&mut self.backlog);
        (!backlog.is_empty()).then_some(Remainder { stream, backlog })
    }

    /// Writes what the program has room for now.
    fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        match write_out(&mut **stream, &mut self.backlog) {
            Ok(count) => self.connection.forwarded(u32_of(count)),
            Err(_) => return self.program_reads_no_more(),
        }
        if self.backlog.is_empty() && self.connection.guest_over().has(Directions::SEND) {
            stream.shut_down(Shutdown::Write);
        }
    }

    fn program_reads_no_more(&mut self) {
        let lost = self.backlog.len();
        self.backlog = Backlog::default();
        self.connection.forwarded(u32_of(lost));
        self.connection.host_is_over(Directions::RECEIVE);
        if let Some(stream) = &mut self.stream {
            stream.watch_room(false);
        }
    }

    /// A program that has hung up reads no more; once nothing of it will be read either, its stream goes.
    fn settle(&mut self) {
        if !self.hung_up {
            return;
        }
        self.program_reads_no_more();
        let ended = self.connection.host_over().has(Directions::SEND);
        if ended || self.connection.guest_over().has(Directions::RECEIVE) {
            self.connection.host_is_over(Directions::BOTH);
            self.stream = None;
        }
    }
}

impl Remainder {
    /// Goes on. `true` when there is nothing more to do.
    pub(super) fn stream_is_ready(&mut self, news: Readiness) -> bool {
        if !news.writable {
            return news.hung_up;
        }
        write_out(&mut *self.stream, &mut self.backlog).is_err() || self.backlog.is_empty()
    }
}

/// Writes what there is room for; how many bytes that was.
fn write_out(stream: &mut dyn Stream, backlog: &mut Backlog) -> io::Result<usize> {
    let before = backlog.len();
    while !backlog.is_empty() {
        match stream.write_bytes(backlog.bytes()) {
            Ok(count) => backlog.remove(count),
            Err(error) if is_later(&error) => break,
            Err(error) => return Err(error),
        }
    }
    stream.watch_room(!backlog.is_empty());
    Ok(before - backlog.len())
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Lengths of data fit: a packet's is 32 bits long, and a backlog holds no more than credit allows.
fn u32_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
