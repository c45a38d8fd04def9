//! Every address, port, interrupt and limit of the x86-64 machine, each with its reason.
//!
//! Nothing here is allocated: which device gets which of the windows and interrupts is decided by
//! the caller. Guest physical memory, lowest address first:
//!
//! ```text
//!          0  RAM            GDT, boot information, first page tables, kernel command line
//!    0x9E000  reserved       MP table
//!    0xA0000  hole           legacy VGA and option ROMs; backed by RAM, not offered as such
//!    0xE0000  reserved       ACPI tables
//!   0x100000  RAM            kernel, initrd, everything else (up to 3 GiB)
//! 0xC0000000  32-bit hole    boot timer, virtio windows, I/O APIC, KVM's own pages, local APIC
//!      4 GiB  RAM            what did not fit below the hole
//! ```

use std::ops::RangeInclusive;

use crate::{PowerPorts, Range};

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

// ---- Low memory: read once by the kernel's first code, then its own to reuse ----

/// GDT of the boot CPU: just above the real-mode vectors and BIOS data area, which stay zero
/// because Linux looks there for an extended BIOS data area.
pub const GDT: u64 = 0x500;

/// PVH `hvm_start_info`; also the value of EBX at entry.
pub const PVH_START_INFO: u64 = 0x6000;

/// PVH module list, behind the 56 bytes of the start info.
pub const PVH_MODULES: u64 = 0x6040;

/// PVH memory map: up to [`ZERO_PAGE`], room for 160 entries.
pub const PVH_MEMORY_MAP: u64 = 0x6100;

/// Linux `boot_params`, one page; also the value of RSI at entry.
pub const ZERO_PAGE: u64 = 0x7000;

/// Initial stack pointer, for kernels that push before they have a stack of their own: the stack
/// grows down from here towards the zero page.
pub const BOOT_STACK: u64 = 0x8ff0;

/// First page tables of the 64-bit entry: PML4, PDPT and one page directory, 4 KiB each.
pub const PAGE_TABLES: u64 = 0x9000;

/// How far the first page tables map addresses to themselves. The 64-bit boot protocol wants the
/// kernel (up to its `init_size`), zero page and command line mapped; the kernel maps the rest. So
/// a kernel entered at 64 bits must end below.
pub const BOOT_MAPPED: u64 = GIB;

/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;

/// Longest command line in bytes with its NUL: what x86 Linux keeps (`COMMAND_LINE_SIZE`).
pub const CMDLINE_MAX: u64 = 2048;

/// MP table area, up to the end of base memory. Large enough for 254 CPUs at 20 bytes each.
pub const MP_TABLE: Range = Range { start: 0x9_E000, len: 8 * KIB };

/// MP floating pointer: the last KiB of base memory is the second place Linux searches, ahead of
/// the 64 KiB of BIOS area.
pub const MP_POINTER: u64 = 0x9_FC00;

/// ACPI tables: the BIOS area, where a kernel that is handed no RSDP address searches for it.
pub const ACPI_TABLES: Range = Range { start: 0xE_0000, len: 128 * KIB };

/// Where the RSDP lies: it is searched for at multiples of 16.
pub const RSDP: u64 = ACPI_TABLES.start;

/// The generation identifier, 16 random bytes that are others in every copy of a machine. It lies between the RSDP and
/// the other tables: in memory that is there anyhow, and that the memory map calls reserved, as the identifier's
/// specification demands (Microsoft, "Virtual Machine Generation ID", 2012).
pub const GENERATION_ID: Range = Range { start: RSDP + 48, len: 16 };

/// The VMClock page ([`super::vmclock`]), the last of the same area: programs of the guest may map it, so that nothing
/// else is in it.
pub const VMCLOCK: Range =
    Range { start: ACPI_TABLES.start + ACPI_TABLES.len - 4 * KIB, len: 4 * KIB };

/// Start of high memory: no kernel segment and no initrd may begin below.
pub const HIMEM: u64 = 0x10_0000;

// ---- The 32-bit hole ----

/// Where RAM stops, to leave the last GiB below 4 GiB to devices.
pub const HOLE_START: u64 = 3 * GIB;

/// Where RAM goes on.
pub const HOLE_END: u64 = 4 * GIB;

/// Page of the boot timer, the address that Firecracker's guest tools write to.
pub const BOOT_TIMER: Range = Range { start: HOLE_START, len: 4 * KIB };

