//! The correction of each single leaf. Bit positions are those of the SDM's (volume 2, CPUID) and
//! APM's (volume 3, appendix E) tables.
//!
//! Which leaves are corrected, and in what order, is not decided here.

use super::{APIC_BUS_KHZ, CpuFacts, CpuidEntry};
use crate::Topology;
use crate::x86_64::topology::{ApicIds, Place};

/// Groups of CPUs ("extended topology enumeration"), and its successor.
pub(super) const TOPOLOGY: u32 = 0xb;
pub(super) const TOPOLOGY_V2: u32 = 0x1f;
/// Ratio of the time-stamp counter to the core crystal.
pub(super) const INTEL_TSC: u32 = 0x15;
/// KVM's signature, and the leaf by which hypervisors tell frequencies.
pub(super) const KVM: u32 = 0x4000_0000;
pub(super) const HYPERVISOR_TIMING: u32 = 0x4000_0010;
pub(super) const AMD_FEATURES: u32 = 0x8000_0001;
pub(super) const AMD_SIZES: u32 = 0x8000_0008;
pub(super) const AMD_CACHE: u32 = 0x8000_001d;
pub(super) const AMD_TOPOLOGY: u32 = 0x8000_001e;
/// AMD's own extended topology: the guest uses leaf 0xb when it is absent.
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

/// Who made the CPU, as far as leaves differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    Intel,
    /// AMD or Hygon.
    Amd,
    Other,
}

impl Vendor {
    /// The vendor by leaf 0, or `None` if that is missing.
    pub(super) fn of(entries: &[CpuidEntry]) -> Option<Self> {
        let leaf = entries.iter().find(|entry| entry.function == 0)?;
        let mut name = [0; 12];
        for (to, from) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        Some(match &name {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        })
    }
}

/// Whether a leaf describes groups and exists only in our own version.
pub(super) fn is_host_topology(function: u32) -> bool {
    matches!(function, TOPOLOGY | TOPOLOGY_V2 | AMD_TOPOLOGY_V2)
}

pub(super) fn is_kvm_signature(entry: &CpuidEntry) -> bool {
    let name = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    entry.function == KVM && [entry.ebx, entry.ecx, entry.edx] == name
}

/// `value` with `bits` (fewer than 32) bits from `shift` up replaced by `field`, which is capped to
/// what fits.
pub(super) fn with_bits(value: u32, shift: u32, bits: u32, field: u32) -> u32 {
    let max = (1 << bits) - 1;
    (value & !(max << shift)) | (field.min(max) << shift)
}

/// Leaf 1.
pub(super) fn features(entry: &mut CpuidEntry, facts: &CpuFacts) {
    const ECX_X2APIC: u32 = 1 << 21;
    const ECX_TSC_DEADLINE: u32 = 1 << 24;
    const ECX_HYPERVISOR: u32 = 1 << 31;
    const EDX_CLFSH: u32 = 1 << 19;
    const EDX_HTT: u32 = 1 << 28;
    const CLFLUSH_64_BYTES: u32 = 8;

    let siblings = cpus_per_socket(&facts.topology);
    entry.ebx = with_bits(entry.ebx, 16, 8, siblings);
    if entry.edx & EDX_CLFSH != 0 {
        entry.ebx = with_bits(entry.ebx, 8, 8, CLFLUSH_64_BYTES);
    }
    // KVM's local APIC always has x2APIC mode.
    entry.ecx |= ECX_X2APIC | ECX_HYPERVISOR;
    set_if(&mut entry.ecx, ECX_TSC_DEADLINE, facts.tsc_deadline_timer);
    set_if(&mut entry.edx, EDX_HTT, siblings > 1);
}

/// Leaf 4: who shares each cache. Fields hold the number of identifiers less one, gaps included.
pub(super) fn intel_cache(entry: &mut CpuidEntry, ids: &ApicIds) {
    const NO_CACHE: u32 = 0;
    if entry.eax & 0x1f == NO_CACHE {
        return;
    }
    let ids_below = |shift: u32| (1 << shift) - 1;
    let sharing = if cache_is_per_core(entry) { ids.core_shift() } else { ids.package_shift() };
    entry.eax = with_bits(entry.eax, 14, 12, ids_below(sharing));
    entry.eax = with_bits(entry.eax, 26, 6, ids_below(ids.package_shift() - ids.core_shift()));
}

