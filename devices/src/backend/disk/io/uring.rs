//! The io_uring engine: everything that a queue holds goes to the host in one call, and comes back in
//! any order. A read that comes alone is tried without the ring first: what the page cache has is there at
//! once, for the price of the plainest call.
//!
//! The ring is borrowed ([`Rings`]) and can do nothing but transfers on this one disk. Whoever waits for completions
//! watches the ring's own descriptor, so that there is no eventfd to read.

#![expect(unsafe_code, reason = "the kernel is given pointers that it follows after the call")]

use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use super::super::Disk;
use super::clear::Way;
use super::rings::{NO_FILE, Rings};
use super::sync::SyncIo;
use super::{DiskIo, Op, Outcome, Started};
use crate::guest_io::IoVecs;
use crate::memory::{Buffers, GuestMemory, Segment};

/// The disk's place in the ring's table of files.
const DISK: Fixed = Fixed(0);
/// The most that one transfer moves (`MAX_RW_COUNT`); the rest is a short transfer.
const MAX_TRANSFER: usize = 0x7fff_f000;

/// A ring for one queue.
pub(super) struct UringIo {
    ring: Borrowed,
    /// The ring is for a disk that is not in use any more.
    is_ring_stale: bool,
    slots: Vec<Slot>,
    in_flight: usize,
    /// A read that may be all there is to submit; not in the ring yet.
    alone: Option<Alone>,
    /// How such a read ended, if it did without the ring.
    at_once: Option<(u16, Outcome)>,
    /// The disk cannot tell whether a read would wait.
    always_waits: bool,
    /// Does what the ring cannot, and keeps the disk open and the guest's memory mapped.
    sync: SyncIo,
}

/// A ring that goes back to where it came from.
struct Borrowed {
    ring: ManuallyDrop<IoUring>,
    owner: Rings,
    /// Nobody knows what is in flight.
    is_lost: bool,
}

/// What belongs to one token.
#[derive(Default)]
struct Slot {
    /// Followed by the kernel from `start` until `submit`.
    iovecs: IoVecs,
    pending: Option<Pending>,
    /// The kernel had no means for the operation; it is begun again without the ring.
    without_ring: bool,
}

struct Alone {
    token: u16,
    offset: u64,
    entry: squeue::Entry,
}

#[derive(Clone, Copy)]
struct Pending {
    op: Op,
    /// How the range is being cleared, if that is what the operation does.
    way: Option<Way>,
}

impl UringIo {
    /// One of `rings` for `depth` operations at a time on `disk`.
    ///
    /// # Errors
    /// When there is none, or it does not take the disk.
    pub(super) fn open(
        rings: &Rings,
        disk: &Arc<Disk>,
        depth: u16,
        memory: &GuestMemory,
    ) -> io::Result<Self> {
        let ring = rings.take().ok_or_else(|| io::Error::other("there is no ring"))?;
        let ring = Borrowed { ring: ManuallyDrop::new(ring), owner: rings.clone(), is_lost: false };
        ring.submitter().register_files_update(DISK.0, &[disk.file.as_raw_fd()])?;
        let mut slots = Vec::new();
        slots.resize_with(usize::from(depth), Slot::default);
        Ok(Self {
            ring,
            is_ring_stale: false,
            slots,
            in_flight: 0,
            alone: None,
            at_once: None,
            always_waits: disk.is_direct(),
            sync: SyncIo::new(disk.clone(), memory.clone()),
        })
    }

    /// The ring's form of `op`; `None` when the ring cannot do it.
    fn entry(&mut self, token: u16, op: Op, segments: &[Segment]) -> Option<squeue::Entry> {
        let slot = self.slots.get_mut(usize::from(token))?;
        if std::mem::take(&mut slot.without_ring) || self.is_ring_stale {
            return None;
        }
        let disk = self.sync.disk();
        let mut way = None;
        let entry = match op {
            Op::Read { offset, start, len } | Op::Write { offset, start, len } => {
                let buffers = Buffers::new(self.sync.memory(), segments);
                if !disk.takes(offset, &buffers, start, len) {
                    return None;
                }
                let iovecs = slot.iovecs.point_at(&buffers, start, len).ok()?;
                let count = u32::try_from(iovecs.len()).ok()?;
                let is_read = matches!(op, Op::Read { .. });
                match iovecs {
                    // A single piece needs no list, which the kernel would have to fetch.
                    [one] => {
                        let (base, len) = (one.iov_base.cast(), one.iov_len.min(MAX_TRANSFER));
                        let len = u32::try_from(len).ok()?;
                        if is_read {
                            opcode::Read::new(DISK, base, len).offset(offset).build()
                        } else {
                            opcode::Write::new(DISK, base, len).offset(offset).build()
                        }
                    }
                    list if is_read => {
                        opcode::Readv::new(DISK, list.as_ptr(), count).offset(offset).build()
                    }
                    list => opcode::Writev::new(DISK, list.as_ptr(), count).offset(offset).build(),
                }
            }
            Op::Sync => opcode::Fsync::new(DISK).flags(FsyncFlags::DATASYNC).build(),
            Op::Discard { offset, len } | Op::Zero { offset, len, .. } => {
                let chosen = disk.way_to_clear(op);
                way = Some(chosen);
                opcode::Fallocate::new(DISK, len)
                    .offset(offset)
                    .mode(chosen.fallocate_mode()?)
                    .build()
            }
        };
        slot.pending = Some(Pending { op, way });
        Some(entry.user_data(u64::from(token)))
    }

