//! One KVM_RUN: enter the guest, serve the exit on the buses, say what it means for the machine.

#![expect(
    unsafe_code,
    reason = "string port I/O and failure details live in unions of struct kvm_run"
)]

use std::io;

use devices::bus::Effect;
use devices::counters;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::Buses;

counters! {
    /// Why a vCPU left the guest, and how often.
    // On a cache line of its own, because each vCPU writes to its own.
    #[repr(align(64))]
    pub struct Exits {
        /// Reads of ports.
        io_in,
        /// Writes to ports.
        io_out,
        /// Reads of registers in memory.
        mmio_read,
        /// Writes to them.
        mmio_write,
        /// Signals, and nothing that could be done.
        interrupted,
        /// The end of the machine, in whatever way.
        ended,
        /// KVM or the host could not go on.
        failed,
    }
}

/// What a run of the guest ended with.
#[derive(Debug)]
pub enum VmExit {
    /// Served; run on.
    Continue,
    /// A signal arrived, or nothing could be done yet; look for commands, then run on.
    Interrupted,
    /// A device asks something of the machine.
    Effect(Effect),
    /// The guest is in shutdown state: a triple fault.
    Shutdown,
    /// KVM asks, in the guest's name, for what a device could not say.
    SystemEvent(u32),
    /// KVM cannot run this guest any further.
    Stuck(EmulationFailure),
    /// The host failed.
    Failed(io::Error),
}

/// Where and why KVM gave up on a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmulationFailure {
    /// What KVM reported, in words.
    pub reason: String,
    /// Instruction pointer.
    pub rip: u64,
    /// The bytes there, as far as KVM read them.
    pub bytes: Vec<u8>,
}

impl std::fmt::Display for EmulationFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at rip {:#x}, instruction bytes", self.reason, self.rip)?;
        if self.bytes.is_empty() {
            return f.write_str(" not reported");
        }
        self.bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// Runs the guest until its next exit and serves it.
pub(super) fn run_once(vcpu: &mut VcpuFd, buses: &Buses, exits: &Exits) -> VmExit {
    let exit = vcpu.run();
    count(&exit, exits);
    match exit {
        Ok(VcpuExit::IoIn(port, data)) => {
            let (start, len) = (data.as_mut_ptr(), data.len());
            let size = port_access_size(vcpu);
            // SAFETY: `start..start + len` is the data page of this vCPU's run mapping, which nothing
            // else touches until the next KVM_RUN; the borrow ended only so that `size` could be read.
            let data = unsafe { std::slice::from_raw_parts_mut(start, len) };
            for item in data.chunks_mut(size) {
                buses.pio.read(u64::from(port), item);
            }
            VmExit::Continue
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            let (start, len) = (data.as_ptr(), data.len());
            let size = port_access_size(vcpu);
            // SAFETY: as above, and only read.
            let data = unsafe { std::slice::from_raw_parts(start, len) };
            let mut effects =
                data.chunks(size).filter_map(|item| buses.pio.write(u64::from(port), item));
            effects.next().map_or(VmExit::Continue, VmExit::Effect)
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            buses.mmio.read(address, data);
            VmExit::Continue
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            buses.mmio.write(address, data).map_or(VmExit::Continue, VmExit::Effect)
        }
        Ok(VcpuExit::Shutdown) => VmExit::Shutdown,
        Ok(VcpuExit::SystemEvent(kind, _)) => VmExit::SystemEvent(kind),
        Ok(VcpuExit::InternalError) => VmExit::Stuck(internal_error(vcpu)),
        Ok(VcpuExit::FailEntry(reason, _)) => {
            let reason = format!("the processor refused to enter the guest (reason {reason:#x})");
            VmExit::Stuck(located(vcpu, reason))
        }
        Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => VmExit::Interrupted,
        Ok(other) => {
            let reason =
                format!("KVM left the guest for a reason that vmm does not know ({other:?})");
            VmExit::Stuck(located(vcpu, reason))
        }
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => VmExit::Interrupted,
        Err(error) => VmExit::Failed(error.into()),
    }
}

fn count(exit: &Result<VcpuExit<'_>, kvm_ioctls::Error>, exits: &Exits) {
    let counter = match exit {
        Ok(VcpuExit::IoIn(..)) => &exits.io_in,
        Ok(VcpuExit::IoOut(..)) => &exits.io_out,
        Ok(VcpuExit::MmioRead(..)) => &exits.mmio_read,
        Ok(VcpuExit::MmioWrite(..)) => &exits.mmio_write,
        Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => &exits.interrupted,
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => &exits.interrupted,
        Ok(VcpuExit::Shutdown | VcpuExit::SystemEvent(..)) => &exits.ended,
        Ok(_) | Err(_) => &exits.failed,
    };
    counter.add(1);
}

/// Bytes per item of the port access that just exited; a string instruction brings several items at once
/// and `kvm-ioctls` does not say how long each is.
fn port_access_size(vcpu: &mut VcpuFd) -> usize {
    // SAFETY: the exit reason is KVM_EXIT_IO, so `io` is the live member of the union.
    let size = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.io.size };
    usize::from(size.max(1))
}

fn internal_error(vcpu: &mut VcpuFd) -> EmulationFailure {
    const EMULATION: u32 = kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
    // Set in the flags when the instruction's size and bytes follow (KVM API, KVM_EXIT_INTERNAL_ERROR).
    const HAS_BYTES: u64 = kvm_bindings::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES as u64;
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so `internal` is the live member.
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    if internal.suberror != EMULATION {
        let reason = match internal.suberror {
            kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once".to_owned(),
            kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => {
                "an exit while an event was being delivered".to_owned()
            }
            other => format!("KVM internal error {other}"),
        };
        return located(vcpu, reason);
    }
    let mut failure = located(vcpu, "KVM cannot emulate the instruction".to_owned());
    let [flags, size_and_bytes @ ..] = &internal.data;
    if internal.ndata >= 4 && flags & HAS_BYTES != 0 {
        let raw: Vec<u8> =
            size_and_bytes.iter().take(2).flat_map(|word| word.to_le_bytes()).collect();
        if let [size, bytes @ ..] = raw.as_slice() {
            failure.bytes = bytes.iter().copied().take(usize::from(*size)).collect();
        }
    }
    failure
}

fn located(vcpu: &VcpuFd, reason: String) -> EmulationFailure {
    let rip = vcpu.get_regs().map_or(0, |regs| regs.rip);
    EmulationFailure { reason, rip, bytes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_where_and_which_bytes() {
        let failure = EmulationFailure {
            reason: "KVM cannot emulate the instruction".to_owned(),
            rip: 0x100_0000,
            bytes: vec![0x0f, 0xc7, 0x0e],
        };
        let text = failure.to_string();
        assert_eq!(
            text,
            "KVM cannot emulate the instruction at rip 0x1000000, instruction bytes 0f c7 0e"
        );
        let unknown = EmulationFailure { bytes: vec![], ..failure };
        assert!(unknown.to_string().ends_with("not reported"));
    }
}
