//! Puts devices on the buses of a machine: addresses, interrupt lines, wiring.
//!
//! Which devices there are is the builder's business; what they do is theirs.

use std::sync::{Arc, Mutex};

use arch::{MmioDevice, Range, layout};
use devices::bus::{BusDevice, BusError};
use devices::interrupt::Interrupt;
use devices::virtio::device::VirtioDevice;
use devices::virtio::transport::Transport;
use devices::virtio::transport::mmio::{MmioTransport, WINDOW};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::event_loop::LoopHandle;
use crate::kvm::{KvmError, Vm};
use crate::vcpu::Buses;

/// Room for the devices of a PC.
const LEGACY: usize = 8;

/// Why a device cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// All interrupt lines are taken.
    #[error("device {id:?} is one too many: there are {limit} interrupt lines for virtio devices")]
    TooMany {
        /// The device.
        id: String,
        /// How many fit.
        limit: usize,
    },
    /// Two devices at one address: a mistake in the layout.
    #[error("device {id:?} has no place on the bus")]
    Bus {
        /// The device.
        id: String,
        /// The collision.
        #[source]
        source: BusError,
    },
    /// The host has no descriptor left.
    #[error("device {id:?} cannot get an interrupt line")]
    Line {
        /// The device.
        id: String,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
    /// KVM did not connect it.
    #[error("device {id:?} cannot be connected")]
    Kvm {
        /// The device.
        id: String,
        /// KVM's answer.
        #[source]
        source: KvmError,
    },
}

/// A virtio device at its place, for whoever must reset or inspect it from outside the guest.
pub struct Attached {
    /// The name that the user gave it.
    pub id: String,
    /// Its registers.
    pub registers: Arc<Mutex<MmioTransport>>,
}

/// A device of the PC, and what it is called.
pub type Legacy = (&'static str, Arc<Mutex<dyn BusDevice>>);

/// What a [`DeviceManager`] has collected.
pub struct Collected {
    /// For the vCPUs.
    pub buses: Buses,
    /// The windows, for the tables.
    pub windows: Vec<MmioDevice>,
    /// The virtio devices.
    pub virtio: Vec<Attached>,
    /// The others.
    pub legacy: Vec<Legacy>,
}

impl Attached {
    /// What its state is called: by its window and its name, since a disk and a net can have the same.
    #[must_use]
    pub fn state_name(&self, index: usize) -> String {
        format!("{index} {}", self.id)
    }
}

/// Collects the devices of one machine.
pub struct DeviceManager<'a> {
    vm: &'a Vm,
    on: LoopHandle,
    buses: Buses,
    gsis: std::ops::RangeInclusive<u32>,
    virtio: Vec<MmioDevice>,
    attached: Vec<Attached>,
    legacy: Vec<Legacy>,
}

impl<'a> DeviceManager<'a> {
    /// No devices yet; unless told otherwise, their queues will be served by the loop behind `on`.
    #[must_use]
    pub fn new(vm: &'a Vm, on: LoopHandle) -> Self {
        Self {
            vm,
            on,
            buses: Buses::default(),
            gsis: layout::DEVICE_GSIS,
            virtio: Vec::new(),
            attached: Vec::new(),
            legacy: Vec::with_capacity(LEGACY),
        }
    }

    /// Attaches a virtio device at the next free window and interrupt line.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_virtio(
        &mut self,
        id: &str,
        device: Box<dyn VirtioDevice>,
    ) -> Result<(), AttachError> {
        self.attach_virtio_on(self.on.clone(), id, device)
    }

    /// The same for a device whose queues are served by the loop behind `on`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_virtio_on(
        &mut self,
        on: LoopHandle,
        id: &str,
        device: Box<dyn VirtioDevice>,
    ) -> Result<(), AttachError> {
        let index = self.virtio.len() as u64;
        let gsi = self.gsis.next().ok_or_else(|| AttachError::TooMany {
            id: id.to_owned(),
            limit: layout::DEVICE_GSIS.count(),
        })?;
        let base = layout::VIRTIO_MMIO.start + index * WINDOW;
        let line = Arc::new(new_line(id)?);
        let port = self.vm.device_port(base, line.clone(), gsi, on);
        let interrupt = Interrupt::new(Box::new(SharedLine(line)));
        let transport = Transport::new(
            id.to_owned(),
            device,
            Box::new(port),
            self.vm.memory().clone(),
            interrupt,
        );
        let registers = Arc::new(Mutex::new(MmioTransport::new(transport)));
        self.buses
            .mmio
            .insert(base, WINDOW, registers.clone())
            .map_err(|source| AttachError::Bus { id: id.to_owned(), source })?;
        self.virtio.push(MmioDevice { base, len: WINDOW, gsi });
        self.attached.push(Attached { id: id.to_owned(), registers });
        Ok(())
    }

    /// Attaches a device of the PC at `ports..ports + count`.
    ///
    /// # Errors
    /// [`AttachError::Bus`].
    pub fn attach_ports(
        &mut self,
        id: &'static str,
        ports: u16,
        count: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), AttachError> {
        self.legacy.push((id, device.clone()));
        self.buses
            .pio
            .insert(u64::from(ports), count, device)
            .map_err(|source| AttachError::Bus { id: id.to_owned(), source })
    }

    /// Attaches a device of the machine at the addresses of `range`.
    ///
    /// # Errors
    /// [`AttachError::Bus`].
    pub fn attach_memory(
        &mut self,
        id: &'static str,
        range: Range,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), AttachError> {
        self.legacy.push((id, device.clone()));
        self.buses
            .mmio
            .insert(range.start, range.len, device)
            .map_err(|source| AttachError::Bus { id: id.to_owned(), source })
    }

    /// A new interrupt line on `gsi`, connected at once.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn connect_line(&self, id: &str, gsi: u32) -> Result<EventFd, AttachError> {
        let line = new_line(id)?;
        self.vm
            .connect_line(&line, gsi)
            .map_err(|source| AttachError::Kvm { id: id.to_owned(), source })?;
        Ok(line)
    }

    /// Everything collected.
    #[must_use]
    pub fn finish(self) -> Collected {
        let Self { buses, virtio: windows, attached: virtio, legacy, .. } = self;
        Collected { buses, windows, virtio, legacy }
    }
}

/// A device's line, shared with the wiring that connects it to KVM.
struct SharedLine(Arc<EventFd>);

impl devices::interrupt::InterruptLine for SharedLine {
    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

fn new_line(id: &str) -> Result<EventFd, AttachError> {
    EventFd::new(EFD_NONBLOCK).map_err(|source| AttachError::Line { id: id.to_owned(), source })
}
