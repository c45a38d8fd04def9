//! Transfers by way of a buffer of our own: for what direct I/O does not accept, and for zeroes.
//!
//! Works in pieces of one buffer; a caller asks again for the rest. Replacing a part of a block reads,
//! changes and writes the whole block, so such writes take turns on a disk. A request that overlaps one
//! of them has an undefined order on any disk.

use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use super::super::Disk;
use crate::guest_io;

/// Largest piece. Large enough that the extra copy does not matter beside the system call.
const PIECE: usize = 64 << 10;

/// A buffer, allocated when it is first needed.
#[derive(Default)]
pub(super) struct Bounce {
    storage: Vec<u8>,
}

/// The whole blocks around a piece of a transfer.
struct Window {
    start: u64,
    len: usize,
    /// Where the piece begins in the window, and its length.
    skip: usize,
    piece: usize,
}

impl Bounce {
    /// Reads up to `len` bytes at `offset` and hands them to `deliver`. Returns how many; 0 at the end.
    pub(super) fn read(
        &mut self,
        disk: &Disk,
        offset: u64,
        len: u64,
        deliver: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let window = Window::around(disk.alignment, offset, len)?;
        let buffer = self.aligned(disk.alignment, window.len)?;
        let got = guest_io::read_at(disk.file.as_fd(), buffer, window.start)?;
        let end = got.min(window.skip + window.piece);
        let Some(piece) = buffer.get(window.skip..end) else {
            return Ok(0);
        };
        deliver(piece)?;
        Ok(piece.len() as u64)
    }

    /// Writes up to `len` bytes at `offset` that `fill` provides. Returns how many.
    pub(super) fn write(
        &mut self,
        disk: &Disk,
        offset: u64,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let window = Window::around(disk.alignment, offset, len)?;
        let buffer = self.aligned(disk.alignment, window.len)?;
        let mut turn = None;
        if window.piece != window.len {
            turn = Some(disk.partial_write.lock().unwrap_or_else(PoisonError::into_inner));
            guest_io::read_all_at(disk.file.as_fd(), buffer, window.start)?;
        }
        let piece = buffer.get_mut(window.skip..window.skip + window.piece);
        fill(piece.unwrap_or_default())?;
        guest_io::write_all_at(disk.file.as_fd(), buffer, window.start)?;
        drop(turn);
        Ok(window.piece as u64)
    }

    /// `len` bytes of the buffer at an address that is a multiple of `alignment`.
    fn aligned(&mut self, alignment: u64, len: usize) -> io::Result<&mut [u8]> {
        let alignment = usize::try_from(alignment).unwrap_or(PIECE);
        if self.storage.is_empty() {
            self.storage = vec![0; PIECE + alignment];
        }
        let start = self.storage.as_ptr().align_offset(alignment);
        start
            .checked_add(len)
            .and_then(|end| self.storage.get_mut(start..end))
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }
}

impl Window {
    fn around(alignment: u64, offset: u64, len: u64) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let skip = offset % alignment;
        let start = offset - skip;
        let piece = len.min(PIECE as u64 - skip);
        let blocks = (skip + piece).checked_next_multiple_of(alignment).ok_or_else(invalid)?;
        Ok(Self {
            start,
            len: usize::try_from(blocks).map_err(|_| invalid())?,
            skip: usize::try_from(skip).map_err(|_| invalid())?,
            piece: usize::try_from(piece).map_err(|_| invalid())?,
        })
    }
}
