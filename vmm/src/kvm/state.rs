//! The state of a virtual machine as KVM shows it: structures by name, each carried as the bytes that it is.
//!
//! One table for a vCPU and one for the rest say how each is got and set, and in which order; what is in a structure is
//! looked at only where KVM itself says that it must be. What does not belong to KVM (memory, devices) is not here.

#![expect(unsafe_code, reason = "structures are handed to KVM by address")]

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVMIO, kvm_clock_data, kvm_cpuid2, kvm_debugregs, kvm_irqchip,
    kvm_lapic_state, kvm_mp_state, kvm_msr_list, kvm_msrs, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use vmm_sys_util::ioctl::{
    _IOC_READ, _IOC_WRITE, ioctl_expr, ioctl_with_mut_ptr, ioctl_with_ptr, ioctl_with_val,
};

use super::Kvm;

mod pieces;
pub use pieces::Pieces;

/// More than any KVM has of either.
const MSRS_MAX: usize = 4096;
const CPUID_MAX: usize = 256;
/// Bytes of an entry of `kvm_cpuid2`.
const CPUID_ENTRY: usize = 40;

/// IA32_TSC and IA32_TSC_DEADLINE (SDM volume 4, table 2-2).
const MSR_TSC: u32 = 0x10;
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Why state cannot be got or set.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// KVM does not tell it.
    #[error("KVM does not tell {name} of {of}")]
    Get {
        /// Whose it is.
        of: String,
        /// The structure.
        name: &'static str,
        /// KVM's answer.
        #[source]
        source: io::Error,
    },
    /// KVM does not take it.
    #[error("KVM refuses {name} of {of}")]
    Set {
        /// Whose it is.
        of: String,
        /// The structure.
        name: &'static str,
        /// KVM's answer.
        #[source]
        source: io::Error,
    },
    /// A register has another value than KVM lets it have.
    #[error("KVM refuses {value:#x} in model-specific register {index:#x} of {of}")]
    Msr {
        /// Whose it is.
        of: String,
        /// Its number.
        index: u32,
        /// What it was to have.
        value: u64,
    },
    /// It is not there, or not of the right length.
    #[error("{name} of {of} is missing or damaged")]
    Missing {
        /// Whose it is.
        of: String,
        /// The structure.
        name: &'static str,
    },
    /// Something of a later version.
    #[error("{of} has {name:?}, which this version of vmm does not know")]
    Unknown {
        /// Whose it is.
        of: String,
        /// Its name.
        name: String,
    },
}

/// A structure, and the numbers of the calls for it, which also say how long it is.
struct Piece {
    name: &'static str,
    get: u64,
    set: u64,
}

const fn piece<T>(name: &'static str, get: u32, set: u32) -> Piece {
    let (get, set) = (number::<T>(_IOC_READ, get), number::<T>(_IOC_WRITE, set));
    Piece { name, get, set }
}

#[expect(clippy::cast_possible_truncation, reason = "no structure of KVM has 4 GiB")]
const fn number<T>(direction: u32, nr: u32) -> u64 {
    ioctl_expr(direction, KVMIO, nr, size_of::<T>() as u32)
}

/// What is set before the model-specific registers, in this order. SET_REGS forgets pending exceptions, which are among
/// the events; SET_LAPIC needs the base that is among the special registers.
const BEFORE_MSRS: [Piece; 6] = [
    piece::<kvm_sregs>("sregs", 0x83, 0x84),
    piece::<kvm_regs>("regs", 0x81, 0x82),
    piece::<kvm_xsave>("xsave", 0xcf, 0xa5),
    piece::<kvm_xcrs>(XCRS, 0xa6, 0xa7),
    piece::<kvm_debugregs>("debug", 0xa1, 0xa2),
    piece::<kvm_lapic_state>("lapic", 0x8e, 0x8f),
];
/// What is set after them: the deadline of the local timer needs the local APIC.
const AFTER_MSRS: [Piece; 2] =
    [piece::<kvm_vcpu_events>("events", 0x9f, 0xa0), piece::<kvm_mp_state>("mp_state", 0x98, 0x99)];