/// Leaf 0x15: exact or nothing. The crystal is given KVM's APIC timer frequency, because guests
/// take the one for the other.
pub(super) fn intel_tsc(entry: &mut CpuidEntry, tsc_khz: Option<u32>) {
    let Some(tsc_khz) = tsc_khz else { return };
    let divisor = gcd(tsc_khz, APIC_BUS_KHZ).max(1);
    let (numerator, denominator) = (tsc_khz / divisor, APIC_BUS_KHZ / divisor);
    // Linux multiplies crystal kHz and numerator in 32 bits.
    let fits = APIC_BUS_KHZ.checked_mul(numerator).is_some();
    let known = fits && tsc_khz > 0;
    (entry.eax, entry.ebx, entry.ecx) =
        if known { (denominator, numerator, APIC_BUS_KHZ * 1000) } else { (0, 0, 0) };
}

/// Leaf 0x8000_0001.
pub(super) fn amd_features(entry: &mut CpuidEntry, facts: &CpuFacts) {
    const ECX_CMP_LEGACY: u32 = 1 << 1;
    set_if(&mut entry.ecx, ECX_CMP_LEGACY, cpus_per_socket(&facts.topology) > 1);
}

/// Leaf 0x8000_0008: number of CPUs in a socket, and the width of their identifiers.
pub(super) fn amd_sizes(entry: &mut CpuidEntry, facts: &CpuFacts, ids: &ApicIds) {
    entry.ecx = with_bits(entry.ecx, 0, 8, cpus_per_socket(&facts.topology) - 1);
    entry.ecx = with_bits(entry.ecx, 12, 4, ids.package_shift());
}

/// Leaf 0x8000_001d: who shares each cache, in CPUs less one.
pub(super) fn amd_cache(entry: &mut CpuidEntry, facts: &CpuFacts) {
    const NO_CACHE: u32 = 0;
    if entry.eax & 0x1f == NO_CACHE {
        return;
    }
    let sharing = if cache_is_per_core(entry) {
        u32::from(facts.topology.threads_per_core())
    } else {
        cpus_per_socket(&facts.topology)
    };
    entry.eax = with_bits(entry.eax, 14, 12, sharing - 1);
}

/// Leaf 0x8000_001e, of one CPU: its identifier, core and socket, the latter as its only node.
pub(super) fn amd_topology(entry: &mut CpuidEntry, topology: &Topology, id: u32, place: Place) {
    entry.eax = id;
    entry.ebx = with_bits(entry.ebx, 0, 8, place.core.into());
    entry.ebx = with_bits(entry.ebx, 8, 8, u32::from(topology.threads_per_core()) - 1);
    entry.ecx = with_bits(entry.ecx, 0, 8, place.socket.into());
    entry.ecx = with_bits(entry.ecx, 8, 3, 0);
}

/// Leaf 0xb or 0x1f: one subleaf for threads and one for cores, without the identifier in EDX. The
/// empty subleaf behind them is answered by KVM itself.
pub(super) fn topology(function: u32, facts: &CpuFacts, ids: &ApicIds) -> [CpuidEntry; 2] {
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    let subleaf = |index: u32, level: u32, shift: u32, cpus: u32| CpuidEntry {
        function,
        index,
        significant_index: true,
        eax: shift,
        ebx: cpus,
        ecx: index | (level << 8),
        edx: 0,
    };
    let threads = u32::from(facts.topology.threads_per_core());
    [
        subleaf(0, LEVEL_THREAD, ids.core_shift(), threads),
        subleaf(1, LEVEL_CORE, ids.package_shift(), cpus_per_socket(&facts.topology)),
    ]
}

/// Level 1 and 2 caches belong to a core, the others to a socket.
fn cache_is_per_core(entry: &CpuidEntry) -> bool {
    (entry.eax >> 5) & 0x7 <= 2
}

/// At most [`crate::MAX_CPUS`].
fn cpus_per_socket(topology: &Topology) -> u32 {
    u32::from(topology.threads_per_core()) * u32::from(topology.cores_per_socket())
}

fn set_if(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
