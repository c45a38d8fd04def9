//! Guest RAM on the host: one mapping per range, untouched unless it is to be there in advance.
//!
//! Where RAM lies is `arch`'s decision, what devices may do with it is `devices::memory`'s.

#![expect(unsafe_code, reason = "naming, advising and populating mappings takes raw addresses")]

pub mod ahead;
pub mod file;
mod huge;
pub mod mapped;
pub mod uffd;

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use devices::memory::GuestMemory;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

use crate::affinity::CpuSet;
use crate::config::{Backing, Pages};
use huge::Pool;

/// How the mappings show in /proc/PID/maps, so that guest and overhead can be told apart.
const NAME: &CStr = c"guest-ram";
/// What one thread populates at a time. Starting a thread costs as much as a few hundred pages.
const PIECE: usize = 128 << 20;

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host does not give that much address space.
    #[error(
        "cannot reserve {mib} MiB for the guest; ask for less with --memory, or raise the limit (ulimit -v)"
    )]
    Reserve {
        /// What was asked for.
        mib: u64,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Too few huge pages are free.
    #[error(
        "the guest needs {needed} huge pages of {size}, and {free} are free: reserve more with \
         'echo {enough} | sudo tee {file}', or use hugepages=thp"
    )]
    HugePages {
        /// Pages that the guest needs.
        needed: u64,
        /// Pages that are there and promised to nobody.
        free: u64,
        /// Size of a page.
        size: &'static str,
        /// How many the host would have to have in all.
        enough: u64,
        /// Where the host is told.
        file: String,
    },
    /// The host has no such pages at all.
    #[error(
        "this host has no huge pages of {size}: use another size, hugepages=thp or hugepages=off"
    )]
    NoSuchPages {
        /// Size of a page.
        size: &'static str,
    },
    /// A file for shared memory.
    #[error("cannot make a file of {mib} MiB for shared memory")]
    Shared {
        /// What was asked for.
        mib: u64,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// A snapshot's memory.
    #[error("the memory of the snapshot cannot be mapped")]
    Restore {
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Not all of it can be there.
    #[error(
        "cannot take all {mib} MiB in advance; ask for less with --memory, or leave prefault out"
    )]
    Prefault {
        /// What was asked for.
        mib: u64,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

/// Reserves `bytes` of RAM. Pages appear as the guest touches them, unless they are to be there in advance; reserved
/// huge pages are promised to this process from here on, so that they cannot run out later.
///
/// # Errors
/// [`MemoryError`].
pub fn reserve(bytes: u64, backing: Backing) -> Result<GuestMemory, MemoryError> {
    let mib = bytes >> 20;
    let file = backing.shared.then(|| shared_file(bytes, backing.pages)).transpose();
    let file = file
        .map_err(|source| refusal(bytes, backing.pages, || MemoryError::Shared { mib, source }))?;
    let memory = map(bytes, backing.pages, file.map(Arc::new).as_ref())
        .map_err(|source| refusal(bytes, backing.pages, || MemoryError::Reserve { mib, source }))?;
    for region in memory.iter() {
        describe(region, backing);
    }
    if backing.prefault {
        prefault(&memory).map_err(|source| MemoryError::Prefault { mib, source })?;
    }
    Ok(memory)
}

/// Makes memory that a machine has used zeroes again, for the next one: as [`reserve`] would, but nothing is given back,
/// and what is taken in advance is taken by this thread alone.
///
/// # Errors
/// [`MemoryError::Reserve`] or [`MemoryError::Prefault`]; its contents are not defined then.
pub fn renew(memory: &GuestMemory, backing: Backing) -> Result<(), MemoryError> {
    let mib = memory.iter().map(|region| region.len() >> 20).sum();
    mapped::give_up(memory).map_err(|source| MemoryError::Reserve { mib, source })?;
    for (start, len) in memory.iter().filter_map(extent) {
        forget(start, len, backing).map_err(|source| MemoryError::Reserve { mib, source })?;
        if backing.prefault {
            populate(start, len).map_err(|source| MemoryError::Prefault { mib, source })?;
        }
    }
    Ok(())
}

/// Pages that are touched next are zeroes.
fn forget(start: usize, len: usize, backing: Backing) -> io::Result<()> {
    let to = start as *mut libc::c_void;
    let advice = if backing.shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
    // SAFETY: the range is exactly one mapping of guest memory, to whose contents nobody has a reference.
    if unsafe { libc::madvise(to, len, advice) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Before Linux 5.18, reserved huge pages that no file has.
        error if error.raw_os_error() == Some(libc::EINVAL) && !backing.shared => {
            // SAFETY: as above, and it may be written to.
            unsafe { std::ptr::write_bytes(to.cast::<u8>(), 0, len) };
            Ok(())
        }
        error => Err(error),
    }
}

fn map(bytes: u64, pages: Pages, file: Option<&Arc<File>>) -> io::Result<GuestMemory> {
    let mut flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    };
    // Huge pages are promised when they are mapped, others when they are touched.
    flags |= match pages.reserved_size() {
        // A file has the size of its pages by itself.
        Some(_) if file.is_some() => 0,
        Some(size) => libc::MAP_HUGETLB | huge::size_in_flags(size),
        None => libc::MAP_NORESERVE,
    };
    let mut regions = Vec::with_capacity(2);
    let mut offset = 0;
    for range in arch::layout::ram_ranges(bytes) {
        let len = usize::try_from(range.len).map_err(io::Error::other)?;
        let mut mapping = MmapRegionBuilder::new(len)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(flags);
        if let Some(file) = file {
            mapping = mapping.with_file_offset(FileOffset::from_arc(file.clone(), offset));
        }
        offset += range.len;
        let mapping = mapping.build().map_err(region_error)?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(range.start));
        regions.push(region.ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?);
    }
    GuestMemory::from_regions(regions).map_err(io::Error::other)
}

