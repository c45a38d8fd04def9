//! What a vCPU starts with: `arch`'s values, converted to KVM's structures and set.

use arch::registers::{BootRegisters, FPU, Segment, SpecialRegisters, Table};
use arch::template::{CpuTemplate, MsrModifier, TemplateError};
use arch::{cpuid, msr};
use kvm_bindings::{Msrs, kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::kvm::{KvmError, set_cpuid};

/// Offset of the local vector table's entries for the two local interrupt pins (SDM volume 3, 11.4.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery modes of a local vector (SDM volume 3, 11.5.1).
const MODE_NMI: u32 = 0b100 << 8;
const MODE_EXTINT: u32 = 0b111 << 8;
const MODE_MASK: u32 = 0b111 << 8;

/// IA32_APIC_BASE of the first processor after a reset (SDM volume 3, 11.4.4): where its registers are, enabled
/// (bit 11), the one that boots (bit 8).
const APIC_BASE_OF_FIRST: u64 = 0xfee0_0000 | 1 << 11 | 1 << 8;

/// Why a vCPU cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused a call.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The CPU features cannot be shown to a guest.
    #[error("the host's CPU features cannot be shown to a guest")]
    Cpuid(#[from] cpuid::CpuidError),
    /// The CPU template cannot be followed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A register that the template changes.
    #[error(
        "this host's KVM does not let the model-specific register {index:#x} of the CPU template be {what}"
    )]
    TemplateMsr {
        /// Its number.
        index: u32,
        /// What is not done.
        what: &'static str,
    },
    /// A register that nothing works without.
    #[error("this KVM refuses model-specific register {index:#x}")]
    Msr {
        /// Its number.
        index: u32,
    },
}

/// What every vCPU of a machine starts with.
pub struct BootState {
    cpuid: Vec<cpuid::CpuidEntry>,
    template_msrs: Vec<MsrModifier>,
    topology: arch::Topology,
    boot: BootRegisters,
}

impl BootState {
    /// The state of a machine whose first vCPU starts with `boot`, made from what the host supports and changed
    /// as `template` says.
    ///
    /// # Errors
    /// [`VcpuError::Cpuid`], [`VcpuError::Template`].
    pub fn new(
        mut supported: Vec<cpuid::CpuidEntry>,
        facts: &cpuid::CpuFacts,
        boot: BootRegisters,
        template: CpuTemplate,
    ) -> Result<Self, VcpuError> {
        template.apply(&mut supported)?;
        cpuid::configure(&mut supported, facts)?;
        let topology = facts.topology;
        Ok(Self { cpuid: supported, template_msrs: template.msrs, topology, boot })
    }

    /// Sets all registers of vCPU `index`.
    ///
    /// # Errors
    /// [`VcpuError`].
    pub fn apply(&mut self, fd: &VcpuFd, index: u16) -> Result<(), VcpuError> {
        cpuid::set_cpu(&mut self.cpuid, &self.topology, index)?;
        set_cpuid(fd, &self.cpuid)?;
        set_msrs(fd)?;
        change_msrs(fd, &self.template_msrs)?;
        if index == 0 {
            set_registers(fd, &self.boot)?;
        }
        let fpu = kvm_fpu { fcw: FPU.fcw, mxcsr: FPU.mxcsr, ..Default::default() };
        fd.set_fpu(&fpu).map_err(KvmError::call("set the floating-point registers"))?;
        set_local_interrupts(fd)
    }
}

/// KVM stops at the first register that it refuses; one that is not required is stepped over.
fn set_msrs(fd: &VcpuFd) -> Result<(), VcpuError> {
    let mut rest = msr::boot_msrs();
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|m| kvm_msr_entry { index: m.index, data: m.value, ..Default::default() })
            .collect();
        let entries = Msrs::from_entries(&entries).map_err(|_| too_many("registers"))?;
        let done = fd.set_msrs(&entries).map_err(KvmError::call("set model-specific registers"))?;
        match rest.get(done) {
            Some(refused) if refused.required => {
                return Err(VcpuError::Msr { index: refused.index });
            }
            Some(refused) => log::debug!("this KVM refuses register {:#x}", refused.index),
            None => {}
        }
        rest = rest.get(done + 1..).unwrap_or_default();
    }
    Ok(())
}

