//! The boot story: from a plan to a machine that is ready to run.
//!
//! Order matters and is kept by types: memory, then the VM on it, then kernel, devices, tables, vCPUs.
//! Nothing here runs the guest.

use std::fs::File;
use std::sync::{Arc, Mutex};

use arch::{BootProtocol, Machine, layout};
use devices::legacy::i8042::I8042;
use devices::memory::GuestMemory;
use devices::platform::{DebugExit, POWER_PORTS, Power, PvPanic};
use devices::virtio::rng::Rng;
use vm_memory::{Bytes, GuestAddress};

use crate::boot::{self, Entry, Kernel};
use crate::config::Plan;
use crate::device_manager::{AttachError, DeviceManager};
use crate::end::Ending;
use crate::event_loop::LoopHandle;
use crate::kvm::{Kvm, KvmError, Vm};
use crate::memory::{self, MemoryError};
use crate::vcpu::{BootState, Buses, VcpuError, VcpuSetup};
use crate::vm::Microvm;

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel or initrd.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// A device's place.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The tables of the machine.
    #[error("the machine cannot be described to the guest")]
    Arch(#[from] arch::ArchError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// More vCPUs than this KVM has.
    #[error("--cpus {asked} is more than this host's KVM allows: {limit}")]
    TooManyCpus {
        /// What was asked for.
        asked: u16,
        /// What KVM says.
        limit: usize,
    },
    /// Writing to guest memory that was just reserved.
    #[error("guest memory at {address:#x} cannot be written")]
    Write {
        /// Where.
        address: u64,
        /// Why.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
}

/// What outlives a machine when it is built again after a reboot.
pub struct Persistent<'a> {
    /// The loop that serves its devices.
    pub on: LoopHandle,
    /// The host side of its consoles.
    pub consoles: &'a crate::consoles::Consoles,
    /// The power button's line.
    pub power_button: &'a vmm_sys_util::eventfd::EventFd,
    /// Where its end is reported.
    pub ending: &'a Ending,
}

/// Builds the machine of `plan`.
///
/// # Errors
/// [`BuildError`]; nothing is left behind.
pub fn build(plan: &Plan, around: &Persistent<'_>) -> Result<Microvm, BuildError> {
    let kvm = Kvm::open()?;
    let count = plan.cpus.count();
    if usize::from(count) > kvm.max_vcpus() {
        return Err(BuildError::TooManyCpus { asked: count, limit: kvm.max_vcpus() });
    }
    let memory = memory::reserve(plan.memory_bytes)?;
    let vm = Vm::new(&kvm, memory.clone())?;
    let kernel = boot::load_kernel(&plan.kernel, plan.boot, &memory)?;
    let initrd = match &plan.initrd {
        Some(path) => Some(boot::load_initrd(path, &kernel, &memory)?),
        None => None,
    };
    let cmdline = write_cmdline(&plan.cmdline, &memory)?;

    let mut devices = DeviceManager::new(&vm, around.on.clone());
    attach_platform(&mut devices, around)?;
    attach_devices(&mut devices, plan, around)?;
    let (buses, virtio, attached) = devices.finish();

    let machine = Machine { topology: plan.cpus.clone(), memory: layout::ram_ranges(plan.memory_bytes), initrd, cmdline, virtio };
    let (boot, tables) = boot_state(&kernel, &machine)?;
    for (address, bytes) in tables {
        write(&memory, address, &bytes)?;
    }
    let vcpus = create_vcpus(&kvm, &vm, &machine, &boot, &buses, around.ending)?;
    Ok(Microvm { vm, vcpus, devices: attached })
}