fn region_error(error: MmapRegionError) -> io::Error {
    match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::other(other),
    }
}

/// A file without a name, sealed: whoever is given its descriptor cannot take memory away from the guest.
fn shared_file(bytes: u64, pages: Pages) -> io::Result<File> {
    const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if let Some(size) = pages.reserved_size() {
        flags |= libc::MFD_HUGETLB | huge::size_in_flags(size).cast_unsigned();
    }
    // SAFETY: a terminated name.
    let fd = unsafe { libc::memfd_create(NAME.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes)?;
    // SAFETY: takes a descriptor and a number.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// What a failure means: too few huge pages, none at all, or what `other` says.
fn refusal(bytes: u64, pages: Pages, other: impl FnOnce() -> MemoryError) -> MemoryError {
    let Some(page) = pages.reserved_size() else { return other() };
    let size = if page == 1 << 30 { "1 GiB" } else { "2 MiB" };
    let Some(pool) = Pool::of_host(page) else { return MemoryError::NoSuchPages { size } };
    let (needed, free) = (bytes / page, pool.free);
    if needed <= free {
        return other();
    }
    let (enough, file) = (pool.total + (needed - free), huge::reserve_file(page));
    MemoryError::HugePages { needed, free, size, enough, file }
}

/// Names the mapping, keeps it out of core dumps, asks for transparent huge pages where they are wanted. All are
/// courtesies: an old kernel may refuse.
fn describe(region: &impl GuestMemoryRegion, backing: Backing) {
    let Some((start, len)) = extent(region) else { return };
    if !backing.shared {
        // SAFETY: the range is exactly one mapping of ours; naming does not change it.
        unsafe {
            libc::prctl(libc::PR_SET_VMA, libc::PR_SET_VMA_ANON_NAME, start, len, NAME.as_ptr());
        }
    }
    let start = start as *mut libc::c_void;
    // SAFETY: as above; the advice concerns core dumps only.
    unsafe { libc::madvise(start, len, libc::MADV_DONTDUMP) };
    if backing.pages == Pages::Transparent {
        // SAFETY: as above; the advice concerns the size of pages only.
        let advised = unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
        if advised < 0 {
            let error = io::Error::last_os_error();
            log::warn!("this host has no transparent huge pages: {error}");
        }
    }
}

/// Touches all of the memory, with as many threads as there are processors and pieces.
fn prefault(memory: &GuestMemory) -> io::Result<()> {
    let pieces: Vec<_> = memory.iter().filter_map(extent).flat_map(pieces).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(&(start, len)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            populate(start, len)?;
        }
        Ok(())
    };
    // What the standard library asks besides, a cgroup's quota, takes more code than all this.
    let threads = CpuSet::of_this_thread().map_or(1, |cpus| cpus.count()).min(pieces.len());
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        others.into_iter().fold(mine, |all, other| match other.join() {
            Ok(result) => all.and(result),
            // With panic = "abort" a thread cannot end by panicking.
            Err(_) => all,
        })
    })
}

fn pieces((start, len): (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(PIECE).map(move |offset| (start + offset, PIECE.min(len - offset)))
}

/// Makes pages of this process's own of all that is mapped there.
fn populate(start: usize, len: usize) -> io::Result<()> {
    loop {
        // SAFETY: the range lies in one of our mappings; its contents stay as they are.
        let done =
            unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_POPULATE_WRITE) };
        match io::Error::last_os_error() {
            _ if done == 0 => return Ok(()),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// Where all of it lies in this process.
#[must_use]
pub fn ranges(memory: &GuestMemory) -> Vec<Range<usize>> {
    memory.iter().filter_map(extent).map(|(start, len)| start..start + len).collect()
}

/// Where a region lies in this process: address and length.
fn extent(region: &impl GuestMemoryRegion) -> Option<(usize, usize)> {
    let start = region.get_host_address(MemoryRegionAddress(0)).ok()?;
    Some((start as usize, usize::try_from(region.len()).ok()?))
}

#[cfg(test)]
mod tests;
