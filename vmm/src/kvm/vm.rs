//! A virtual machine's memory slots, interrupt controller and device wiring.

#![expect(unsafe_code, reason = "handing guest memory to KVM is a contract on raw addresses")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use arch::layout;
use devices::memory::GuestMemory;
use devices::virtio::device::{DeviceHost, Worker};
use devices::virtio::transport::mmio::QUEUE_NOTIFY;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{Kvm, KvmError};
use crate::event_loop::{LoopHandle, SourceId};

/// A virtual machine with its memory and interrupt controller, ready for vCPUs and devices.
pub struct Vm {
    fd: Arc<VmFd>,
    memory: GuestMemory,
}

impl Vm {
    /// A VM that sees `memory` as its RAM, with an in-kernel local APIC, I/O APIC and PIC.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn new(kvm: &Kvm, memory: GuestMemory) -> Result<Self, KvmError> {
        let fd = kvm.create_vm()?;
        for (slot, region) in (0_u32..).zip(memory.iter()) {
            let host = memory.get_host_address(region.start_addr()).map_err(|e| {
                KvmError::Call { what: "map guest memory", source: io::Error::other(e) }
            })?;
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the host range is one mapping of `memory`, which `self` keeps alive longer than
            // `fd`; slots do not overlap because regions do not.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(KvmError::call("map guest memory"))?;
        }
        let tss = usize::try_from(layout::KVM_TSS).unwrap_or(usize::MAX);
        fd.set_tss_address(tss).map_err(KvmError::call("set the TSS address"))?;
        fd.create_irq_chip().map_err(KvmError::call("create the interrupt controller"))?;
        Ok(Self { fd: Arc::new(fd), memory })
    }

    /// The RAM of this VM.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Creates vCPU `id`, which is its APIC id.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create_vcpu(&self, id: u32) -> Result<VcpuFd, KvmError> {
        self.fd.create_vcpu(u64::from(id)).map_err(KvmError::call("create a vCPU"))
    }

    /// Raises interrupt `gsi` whenever `line` is written.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn connect_line(&self, line: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd.register_irqfd(line, gsi).map_err(KvmError::call("connect an interrupt"))
    }

    /// Raises and lowers interrupt `gsi` once.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn pulse(&self, gsi: u32) -> Result<(), KvmError> {
        for level in [true, false] {
            self.fd.set_irq_line(gsi, level).map_err(KvmError::call("raise an interrupt"))?;
        }
        Ok(())
    }

    /// The wiring of the virtio device whose registers are at `base`.
    #[must_use]
    pub fn device_port(
        &self,
        base: u64,
        line: Arc<EventFd>,
        gsi: u32,
        on: LoopHandle,
    ) -> DevicePort {
        let wires = Arc::new(Wires { vm: self.fd.clone(), base, line, gsi });
        DevicePort { wires, on, started: Mutex::new(Started::default()) }
    }
}

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// One virtio device's connection to KVM and to an event loop, made at `DRIVER_OK` and not before. KVM is asked by the
/// loop's thread.
pub struct DevicePort {
    wires: Arc<Wires>,
    on: LoopHandle,
    started: Mutex<Started>,
}

/// What the device is connected to.
struct Wires {
    vm: Arc<VmFd>,
    base: u64,
    line: Arc<EventFd>,
    gsi: u32,
}

#[derive(Default)]
struct Started {
    /// The line is connected once and stays so over resets.
    line_connected: bool,
    source: Option<SourceId>,
}

impl Wires {
    fn connect_line(&self) -> io::Result<()> {
        Ok(self.vm.register_irqfd(&self.line, self.gsi)?)
    }

    fn kick_address(&self) -> IoEventAddress {
        IoEventAddress::Mmio(self.base + QUEUE_NOTIFY)
    }

    fn connect_kicks(&self, kicks: &[(u16, Arc<EventFd>)]) -> io::Result<()> {
        for (done, (queue, kick)) in kicks.iter().enumerate() {
            let address = self.kick_address();
            if let Err(error) = self.vm.register_ioevent(kick, &address, u32::from(*queue)) {
                self.disconnect_kicks(kicks.get(..done).unwrap_or_default());
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn disconnect_kicks(&self, kicks: &[(u16, Arc<EventFd>)]) {
        for (queue, kick) in kicks {
            let address = self.kick_address();
            if let Err(error) = self.vm.unregister_ioevent(kick, &address, u32::from(*queue)) {
                log::error!("kick of queue {queue} at {:#x} stays connected: {error}", self.base);
            }
        }
    }
}

impl DeviceHost for DevicePort {
    fn start(&self, worker: Worker) -> io::Result<()> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if !started.line_connected {
            let wires = self.wires.clone();
            self.on.call(move |_| wires.connect_line())?;
            started.line_connected = true;
        }
        let wires = self.wires.clone();
        let source = self.on.call(move |workers| {
            wires.connect_kicks(worker.kicks())?;
            let kicks = worker.kicks().to_vec();
            workers.add(worker).inspect_err(|_| wires.disconnect_kicks(&kicks))
        })?;
        started.source = Some(source);
        Ok(())
    }

    fn stop(&self) -> Option<Worker> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let (source, wires) = (started.source.take()?, self.wires.clone());
        let stopped = self.on.call(move |workers| {
            let worker = workers.remove(source);
            wires.disconnect_kicks(worker.as_ref().map_or(&[], Worker::kicks));
            Ok(worker)
        });
        stopped.unwrap_or_else(|error| {
            log::error!("device cannot be taken off its loop: {error}");
            None
        })
    }

    fn on_loop(&self, work: Box<dyn FnOnce() + Send>) {
        let done = self.on.call(move |_| {
            work();
            Ok(())
        });
        if let Err(error) = done {
            log::error!("a device has lost its loop: {error}");
        }
    }
}
