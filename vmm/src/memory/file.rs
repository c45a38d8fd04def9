//! Guest memory as files: written sparse, mapped back without copying.
//!
//! A file has the RAM ranges one after the other, with holes where the guest never wrote or wrote zeroes, and a last
//! page that says which snapshot it belongs to. Memory that comes from several files is layered: the first has all
//! pages, each later one those that changed. Which pages of this process were written to is asked of the kernel
//! (/proc/self/pagemap); nothing is tracked while the guest runs. Who names files, and when they are whole, is
//! `crate::snapshot`'s business.

#![expect(unsafe_code, reason = "guest memory is written and mapped by address")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use devices::guest_io;
use devices::memory::GuestMemory;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::{describe, extent, mapped, region_error, reserve, uffd};
use crate::config::{Backing, Pages};
use crate::memory::MemoryError;

/// Size of a page.
pub const PAGE: u64 = 4096;
const PAGE_SIZE: usize = 4096;
/// What the last page begins with.
const MAGIC: &[u8; 8] = b"vmmmemry";
/// Bytes of the last page that mean something: magic, id, bytes of RAM.
const TRAILER: usize = 32;
/// Runs of a layer that are mapped; the rest is copied. The kernel allows a process 65 530 mappings. A copied page
/// counts as changed later on.
const MAPPED_MAX: usize = 4 << 10;
/// Entries of the page map that are read at a time, each of a page.
const ENTRIES: usize = 8 << 10;

/// Bits of an entry (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// The page is a file's, not one of this process alone.
const OF_FILE: u64 = 1 << 61;

/// Pages that follow each other; the first is counted over all RAM ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its first page.
    pub first: u64,
    /// How many there are.
    pub count: u64,
}

impl Run {
    /// Where it is, in bytes of RAM and of a file.
    fn bytes(self) -> Range<u64> {
        self.first.saturating_mul(PAGE)..self.first.saturating_add(self.count).saturating_mul(PAGE)
    }
}

/// A file with some of a guest's memory.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Open for reading.
    pub file: Arc<File>,
    /// The pages that it has; `None` for all.
    pub pages: Option<Vec<Run>>,
}

/// What is wrong with a memory file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It has another size.
    #[error(
        "has {found} bytes, not {expected}: it was cut short, or is not the memory of this snapshot"
    )]
    Length {
        /// What it has.
        found: u64,
        /// What it should have.
        expected: u64,
    },
    /// It belongs to another snapshot, or to none.
    #[error("is not the memory of this snapshot")]
    Foreign,
}

/// Which pages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All that may be other than zero.
    All,
    /// Those that differ from the layers under them.
    Changed,
}

/// Asks for the page map now, for a process that cannot open it later.
pub fn open_page_map() {
    let _ = page_map();
}

fn page_map() -> Option<&'static File> {
    static MAP: OnceLock<Option<File>> = OnceLock::new();
    MAP.get_or_init(|| File::open("/proc/self/pagemap").ok()).as_ref()
}

/// Writes memory, which is at rest, to the empty file `to`, and says which pages are in it.
///
/// `under` are the layers that the memory was mapped from.
///
/// # Errors
/// The host's.
pub fn write(
    memory: &GuestMemory,
    which: Which,
    under: &[Layer],
    to: &File,
    id: [u8; 16],
) -> io::Result<Vec<Run>> {
    let ram: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
    let mut trailer = Vec::with_capacity(TRAILER);
    trailer.extend(MAGIC);
    trailer.extend(id);
    trailer.extend(ram.to_le_bytes());
    trailer.resize(PAGE_SIZE, 0);
    // By the same call as all the rest.
    guest_io::write_all_at(to.as_fd(), &trailer, ram)?;
    let mut runs = Vec::new();
    let mut base = 0;
    for region in memory.iter() {
        let (start, len) = extent(region).ok_or(io::ErrorKind::InvalidInput)?;
        let mut pages = Bits::new(len / PAGE_SIZE);
        if which == Which::All && uffd::is_provided() {
            // What nobody touched is its provider's, and is asked for.
            pages.set(0..pages.count);
        }
        mark_touched(&mut pages, start, which)?;
        if which == Which::All {
            mark_files(&mut pages, start, base, under, region.file_offset())?;
        }
        for Range { start: first, end } in pages.runs() {
            let count = (end - first) as u64;
            runs.push(Run { first: base / PAGE + first as u64, count });
            write_run(start, first..end, to, base)?;
        }
        base += region.len();
    }
    Ok(runs)
}

