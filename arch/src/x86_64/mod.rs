//! x86-64: a machine without firmware or legacy devices, entered by a kernel's 64-bit or PVH entry.
//!
//! Real mode, BIOS calls and PCI are not provided.

use thiserror::Error;

use crate::{Machine, Range};

pub mod acpi;
pub mod cpuid;
mod gdt;
pub mod layout;
mod memory_map;
pub mod mptable;
pub mod msr;
mod paging;
pub mod pvh;
pub mod registers;
pub mod template;
mod topology;
pub mod vmclock;
pub mod zero_page;

pub use topology::ApicIds;

/// How the kernel is entered.
#[derive(Clone, Copy, Debug)]
pub enum BootProtocol {
    /// The 64-bit Linux boot protocol; see [`registers::linux64`].
    Linux64 {
        /// The header of a bzImage; an uncompressed kernel has none.
        setup_header: Option<zero_page::SetupHeader>,
    },
    /// The PVH entry point named by a note of an uncompressed kernel; see [`registers::pvh`].
    Pvh,
}

/// All that must be in guest memory below [`layout::HIMEM`] before the first instruction: pairs of
/// address and bytes, ascending and disjoint, also from the command line and the initrd.
///
/// ACPI and MP tables are both there; a kernel that understands the former ignores the latter.
///
/// # Errors
///
/// If the machine's memory, command line or initrd are not where a kernel can use them, or the
/// machine does not fit its tables.
pub fn boot_tables(
    machine: &Machine,
    protocol: &BootProtocol,
) -> Result<Vec<(u64, Vec<u8>)>, ArchError> {
    check_memory(&machine.memory)?;
    let acpi = acpi::tables(machine)?;
    let mut chunks = acpi.chunks;
    chunks.extend(mptable::build(machine)?);
    match protocol {
        BootProtocol::Linux64 { setup_header } => {
            chunks.push((layout::GDT, gdt::table(&gdt::LONG_MODE)));
            chunks.push((layout::PAGE_TABLES, paging::tables()));
            let page = zero_page::build(setup_header.as_ref(), machine, acpi.rsdp)?;
            chunks.push((layout::ZERO_PAGE, page));
        }
        BootProtocol::Pvh => {
            chunks.push((layout::GDT, gdt::table(&gdt::PROTECTED_MODE)));
            chunks.extend(pvh::build(machine, acpi.rsdp)?);
        }
    }
    chunks.sort_unstable_by_key(|(address, _)| *address);
    check_placement(machine, &chunks)?;
    Ok(chunks)
}

/// RAM must start at 0, reach beyond the tables, ascend without overlap, leave out the 32-bit hole
/// and end within 64 bits.
fn check_memory(memory: &[Range]) -> Result<(), ArchError> {
    let hole = Range { start: layout::HOLE_START, len: layout::HOLE_END - layout::HOLE_START };
    let mut next = 0;
    for range in memory {
        let unusable = || ArchError::Memory { start: range.start, len: range.len };
        if range.start < next || range.len == 0 || range.overlaps(&hole) {
            return Err(unusable());
        }
        next = range.end().ok_or_else(unusable)?;
    }
    match memory.first() {
        Some(first) if first.start == 0 && first.len > layout::HIMEM => Ok(()),
        first => Err(ArchError::LowMemory { len: first.map_or(0, |first| first.len) }),
    }
}

/// The tables must not overlap each other or the command line, and the initrd must be in RAM.
fn check_placement(machine: &Machine, chunks: &[(u64, Vec<u8>)]) -> Result<(), ArchError> {
    let cmdline = machine.cmdline;
    let below_himem = cmdline.end().is_some_and(|end| end <= layout::MP_TABLE.start);
    if !below_himem || cmdline.len == 0 || cmdline.len > layout::CMDLINE_MAX {
        return Err(ArchError::Cmdline { start: cmdline.start, len: cmdline.len });
    }
    let mut next = 0;
    for (address, bytes) in chunks {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let chunk = Range { start: *address, len };
        if chunk.start < next || chunk.overlaps(&cmdline) {
            return Err(ArchError::Overlap { address: *address });
        }
        next = chunk.end().ok_or(ArchError::Overlap { address: *address })?;
    }
    if let Some(initrd) = machine.initrd {
        let in_ram = machine.memory.iter().any(|range| range.contains(&initrd));
        if !in_ram || initrd.start < layout::HIMEM || initrd.len == 0 {
            return Err(ArchError::Initrd { start: initrd.start, len: initrd.len });
        }
    }
    Ok(())
}

/// A machine that cannot be described to its guest.
#[derive(Debug, Error)]
pub enum ArchError {
    /// A range of RAM is empty, out of order, overlapping another or the hole, or too long.
    #[error(
        "memory range of {len:#x} bytes at {start:#x} is empty, overlaps another or the 32-bit \
         hole, or ends beyond 64 bits"
    )]
    Memory {
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// There is no RAM where the tables and the kernel go.
    #[error("memory from address 0 has {len:#x} bytes, a kernel needs more than 1 MiB there")]
    LowMemory {
        /// Length of the range that starts at 0.
        len: u64,
    },
    /// The command line is not in low memory, or has a length that kernels do not take.
    #[error(
        "command line of {len} bytes at {start:#x} is not in low memory or not of 1 to {max} bytes",
        max = layout::CMDLINE_MAX
    )]
    Cmdline {
        /// First address.
        start: u64,
        /// Length in bytes, with the NUL.
        len: u64,
    },
    /// The initrd is not in RAM above the tables.
    #[error("initrd of {len:#x} bytes at {start:#x} is not in memory above 1 MiB")]
    Initrd {
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A table would overwrite another one or the command line.
    #[error("boot table at {address:#x} overlaps another one or the command line")]
    Overlap {
        /// First address of the table.
        address: u64,
    },
    /// The zero page cannot be made.
    #[error("cannot make the zero page")]
    ZeroPage(#[from] zero_page::ZeroPageError),
    /// The PVH start info cannot be made.
    #[error("cannot make the PVH start info")]
    Pvh(#[from] pvh::PvhError),
    /// The ACPI tables cannot be made.
    #[error("cannot make the ACPI tables")]
    Acpi(#[from] acpi::AcpiError),
    /// The MP table cannot be made.
    #[error("cannot make the MP table")]
    MpTable(#[from] mptable::MpTableError),
}

#[cfg(test)]
mod tests;
