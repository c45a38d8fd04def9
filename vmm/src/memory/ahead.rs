//! What the kernel is told about pages of guest memory that will be touched. It is mapped from files here.
//!
//! All of it is advice: it may cost time, and changes nothing that a guest can see. Who knows of such pages, and from where,
//! is `crate::snapshot::working_set`'s business.

#![expect(unsafe_code, reason = "advice about memory takes raw addresses")]

use std::os::fd::AsRawFd;

use devices::memory::GuestMemory;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::extent;
use super::file::{Layer, PAGE, Run};

/// From here on no page of `memory` is read before it is touched, and those of `layers` that nobody uses are forgotten: so
/// that [`super::file::touched`] tells those that were needed, and not what the kernel had in memory beside them.
pub fn read_one_by_one(memory: &GuestMemory, layers: &[Layer]) {
    for layer in layers {
        // SAFETY: takes a descriptor and numbers.
        unsafe { libc::posix_fadvise(layer.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    for (start, len) in memory.iter().filter_map(extent) {
        advise(start, len, libc::MADV_RANDOM);
    }
}

/// Has the pages of `runs` read from the files that they are mapped from. It is not waited for; what is in memory already
/// costs little.
pub fn read_ahead(memory: &GuestMemory, runs: &[Run]) {
    let mut base = 0;
    for region in memory.iter() {
        let Some((start, len)) = extent(region) else { return };
        let end = base + region.len() / PAGE;
        for run in runs {
            let (first, last) = (run.first.max(base), (run.first + run.count).min(end));
            if let (true, Ok(at), Ok(bytes)) = (
                first < last,
                usize::try_from(first.saturating_sub(base) * PAGE),
                usize::try_from(last.saturating_sub(first) * PAGE),
            ) && at + bytes <= len
            {
                advise(start + at, bytes, libc::MADV_WILLNEED);
            }
        }
        base = end;
    }
}

/// The range lies in guest memory.
fn advise(start: usize, len: usize, advice: libc::c_int) {
    // SAFETY: the range lies in our mappings of guest memory. Both kinds of advice leave its contents as they are, and it
    // does not matter if the kernel takes none.
    unsafe { libc::madvise(start as *mut libc::c_void, len, advice) };
}

#[cfg(test)]
mod tests;
