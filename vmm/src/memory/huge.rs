//! Huge pages that the host has reserved: how many there are, and where more are asked for.

use std::fs;
use std::path::Path;

/// Where the kernel shows them, a folder for each size.
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// The reserved pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pool {
    /// All of them.
    pub(super) total: u64,
    /// Those that nobody uses or was promised.
    pub(super) free: u64,
}

impl Pool {
    /// The host's pages of `size` bytes; `None` when it knows none of that size.
    pub(super) fn of_host(size: u64) -> Option<Self> {
        Self::at(&Path::new(POOLS).join(folder(size)))
    }

    fn at(folder: &Path) -> Option<Self> {
        let number = |name: &str| -> Option<u64> {
            fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
        };
        let (total, free) = (number("nr_hugepages")?, number("free_hugepages")?);
        // Promised pages are counted as free until they are touched.
        let promised = number("resv_hugepages").unwrap_or(0);
        Some(Self { total, free: free.saturating_sub(promised) })
    }
}

/// The file that takes the number of pages to reserve.
pub(super) fn reserve_file(size: u64) -> String {
    format!("{POOLS}/{}/nr_hugepages", folder(size))
}

/// The size of pages in the flags of mmap(2) and memfd_create(2): its logarithm, in the upper bits.
pub(super) fn size_in_flags(size: u64) -> libc::c_int {
    size.trailing_zeros().cast_signed() << libc::MAP_HUGE_SHIFT
}

fn folder(size: u64) -> String {
    format!("hugepages-{}kB", size >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    #[test]
    fn promised_pages_are_not_free() {
        let dir = TestDir::new();
        assert_eq!(Pool::at(dir.path()), None);
        for (name, number) in [("nr_hugepages", "8\n"), ("free_hugepages", "5\n")] {
            fs::write(dir.path().join(name), number).unwrap();
        }
        assert_eq!(Pool::at(dir.path()), Some(Pool { total: 8, free: 5 }));
        fs::write(dir.path().join("resv_hugepages"), "3\n").unwrap();
        assert_eq!(Pool::at(dir.path()), Some(Pool { total: 8, free: 2 }));
    }

    #[test]
    fn sizes_are_written_as_the_kernel_writes_them() {
        assert_eq!(reserve_file(2 << 20), "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
        assert_eq!(folder(1 << 30), "hugepages-1048576kB");
        assert_eq!(size_in_flags(2 << 20), libc::MAP_HUGE_2MB);
        assert_eq!(size_in_flags(1 << 30), libc::MAP_HUGE_1GB);
    }
}
