//! The PVH start info: what a kernel entered through its PVH note is told (Xen
//! `xen/include/public/arch-x86/hvm/start_info.h`, version 1).
//!
//! The note itself is not read here: finding the entry point is the loader's part.

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use thiserror::Error;
use vm_memory::ByteValued;

use super::layout::{PVH_MEMORY_MAP, PVH_MODULES, PVH_START_INFO, ZERO_PAGE};
use super::memory_map::memory_map;
use crate::Machine;

/// The first version with a memory map.
const VERSION: u32 = 1;

/// Bytes of one entry of the memory map.
const ENTRY: u64 = 24;

/// Start info, module list (the initrd, if there is one) and memory map, each with its address.
///
/// `rsdp` is the address of the ACPI root pointer.
///
/// # Errors
///
/// If the memory map is longer than the space behind [`PVH_MEMORY_MAP`].
pub fn build(machine: &Machine, rsdp: u64) -> Result<Vec<(u64, Vec<u8>)>, PvhError> {
    let map = memory_map(&machine.memory);
    let max = (ZERO_PAGE - PVH_MEMORY_MAP) / ENTRY;
    let too_many = || PvhError::MemoryMap { entries: map.len(), max };
    let memmap_entries = u32::try_from(map.len()).map_err(|_| too_many())?;
    if u64::from(memmap_entries) > max {
        return Err(too_many());
    }

    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: u32::from(machine.initrd.is_some()),
        modlist_paddr: if machine.initrd.is_some() { PVH_MODULES } else { 0 },
        cmdline_paddr: machine.cmdline.start,
        rsdp_paddr: rsdp,
        memmap_paddr: PVH_MEMORY_MAP,
        memmap_entries,
        ..Default::default()
    };
    let mut chunks = vec![(PVH_START_INFO, info.as_slice().to_vec())];
    if let Some(initrd) = machine.initrd {
        let module =
            hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..Default::default() };
        chunks.push((PVH_MODULES, module.as_slice().to_vec()));
    }
    let mut entries = Vec::new();
    for entry in &map {
        let entry = hvm_memmap_table_entry {
            addr: entry.range.start,
            size: entry.range.len,
            type_: entry.kind.number(),
            reserved: 0,
        };
        entries.extend_from_slice(entry.as_slice());
    }
    chunks.push((PVH_MEMORY_MAP, entries));
    Ok(chunks)
}

/// A machine that the start info cannot describe.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PvhError {
    /// Too many stretches of memory.
    #[error("memory map has {entries} entries, there is room for {max}")]
    MemoryMap {
        /// Entries of the map.
        entries: usize,
        /// The most that fit.
        max: u64,
    },
}

#[cfg(test)]
mod tests;
