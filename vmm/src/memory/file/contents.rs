//! What of a machine's memory is written to a file: which pages may hold something, and the writing of them.
//!
//! The pages are found in two steps, because the second may be done by a process that may not ask for memory
//! ([`super::writer`]): [`Contents::of`] asks files and allocates all that is needed, [`Contents::find`] and
//! [`Contents::write`] allocate nothing.

#![expect(unsafe_code, reason = "guest memory is read and written by address")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use devices::guest_io;
use devices::memory::GuestMemory;
use vm_memory::{FileOffset, GuestMemoryBackend, GuestMemoryRegion};

use super::{Layer, MAGIC, PAGE, PAGE_SIZE, Run, TRAILER, Which, extent, mapped, uffd, write_from};

/// Entries of the page map that are read at a time, each of a page.
const ENTRIES: usize = 8 << 10;
/// Most bytes that are written by one call: between two of them, who writes looks whether it is still wanted.
const PIECE: usize = 1 << 20;

/// Bits of an entry (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// The page is a file's, not one of this process alone.
const OF_FILE: u64 = 1 << 61;

/// See the module.
pub(super) struct Contents {
    which: Which,
    regions: Vec<Region>,
    /// Room for a part of the page map.
    entries: Vec<u8>,
}

/// A range of RAM.
struct Region {
    /// Its address in this process.
    start: usize,
    /// Where it is in the file.
    base: u64,
    /// The pages that may hold something.
    pages: Bits,
}

impl Contents {
    /// Those of `memory`, which is at rest and was mapped from `under`, as far as files tell of them.
    pub(super) fn of(memory: &GuestMemory, which: Which, under: &[Layer]) -> io::Result<Self> {
        let mut regions = Vec::new();
        let mut base = 0;
        for region in memory.iter() {
            let (start, len) = extent(region).ok_or(io::ErrorKind::InvalidInput)?;
            let mut pages = Bits::new(len / PAGE_SIZE);
            if which == Which::All {
                if uffd::is_provided() {
                    // What nobody touched is its provider's, and is asked for.
                    pages.set(0..pages.count);
                }
                mark_files(&mut pages, start, base, under, region.file_offset())?;
            }
            regions.push(Region { start, base, pages });
            base += region.len();
        }
        Ok(Self { which, regions, entries: vec![0; ENTRIES * size_of::<u64>()] })
    }

    /// Those that the process has, whatever files tell.
    pub(super) fn of_process(memory: &GuestMemory) -> io::Result<Self> {
        Ok(Self { which: Which::All, ..Self::of(memory, Which::Changed, &[])? })
    }

    /// Adds what the process has touched or written to, by its page map, if it has one. Allocates nothing.
    pub(super) fn find(&mut self, page_map: Option<&File>) -> io::Result<()> {
        let Self { which, regions, entries } = self;
        regions
            .iter_mut()
            .try_for_each(|it| mark_touched(&mut it.pages, it.start, *which, page_map, entries))
    }

    /// The pages that may hold something.
    pub(super) fn runs(&self) -> Vec<Run> {
        let of = |region: &Region| {
            let base = region.base / PAGE;
            let run = move |Range { start, end }| Run {
                first: base + start as u64,
                count: (end - start) as u64,
            };
            region.pages.runs().map(run).collect::<Vec<_>>()
        };
        self.regions.iter().flat_map(of).collect()
    }

    /// Writes those of them that are not zero; the others are holes. Allocates nothing. Before each call that writes,
    /// `goes_on` may end it.
    pub(super) fn write(
        &self,
        to: &File,
        goes_on: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        for Region { start, base, pages } in &self.regions {
            for run in pages.runs() {
                write_run(*start, run, to, *base, goes_on)?;
            }
        }
        Ok(())
    }
}

/// Writes the page at the end of the file `to`, which says that it has the memory of the snapshot `id`.
pub(super) fn write_trailer(memory: &GuestMemory, to: &File, id: [u8; 16]) -> io::Result<()> {
    let ram: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
    let mut trailer = Vec::with_capacity(TRAILER);
    trailer.extend(MAGIC);
    trailer.extend(id);
    trailer.extend(ram.to_le_bytes());
    trailer.resize(PAGE_SIZE, 0);
    // By the same call as all the rest.
    guest_io::write_all_at(to.as_fd(), &trailer, ram)
}

