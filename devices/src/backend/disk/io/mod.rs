//! Engines: how the transfers of one queue reach a disk.
//!
//! An engine moves bytes between a disk and guest memory and says how each transfer ended. It knows
//! nothing of requests: short transfers, retries and the order of operations are its caller's business,
//! and every operation it is given must lie within the disk.

mod bounce;
mod clear;
mod overlay;
mod rings;
mod sync;
mod uring;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::Disk;
use crate::memory::{GuestMemory, Segment};

pub use rings::Rings;

use overlay::OverlayIo;
use sync::SyncIo;
use uring::UringIo;

/// Which engine serves a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Engine {
    /// Plain system calls on the event loop's thread: the fewest moving parts, and the shortest way to
    /// data in the page cache. A slow disk holds up everything else on that loop.
    #[default]
    Sync,
    /// An io_uring per queue, one of [`Rings`]: many transfers at once, and the loop never waits for the disk. Where
    /// the host forbids it, the synchronous engine takes its place.
    IoUring,
}

/// One operation. Positions and lengths are bytes; `start` is a position in the request's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// From the disk at `offset` into the buffer.
    Read {
        /// Position on the disk.
        offset: u64,
        /// Position in the buffer.
        start: usize,
        /// How much.
        len: usize,
    },
    /// From the buffer to the disk at `offset`.
    Write {
        /// Position on the disk.
        offset: u64,
        /// Position in the buffer.
        start: usize,
        /// How much.
        len: usize,
    },
    /// Makes every write that completed before durable.
    Sync,
    /// The range is not needed any more; what it reads as afterwards is undefined. Advice: a disk that
    /// cannot follow it says yes.
    Discard {
        /// Position on the disk.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// The range reads as zeroes afterwards.
    Zero {
        /// Position on the disk.
        offset: u64,
        /// How much.
        len: u64,
        /// Whether its space may be given back to the host.
        unmap: bool,
    },
}

/// How an operation ended: with how many bytes done (fewer than asked is not an error, none means the
/// end of the disk; 0 for [`Op::Sync`]), or the host's answer. `Interrupted` and `WouldBlock` ask for
/// another attempt.
pub type Outcome = io::Result<u64>;

/// What became of an operation that was handed to an engine.
#[derive(Debug)]
pub enum Started {
    /// It is over.
    Done(Outcome),
    /// It will show up in [`DiskIo::completed`], after [`DiskIo::submit`].
    InFlight,
}

/// An engine at work for one queue.
///
/// Whatever is in flight when an engine is dropped is waited for: the host never touches guest memory
/// after that. An engine whose operations are all over when they have started needs only [`Self::start`] and
/// [`Self::set_disk`].
pub trait DiskIo: Send {
    /// Begins `op` on the buffer made of `segments`. `token` is below the depth the engine was opened
    /// with, and not in flight.
    fn start(&mut self, token: u16, op: Op, segments: &[Segment]) -> Started;

    /// Hands everything that was started to the host, in one call however much it is.
    ///
    /// # Errors
    /// When the host does not take it now; it stays started, to be submitted again.
    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// An operation that has ended, with its token, as long as there is one.
    fn completed(&mut self) -> Option<(u16, Outcome)> {
        None
    }

    /// Waits until an operation in flight has ended. Must not be called with none in flight.
    ///
    /// # Errors
    /// When the host cannot wait; nothing is known of what is in flight then.
    fn wait(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// All later operations are on `disk`. Must not be called while one is in flight.
    fn set_disk(&mut self, disk: Arc<Disk>);

    /// What becomes readable, and stays so, while [`Self::completed`] has something; `None` for an
    /// engine that never has anything in flight.
    fn completion_fd(&self) -> Option<RawFd> {
        None
    }
}

impl Disk {
    /// An engine for one queue with at most `depth` operations in flight on the guest's `memory`; it borrows one of
    /// `rings` if it needs one. With an overlay there is only one engine, of system calls.
    #[must_use]
    pub fn open_io(
        self: &Arc<Self>,
        engine: Engine,
        rings: &Rings,
        depth: u16,
        memory: &GuestMemory,
    ) -> Box<dyn DiskIo> {
        if let Some(overlay) = &self.overlay {
            return Box::new(OverlayIo::new(self.clone(), overlay.clone(), memory.clone()));
        }
        let sync = SyncIo::new(self.clone(), memory.clone());
        if engine == Engine::Sync {
            return Box::new(sync);
        }
        match UringIo::open(rings, self, depth, memory) {
            Ok(ring) => Box::new(ring),
            Err(error) => {
                log::warn!(
                    "disk {:?}: io_uring is not available ({error}): every transfer will be waited for",
                    self.path()
                );
                Box::new(sync)
            }
        }
    }
}

#[cfg(test)]
mod tests;
