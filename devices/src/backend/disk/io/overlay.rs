//! The engine of a disk with an overlay: system calls, each over when it returns.
//!
//! Each operation does as much as lies in one place and says how much that was; its caller asks for the rest.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::super::Disk;
use super::super::overlay::{Map, Overlay, Place};
use super::{DiskIo, Op, Outcome, Started};
use crate::guest_io::{self, IoVecs};
use crate::memory::{Buffers, GuestMemory, Segment};

/// Zeroes that are copied at a time.
const ZEROES: [u8; 4096] = [0; 4096];

/// One queue of a disk with an overlay.
pub(super) struct OverlayIo {
    disk: Arc<Disk>,
    overlay: Arc<Overlay>,
    memory: GuestMemory,
    iovecs: IoVecs,
    /// One cluster, when it was first needed.
    cluster: Vec<u8>,
}

/// What a part of a cluster is replaced by.
enum Patch<'a> {
    /// The bytes of a buffer from a position on.
    Bytes(Buffers<'a>, usize),
    Zeroes,
}

impl OverlayIo {
    pub(super) fn new(disk: Arc<Disk>, overlay: Arc<Overlay>, memory: GuestMemory) -> Self {
        Self { disk, overlay, memory, iovecs: IoVecs::new(), cluster: Vec::new() }
    }

    fn run(&mut self, op: Op, segments: &[Segment]) -> Outcome {
        match op {
            Op::Read { offset, start, len } => self.read(offset, segments, start, len),
            Op::Write { offset, start, len } => self.write(offset, segments, start, len),
            Op::Sync => self.overlay.flush().map(|()| 0),
            Op::Discard { offset, len } => self.clear(offset, len, false),
            Op::Zero { offset, len, .. } => self.clear(offset, len, true),
        }
    }

    fn read(&mut self, offset: u64, segments: &[Segment], start: usize, len: usize) -> Outcome {
        let to = Buffers::new(&self.memory, segments);
        let (place, run) = self.overlay.run(&mut self.overlay.map(), offset, len as u64)?;
        let len = usize::try_from(run).unwrap_or(len);
        let n = match place {
            Place::Base => self.iovecs.read_at(self.disk.file.as_fd(), offset, &to, start, len)?,
            Place::Data(at) => {
                self.iovecs.read_at(self.overlay.file.as_fd(), at, &to, start, len)?
            }
            Place::Under(at) => {
                self.iovecs.read_at(self.overlay.file_under()?.as_fd(), at, &to, start, len)?
            }
            Place::Zeroes => {
                let piece = ZEROES.get(..len.min(ZEROES.len())).unwrap_or_default();
                to.write_at(start, piece).map_err(io::Error::other)?
            }
        };
        Ok(n as u64)
    }

    fn write(&mut self, offset: u64, segments: &[Segment], start: usize, len: usize) -> Outcome {
        let Self { overlay, memory, iovecs, .. } = self;
        let from = Buffers::new(memory, segments);
        let size = overlay.cluster();
        let mut map = overlay.map();
        let (place, run) = overlay.run(&mut map, offset, len as u64)?;
        if let Place::Data(at) = place {
            drop(map);
            let len = usize::try_from(run).unwrap_or(len);
            let n = iovecs.write_at(overlay.file.as_fd(), at, &from, start, len)?;
            return Ok(n as u64);
        }
        let (cluster, count) = (offset / size, run / size);
        if !offset.is_multiple_of(size) || count == 0 {
            let piece = (size - offset % size).min(len as u64);
            let memory = memory.clone();
            let patch = Patch::Bytes(Buffers::new(&memory, segments), start);
            patch_cluster(
                overlay,
                &self.disk,
                &mut map,
                &mut self.cluster,
                (offset, piece),
                &patch,
            )?;
            return Ok(piece);
        }
        let at = overlay.claim(&mut map, cluster, count)?;
        let bytes = usize::try_from(count * size).unwrap_or(len);
        let mut done = 0;
        while done < bytes {
            let (to, rest) = (at + done as u64, bytes - done);
            match iovecs.write_at(overlay.file.as_fd(), to, &from, start + done, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        overlay.settle(&mut map, cluster, count)?;
        Ok(count * size)
    }

    /// Zeroes a range, or (not `must_be_zero`) lets go of what of it is easy to let go of.
    fn clear(&mut self, offset: u64, len: u64, must_be_zero: bool) -> Outcome {
        let Self { overlay, disk, cluster: buffer, .. } = self;
        let size = overlay.cluster();
        let mut map = overlay.map();
        let (cluster, count) = (offset / size, len / size);
        if !offset.is_multiple_of(size) || count == 0 {
            let piece = (size - offset % size).min(len);
            let (place, _) = overlay.run(&mut map, offset, piece)?;
            if must_be_zero && place != Place::Zeroes {
                patch_cluster(overlay, disk, &mut map, buffer, (offset, piece), &Patch::Zeroes)?;
            }
            return Ok(piece);
        }
        let (place, run) = overlay.run(&mut map, offset, count * size)?;
        match place {
            Place::Data(at) => overlay.clear_data(at, run)?,
            Place::Base | Place::Under(_) if must_be_zero => {
                overlay.make_zero(&mut map, cluster, run / size)?;
            }
            Place::Base | Place::Under(_) | Place::Zeroes => {}
        }
        Ok(run)
    }
}

/// Replaces a part of one cluster, `(offset, len)` on the disk, which may be in any place.
fn patch_cluster(
    overlay: &Overlay,
    disk: &Disk,
    map: &mut Map,
    buffer: &mut Vec<u8>,
    (offset, len): (u64, u64),
    patch: &Patch<'_>,
) -> io::Result<()> {
    let size = overlay.cluster();
    let (cluster, skip) = (offset / size, offset % size);
    let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let part = index(skip)..index(skip + len);
    buffer.resize(index(size), 0);
    let (place, _) = overlay.run(map, cluster * size, size)?;
    match place {
        Place::Zeroes => buffer.fill(0),
        Place::Base => {
            buffer.fill(0);
            // The image may end within its last cluster.
            let end = index(size.min((disk.sectors() * super::super::SECTOR) - cluster * size));
            let whole = buffer.get_mut(..end).unwrap_or_default();
            guest_io::read_all_at(disk.file.as_fd(), whole, cluster * size)?;
        }
        Place::Under(at) => guest_io::read_all_at(overlay.file_under()?.as_fd(), buffer, at)?,
        // Only what is patched is written.
        Place::Data(_) => {}
    }
    let to = buffer.get_mut(part.clone()).unwrap_or_default();
    match patch {
        Patch::Bytes(from, start) => {
            from.read_at(*start, to).map_err(io::Error::other)?;
        }
        Patch::Zeroes => to.fill(0),
    }
    if let Place::Data(at) = place {
        let part = buffer.get(part).unwrap_or_default();
        return guest_io::write_all_at(overlay.file.as_fd(), part, at + skip);
    }
    let at = overlay.claim(map, cluster, 1)?;
    guest_io::write_all_at(overlay.file.as_fd(), buffer, at)?;
    overlay.settle(map, cluster, 1)
}

impl DiskIo for OverlayIo {
    fn start(&mut self, _token: u16, op: Op, segments: &[Segment]) -> Started {
        Started::Done(self.run(op, segments))
    }

    fn set_disk(&mut self, disk: Arc<Disk>) {
        // The same image, looked at again, has the same overlay.
        self.disk = disk;
    }
}
