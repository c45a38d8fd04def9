//! Whether a snapshot's guest can go on here: what the host was that it ran on, against the one that this is.
//!
//! A guest has looked at its processor when it booted and relies on what it saw. What is missing here is told by name;
//! nothing is changed in the snapshot to make it fit.

use std::fmt;

use arch::cpuid::CpuidEntry;
use serde_json::{Value, json};

use super::record::Record;
use super::{SnapshotError, at};
use crate::kvm::state::{Pieces, StateFacts};
use crate::kvm::{Flavour, Kvm};

/// Parts of a million by which the frequencies of two time stamp counters may differ, as for KVM itself.
const TSC_TOLERANCE: u64 = 250;

/// A place in CPUID where bits stand for features, without those that do not depend on the processor.
struct Features {
    function: u32,
    index: u32,
    /// Of eax, ebx, ecx and edx.
    masks: [u32; 4],
}

const fn features(function: u32, index: u32, masks: [u32; 4]) -> Features {
    Features { function, index, masks }
}

const ALL: u32 = u32::MAX;
/// OSXSAVE and OSPKE follow the guest's control registers, the TSC deadline is asked of KVM elsewhere, HTT, CmpLegacy and
/// TopologyExtensions belong to the topology.
const FEATURES: [Features; 7] = [
    features(1, 0, [0, 0, !(1 << 27 | 1 << 24 | 1 << 31), !(1 << 28)]),
    features(7, 0, [0, ALL, !(1 << 4), ALL]),
    features(7, 1, [ALL, 0, 0, 0]),
    features(0xd, 1, [ALL, 0, 0, 0]),
    features(0x8000_0001, 0, [0, 0, !(1 << 1 | 1 << 22), ALL]),
    features(0x8000_0008, 0, [0, ALL, 0, 0]),
    features(0x4000_0001, 0, [ALL, 0, 0, 0]),
];
const REGISTERS: [&str; 4] = ["eax", "ebx", "ecx", "edx"];

/// A host, as far as guests rely on it.
pub struct Host {
    cpuid: Vec<CpuidEntry>,
    facts: StateFacts,
    has_tsc_control: bool,
}

