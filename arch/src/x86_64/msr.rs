//! Model-specific registers to set before a CPU first runs.
//!
//! CPU features are not negotiated here: those are CPUID's business.

/// One register and its first value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msr {
    /// Register number.
    pub index: u32,
    /// Value to write.
    pub value: u64,
    /// Whether a machine is unusable without it. Hosts may refuse any other; that is no reason to
    /// fail.
    pub required: bool,
}

const IA32_TSC: u32 = 0x10;
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_CSTAR: u32 = 0xc000_0083;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Fast string operations: as firmware leaves them, and as the kernel's `memcpy` expects.
const MISC_ENABLE_FAST_STRING: u64 = 1 << 0;
/// No branch trace store and no precise event sampling, which KVM reports so too.
const MISC_ENABLE_BTS_UNAVAILABLE: u64 = 1 << 11;
const MISC_ENABLE_PEBS_UNAVAILABLE: u64 = 1 << 12;

/// MTRRs on, all memory write-back unless said otherwise (SDM volume 3, 12.11.2.1). At reset all is
/// uncacheable, and Linux would believe it.
const MTRR_ENABLED: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

const BOOT_MSRS: [Msr; 11] = [
    // The entry points of system calls, which no earlier run of the CPU may leave behind.
    zero(IA32_SYSENTER_CS),
    zero(IA32_SYSENTER_ESP),
    zero(IA32_SYSENTER_EIP),
    zero(IA32_STAR),
    zero(IA32_LSTAR),
    zero(IA32_CSTAR),
    zero(IA32_FMASK),
    zero(IA32_KERNEL_GS_BASE),
    // The same value for every CPU, so that KVM keeps their counters together.
    optional(IA32_TSC, 0),
    optional(
        IA32_MISC_ENABLE,
        MISC_ENABLE_FAST_STRING | MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE,
    ),
    optional(IA32_MTRR_DEF_TYPE, MTRR_ENABLED | MTRR_WRITE_BACK),
];

/// The registers to set on every CPU, in any order.
pub fn boot_msrs() -> &'static [Msr] {
    &BOOT_MSRS
}

const fn zero(index: u32) -> Msr {
    Msr { index, value: 0, required: true }
}

const fn optional(index: u32, value: u64) -> Msr {
    Msr { index, value, required: false }
}

#[cfg(test)]
mod tests;