const XSAVE: &str = "xsave";
const XCRS: &str = "xcrs";
const MSRS: &str = "msrs";
const CPUID: &str = "cpuid";
const TSC_KHZ: &str = "tsc_khz";
const CLOCK: &str = "clock";
/// KVM_GET_XSAVE, of kernels before 5.17; what it gives is as long as the structure.
const GET_XSAVE: u64 = number::<kvm_xsave>(_IOC_READ, 0xa4);
const GET_MSR_INDEX_LIST: u64 = number::<kvm_msr_list>(_IOC_READ | _IOC_WRITE, 0x02);
const GET_MSRS: u64 = number::<kvm_msrs>(_IOC_READ | _IOC_WRITE, 0x88);
const SET_MSRS: u64 = number::<kvm_msrs>(_IOC_WRITE, 0x89);
const GET_CPUID: u64 = number::<kvm_cpuid2>(_IOC_READ | _IOC_WRITE, 0x91);
const SET_CPUID: u64 = number::<kvm_cpuid2>(_IOC_WRITE, 0x90);
const GET_TSC_KHZ: u64 = number::<()>(0, 0xa3);
const SET_TSC_KHZ: u64 = number::<()>(0, 0xa2);
/// The two interrupt controllers of a PC and the I/O APIC, by their numbers.
const CHIPS: [&str; 3] = ["pic0", "pic1", "ioapic"];
const GET_IRQCHIP: u64 = number::<kvm_irqchip>(_IOC_READ | _IOC_WRITE, 0x62);
/// Called a read, and is none.
const SET_IRQCHIP: u64 = number::<kvm_irqchip>(_IOC_READ, 0x63);
const CLOCKS: Piece = piece::<kvm_clock_data>(CLOCK, 0x7c, 0x7b);

/// What has to be known of a KVM before the state of its vCPUs is got or set.
pub struct StateFacts {
    /// Bytes of the extended state, and the call that gets it.
    xsave: (usize, u64),
    /// The model-specific registers that are part of the state.
    msrs: Vec<u32>,
}

impl StateFacts {
    /// Asks `kvm`.
    ///
    /// # Errors
    /// [`StateError::Get`].
    pub fn of(kvm: &Kvm) -> Result<Self, StateError> {
        let words = number_of_words(size_of::<u32>() * (1 + MSRS_MAX));
        let mut list = vec![0; words];
        put_count(&mut list, MSRS_MAX);
        get(kvm, GET_MSR_INDEX_LIST, &mut list).map_err(|source| StateError::Get {
            of: "this host".to_owned(),
            name: "list of model-specific registers",
            source,
        })?;
        let mut numbers = list.iter().flat_map(|word| [low(*word), low(*word >> 32)]);
        let count = numbers.next().unwrap_or(0);
        let msrs = numbers.take(usize::try_from(count).unwrap_or(0)).collect();
        let least = size_of::<kvm_xsave>();
        let xsave = match kvm.capability(kvm_bindings::KVM_CAP_XSAVE2) {
            0 => (least, GET_XSAVE),
            size => (size.max(least), number::<kvm_xsave>(_IOC_READ, 0xcf)),
        };
        Ok(Self { xsave, msrs })
    }

    /// Bytes of the extended state.
    #[must_use]
    pub fn xsave_size(&self) -> usize {
        self.xsave.0
    }

    /// The model-specific registers that are part of the state.
    #[must_use]
    pub fn msrs(&self) -> &[u32] {
        &self.msrs
    }
}

/// The state of vCPU `index`, which does not run.
///
/// # Errors
/// [`StateError::Get`].
pub fn save_vcpu(
    vcpu: &impl AsRawFd,
    index: u16,
    facts: &StateFacts,
) -> Result<Pieces, StateError> {
    let of = format!("vcpu {index}");
    let failed = |name| {
        let of = of.clone();
        move |source| StateError::Get { of, name, source }
    };
    let mut all = Vec::with_capacity(BEFORE_MSRS.len() + AFTER_MSRS.len() + 3);
    // Against the order of setting: asked for its run state, KVM handles signals of other vCPUs; asked for its events,
    // it completes exceptions; both change what comes after.
    for piece in AFTER_MSRS.iter().rev().chain(BEFORE_MSRS.iter().rev()) {
        let (len, call) = match piece.name {
            XSAVE => facts.xsave,
            _ => (size_of_call(piece.get), piece.get),
        };
        let mut words = vec![0; number_of_words(len)];
        get(vcpu, call, &mut words).map_err(failed(piece.name))?;
        all.push((piece.name.to_owned(), to_bytes(&words, len)));
    }
    let msrs = get_msrs(vcpu, &facts.msrs).map_err(failed(MSRS))?;
    all.push((MSRS.to_owned(), to_bytes(&msrs.concat(), size_of_val(msrs.as_slice()))));
    let mut cpuid = vec![0; number_of_words(8 + CPUID_MAX * CPUID_ENTRY)];
    put_count(&mut cpuid, CPUID_MAX);
    get(vcpu, GET_CPUID, &mut cpuid).map_err(failed(CPUID))?;
    let count = cpuid.first().map_or(0, |head| low(*head));
    let count = usize::try_from(count).unwrap_or(0).min(CPUID_MAX);
    all.push((CPUID.to_owned(), to_bytes(&cpuid, 8 + count * CPUID_ENTRY)));
    all.push((TSC_KHZ.to_owned(), tsc_khz(vcpu).to_le_bytes().to_vec()));
    Ok(Pieces { of, all })
}

