//! CPUID as KVM speaks it: `struct kvm_cpuid2`, a count and that many entries.
//!
//! Made and read here and not by `kvm-bindings`, whose list ends at 80 entries, of which today's processors fill 75.

#![expect(unsafe_code, reason = "KVM fills and reads a list of variable length")]

use std::io;
use std::os::fd::RawFd;

use arch::cpuid::CpuidEntry;
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVMIO, kvm_cpuid2};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_ptr};
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

use super::KvmError;

ioctl_iowr_nr!(KVM_GET_SUPPORTED_CPUID, KVMIO, 0x05, kvm_cpuid2);
ioctl_iow_nr!(KVM_SET_CPUID2, KVMIO, 0x90, kvm_cpuid2);

/// Entries to ask for: more than any processor has today, and the most that KVM ever gives.
const USUAL: u32 = 100;
const MOST: u32 = 256;

/// Two of the words that `kvm_cpuid2` and `kvm_cpuid_entry2` consist of: the former is one pair, the latter five.
type Pair = [u32; 2];
const PAIRS: usize = 5;

/// What CPUID can show to a guest, by the KVM that is open as `kvm`.
pub(super) fn supported(kvm: RawFd) -> Result<Vec<CpuidEntry>, KvmError> {
    let ask = |count| fill(kvm, count);
    let list = match ask(USUAL) {
        Err(error) if error.raw_os_error() == Some(libc::E2BIG) => ask(MOST),
        other => other,
    };
    let list =
        list.map_err(|source| KvmError::Call { what: "list the supported CPUID", source })?;
    let entries = list.get(1..).unwrap_or_default();
    Ok(entries.chunks_exact(PAIRS).filter_map(from_kvm).collect())
}

/// Asks for up to `count` entries; the list ends after the last one there is.
fn fill(kvm: RawFd, count: u32) -> io::Result<Vec<Pair>> {
    let pairs = |count: u32| 1 + PAIRS * count as usize;
    let mut list: Vec<Pair> = Vec::with_capacity(pairs(count));
    list.push([count, 0]);
    // SAFETY: the list has room for the `count` entries that its head promises.
    if unsafe { ioctl_with_mut_ptr(&kvm, KVM_GET_SUPPORTED_CPUID(), list.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let filled = list.first().map_or(0, |[count, _]| *count).min(count);
    // SAFETY: so many entries were written behind the head, and there is room for `count`.
    unsafe { list.set_len(pairs(filled)) };
    Ok(list)
}

/// Gives `vcpu` these entries.
///
/// # Errors
/// [`KvmError::Call`].
pub fn set_cpuid(vcpu: &VcpuFd, entries: &[CpuidEntry]) -> Result<(), KvmError> {
    let failed = |source| KvmError::Call { what: "set CPUID", source };
    let count = u32::try_from(entries.len()).map_err(|e| failed(io::Error::other(e)))?;
    let mut list = Vec::with_capacity(1 + PAIRS * entries.len());
    list.push([count, 0]);
    for entry in entries {
        list.extend_from_slice(&to_kvm(entry));
    }
    // SAFETY: the list has the `count` entries that its head promises; KVM only reads it.
    if unsafe { ioctl_with_ptr(vcpu, KVM_SET_CPUID2(), list.as_ptr()) } < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    Ok(())
}

fn from_kvm(pairs: &[Pair]) -> Option<CpuidEntry> {
    let &[[function, index], [flags, eax], [ebx, ecx], [edx, _], _] = pairs else { return None };
    let significant_index = flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
    Some(CpuidEntry { function, index, significant_index, eax, ebx, ecx, edx })
}

fn to_kvm(from: &CpuidEntry) -> [Pair; PAIRS] {
    let flags = if from.significant_index { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
    [[from.function, from.index], [flags, from.eax], [from.ebx, from.ecx], [from.edx, 0], [0, 0]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn an_entry_has_the_layout_of_kvm_and_comes_back_the_same() {
        let entry = CpuidEntry {
            function: 1,
            index: 2,
            significant_index: true,
            eax: 3,
            ebx: 4,
            ecx: 5,
            edx: 6,
        };
        let pairs = to_kvm(&entry);
        let theirs = kvm_cpuid_entry2 {
            function: 1,
            index: 2,
            flags: 1,
            eax: 3,
            ebx: 4,
            ecx: 5,
            edx: 6,
            padding: [0; 3],
        };
        assert_eq!(size_of_val(&pairs), size_of_val(&theirs));
        assert_eq!(size_of::<Pair>(), size_of::<kvm_cpuid2>());
        // SAFETY: both are arrays of 32-bit words of the same length.
        let words: [Pair; PAIRS] = unsafe { std::mem::transmute(theirs) };
        assert_eq!(pairs, words);
        assert_eq!(from_kvm(&pairs), Some(entry));
    }
}
