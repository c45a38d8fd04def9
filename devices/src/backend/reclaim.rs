//! Guest RAM goes back to the host: pages that the guest does not need cost nothing until it touches them again.
//!
//! Which pages those are is the balloon's business ([`crate::virtio::balloon`]); here they are only let go.

#![expect(unsafe_code, reason = "advice about memory takes raw addresses")]

use std::io;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::GuestMemory;

/// Why memory was not given back.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// The range is not RAM, not in one mapping, or not made of whole pages.
    #[error(
        "{address:#x}+{len:#x} is not a range of whole pages of {page_size} bytes in one piece of RAM"
    )]
    Range {
        /// Guest-physical start.
        address: u64,
        /// Length in bytes.
        len: u64,
        /// What the range must be a multiple of.
        page_size: u64,
    },
    /// The kernel refused, as it does where memory is locked.
    #[error("the host keeps {address:#x}+{len:#x}")]
    Refused {
        /// Guest-physical start.
        address: u64,
        /// Length in bytes.
        len: u64,
        /// The errno of madvise(2).
        #[source]
        source: io::Error,
    },
}

/// Gives RAM back to the host.
pub trait MemoryReclaim: Send + Sync {
    /// Bytes of the smallest piece that can be given back, a power of two of at least 4096.
    fn page_size(&self) -> u64;

    /// Lets go of the contents of `start..start + len`. What the guest finds there later is undefined, in
    /// practice zeroes, or the file's contents where RAM is a private mapping of a file.
    ///
    /// # Errors
    /// [`ReclaimError`]; the contents are then unchanged, or gone in part.
    fn reclaim(
        &self,
        memory: &GuestMemory,
        start: GuestAddress,
        len: u64,
    ) -> Result<(), ReclaimError>;
}

/// The host's kernel, told by madvise(2).
pub struct HostReclaim {
    page_size: u64,
}

impl HostReclaim {
    /// For RAM that is mapped in pages of `page_size` bytes, a power of two.
    #[must_use]
    pub fn new(page_size: u64) -> Self {
        Self { page_size }
    }
}

impl MemoryReclaim for HostReclaim {
    fn page_size(&self) -> u64 {
        self.page_size
    }

    fn reclaim(
        &self,
        memory: &GuestMemory,
        start: GuestAddress,
        len: u64,
    ) -> Result<(), ReclaimError> {
        let (address, page_size) = (start.0, self.page_size);
        let range = || ReclaimError::Range { address, len, page_size };
        let (region, offset) = memory.to_region_addr(start).ok_or_else(range)?;
        let size = usize::try_from(len).map_err(|_| range())?;
        let slice = region.get_slice(offset, size).map_err(|_| range())?;
        let guard = slice.ptr_guard_mut();
        let host = guard.as_ptr();
        if !(host.addr() as u64).is_multiple_of(page_size) || !len.is_multiple_of(page_size) {
            return Err(range());
        }
        // A private page is dropped; one of a shared file must be cut out of the file, or it would stay there.
        let is_shared = region.get_mmap().flags() & libc::MAP_SHARED != 0;
        let advice = if is_shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
        // SAFETY: the range is whole pages of one mapping of guest RAM, which `memory` keeps mapped during the
        // call. Nothing in this process holds a reference to guest RAM or relies on its contents: the guest may
        // change every byte at any time, and to see a page as zeroes is such a change.
        let result = unsafe { libc::madvise(host.cast(), size, advice) };
        if result == 0 {
            return Ok(());
        }
        Err(ReclaimError::Refused { address, len, source: io::Error::last_os_error() })
    }
}

#[cfg(test)]
mod tests;
