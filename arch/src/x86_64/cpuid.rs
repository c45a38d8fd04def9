//! What CPUID tells the guest: the host's answer, corrected for this machine's CPUs.
//!
//! Features are taken as KVM offers them; restricting them to an older model is not done here.
//! Corrected are the leaves that name identifiers, groups and frequencies, because those the host
//! fills in for itself.

use thiserror::Error;

use super::topology::ApicIds;
use crate::Topology;

mod leaf;

use leaf::Vendor;

/// One leaf, as `kvm_cpuid_entry2` lays it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the processor's own register names")]
pub struct CpuidEntry {
    /// Leaf: EAX of the query.
    pub function: u32,
    /// Subleaf: ECX of the query.
    pub index: u32,
    /// Whether the subleaf selects the answer (`KVM_CPUID_FLAG_SIGNIFCANT_INDEX`).
    pub significant_index: bool,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What decides the corrections.
#[derive(Clone, Copy, Debug)]
pub struct CpuFacts {
    /// Which CPU the leaves are for, below `topology.cpus()`.
    pub index: u16,
    /// How all CPUs are grouped.
    pub topology: Topology,
    /// Frequency of the guest's time-stamp counter, if known.
    pub tsc_khz: Option<u32>,
    /// Whether KVM's local APIC has the TSC deadline mode (`KVM_CAP_TSC_DEADLINE_TIMER`), which
    /// `KVM_GET_SUPPORTED_CPUID` does not say.
    pub tsc_deadline_timer: bool,
}

/// Frequency of the local APIC's timer: KVM's, unless `KVM_CAP_X86_APIC_BUS_CYCLES_NS` changes it.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// Turns what `KVM_GET_SUPPORTED_CPUID` returned into what CPU `facts.index` is given.
///
/// The leaves of another CPU differ only in identifiers: see [`set_cpu`].
///
/// # Errors
///
/// If there is no such CPU, or `entries` lacks leaf 0 or 1 and so was not filled in by KVM.
pub fn configure(entries: &mut Vec<CpuidEntry>, facts: &CpuFacts) -> Result<(), CpuidError> {
    let vendor = Vendor::of(entries).ok_or(CpuidError::Missing { function: 0 })?;
    let ids = ApicIds::new(&facts.topology);
    let has_kvm = entries.iter().any(leaf::is_kvm_signature);
    let timing = facts.tsc_khz.filter(|_| has_kvm);
    let mut has_features = false;
    let mut max_basic = 0;
    entries.retain_mut(|entry| {
        match entry.function {
            function if leaf::is_host_topology(function) => return false,
            leaf::HYPERVISOR_TIMING if timing.is_some() => return false,
            0 => {
                entry.eax = entry.eax.max(leaf::TOPOLOGY);
                max_basic = entry.eax;
            }
            1 => {
                leaf::features(entry, facts);
                has_features = true;
            }
            4 if vendor == Vendor::Intel => leaf::intel_cache(entry, &ids),
            leaf::INTEL_TSC if vendor == Vendor::Intel => leaf::intel_tsc(entry, facts.tsc_khz),
            leaf::KVM if timing.is_some() => {
                entry.eax = entry.eax.max(leaf::HYPERVISOR_TIMING);
            }
            leaf::AMD_FEATURES if vendor == Vendor::Amd => leaf::amd_features(entry, facts),
            leaf::AMD_SIZES if vendor == Vendor::Amd => leaf::amd_sizes(entry, facts, &ids),
            leaf::AMD_CACHE if vendor == Vendor::Amd => leaf::amd_cache(entry, facts),
            _ => {}
        }
        true
    });
    if !has_features {
        return Err(CpuidError::Missing { function: 1 });
    }

    entries.extend(leaf::topology(leaf::TOPOLOGY, facts, &ids));
    if max_basic >= leaf::TOPOLOGY_V2 {
        entries.extend(leaf::topology(leaf::TOPOLOGY_V2, facts, &ids));
    }
    if let Some(tsc_khz) = timing {
        entries.push(CpuidEntry {
            function: leaf::HYPERVISOR_TIMING,
            eax: tsc_khz,
            ebx: APIC_BUS_KHZ,
            ..Default::default()
        });
    }
    set_cpu(entries, &facts.topology, facts.index)
}

/// Gives the configured leaves of any CPU of this machine the identifiers of CPU `index`.
///
/// # Errors
///
/// If there is no such CPU.
pub fn set_cpu(
    entries: &mut [CpuidEntry],
    topology: &Topology,
    index: u16,
) -> Result<(), CpuidError> {
    if index >= topology.cpus() {
        return Err(CpuidError::NoSuchCpu { index, cpus: topology.cpus() });
    }
    let ids = ApicIds::new(topology);
    let id = ids.id(index);
    for entry in entries {
        match entry.function {
            // Only 8 bits here; x2APIC's leaf has them all.
            1 => entry.ebx = leaf::with_bits(entry.ebx, 24, 8, id & 0xff),
            leaf::TOPOLOGY | leaf::TOPOLOGY_V2 => entry.edx = id,
            leaf::AMD_TOPOLOGY => leaf::amd_topology(entry, topology, id, ids.place(index)),
            _ => {}
        }
    }
    Ok(())
}

/// Leaves that cannot be made from what was given.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CpuidError {
    /// A leaf that every host has is not there.
    #[error("the host reports no CPUID leaf {function:#x}")]
    Missing {
        /// The leaf.
        function: u32,
    },
    /// The index is out of range.
    #[error("there is no CPU {index} among {cpus}")]
    NoSuchCpu {
        /// Index asked for.
        index: u16,
        /// Number of CPUs.
        cpus: u16,
    },
}

#[cfg(test)]
mod tests;