/// Changes what is there by now. KVM stops at the first register that it does not know or whose value it refuses; a
/// user who names a register relies on it, so that is an error.
fn change_msrs(fd: &VcpuFd, modifiers: &[MsrModifier]) -> Result<(), VcpuError> {
    if modifiers.is_empty() {
        return Ok(());
    }
    let index = |index| kvm_msr_entry { index, ..Default::default() };
    let entries: Vec<_> = modifiers.iter().map(|modifier| index(modifier.index)).collect();
    let mut msrs = Msrs::from_entries(&entries).map_err(|_| too_many("registers"))?;
    let refused = |done: usize, what| match modifiers.get(done) {
        Some(modifier) => Err(VcpuError::TemplateMsr { index: modifier.index, what }),
        None => Ok(()),
    };
    let done = fd.get_msrs(&mut msrs).map_err(KvmError::call("read model-specific registers"))?;
    refused(done, "read")?;
    for (entry, modifier) in msrs.as_mut_slice().iter_mut().zip(modifiers) {
        entry.data = modifier.bits.apply(entry.data);
    }
    let done = fd.set_msrs(&msrs).map_err(KvmError::call("set model-specific registers"))?;
    refused(done, "set so")
}

fn set_registers(fd: &VcpuFd, boot: &BootRegisters) -> Result<(), VcpuError> {
    let sregs = special(&boot.special);
    fd.set_sregs(&sregs).map_err(KvmError::call("set the special registers"))?;
    let general = &boot.general;
    let regs = kvm_regs {
        rip: general.rip,
        rsp: general.rsp,
        rbp: general.rbp,
        rsi: general.rsi,
        rbx: general.rbx,
        rflags: general.rflags,
        ..Default::default()
    };
    fd.set_regs(&regs).map_err(KvmError::call("set the registers"))?;
    Ok(())
}

/// As firmware leaves a PC's processors: LINT0 takes the PIC's interrupts, LINT1 is the NMI pin.
fn set_local_interrupts(fd: &VcpuFd) -> Result<(), VcpuError> {
    let mut lapic = fd.get_lapic().map_err(KvmError::call("read the local APIC"))?;
    for (register, mode) in [(LVT_LINT0, MODE_EXTINT), (LVT_LINT1, MODE_NMI)] {
        let bytes = lapic.regs.get_mut(register..register + 4).unwrap_or_default();
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(bytes.iter()) {
            *to = from.to_le_bytes()[0];
        }
        let value = (u32::from_le_bytes(value) & !MODE_MASK | mode).to_le_bytes();
        for (to, from) in bytes.iter_mut().zip(value) {
            *to = std::ffi::c_char::from_le_bytes([from]);
        }
    }
    fd.set_lapic(&lapic).map_err(KvmError::call("set the local APIC"))?;
    Ok(())
}

/// What `from` does not name is as after a reset (SDM volume 3, table 10-1).
fn special(from: &SpecialRegisters) -> kvm_sregs {
    kvm_sregs {
        cs: segment(&from.cs),
        ds: segment(&from.ds),
        es: segment(&from.es),
        fs: segment(&from.fs),
        gs: segment(&from.gs),
        ss: segment(&from.ss),
        tr: segment(&from.tr),
        ldt: segment(&from.ldt),
        gdt: table(from.gdt),
        idt: table(from.idt),
        cr0: from.cr0,
        cr3: from.cr3,
        cr4: from.cr4,
        efer: from.efer,
        apic_base: APIC_BASE_OF_FIRST,
        ..Default::default()
    }
}

fn segment(from: &Segment) -> kvm_segment {
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: from.type_,
        present: from.present,
        dpl: from.dpl,
        db: from.db,
        s: from.s,
        l: from.l,
        g: from.g,
        avl: from.avl,
        unusable: from.unusable,
        padding: 0,
    }
}

fn table(from: Table) -> kvm_dtable {
    kvm_dtable { base: from.base, limit: from.limit, padding: [0; 3] }
}

/// A list that does not fit KVM's structures, which has room for far more than exists.
fn too_many(what: &'static str) -> KvmError {
    KvmError::Call { what, source: std::io::Error::from_raw_os_error(libc::E2BIG) }
}
