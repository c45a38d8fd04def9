//! An overlay as a file of its own, for a snapshot or for a machine that goes on from one.
//!
//! Its clusters follow each other in the order of the disk. Where the file system can share blocks of files
//! (`FICLONERANGE`: XFS, Btrfs), nothing is copied; where it cannot, what is zero stays a hole.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::format::{self, Header, PAGE_ENTRIES, SNAPSHOT, ZEROES};
use super::table::Table;
use super::{Map, Overlay, Place, sys};
use crate::guest_io;

/// Bytes that are copied at a time: what is zero as a whole is left out.
const PIECE: usize = 64 << 10;

/// Clusters that follow each other in one file.
struct Run<'a> {
    from: &'a File,
    start: u64,
    len: u64,
}

/// The file that is written.
struct Copy<'a> {
    to: &'a File,
    /// How much of it there is.
    end: u64,
    /// Blocks can be shared, as far as is known.
    may_share: bool,
    buffer: Vec<u8>,
}

impl Overlay {
    /// Writes all that differs from the image to the empty file `to`, as an overlay of the same image that is kept, of the
    /// snapshot `id`. Nobody writes to the disk meanwhile. What is written is not durable yet.
    ///
    /// # Errors
    /// The host's.
    pub(in super::super) fn copy_to(&self, to: &File, id: [u8; 16]) -> io::Result<()> {
        let header = self.header;
        let mut map = self.map();
        let mut table = Table::new(header.clusters());
        let mut used = 0;
        let mut copy = Copy { to, end: header.data(0), may_share: true, buffer: Vec::new() };
        let mut run: Option<Run<'_>> = None;
        for page in 0..header.clusters().div_ceil(PAGE_ENTRIES) {
            if !self.may_have(&map, page) {
                continue;
            }
            let first = page * PAGE_ENTRIES;
            for cluster in first..header.clusters().min(first + PAGE_ENTRIES) {
                let (from, start) = match self.place(&mut map, cluster)? {
                    Place::Base => continue,
                    Place::Zeroes => {
                        set(&mut table, cluster, ZEROES)?;
                        continue;
                    }
                    Place::Data(at) => (&*self.file, at),
                    Place::Under(at) => (self.file_under()?, at),
                };
                let entry = format::data_entry(used).ok_or(io::ErrorKind::StorageFull)?;
                set(&mut table, cluster, entry)?;
                used += 1;
                match &mut run {
                    Some(run) if std::ptr::eq(run.from, from) && run.start + run.len == start => {
                        run.len += header.cluster();
                    }
                    _ => {
                        let begun = Run { from, start, len: header.cluster() };
                        run.replace(begun).map_or(Ok(()), |run| copy.add(&run))?;
                    }
                }
            }
        }
        run.map_or(Ok(()), |run| copy.add(&run))?;
        table.write_changes(|page, bytes| {
            guest_io::write_all_at(to.as_fd(), bytes, Header::table_page(page))
        })?;
        // It is as long as its clusters say, also where the last of them is zero.
        if to.metadata()?.len() < copy.end {
            guest_io::write_all_at(to.as_fd(), &[0], copy.end - 1)?;
        }
        guest_io::write_all_at(to.as_fd(), &id, SNAPSHOT)?;
        guest_io::write_all_at(to.as_fd(), &header.to_bytes(), 0)
    }

    /// Whether a piece of the table may say anything.
    fn may_have(&self, map: &Map, page: u64) -> bool {
        let under = self.under.as_ref();
        self.has_table
            || map.table.has(page)
            || under.is_some_and(|under| under.may_have(&under.map(), page))
    }
}

/// Copies all of a file. What is zero stays a hole.
pub(super) fn copy_file(from: &File, to: &File) -> io::Result<()> {
    let len = from.metadata()?.len();
    let mut copy = Copy { to, end: 0, may_share: true, buffer: Vec::new() };
    let whole = len - len % PIECE as u64;
    if whole > 0 {
        copy.add(&Run { from, start: 0, len: whole })?;
    }
    let mut rest = vec![0; usize::try_from(len - whole).unwrap_or(0)];
    guest_io::read_all_at(from.as_fd(), &mut rest, whole)?;
    guest_io::write_all_at(to.as_fd(), &rest, whole)?;
    to.set_len(len)
}

/// Says where a cluster of the copy is.
fn set(table: &mut Table, cluster: u64, entry: u32) -> io::Result<()> {
    table.get(cluster, |_, _| Ok(()))?;
    table.set(cluster, entry);
    Ok(())
}

impl Copy<'_> {
    fn add(&mut self, run: &Run<'_>) -> io::Result<()> {
        self.may_share &= sys::share(run.from, run.start, run.len, self.to, self.end).is_ok();
        if !self.may_share {
            self.copy(run)?;
        }
        self.end += run.len;
        Ok(())
    }

    fn copy(&mut self, run: &Run<'_>) -> io::Result<()> {
        self.buffer.resize(PIECE, 0);
        // Clusters are multiples of it.
        for offset in (0..run.len).step_by(PIECE) {
            guest_io::read_all_at(run.from.as_fd(), &mut self.buffer, run.start + offset)?;
            if self.buffer.iter().any(|byte| *byte != 0) {
                guest_io::write_all_at(self.to.as_fd(), &self.buffer, self.end + offset)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