/// Marks the pages that this process has, or those that it has written to.
fn mark_touched(pages: &mut Bits, start: usize, which: Which) -> io::Result<()> {
    let Some(map) = page_map() else {
        // Nobody knows, so each is looked at.
        if which == Which::All {
            pages.set(0..pages.count);
            return Ok(());
        }
        return Err(io::Error::new(io::ErrorKind::Unsupported, "there is no /proc/self/pagemap"));
    };
    let mut entries = vec![0; ENTRIES * size_of::<u64>()];
    for first in (0..pages.count).step_by(ENTRIES) {
        let count = ENTRIES.min(pages.count - first);
        let entries = entries.get_mut(..count * size_of::<u64>()).unwrap_or_default();
        map.read_exact_at(entries, (start / PAGE_SIZE + first) as u64 * size_of::<u64>() as u64)?;
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
fn data(file: &File, range: Range<u64>) -> io::Result<impl Iterator<Item = Range<u64>>> {
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
fn write_run(start: usize, pages: Range<usize>, to: &File, base: u64) -> io::Result<()> {
    let mut next = pages.start;
    while next < pages.end {
        let is_zero = |page: &usize| page_is_zero(start + page * PAGE_SIZE);
        let Some(first) = (next..pages.end).find(|page| !is_zero(page)) else { break };
        let end = (first..pages.end).find(is_zero).unwrap_or(pages.end);
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

/// Writes `len` bytes of guest memory from `at`.
fn write_from(to: &File, at: usize, len: usize, offset: u64) -> io::Result<()> {
    move_all(at, len, offset, io::ErrorKind::WriteZero, |piece, offset| {
        // SAFETY: the range lies in one of our mappings, which stays; the kernel only reads it.
        unsafe { libc::pwritev(to.as_raw_fd(), piece, 1, offset) }
    })
}

/// Calls `step` with what is left of `len` bytes from `at` and its place in a file, until nothing is. Moving nothing
/// is the error `nothing`.
fn move_all(
    at: usize,
    len: usize,
    offset: u64,
    nothing: io::ErrorKind,
    step: impl Fn(&libc::iovec, libc::off_t) -> isize,
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let offset = libc::off_t::try_from(offset + done as u64).map_err(io::Error::other)?;
        let piece = libc::iovec { iov_base: (at + done) as *mut libc::c_void, iov_len: len - done };
        match usize::try_from(step(&piece, offset)) {
            Ok(0) => return Err(nothing.into()),
            Ok(moved) => done += moved,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Checks that `file` has the memory of the snapshot `id`, of `ram` bytes.
///
/// # Errors
/// [`FileError`].
pub fn check(file: &File, ram: u64, id: [u8; 16]) -> Result<(), FileError> {
    let found = file.metadata().map_err(FileError::Read)?.len();
    let expected = ram.saturating_add(PAGE);
    if found != expected {
        return Err(FileError::Length { found, expected });
    }
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, ram).map_err(FileError::Read)?;
    let wanted = [MAGIC.as_slice(), &id, &ram.to_le_bytes()].concat();
    if trailer.as_slice() == wanted { Ok(()) } else { Err(FileError::Foreign) }
}

/// Whether memory of this kind can be a file's pages.
#[must_use]
pub fn is_mapped(backing: Backing) -> bool {
    backing.pages.reserved_size().is_none() && !backing.shared && !backing.prefault
}

/// Guest memory of `ram` bytes with what is in `layers`, of which the first has all pages. Where the kind of pages
/// allows it nothing is copied: a page is read when it is touched, and becomes this process's own when it is written.
///
/// # Errors
/// [`MemoryError`].
pub fn restore(ram: u64, layers: &[Layer], backing: Backing) -> Result<GuestMemory, MemoryError> {
    let failed = |source| MemoryError::Restore { source };
    if !is_mapped(backing) {
        let memory = reserve(ram, backing)?;
        layers.iter().try_for_each(|layer| lay(&memory, layer, false)).map_err(failed)?;
        return Ok(memory);
    }
    let Some((whole, changes)) = layers.split_first() else {
        return Err(failed(io::ErrorKind::NotFound.into()));
    };
    let memory = map(ram, &whole.file).map_err(failed)?;
    changes.iter().try_for_each(|layer| lay(&memory, layer, true)).map_err(failed)?;
    for region in memory.iter() {
        // It is a file's memory, which has no name of ours.
        describe(region, Backing { shared: true, pages: Pages::Usual, ..backing });
    }
    mapped::expect_missing_pages(&memory);
    Ok(memory)
}

fn map(ram: u64, file: &Arc<File>) -> io::Result<GuestMemory> {
    let mut regions = Vec::with_capacity(2);
    let mut offset = 0;
    for range in arch::layout::ram_ranges(ram) {
        let len = usize::try_from(range.len).map_err(io::Error::other)?;
        let mapping = MmapRegionBuilder::new(len)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::from_arc(file.clone(), offset))
            .build()
            .map_err(region_error)?;
        offset += range.len;
        let region = GuestRegionMmap::new(mapping, GuestAddress(range.start));
        regions.push(region.ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?);
    }
    GuestMemory::from_regions(regions).map_err(io::Error::other)
}

/// Puts what a layer has over what is there, by mapping it where that pays and `may_map`.
fn lay(memory: &GuestMemory, layer: &Layer, may_map: bool) -> io::Result<()> {
    let ram: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
    let pieces: Vec<Range<u64>> = match &layer.pages {
        Some(runs) => runs.iter().map(|run| run.bytes()).collect(),
        None if may_map => std::iter::once(0..ram).collect(),
        None => data(&layer.file, 0..ram)?.collect(),
    };
    let mut mapped = 0;
    let mut base = 0;
    for region in memory.iter() {
        let (start, _) = extent(region).ok_or(io::ErrorKind::InvalidInput)?;
        let end = base + region.len();
        for piece in &pieces {
            let (from, to) = (piece.start.max(base), piece.end.min(end));
            if from >= to {
                continue;
            }
            let at = start + usize::try_from(from - base).map_err(io::Error::other)?;
            let len = usize::try_from(to - from).map_err(io::Error::other)?;
            if may_map && mapped < MAPPED_MAX {
                mapped += 1;
                map_over(at, len, &layer.file, from)?;
            } else {
                read_into(&layer.file, at, len, from)?;
            }
        }
        base = end;
    }
    Ok(())
}

/// The range is one of guest memory, to which nobody writes.
fn map_over(at: usize, len: usize, file: &File, offset: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the range lies in one mapping of guest memory, to whose contents nobody has a reference, and is replaced
    // by one that can be read and written as well. It goes away with the whole.
    let done = unsafe {
        libc::mmap(
            at as *mut libc::c_void,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            FLAGS,
            file.as_raw_fd(),
            offset,
        )
    };
    if done == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The range is one of guest memory, to which nobody else writes.
fn read_into(file: &File, at: usize, len: usize, offset: u64) -> io::Result<()> {
    move_all(at, len, offset, io::ErrorKind::UnexpectedEof, |piece, offset| {
        // SAFETY: the range lies in one mapping of guest memory, to whose contents nobody has a reference.
        unsafe { libc::pread(file.as_raw_fd(), piece.iov_base, piece.iov_len, offset) }
    })
}

/// From now on the pages of `memory`, which is at rest and was written to `layer` just now, are those of that file, until they are
/// written to: what changes can be told from what does not.
///
/// # Errors
/// The host's; what was not replaced stays as it is.
pub fn settle_on(memory: &GuestMemory, layer: &Layer) -> io::Result<()> {
    lay(memory, layer, true)?;
    mapped::expect_missing_pages(memory);
    Ok(())
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