/// Length of one virtio-mmio window: registers and configuration space in a page of their own.
pub const VIRTIO_MMIO_LEN: u64 = 4 * KIB;

/// Windows of the virtio-mmio devices, [`VIRTIO_MMIO_LEN`] each, assigned upwards.
pub const VIRTIO_MMIO: Range =
    Range { start: BOOT_TIMER.start + BOOT_TIMER.len, len: 255 * VIRTIO_MMIO_LEN };

/// Registers of the I/O APIC, where KVM's in-kernel model answers. Every table that names it has 32
/// bits for it.
pub const IO_APIC: u32 = 0xFEC0_0000;

/// Registers of the local APIC, at their reset address (SDM volume 3, 11.4.1).
pub const LOCAL_APIC: u32 = 0xFEE0_0000;

/// Page for `KVM_SET_IDENTITY_MAP_ADDR`: Intel hosts without unrestricted guests need it for
/// real-mode code. KVM's own default, stated because the guest is told to keep off it.
pub const KVM_IDENTITY_MAP: u64 = 0xFFFB_C000;

/// Three pages for `KVM_SET_TSS_ADDR`, needed with the identity map.
pub const KVM_TSS: u64 = KVM_IDENTITY_MAP + 4 * KIB;

/// The pages that KVM keeps for itself: reserved in the memory map.
pub const KVM_PAGES: Range = Range { start: KVM_IDENTITY_MAP, len: 16 * KIB };

// ---- Interrupts: pins of the I/O APIC ----

/// Pins of KVM's I/O APIC, whose first GSI is 0.
pub const GSI_COUNT: u32 = 24;

/// Timer interrupt of a PC, wired only if the caller creates a PIT.
pub const TIMER_GSI: u32 = 0;

/// Keyboard interrupt of a PC. The controller here has no keyboard and never raises it.
pub const I8042_GSI: u32 = 1;

/// The generation identifier and the VMClock page changed: the keyboard's, because nobody else needs it. (Linux takes neither 0 nor 2 for the
/// interrupt of a device.)
pub const GENERATION_GSI: u32 = I8042_GSI;

/// Power button: the interrupt of a PC's second serial port, which this machine lacks, so that all
/// from 5 up stay free for devices.
pub const POWER_BUTTON_GSI: u32 = 3;

/// Interrupt of a PC's first serial port.
pub const COM1_GSI: u32 = 4;

/// Interrupts for devices, one each.
pub const DEVICE_GSIS: RangeInclusive<u32> = 5..=GSI_COUNT - 1;

// ---- I/O ports ----

/// i8042 data port.
pub const I8042_DATA_PORT: u16 = 0x60;

/// i8042 status and command port.
pub const I8042_COMMAND_PORT: u16 = 0x64;

/// Debug exit: bare-metal test guests end the machine by a write here, as with QEMU's
/// `isa-debug-exit` in its usual place.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// First serial port of a PC.
pub const COM1_PORT: u16 = 0x3f8;

/// pvpanic, at the port where QEMU's ISA device has it.
pub const PVPANIC_PORT: u16 = 0x505;

/// Power management, at ports that no PC device claims. Each register is one byte.
pub const POWER: PowerPorts =
    PowerPorts { sleep_control: 0x600, sleep_status: 0x601, reset: 0x602, reset_value: 1 };

/// Sleep type of S5, soft off, as the DSDT's `_S5` gives it to the guest.
pub const SLEEP_TYPE_S5: u8 = 5;

/// What the guest writes to [`PowerPorts::sleep_control`] to power off: the sleep type in bits 4:2
/// and the enable bit 5 (ACPI 6.5, table 4.16).
pub const POWER_OFF_VALUE: u8 = (SLEEP_TYPE_S5 << 2) | (1 << 5);

/// Where `bytes` of RAM lie: from 0 up to the 32-bit hole, the rest from 4 GiB.
///
/// Empty for 0 bytes. A size whose end is beyond 64 bits yields a range without an
/// [`end`](Range::end), which the boot tables refuse.
pub fn ram_ranges(bytes: u64) -> Vec<Range> {
    let low = bytes.min(HOLE_START);
    [Range { start: 0, len: low }, Range { start: HOLE_END, len: bytes - low }]
        .into_iter()
        .filter(|range| range.len > 0)
        .collect()
}

#[cfg(test)]
mod tests;
