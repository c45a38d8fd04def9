//! The first register values of the boot CPU, for each way into a kernel.
//!
//! The other CPUs need none: they wait for the kernel's start-up message in their reset state. The
//! types hold what KVM's do, but belong to this crate; the caller converts.

use super::{gdt, layout};

/// A segment register with its hidden part, as `kvm_segment` lays it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Linear address of the first byte.
    pub base: u64,
    /// Last valid offset, in bytes.
    pub limit: u32,
    /// Index into the GDT, times 8.
    pub selector: u16,
    /// Type field of the descriptor (SDM volume 3, 3.4.5.1).
    pub type_: u8,
    /// Present.
    pub present: u8,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Default operand size: 1 for 32-bit code and data.
    pub db: u8,
    /// 1 for code and data, 0 for system segments.
    pub s: u8,
    /// 1 for 64-bit code.
    pub l: u8,
    /// Whether the descriptor's limit counts pages.
    pub g: u8,
    /// Available to software.
    pub avl: u8,
    /// 1 if the register holds nothing.
    pub unusable: u8,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Linear address of the table.
    pub base: u64,
    /// Length in bytes, less one.
    pub limit: u16,
}

/// Segments, descriptor tables and control registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the processor's own register names")]
pub struct SpecialRegisters {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: Table,
    pub idt: Table,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

/// General registers; those not listed start as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the processor's own register names")]
pub struct GeneralRegisters {
    pub rip: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rbx: u64,
    pub rflags: u64,
}

/// Control words of the floating-point unit; its registers start as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FpuRegisters {
    /// x87 control word.
    pub fcw: u16,
    /// SSE control and status.
    pub mxcsr: u32,
}

/// The floating-point state after `FNINIT` and reset: all exceptions masked, nearest rounding (SDM
/// volume 1, 8.1.5 and 10.2.3).
pub const FPU: FpuRegisters = FpuRegisters { fcw: 0x37f, mxcsr: 0x1f80 };

/// What the boot CPU starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootRegisters {
    /// General registers.
    pub general: GeneralRegisters,
    /// Segments and control registers.
    pub special: SpecialRegisters,
}

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 always reads as one; the interrupt flag is off, as both protocols want.
const RFLAGS: u64 = 1 << 1;

/// Registers for the 64-bit Linux boot protocol: long mode, the low [`layout::BOOT_MAPPED`] bytes
/// mapped to themselves, RSI at the zero page (Linux `Documentation/arch/x86/boot.rst`, "64-bit
/// Boot Protocol").
pub fn linux64(entry: u64, zero_page: u64) -> BootRegisters {
    BootRegisters {
        general: GeneralRegisters {
            rip: entry,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            rsi: zero_page,
            rflags: RFLAGS,
            ..Default::default()
        },
        special: SpecialRegisters {
            cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
            cr3: layout::PAGE_TABLES,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..flat(&gdt::LONG_MODE)
        },
    }
}

/// Registers for the PVH entry: 32-bit protected mode without paging, EBX at the start info (Xen
/// `docs/misc/pvh.pandoc`: CR0 has PE and nothing else that can be written).
pub fn pvh(entry: u64, start_info: u64) -> BootRegisters {
    BootRegisters {
        general: GeneralRegisters {
            rip: entry,
            rbx: start_info,
            rflags: RFLAGS,
            ..Default::default()
        },
        special: SpecialRegisters { cr0: CR0_PE | CR0_ET, ..flat(&gdt::PROTECTED_MODE) },
    }
}

/// Flat segments from a GDT. The interrupt table is empty: a fault before the kernel has its own
/// shuts the machine down, which is seen, rather than jumping into zeros.
fn flat(segments: &gdt::Segments) -> SpecialRegisters {
    let data = segments.data;
    SpecialRegisters {
        cs: segments.code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segments.task,
        ldt: Segment { unusable: 1, ..Default::default() },
        gdt: Table { base: layout::GDT, limit: gdt::LIMIT },
        idt: Table::default(),
        cr0: 0,
        cr3: 0,
        cr4: 0,
        efer: 0,
    }
}

#[cfg(test)]
mod tests;
