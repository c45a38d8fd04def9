//! The synchronous engine: each operation is one system call, and over when it returns.
//!
//! Also does for the ring what a ring cannot do.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::super::{Disk, sys};
use super::bounce::Bounce;
use super::clear::Way;
use super::{DiskIo, Op, Outcome, Started};
use crate::guest_io::IoVecs;
use crate::memory::{Buffers, GuestMemory, Segment};

/// Plain system calls on one disk and one guest's memory.
pub(super) struct SyncIo {
    disk: Arc<Disk>,
    memory: GuestMemory,
    iovecs: IoVecs,
    bounce: Bounce,
}

impl SyncIo {
    pub(super) fn new(disk: Arc<Disk>, memory: GuestMemory) -> Self {
        Self { disk, memory, iovecs: IoVecs::new(), bounce: Bounce::default() }
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(super) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Does `op` and returns when it is over.
    pub(super) fn run(&mut self, op: Op, segments: &[Segment]) -> Outcome {
        match op {
            Op::Read { offset, start, len } => self.read(offset, segments, start, len),
            Op::Write { offset, start, len } => self.write(offset, segments, start, len),
            Op::Sync => self.disk.file.sync_data().map(|()| 0),
            Op::Discard { .. } | Op::Zero { .. } => self.clear(op, self.disk.way_to_clear(op)),
        }
    }

    /// Clears the range of `op`, trying `way` first.
    pub(super) fn clear(&mut self, op: Op, mut way: Way) -> Outcome {
        let (Op::Discard { offset, len } | Op::Zero { offset, len, .. }) = op else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        loop {
            let outcome = match (way, way.fallocate_mode()) {
                (_, Some(mode)) => sys::fallocate(&self.disk.file, mode, offset, len).map(|()| len),
                (Way::DeviceDiscard, _) => {
                    sys::device_discard(&self.disk.file, offset, len).map(|()| len)
                }
                (Way::Ignore, _) => Ok(len),
                _ => self.bounce.write(&self.disk, offset, len, |to| {
                    to.fill(0);
                    Ok(())
                }),
            };
            match outcome.as_ref().err().and_then(|e| self.disk.way_after(op, way, e)) {
                Some(next) => way = next,
                None => return outcome,
            }
        }
    }

    fn read(&mut self, offset: u64, segments: &[Segment], start: usize, len: usize) -> Outcome {
        let to = Buffers::new(&self.memory, segments);
        if self.disk.takes(offset, &to, start, len) {
            let n = self.iovecs.read_at(self.disk.file.as_fd(), offset, &to, start, len)?;
            return Ok(n as u64);
        }
        self.bounce.read(&self.disk, offset, len as u64, |piece| {
            to.write_at(start, piece).map(drop).map_err(io::Error::other)
        })
    }

    fn write(&mut self, offset: u64, segments: &[Segment], start: usize, len: usize) -> Outcome {
        let from = Buffers::new(&self.memory, segments);
        if self.disk.takes(offset, &from, start, len) {
            let n = self.iovecs.write_at(self.disk.file.as_fd(), offset, &from, start, len)?;
            return Ok(n as u64);
        }
        self.bounce.write(&self.disk, offset, len as u64, |piece| {
            from.read_at(start, piece).map(drop).map_err(io::Error::other)
        })
    }
}

impl DiskIo for SyncIo {
    fn start(&mut self, _token: u16, op: Op, segments: &[Segment]) -> Started {
        Started::Done(self.run(op, segments))
    }

    fn set_disk(&mut self, disk: Arc<Disk>) {
        self.disk = disk;
    }
}

impl Disk {
    /// Whether the host transfers `len` bytes between `offset` and `buffers` from `start` on as they
    /// are. Always, unless the page cache is bypassed.
    pub(super) fn takes(
        &self,
        offset: u64,
        buffers: &Buffers<'_>,
        start: usize,
        len: usize,
    ) -> bool {
        if self.alignment == 1 {
            return true;
        }
        let fits = |n: u64| n.is_multiple_of(self.alignment);
        let mut all = fits(offset);
        let visited = buffers.visit(start, len, |slice| {
            let address = slice.ptr_guard().as_ptr().addr();
            all &= fits(address as u64) && fits(slice.len() as u64);
        });
        // An inaccessible buffer goes the plain way, which reports it.
        all || visited.is_err()
    }
}
