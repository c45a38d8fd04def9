//! Guest memory as files: written sparse, mapped back without copying.
//!
//! A file has the RAM ranges one after the other, with holes where the guest never wrote or wrote zeroes, and a last
//! page that says which snapshot it belongs to. Memory that comes from several files is layered: the first has all
//! pages, each later one those that changed. Which pages of this process were written to is asked of the kernel
//! (/proc/self/pagemap); nothing is tracked while the guest runs. Who names files, and when they are whole, is
//! `crate::snapshot`'s business.

#![expect(unsafe_code, reason = "guest memory is written and mapped by address")]

mod contents;
pub mod writer;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, OnceLock};

use devices::guest_io;
use devices::memory::GuestMemory;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::{describe, extent, mapped, region_error, reserve, uffd};
use crate::config::{Backing, Pages};
use crate::memory::MemoryError;
use contents::{Contents, data, write_trailer};

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
/// What the kernel tells of the pages of the process that opens it.
const PAGE_MAP: &str = "/proc/self/pagemap";

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
    MAP.get_or_init(|| File::open(PAGE_MAP).ok()).as_ref()
}

/// The pages of `memory`, mapped from files, that this process has touched, its guest included; ascending. The kernel may
/// count some beside them: it maps what lies around a page and is in memory anyhow.
///
/// # Errors
/// The host's; [`io::ErrorKind::Unsupported`] where it does not tell.
pub fn touched(memory: &GuestMemory) -> io::Result<Vec<Run>> {
    let map = page_map().ok_or(io::ErrorKind::Unsupported)?;
    let mut contents = Contents::of_process(memory)?;
    contents.find(Some(map))?;
    Ok(contents.runs())
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
    write_trailer(memory, to, id)?;
    let mut contents = Contents::of(memory, which, under)?;
    let map = page_map();
    if which == Which::Changed && map.is_none() {
        let unknown = "there is no /proc/self/pagemap";
        return Err(io::Error::new(io::ErrorKind::Unsupported, unknown));
    }
    contents.find(map)?;
    contents.write(to, &mut || Ok(()))?;
    Ok(contents.runs())
}

/// Writes `len` bytes of guest memory from `at`.
fn write_from(to: &File, at: usize, len: usize, offset: u64) -> io::Result<()> {
    move_all(at, len, offset, io::ErrorKind::WriteZero, |piece, offset| {
        // SAFETY: the range lies in one of our mappings, which stays; the kernel only reads it.
        unsafe { libc::pwritev2(to.as_raw_fd(), piece, 1, offset, 0) }
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
        let offset = offset + done as u64;
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
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
    guest_io::read_all_at(file.as_fd(), &mut trailer, ram).map_err(FileError::Read)?;
    let wanted = [MAGIC.as_slice(), &id, &ram.to_le_bytes()].concat();
    if trailer.as_slice() == wanted { Ok(()) } else { Err(FileError::Foreign) }
}

/// Whether a process that is forked has memory of this kind as it was then, and can go on without its provider.
#[must_use]
pub fn is_copied_by_fork(backing: Backing) -> bool {
    // Reserved huge pages have no reserve for copies.
    backing.pages.reserved_size().is_none() && !backing.shared && !uffd::is_provided()
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

#[cfg(test)]
mod tests;
