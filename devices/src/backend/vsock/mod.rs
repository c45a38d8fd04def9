//! Host side of a vsock device: the programs of the host that a guest's programs talk to.
//!
//! Knows nothing of packets, credit or drivers: here are streams of bytes, and news of them.

pub mod service;
pub mod unix;

mod handshake;

use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;

use crate::memory::Buffers;

pub use service::{Service, Session};
pub use unix::{Beside, Connector, UnixEndpoint};

/// Names a stream of one backend; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// One connection to a program of the host. No call waits.
pub trait Stream: Send {
    /// Reads what there is into `to`; 0 means that the program will not send any more.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now, which an [`Event::Ready`] ends; anything else is for good.
    fn read(&mut self, to: &Buffers<'_>) -> io::Result<usize>;

    /// Writes what fits of the `len` bytes of `from` from `start` on.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits now; anything else is for good.
    fn write(&mut self, from: &Buffers<'_>, start: usize, len: usize) -> io::Result<usize>;

    /// Writes what fits of `from`.
    ///
    /// # Errors
    /// As for [`Self::write`].
    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize>;

    /// Whether [`Event::Ready`] should tell when the program has made room.
    fn watch_room(&mut self, on: bool);

    /// Ends a direction, as seen from here.
    fn shut_down(&mut self, direction: Shutdown);

    /// Whether there is nobody who would say anything once the guest has said its last word.
    fn only_listens(&self) -> bool {
        false
    }

    /// The guest has taken the connection that the program asked for; `port` is the one of its own.
    ///
    /// # Errors
    /// When the program cannot be told, so that there is no connection.
    fn accepted(&mut self, port: u32) -> io::Result<()>;
}

/// What happened on the host.
pub enum Event {
    /// A program asks for a connection to a port of the guest.
    Incoming {
        /// The stream's name in events to come.
        id: StreamId,
        /// The port.
        port: u32,
        /// The connection.
        stream: Box<dyn Stream>,
    },
    /// A stream can go on.
    Ready(StreamId, Readiness),
}

/// In which way a stream can go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There may be something to read, the end included.
    pub readable: bool,
    /// There may be room.
    pub writable: bool,
    /// The program has closed the connection: nothing written arrives, what it has sent can be read.
    pub hung_up: bool,
}

/// All streams of one active device, and those to come.
pub trait Backend: Send {
    /// The descriptor that is readable while [`Self::poll`] has something to tell.
    fn fd(&self) -> RawFd;

    /// Adds what happened to `events`: a bounded number at a time, no stream's news before another's turn.
    fn poll(&mut self, events: &mut Vec<Event>);

    /// Connects to the program that serves `port` on the host.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when there is none, `WouldBlock` when it is overrun.
    fn connect(&mut self, port: u32) -> io::Result<(StreamId, Box<dyn Stream>)>;
}