/// Gives `vcpu`, which has not run yet, the state of another one.
///
/// # Errors
/// [`StateError`].
pub fn restore_vcpu(
    vcpu: &impl AsRawFd,
    state: &Pieces,
    facts: &StateFacts,
) -> Result<(), StateError> {
    let known = BEFORE_MSRS.iter().chain(&AFTER_MSRS).map(|piece| piece.name);
    let known: Vec<_> = known.chain([MSRS, CPUID, TSC_KHZ]).collect();
    state.check_names(|name| known.contains(&name))?;
    let cpuid = state.need(CPUID)?;
    let entries = cpuid.len().checked_sub(8).filter(|len| len % CPUID_ENTRY == 0);
    let mut words = to_words(cpuid);
    put_count(&mut words, entries.ok_or_else(|| state.missing(CPUID))? / CPUID_ENTRY);
    set(vcpu, SET_CPUID, &words).map_err(state.refused(CPUID))?;
    let khz = state.need(TSC_KHZ)?.try_into().map(u32::from_le_bytes);
    let khz = khz.map_err(|_| state.missing(TSC_KHZ))?;
    if khz != 0 && khz != tsc_khz(vcpu) {
        set_tsc_khz(vcpu, khz).map_err(state.refused(TSC_KHZ))?;
    }
    set_pieces(vcpu, state, &BEFORE_MSRS, facts)?;
    let msrs = state.need(MSRS)?;
    if !msrs.len().is_multiple_of(size_of::<[u64; 2]>()) {
        return Err(state.missing(MSRS));
    }
    set_msrs(vcpu, to_words(msrs).as_chunks().0, state)?;
    set_pieces(vcpu, state, &AFTER_MSRS, facts)
}

fn set_pieces(
    vcpu: &impl AsRawFd,
    state: &Pieces,
    pieces: &[Piece],
    facts: &StateFacts,
) -> Result<(), StateError> {
    for piece in pieces {
        let bytes = state.need(piece.name)?;
        let mut words = to_words(bytes);
        // The extended state of a lesser processor is followed by zeroes on a greater one.
        let is_whole = match piece.name {
            XSAVE => {
                words.resize(number_of_words(facts.xsave.0).max(words.len()), 0);
                bytes.len() >= size_of_call(piece.set)
            }
            _ => bytes.len() == size_of_call(piece.set),
        };
        if !is_whole {
            return Err(state.missing(piece.name));
        }
        // A processor without XSAVE has none of these, and does not take none.
        if piece.name == XCRS && words.first().is_none_or(|head| low(*head) == 0) {
            continue;
        }
        set(vcpu, piece.set, &words).map_err(state.refused(piece.name))?;
    }
    Ok(())
}

/// The state of interrupt controllers and clock.
///
/// # Errors
/// [`StateError::Get`].
pub fn save_vm(vm: &impl AsRawFd) -> Result<Pieces, StateError> {
    let of = "the machine".to_owned();
    let mut all = Vec::with_capacity(CHIPS.len() + 1);
    let calls = (0..).zip(CHIPS).map(|(id, name)| (id, name, GET_IRQCHIP));
    for (first, name, call) in calls.chain([(0, CLOCK, CLOCKS.get)]) {
        let len = size_of_call(call);
        let mut words = vec![0; number_of_words(len)];
        put_count(&mut words, first);
        get(vm, call, &mut words).map_err(|source| StateError::Get {
            of: of.clone(),
            name,
            source,
        })?;
        all.push((name.to_owned(), to_bytes(&words, len)));
    }
    Ok(Pieces { of, all })
}

/// Gives a VM, whose vCPUs have their state, that of another one. The clock of the guest goes on where it stood, or,
/// with `is_real_time`, as if it had never stood still.
///
/// # Errors
/// [`StateError`].
pub fn restore_vm(vm: &impl AsRawFd, state: &Pieces, is_real_time: bool) -> Result<(), StateError> {
    state.check_names(|name| CHIPS.contains(&name) || name == CLOCK)?;
    let calls = (0..).zip(CHIPS).map(|(id, name)| (id, name, SET_IRQCHIP));
    for (id, name, call) in calls.chain([(0, CLOCK, CLOCKS.set)]) {
        let bytes = state.need(name)?;
        if bytes.len() != size_of_call(call) {
            return Err(state.missing(name));
        }
        let mut words = to_words(bytes);
        match words.as_mut_slice() {
            // Of its flags only this one can be set: the time of day at the saving is told too.
            [_, flags, ..] if name == CLOCK => {
                *flags &= if is_real_time { u64::from(KVM_CLOCK_REALTIME) } else { 0 };
            }
            words => put_count(words, id),
        }
        set(vm, call, &words).map_err(state.refused(name))?;
    }
    Ok(())
}

