//! Many frames in one system call: a ring through which one queue of a tap sends and receives.
//!
//! The kernel moves them one after the other while they are submitted, and its network stack takes them over
//! together, which costs two thirds of what as many calls do. The ring can do nothing but read and write; it holds
//! no file, because files held by a ring outlive their process for a moment, and a tap would be busy for its
//! successor.

#![expect(unsafe_code, reason = "the kernel is given pointers that it follows after the call")]

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, register::Restriction, squeue};

use super::{Frames, Slots};
use crate::backend::uring;
use crate::guest_io::IoVecs;
use crate::memory::GuestMemory;

/// Most frames in one call.
const DEPTH: u32 = 32;
/// How often in a row the kernel may do nothing, for lack of memory or because of a signal.
const PATIENCE: u32 = 100;
/// Not a place in a file.
const NO_OFFSET: u64 = u64::MAX;
/// At once or not at all: nothing is left for later.
const AT_ONCE: libc::c_int = libc::RWF_NOWAIT;

/// The ring is of no use any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// A ring for the frames of one queue.
pub(super) struct FrameRing {
    ring: IoUring,
    /// Where in the list of pieces each frame of the batch is, or why it is nowhere.
    places: Vec<io::Result<Range<usize>>>,
    /// What became of each.
    results: Vec<Option<i32>>,
}

impl FrameRing {
    /// # Errors
    /// When the kernel does not allow io_uring, or is too old to restrict one (before 5.10).
    pub(super) fn open() -> io::Result<Self> {
        let ring = uring::disabled(DEPTH)?;
        let mut restrictions = [opcode::Writev::CODE, opcode::Read::CODE].map(Restriction::sqe_op);
        ring.submitter().register_restrictions(&mut restrictions)?;
        ring.submitter().register_enable_rings()?;
        Ok(Self { ring, places: Vec::new(), results: Vec::new() })
    }

    /// Sends `frames` to `tap`, a few dozen in each call, and tells `sent` in their order how long each is and
    /// what became of it.
    ///
    /// # Errors
    /// [`Lost`] when the ring is not to be used again; `sent` has been told of every frame all the same.
    pub(super) fn send(
        &mut self,
        tap: BorrowedFd<'_>,
        iovecs: &mut IoVecs,
        memory: &GuestMemory,
        frames: &Frames,
        sent: &mut dyn FnMut(usize, io::Result<usize>),
    ) -> Result<(), Lost> {
        iovecs.clear();
        self.places.clear();
        self.places.extend(frames.iter(memory).map(|frame| iovecs.append(&frame)));
        self.begin(self.places.len());
        let mut outcome = Ok(());
        let mut next = 0;
        while next < self.places.len() && outcome.is_ok() {
            let (submitted, after) = self.push_frames(tap, iovecs, next);
            outcome = self.complete(submitted);
            next = after;
        }
        if outcome.is_err() {
            // Should the kernel still follow a pointer, it finds what it was promised.
            std::mem::forget(memory.clone());
        }
        let places = self.places.drain(..).zip(&self.results);
        for (frame, (place, &result)) in frames.iter(memory).zip(places) {
            sent(frame.len(), place.and_then(|_| outcome_of(result)));
        }
        outcome
    }

    /// Takes frames off `tap`, one into each of the wanted slots, and tells `came` in order what became of each
    /// attempt.
    ///
    /// # Errors
    /// [`Lost`] when the ring is not to be used again; the slots hold nothing then.
    pub(super) fn receive(
        &mut self,
        tap: BorrowedFd<'_>,
        slots: &mut Slots,
        came: &mut dyn FnMut(io::Result<usize>),
    ) -> Result<(), Lost> {
        let mut submitted = 0;
        for slot in slots.iter_mut() {
            let len = u32::try_from(slot.len()).unwrap_or(u32::MAX);
            let entry = opcode::Read::new(Fd(tap.as_raw_fd()), slot.as_mut_ptr(), len)
                .offset(NO_OFFSET)
                .rw_flags(AT_ONCE)
                .build();
            // SAFETY: the slot is borrowed until `complete`, below, has waited for the kernel to finish; should
            // that fail, its memory is never freed.
            if !unsafe { push(&mut self.ring, entry, submitted) } {
                break;
            }
            submitted += 1;
        }
        self.begin(submitted);
        let outcome = self.complete(submitted);
        if outcome.is_err() {
            slots.leak();
            return outcome;
        }
        for &result in &self.results {
            came(outcome_of(result));
        }
        Ok(())
    }

    fn begin(&mut self, count: usize) {
        self.results.clear();
        self.results.resize(count, None);
    }

    /// Puts frames from `next` on into the ring until it is full. Returns how many, and the first that is not there.
    fn push_frames(&mut self, tap: BorrowedFd<'_>, iovecs: &IoVecs, next: usize) -> (usize, usize) {
        let (mut count, mut at) = (0, next);
        while let Some(place) = self.places.get(at) {
            if let Ok(place) = place {
                let pieces = iovecs.pieces(place.clone());
                let len = u32::try_from(pieces.len()).unwrap_or(0);
                let entry = opcode::Writev::new(Fd(tap.as_raw_fd()), pieces.as_ptr(), len)
                    .offset(NO_OFFSET)
                    .rw_flags(AT_ONCE)
                    .build();
                // SAFETY: the pieces point into guest memory, which the caller of `send` keeps mapped. Neither
                // they nor their list change until `complete`, the next step, has waited for the kernel to finish.
                if !unsafe { push(&mut self.ring, entry, at) } {
                    break;
                }
                count += 1;
            }
            at += 1;
        }
        (count, at)
    }

    /// Submits what is in the ring and waits until all `count` are done, which they are when the call returns.
    fn complete(&mut self, count: usize) -> Result<(), Lost> {
        let (mut done, mut failures) = (0, 0);
        while done < count {
            let submitted = self.ring.submit_and_wait(count - done);
            let before = done;
            for completion in self.ring.completion() {
                done += 1;
                let index = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                if let Some(result) = self.results.get_mut(index) {
                    *result = Some(completion.result());
                }
            }
            if done > before {
                failures = 0;
                continue;
            }
            failures += 1;
            if failures == PATIENCE || submitted.is_err_and(|error| !is_passing(&error)) {
                return Err(Lost);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for FrameRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameRing").field("ring", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

/// Puts one operation, the `index`th of its batch, into the ring; `false` when it is full.
///
/// # Safety
/// What the operation points to stays as it is until the kernel has finished.
unsafe fn push(ring: &mut IoUring, entry: squeue::Entry, index: usize) -> bool {
    let entry = entry.user_data(index as u64);
    // SAFETY: the caller's promise.
    unsafe { ring.submission().push(&entry) }.is_ok()
}

fn outcome_of(result: Option<i32>) -> io::Result<usize> {
    let result = result.unwrap_or(-libc::EIO);
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

#[cfg(test)]
mod tests;
