//! The page tables of the 64-bit entry: the first GiB mapped to itself with 2 MiB pages.
//!
//! 1 GiB pages would save two tables, but not every CPU has them. What the kernel needs beyond, it
//! maps itself.

use super::layout::{BOOT_MAPPED, PAGE_TABLES};

/// Entries in a table.
const ENTRIES: usize = 512;
const LARGE_PAGE: u64 = 2 << 20;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

// One page directory maps exactly as much as is promised.
const _: () = assert!(BOOT_MAPPED == ENTRIES as u64 * LARGE_PAGE);

/// PML4, PDPT and page directory, for [`PAGE_TABLES`].
pub(crate) fn tables() -> Vec<u8> {
    let mut bytes = vec![0; 3 * 8 * ENTRIES];
    let (entries, _) = bytes.as_chunks_mut::<8>();
    for (index, next) in [(0, PAGE_TABLES + 0x1000), (ENTRIES, PAGE_TABLES + 0x2000)] {
        if let Some(entry) = entries.get_mut(index) {
            *entry = (next | PRESENT | WRITABLE).to_le_bytes();
        }
    }
    for (entry, page) in entries.iter_mut().skip(2 * ENTRIES).zip(0..) {
        *entry = ((page * LARGE_PAGE) | PRESENT | WRITABLE | LARGE).to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests;