/// Pairs of a number and a value; what cannot be read is left out.
fn get_msrs(vcpu: &impl AsRawFd, mut indices: &[u32]) -> io::Result<Vec<[u64; 2]>> {
    let mut all = Vec::with_capacity(indices.len());
    // KVM stops at the first one that it refuses.
    while !indices.is_empty() {
        let mut words = vec![0];
        words.extend(indices.iter().flat_map(|index| [u64::from(*index), 0]));
        put_count(&mut words, indices.len());
        let done = usize::try_from(get(vcpu, GET_MSRS, &mut words)?).unwrap_or(0);
        let pairs = words.get(1..).unwrap_or_default().as_chunks().0;
        all.extend(pairs.iter().take(done));
        indices = indices.get(done + 1..).unwrap_or_default();
    }
    Ok(all)
}

fn set_msrs(vcpu: &impl AsRawFd, pairs: &[[u64; 2]], state: &Pieces) -> Result<(), StateError> {
    let mut pairs = pairs.to_vec();
    // The deadline is one of the counter.
    pairs.sort_by_key(|[index, _]| match low(*index) {
        MSR_TSC => 0,
        MSR_TSC_DEADLINE => 2,
        _ => 1,
    });
    let mut rest = pairs.as_slice();
    while !rest.is_empty() {
        let mut words = vec![0];
        words.extend(rest.iter().flatten());
        put_count(&mut words, rest.len());
        let done = set(vcpu, SET_MSRS, &words).map_err(state.refused(MSRS))?;
        let done = usize::try_from(done).unwrap_or(0);
        if let Some([index, value]) = rest.get(done) {
            let (index, value) = (low(*index), *value);
            // Some can only be read; that is as well when they have the value.
            let has = get_msrs(vcpu, &[index]).map_err(state.refused(MSRS))?;
            if !has.iter().any(|[_, it]| *it == value) {
                return Err(StateError::Msr { of: state.of.clone(), index, value });
            }
        }
        rest = rest.get(done + 1..).unwrap_or_default();
    }
    Ok(())
}

/// The frequency of a vCPU's time stamp counter in kHz; 0 when it is not known.
#[must_use]
pub fn tsc_khz(vcpu: &impl AsRawFd) -> u32 {
    // SAFETY: takes no address.
    let khz = unsafe { ioctl_with_val(vcpu, GET_TSC_KHZ, 0) };
    u32::try_from(khz).unwrap_or(0)
}

fn set_tsc_khz(vcpu: &impl AsRawFd, khz: u32) -> io::Result<()> {
    // SAFETY: takes no address.
    match unsafe { ioctl_with_val(vcpu, SET_TSC_KHZ, khz.into()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Calls a KVM that writes to `words`, which begin with how many entries there is room for where that varies.
fn get(fd: &impl AsRawFd, call: u64, words: &mut [u64]) -> io::Result<u32> {
    check_room(call, words)?;
    // SAFETY: there is room for the structure that the call's number tells the length of, and for as many entries behind
    // it as its head says; of the extended state, which may be longer, for as much as KVM said.
    let done = unsafe { ioctl_with_mut_ptr(fd, call, words.as_mut_ptr()) };
    u32::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// The same for one that reads.
fn set(fd: &impl AsRawFd, call: u64, words: &[u64]) -> io::Result<u32> {
    check_room(call, words)?;
    // SAFETY: as above; KVM only reads.
    let done = unsafe { ioctl_with_ptr(fd, call, words.as_ptr()) };
    u32::try_from(done).map_err(|_| io::Error::last_os_error())
}

fn check_room(call: u64, words: &[u64]) -> io::Result<()> {
    let has_room = size_of_val(words) >= size_of_call(call);
    if has_room { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The length that a call's number tells (ioctl(2), _IOC_SIZE).
fn size_of_call(call: u64) -> usize {
    usize::try_from(call >> 16 & 0x3fff).unwrap_or(0)
}

fn number_of_words(len: usize) -> usize {
    len.div_ceil(size_of::<u64>())
}

/// Sets the first 32 bits, which are a count or a number.
fn put_count(words: &mut [u64], count: usize) {
    if let Some(word) = words.first_mut() {
        *word = *word & !0xffff_ffff | u64::try_from(count).unwrap_or(0) & 0xffff_ffff;
    }
}

fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap_or(0)
}

fn to_bytes(words: &[u64], len: usize) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).take(len).collect()
}

fn to_words(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    };
    bytes.chunks(8).map(word).collect()
}

#[cfg(test)]
mod tests;
