//! Guest RAM on the host: one anonymous mapping per range, reserved but not touched.
//!
//! Where RAM lies is `arch`'s decision, what devices may do with it is `devices::memory`'s.

#![expect(unsafe_code, reason = "naming and advising the mappings takes raw addresses")]

use std::ffi::CStr;
use std::io;

use devices::memory::GuestMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// How the mappings show in /proc/PID/maps, so that guest and overhead can be told apart.
const NAME: &CStr = c"guest-ram";

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
}

/// Reserves `bytes` of RAM. Pages appear as the guest touches them.
///
/// # Errors
/// [`MemoryError::Reserve`].
pub fn reserve(bytes: u64) -> Result<GuestMemory, MemoryError> {
    let failed = |source| MemoryError::Reserve { mib: bytes >> 20, source };
    let mut ranges = Vec::with_capacity(2);
    for range in arch::layout::ram_ranges(bytes) {
        let len = usize::try_from(range.len).map_err(|e| failed(io::Error::other(e)))?;
        ranges.push((GuestAddress(range.start), len));
    }
    let memory = GuestMemory::from_ranges(&ranges).map_err(|e| failed(io::Error::other(e)))?;
    for region in memory.iter() {
        describe(region);
    }
    Ok(memory)
}

/// Names the mapping, and keeps it out of core dumps. Both are courtesies: an old kernel may refuse.
fn describe(region: &impl GuestMemoryRegion) {
    let Ok(start) = region.get_host_address(vm_memory::MemoryRegionAddress(0)) else { return };
    let Ok(len) = usize::try_from(region.len()) else { return };
    // SAFETY: the range is exactly one mapping of ours; naming does not change it.
    unsafe {
        libc::prctl(libc::PR_SET_VMA, libc::PR_SET_VMA_ANON_NAME, start, len, NAME.as_ptr());
    }
    // SAFETY: as above; the advice concerns core dumps only.
    unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTDUMP) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_around_the_hole_and_carries_its_name() {
        let memory = reserve(5 << 30).unwrap();
        assert_eq!(memory.num_regions(), 2);
        assert_eq!(memory.iter().map(GuestMemoryRegion::len).sum::<u64>(), 5 << 30);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        // Kernels without CONFIG_ANON_VMA_NAME have no names at all.
        if maps.contains("[anon:") {
            assert!(maps.contains("guest-ram"));
        }
    }

    #[test]
    fn more_than_the_address_space_is_refused_in_words() {
        let error = reserve(1 << 50).unwrap_err();
        assert!(error.to_string().contains("1073741824 MiB"), "{error}");
    }
}
