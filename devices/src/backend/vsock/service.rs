//! Services of this process that programs of the guest connect to, instead of a socket of the host.
//!
//! They only listen: a guest program says something and hangs up, as systemd does with `READY=1`. One
//! that only ends its sending half, to see that all of it has been heard, sees the connection end.

use std::io;
use std::net::Shutdown;

use super::Stream;
use crate::memory::Buffers;

/// What listens on a port of the host, inside this process. Called on the event loop; must not wait.
pub trait Service: Send + Sync {
    /// A program of the guest has connected.
    fn connect(&self) -> Box<dyn Session>;
}

/// One connection; dropped when it is over.
pub trait Session: Send {
    /// The guest's program has sent `bytes`, at most a few KiB at a time. `false` ends the connection.
    fn receive(&mut self, bytes: &[u8]) -> bool;
}

/// Most bytes that a session gets at a time.
const PIECE: usize = 4096;

/// A session as a stream: always room, nothing to read.
pub(super) struct SessionStream(pub(super) Box<dyn Session>);

impl Stream for SessionStream {
    fn read(&mut self, _to: &Buffers<'_>) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, from: &Buffers<'_>, start: usize, len: usize) -> io::Result<usize> {
        let mut piece = [0; PIECE];
        let piece = piece.get_mut(..len.min(PIECE)).unwrap_or_default();
        let count = from.read_at(start, piece).map_err(io::Error::other)?;
        self.write_bytes(piece.get(..count).unwrap_or_default())
    }

    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize> {
        if self.0.receive(from) { Ok(from.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn watch_room(&mut self, _on: bool) {}

    fn shut_down(&mut self, _direction: Shutdown) {}

    fn only_listens(&self) -> bool {
        true
    }

    fn accepted(&mut self, _port: u32) -> io::Result<()> {
        Ok(())
    }
}
