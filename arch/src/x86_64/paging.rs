//! The page tables of the 64-bit entry: the first GiB mapped to itself with 2 MiB pages.
//!
//! 1 GiB pages would save two tables, but not every CPU has them. What the kernel needs beyond, it
//! maps itself.

use super::layout::{BOOT_MAPPED, PAGE_TABLES};

const PAGE: usize = 4096;
const LARGE_PAGE: u64 = 2 << 20;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

// One page directory maps exactly as much as is promised.
const _: () = assert!(BOOT_MAPPED == 512 * LARGE_PAGE);

/// PML4, PDPT and page directory, for [`PAGE_TABLES`].
pub(crate) fn tables() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 * PAGE);
    let next = PAGE_TABLES;
    for level in 1..=2 {
        let table = next + level * PAGE as u64;
        bytes.extend_from_slice(&(table | PRESENT | WRITABLE).to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    }
    for address in (0..BOOT_MAPPED).step_by(LARGE_PAGE as usize) {
        bytes.extend_from_slice(&(address | PRESENT | WRITABLE | LARGE).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests;
