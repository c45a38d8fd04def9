//! Fakes for tests: guest memory, a driver's side of a queue, a host that records.
//!
//! They implement the production traits, so that a device under test cannot tell the difference.

mod driver;
mod host;
#[cfg(test)]
pub(crate) mod life;
mod random;

pub use driver::{Buffer, DriverQueue};
pub use host::{FakeHost, Running};
pub use random::Random;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::backend::console::{Console, ConsoleError};
use crate::interrupt::{Interrupt, InterruptLine};
use crate::memory::GuestMemory;

type GuestRegion = vm_memory::GuestRegionMmap<()>;

/// Guest RAM of `len` bytes from address 0.
///
/// # Panics
/// When the host has no memory for it.
#[must_use]
#[expect(clippy::expect_used, reason = "test helper")]
pub fn guest_memory(len: usize) -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), len)]).expect("memory for the test guest")
}

/// Other memory with the same contents.
///
/// # Panics
/// As [`guest_memory`].
#[must_use]
#[expect(clippy::expect_used, clippy::indexing_slicing, reason = "test helper")]
pub fn copy_of(memory: &GuestMemory) -> GuestMemory {
    const PIECE: usize = 64 << 10;
    let size = |region: &GuestRegion| usize::try_from(region.len()).expect("it is mapped");
    let ranges: Vec<_> = memory.iter().map(|r| (r.start_addr(), size(r))).collect();
    let copy = GuestMemory::from_ranges(&ranges).expect("memory for the test guest");
    let (mut piece, nothing) = (vec![0; PIECE], vec![0; PIECE]);
    for (start, len) in ranges {
        for at in (0..len).step_by(PIECE) {
            let (at, len) = (GuestAddress(start.0 + at as u64), PIECE.min(len - at));
            memory.read_slice(&mut piece[..len], at).expect("its own memory");
            // What was never touched stays so.
            if piece[..len] != nothing[..len] {
                copy.write_slice(&piece[..len], at).expect("its own memory");
            }
        }
    }
    copy
}

/// Says that `test` could not do its work on this host, and why: on standard error itself, past the test
/// runner's capture, in the form that the summary of all tests counts.
pub fn skipped(test: &str, why: &str) {
    // A test that cannot even say so has nobody who listens.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}

/// A console on two open files, as on standard input and output.
///
/// # Errors
/// [`ConsoleError`].
pub fn console_on(input: OwnedFd, output: OwnedFd) -> Result<Console, ConsoleError> {
    Console::on(input, output)
}

/// A line that counts its edges.
#[derive(Clone, Default)]
pub struct FakeLine(Arc<AtomicUsize>);

impl FakeLine {
    /// How often the line was raised.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl InterruptLine for FakeLine {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// An interrupt on a counting line.
#[must_use]
pub fn fake_interrupt() -> (Interrupt, FakeLine) {
    let line = FakeLine::default();
    (Interrupt::new(Box::new(line.clone())), line)
}