/// Marks the pages that this process has, or those that it has written to.
fn mark_touched(
    pages: &mut Bits,
    start: usize,
    which: Which,
    page_map: Option<&File>,
    entries: &mut [u8],
) -> io::Result<()> {
    let Some(map) = page_map else {
        // Nobody knows, so each is looked at.
        if which == Which::All {
            pages.set(0..pages.count);
            return Ok(());
        }
        return Err(io::ErrorKind::Unsupported.into());
    };
    for first in (0..pages.count).step_by(ENTRIES) {
        let count = ENTRIES.min(pages.count - first);
        let entries = entries.get_mut(..count * size_of::<u64>()).unwrap_or_default();
        let at = (start / PAGE_SIZE + first) as u64 * size_of::<u64>() as u64;
        guest_io::read_all_at(map.as_fd(), entries, at)?;
        for (index, entry) in (first..).zip(entries.as_chunks().0) {
            let entry = u64::from_ne_bytes(*entry);
            let is_here = entry & (PRESENT | SWAPPED) != 0;
            if is_here && (which == Which::All || entry & OF_FILE == 0) {
                pages.set(index..index + 1);
            }
        }
    }
    Ok(())
}

/// Marks what this process has not touched but would find in a file: of the layers, of shared memory, of the kernel.
fn mark_files(
    pages: &mut Bits,
    start: usize,
    base: u64,
    under: &[Layer],
    shared: Option<&FileOffset>,
) -> io::Result<()> {
    let len = pages.count as u64 * PAGE;
    let mut mark = |found: Range<u64>, from: u64| {
        let first = found.start.max(from) - from;
        let end = found.end.min(from + len).saturating_sub(from);
        if first < end {
            let (first, end) = (first / PAGE, end.div_ceil(PAGE));
            pages.set(usize::try_from(first).unwrap_or(0)..usize::try_from(end).unwrap_or(0));
        }
    };
    for layer in under {
        match &layer.pages {
            Some(runs) => runs.iter().for_each(|run| mark(run.bytes(), base)),
            None => data(&layer.file, base..base + len)?.for_each(|found| mark(found, base)),
        }
    }
    if let (true, Some(shared)) = (under.is_empty(), shared) {
        let from = shared.start();
        data(shared.file(), from..from + len)?.for_each(|found| mark(found, from));
    }
    let kernel = mapped::span();
    mark(kernel.start as u64..kernel.end as u64, start as u64);
    Ok(())
}

/// The parts of `range` of a file that are not holes.
pub(super) fn data(file: &File, range: Range<u64>) -> io::Result<impl Iterator<Item = Range<u64>>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let start = match seek(file, at, libc::SEEK_DATA) {
            Ok(start) if start < range.end => start,
            Ok(_) => break,
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => break,
            // A file system that knows no holes.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                found.push(at..range.end);
                break;
            }
            Err(error) => return Err(error),
        };
        at = seek(file, start, libc::SEEK_HOLE)?.min(range.end);
        found.push(start..at);
    }
    Ok(found.into_iter())
}

fn seek(file: &File, offset: u64, whence: libc::c_int) -> io::Result<u64> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: takes a descriptor and numbers. The position of the file is used by nobody.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

/// Writes those pages of a run that are not zero; the others are holes.
fn write_run(
    start: usize,
    pages: Range<usize>,
    to: &File,
    base: u64,
    goes_on: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut next = pages.start;
    while next < pages.end {
        let is_zero = |page: &usize| page_is_zero(start + page * PAGE_SIZE);
        let Some(first) = (next..pages.end).find(|page| !is_zero(page)) else { break };
        let most = pages.end.min(first + PIECE / PAGE_SIZE);
        let end = (first..most).find(is_zero).unwrap_or(most);
        goes_on()?;
        let at = start + first * PAGE_SIZE;
        write_from(to, at, (end - first) * PAGE_SIZE, base + (first * PAGE_SIZE) as u64)?;
        next = end;
    }
    Ok(())
}

/// `at` is the start of a page of guest memory that is at rest.
fn page_is_zero(at: usize) -> bool {
    const LINE: usize = 64;
    (at..at + PAGE_SIZE).step_by(LINE).all(|at| {
        // SAFETY: the line lies in one page of a mapping of ours, and nobody writes to it at this time.
        let line = unsafe { std::ptr::read(at as *const [u64; LINE / 8]) };
        line == [0; LINE / 8]
    })
}

/// A bit for each page.
struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    fn new(count: usize) -> Self {
        Self { words: vec![0; count.div_ceil(64)], count }
    }

    fn set(&mut self, range: Range<usize>) {
        for index in range {
            if let Some(word) = self.words.get_mut(index / 64) {
                *word |= 1 << (index % 64);
            }
        }
    }

    fn is_set(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// The next bit from `index` on that is as wanted; the number of bits when there is none.
    fn next(&self, mut index: usize, wanted: bool) -> usize {
        let nothing = if wanted { 0 } else { u64::MAX };
        while index < self.count {
            if index.is_multiple_of(64) && self.words.get(index / 64) == Some(&nothing) {
                index += 64;
            } else if self.is_set(index) == wanted {
                return index;
            } else {
                index += 1;
            }
        }
        self.count
    }

    fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, true);
            at = self.next(start, false);
            (start < self.count).then_some(start..at)
        })
    }
}

#[cfg(test)]
mod tests;
