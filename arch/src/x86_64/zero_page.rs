//! The zero page: Linux's `boot_params`, through which the 64-bit boot protocol tells the kernel
//! where everything is (Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`).
//!
//! The kernel itself is not loaded here, and its header is not searched for: it arrives parsed.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use thiserror::Error;
use vm_memory::ByteValued;

use super::memory_map::memory_map;
use crate::{Machine, Range};

pub use linux_loader::loader::bootparam::setup_header as SetupHeader;

/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
/// The protocol whose header has the fields of [`SetupHeader`], 2.15.
const VERSION: u16 = 0x020f;
/// First protocol with `xloadflags`, 2.12.
const VERSION_XLOADFLAGS: u16 = 0x020c;
/// The kernel has a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Initrd, command line and zero page may lie anywhere.
const XLF_ABOVE_4G: u16 = 1 << 1;
/// A boot loader without a number of its own.
const UNKNOWN_LOADER: u8 = 0xff;
/// What a kernel without a header is aligned to by its usual configuration.
const KERNEL_ALIGNMENT: u32 = 16 << 20;

/// Offset of the header in the page.
const HEADER: usize = 0x1f1;
/// Offset of the byte that says how far the header goes beyond [`HEADER_LENGTH_BASE`].
const HEADER_LENGTH: usize = 0x201;
const HEADER_LENGTH_BASE: usize = 0x202;

/// The page's bytes.
///
/// `header` is what a bzImage brought along; an uncompressed kernel has none and gets defaults.
/// `rsdp` is the address of the ACPI root pointer, which spares the kernel its search.
///
/// # Errors
///
/// If the kernel cannot be entered at 64 bits, cannot take so long a command line or such an
/// initrd, or if the memory map has more entries than the page.
pub fn build(
    header: Option<&SetupHeader>,
    machine: &Machine,
    rsdp: u64,
) -> Result<Vec<u8>, ZeroPageError> {
    let mut params = boot_params { acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr = match header {
        Some(header) => {
            check(header, machine)?;
            trimmed(header)
        }
        None => SetupHeader {
            boot_flag: BOOT_FLAG,
            header: MAGIC,
            version: VERSION,
            kernel_alignment: KERNEL_ALIGNMENT,
            ..Default::default()
        },
    };
    params.hdr.type_of_loader = UNKNOWN_LOADER;
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = halves(machine.cmdline.start);
    if let Some(initrd) = machine.initrd {
        (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(initrd.start);
        (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(initrd.len);
    }

    let map = memory_map(&machine.memory);
    let too_many = || ZeroPageError::MemoryMap { entries: map.len() };
    let table = params.e820_table.get_mut(..map.len()).ok_or_else(too_many)?;
    for (slot, entry) in table.iter_mut().zip(&map) {
        let Range { start, len } = entry.range;
        *slot = boot_e820_entry { addr: start, size: len, r#type: entry.kind.number() };
    }
    params.e820_entries = u8::try_from(map.len()).map_err(|_| too_many())?;
    Ok(params.as_slice().to_vec())
}

/// Whether the kernel that brought this header can be started on this machine.
fn check(header: &SetupHeader, machine: &Machine) -> Result<(), ZeroPageError> {
    let version = header.version;
    let xloadflags = header.xloadflags;
    if version < VERSION_XLOADFLAGS || xloadflags & XLF_KERNEL_64 == 0 {
        return Err(ZeroPageError::NoEntry64 { version, xloadflags });
    }
    // The kernel's limit does not count the NUL.
    let (len, max) = (machine.cmdline.len.saturating_sub(1), u64::from(header.cmdline_size));
    if len > max {
        return Err(ZeroPageError::Cmdline { len, max });
    }
    if let Some(initrd) = machine.initrd {
        let last = initrd.start.saturating_add(initrd.len.saturating_sub(1));
        let max = u64::from(header.initrd_addr_max);
        if last > max && xloadflags & XLF_ABOVE_4G == 0 {
            return Err(ZeroPageError::Initrd { last, max });
        }
    }
    Ok(())
}

/// The header without what follows its stated end: an old kernel's code, not fields.
fn trimmed(header: &SetupHeader) -> SetupHeader {
    let mut header = *header;
    let bytes = header.as_mut_slice();
    let beyond = bytes.get(HEADER_LENGTH - HEADER).copied().map_or(0, usize::from);
    if let Some(rest) = bytes.get_mut(HEADER_LENGTH_BASE + beyond - HEADER..) {
        rest.fill(0);
    }
    header
}

/// The low and the high half of an address.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// A kernel or machine that a zero page cannot describe.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ZeroPageError {
    /// The kernel is 32-bit, or too old to say.
    #[error(
        "kernel has no 64-bit entry point: boot protocol {major}.{minor:02}, load flags \
         {xloadflags:#x} (x86-64 kernels since Linux 3.8 have one)",
        major = version >> 8,
        minor = version & 0xff
    )]
    NoEntry64 {
        /// Boot protocol version of the header.
        version: u16,
        /// Its extended load flags.
        xloadflags: u16,
    },
    /// The kernel takes only shorter command lines.
    #[error("kernel command line has {len} bytes, this kernel takes at most {max}")]
    Cmdline {
        /// Length without the NUL.
        len: u64,
        /// The kernel's limit.
        max: u64,
    },
    /// The initrd lies too high for the kernel.
    #[error("initrd ends at {last:#x}, this kernel takes one up to {max:#x}")]
    Initrd {
        /// Last address of the initrd.
        last: u64,
        /// The kernel's limit.
        max: u64,
    },
    /// Too many stretches of memory.
    #[error("memory map has {entries} entries, the zero page holds 128")]
    MemoryMap {
        /// Entries of the map.
        entries: usize,
    },
}

#[cfg(test)]
mod tests;