/// Something that is other here than where a snapshot was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What, there and here.
    pub what: String,
    /// Whether the guest can be expected to go on all the same.
    pub is_safe: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Host {
    /// Asks `kvm`.
    ///
    /// # Errors
    /// [`SnapshotError::Kvm`] or [`SnapshotError::State`].
    pub fn of(kvm: &Kvm) -> Result<Self, SnapshotError> {
        Ok(Self {
            cpuid: kvm.supported_cpuid()?,
            facts: StateFacts::of(kvm)?,
            has_tsc_control: kvm.has_capability(kvm_bindings::KVM_CAP_TSC_CONTROL),
        })
    }

    /// What its KVM has of a vCPU's state.
    #[must_use]
    pub fn facts(&self) -> &StateFacts {
        &self.facts
    }

    /// As a snapshot records it.
    #[must_use]
    pub fn record(&self) -> Value {
        let signature = self.entry(1, 0).map_or(0, |entry| entry.eax);
        let bytes = |functions: &[u32], order: fn(&CpuidEntry) -> Vec<u32>| {
            let entries = functions.iter().filter_map(|function| self.entry(*function, 0));
            let bytes: Vec<u8> = entries.flat_map(order).flat_map(u32::to_le_bytes).collect();
            String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_owned()
        };
        let all = |it: &CpuidEntry| vec![it.eax, it.ebx, it.ecx, it.edx];
        json!({
            "vendor": bytes(&[0], |it| vec![it.ebx, it.edx, it.ecx]),
            "family": (signature >> 8 & 15) + (signature >> 20 & 255),
            "model": (signature >> 4 & 15) + (signature >> 12 & 0xf0),
            "stepping": signature & 15,
            "name": bytes(&[0x8000_0002, 0x8000_0003, 0x8000_0004], all),
            "kvm": match Flavour::detect() {
                Flavour::Hardware => "hardware",
                Flavour::Pvm => "kvm_pvm",
            },
            "xsave_bytes": self.facts.xsave_size(),
            "msrs": self.facts.msrs().len(),
        })
    }

    /// What is other than where `record` was made, and matters.
    #[must_use]
    pub fn differences(&self, record: &Record, tsc_khz: u32) -> Vec<Difference> {
        let mut all = Vec::new();
        let mut differs = |is_safe, what: String| all.push(Difference { what, is_safe });
        let (there, here) = (at(&record.meta, "host"), self.record());
        // There guests see the processor itself, whatever KVM says that it supports.
        let is_raw = Flavour::detect() == Flavour::Pvm;
        for (key, is_safe) in [
            ("kvm", false),
            ("vendor", false),
            ("family", !is_raw),
            ("model", !is_raw),
            ("stepping", true),
        ] {
            let (there, here) = (at(there, key), at(&here, key));
            if there != here {
                differs(is_safe, format!("{key} was {there}, and is {here}"));
            }
        }
        let Some(guest) = record.vcpus.first() else { return all };
        for place in FEATURES.iter().filter(|_| !is_raw) {
            let wanted = place.of(&cpuid_of(guest));
            let has = place.of(&self.cpuid);
            for ((name, wanted), has) in REGISTERS.iter().zip(wanted).zip(has) {
                let missing = wanted & !has;
                if missing != 0 {
                    let Features { function, index, .. } = place;
                    let at = format!("CPUID {function:#x}.{index} {name}");
                    differs(false, format!("features {missing:#x} of {at} are missing"));
                }
            }
        }
        let xsave = guest.find("xsave").map_or(0, <[u8]>::len);
        if xsave > self.facts.xsave_size() {
            let has = self.facts.xsave_size();
            differs(false, format!("the extended state had {xsave} bytes, and has {has}"));
        }
        for [index, value] in pairs(guest.find("msrs").unwrap_or_default()) {
            let is_known = u32::try_from(index).is_ok_and(|it| self.facts.msrs().contains(&it));
            if value != 0 && !is_known {
                differs(false, format!("model-specific register {index:#x} is missing"));
            }
        }
        let khz =
            guest.find("tsc_khz").and_then(|it| it.try_into().ok()).map_or(0, u32::from_le_bytes);
        let apart = u64::from(khz.abs_diff(tsc_khz)) * 1_000_000;
        if khz != 0 && apart > TSC_TOLERANCE * u64::from(khz) && !self.has_tsc_control {
            differs(true, format!("the time stamp counter had {khz} kHz, and has {tsc_khz}"));
        }
        all
    }

    fn entry(&self, function: u32, index: u32) -> Option<&CpuidEntry> {
        find(&self.cpuid, function, index)
    }
}

impl Features {
    fn of(&self, entries: &[CpuidEntry]) -> [u32; 4] {
        let [a, b, c, d] = self.masks;
        find(entries, self.function, self.index)
            .map_or([0; 4], |it| [it.eax & a, it.ebx & b, it.ecx & c, it.edx & d])
    }
}

fn find(entries: &[CpuidEntry], function: u32, index: u32) -> Option<&CpuidEntry> {
    entries.iter().find(|it| it.function == function && it.index == index)
}

/// What a vCPU was shown.
fn cpuid_of(vcpu: &Pieces) -> Vec<CpuidEntry> {
    let entries = vcpu.find("cpuid").and_then(|bytes| bytes.get(8..)).unwrap_or_default();
    let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    let entry = |bytes: &[u8; 40]| match bytes.as_chunks::<4>().0 {
        [function, index, _, eax, ebx, ecx, edx, ..] => Some(CpuidEntry {
            function: word(function),
            index: word(index),
            significant_index: false,
            eax: word(eax),
            ebx: word(ebx),
            ecx: word(ecx),
            edx: word(edx),
        }),
        _ => None,
    };
    entries.as_chunks::<40>().0.iter().filter_map(entry).collect()
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u64; 2]> {
    let pair =
        |[index, value]: &[[u8; 8]; 2]| [u64::from_le_bytes(*index), u64::from_le_bytes(*value)];
    bytes.as_chunks::<8>().0.as_chunks::<2>().0.iter().map(pair)
}