    /// Puts an entry into the ring; `false` when it has no room.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries come from `entry`: they point into guest memory, which `self.sync` keeps mapped,
        // and to their slot's list of iovecs, which is not touched again before the token's completion;
        // dropping `self` waits for all completions first.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Puts the read that was kept apart into the ring, if there is one.
    fn join_in(&mut self) {
        if let Some(Alone { token, entry, .. }) = self.alone.take()
            && !self.push(&entry)
        {
            // It was kept because the ring was empty.
            self.at_once = Some((token, Err(io::ErrorKind::WouldBlock.into())));
        }
    }

    /// Tries the read that was kept apart; `false` when there is none, or when it has to wait.
    fn read_at_once(&mut self) -> bool {
        let Some(Alone { token, offset, .. }) = &self.alone else {
            return false;
        };
        let Some(slot) = self.slots.get_mut(usize::from(*token)) else {
            return false;
        };
        let file = self.sync.disk().file.as_fd();
        // SAFETY: `self.sync` keeps the guest's memory mapped.
        match unsafe { slot.iovecs.read_without_waiting(file, *offset) } {
            Ok(done) => {
                slot.pending = None;
                self.at_once = Some((*token, Ok(done as u64)));
                self.alone = None;
                true
            }
            Err(error) => {
                self.always_waits |= error.raw_os_error() == Some(libc::EOPNOTSUPP);
                false
            }
        }
    }

    /// What the kernel's `result` for the operation of `token` means.
    fn outcome(&mut self, token: u16, result: i32) -> Outcome {
        let pending = self.slots.get_mut(usize::from(token)).and_then(|slot| slot.pending.take());
        let Some(Pending { op, way }) = pending else {
            return Err(io::Error::other("completion of an operation that was not begun"));
        };
        // No memory or no worker thread for it (a tight limit on processes), or the thread that
        // submitted it has ended: not the disk's fault.
        if matches!(result.checked_neg(), Some(libc::EAGAIN | libc::ECANCELED)) {
            if let Some(slot) = self.slots.get_mut(usize::from(token)) {
                slot.without_ring = true;
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let outcome = u64::try_from(result)
            .map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
        match (op, way, outcome) {
            (Op::Discard { len, .. } | Op::Zero { len, .. }, _, Ok(_)) => Ok(len),
            (_, Some(way), Err(error)) => match self.sync.disk().way_after(op, way, &error) {
                Some(next) => self.sync.clear(op, next),
                None => Err(error),
            },
            (_, _, outcome) => outcome,
        }
    }
}

impl DiskIo for UringIo {
    fn start(&mut self, token: u16, op: Op, segments: &[Segment]) -> Started {
        let Some(entry) = self.entry(token, op, segments) else {
            return Started::Done(self.sync.run(op, segments));
        };
        let may_be_alone = !self.always_waits && self.ring.submission().is_empty();
        match op {
            Op::Read { offset, .. } if may_be_alone && self.alone.is_none() => {
                self.alone = Some(Alone { token, offset, entry });
            }
            _ => {
                self.join_in();
                if !self.push(&entry) {
                    // More in flight than the depth allows: slower, but still right.
                    self.slots.get_mut(usize::from(token)).and_then(|slot| slot.pending.take());
                    return Started::Done(self.sync.run(op, segments));
                }
            }
        }
        self.in_flight += 1;
        Started::InFlight
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.read_at_once() {
            return Ok(());
        }
        self.join_in();
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing taken and no reason given: no use asking again at once.
                Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                other => drop(other?),
            }
        }
        Ok(())
    }

    fn completed(&mut self) -> Option<(u16, Outcome)> {
        if let Some(done) = self.at_once.take() {
            self.in_flight = self.in_flight.saturating_sub(1);
            return Some(done);
        }
        let completion = self.ring.completion().next()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        let token = u16::try_from(completion.user_data()).unwrap_or(u16::MAX);
        Some((token, self.outcome(token, completion.result())))
    }

    fn wait(&mut self) -> io::Result<()> {
        self.join_in();
        while self.at_once.is_none() && self.ring.completion().is_empty() {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    fn set_disk(&mut self, disk: Arc<Disk>) {
        let files = [disk.file.as_raw_fd()];
        let replaced = self.ring.submitter().register_files_update(DISK.0, &files);
        self.is_ring_stale = replaced.is_err();
        if let Err(error) = replaced {
            let path = disk.path();
            log::warn!(
                "disk {path:?}: the ring does not take it ({error}): transfers are waited for"
            );
        }
        self.always_waits = disk.is_direct();
        self.sync.set_disk(disk);
    }

    fn completion_fd(&self) -> Option<RawFd> {
        Some(self.ring.as_raw_fd())
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if let Err(error) = self.wait() {
                log::error!("disk {:?}: the ring is lost: {error}", self.sync.disk().path());
                // The kernel may still follow pointers into guest memory, so it stays mapped for good.
                std::mem::forget(self.sync.memory().clone());
                self.ring.is_lost = true;
                return;
            }
            while self.completed().is_some() {}
        }
    }
}

impl Deref for Borrowed {
    type Target = IoUring;

    fn deref(&self) -> &IoUring {
        &self.ring
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut IoUring {
        &mut self.ring
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // A ring keeps its file open, and a disk that is open is locked.
        let is_empty = self.submitter().register_files_update(DISK.0, &[NO_FILE]).is_ok();
        // SAFETY: nobody else takes it, and nobody uses it after this.
        let ring = unsafe { ManuallyDrop::take(&mut self.ring) };
        if is_empty && !self.is_lost {
            self.owner.give_back(ring);
        }
    }
}

#[cfg(test)]
mod tests;
