//! Rings of io_uring for the queues of a disk, made before there is a guest.
//!
//! A ring can do what its maker's filter of system calls forbids, so that nobody may make one while a guest runs. Each
//! can do nothing but transfers on the one file that is lent to it: before it is enabled it is restricted to a handful
//! of operations and to one place for a file, which may be replaced. An engine borrows a ring and gives it back.

use std::fmt;
use std::io;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};

use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, register::Restriction};

use crate::backend::uring;

/// Entries of a ring, as many as the largest queue has.
pub(super) const DEPTH: u32 = 256;
/// Everything that a ring may be asked for.
const OPERATIONS: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];
/// The one thing that may be done to a ring later: replacing the file (`IORING_REGISTER_FILES_UPDATE`).
const REPLACE_FILE: u8 = 6;
/// No file in the place for it.
pub(super) const NO_FILE: i32 = -1;

/// Rings that nobody uses at the moment; none by default. Copies share them.
#[derive(Clone, Default)]
pub struct Rings(Arc<Mutex<Vec<IoUring>>>);

impl Rings {
    /// A ring for each of that many queues, or none at all where the host does not permit them, which the log tells.
    #[must_use]
    pub fn for_queues(queues: NonZeroU16) -> Self {
        let made: io::Result<Vec<_>> = (0..queues.get()).map(|_| make()).collect();
        let rings = made.unwrap_or_else(|error| {
            log::warn!("io_uring is not available ({error}): every transfer will be waited for");
            Vec::new()
        });
        Self(Arc::new(Mutex::new(rings)))
    }

    pub(super) fn take(&self) -> Option<IoUring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(super) fn give_back(&self, ring: IoUring) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(ring);
    }
}

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        write!(f, "{count} rings")
    }
}

/// # Errors
/// When the kernel does not allow io_uring, or is too old to restrict one (before 5.10).
fn make() -> io::Result<IoUring> {
    let ring = uring::disabled(DEPTH)?;
    let submitter = ring.submitter();
    submitter.register_files(&[NO_FILE])?;
    let fixed_file = Flags::FIXED_FILE.bits();
    let mut restrictions: Vec<_> = OPERATIONS.map(Restriction::sqe_op).into_iter().collect();
    restrictions.push(Restriction::sqe_flags_allowed(fixed_file));
    restrictions.push(Restriction::sqe_flags_required(fixed_file));
    restrictions.push(Restriction::register_op(REPLACE_FILE));
    submitter.register_restrictions(&mut restrictions)?;
    submitter.register_enable_rings()?;
    Ok(ring)
}
