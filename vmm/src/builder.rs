//! The boot story: from a plan to a machine that is ready to run.
//!
//! Order matters and is kept by types: memory, then the VM on it, then kernel, devices, tables, vCPUs.
//! Nothing here runs the guest.

mod restore;
mod virtio;

use std::sync::{Arc, Mutex};

use arch::cpuid::CpuFacts;
use arch::registers::{self, BootRegisters};
use arch::template::CpuTemplate;

use arch::{ApicIds, BootProtocol, Machine, MmioDevice, Range, SerialPort, Topology, layout};
use devices::backend::disk::DiskError;
use devices::backend::net::tap::TapError;
use devices::backend::vsock::UnixEndpoint;
use devices::bus::BusDevice;
use devices::legacy::i8042::I8042;
use devices::legacy::serial::{Serial, SerialCounters, SerialInput};
use devices::memory::GuestMemory;
use devices::metadata::Service;
use devices::platform::{BootTimer, DebugExit, POWER_PORTS, Power, PvPanic};
use devices::virtio::balloon::BalloonError;
use devices::virtio::block::SerialError;
use devices::virtio::net::NetError;
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::affinity::CpuSet;
use crate::boot::{self, Entry, Kernel};
use crate::boot_trace::{self, Stage};
use crate::config::{Backing, ConfigError, Cpus, Plan};
use crate::consoles::{Consoles, OnLoop};
use crate::device_manager::{AttachError, Collected, DeviceManager};
use crate::end::Ending;
use crate::event_loop::{LoopHandle, LoopSource};
use crate::exit_code::ExitCode;
use crate::generation;
use crate::iothread::IoThreads;
use crate::kvm::{Kvm, KvmError, Vm};
use crate::memory::uffd::UffdError;
use crate::memory::{self, MemoryError};
use crate::provisions::Provisions;
use crate::snapshot::{SnapshotError, Source};
use crate::vcpu::{BootState, VcpuError, VcpuSetup};
use crate::vm::Microvm;
use virtio::attach_virtio;

/// The serial port, where a PC has its first.
const COM1: SerialPort = SerialPort { port: layout::COM1_PORT, gsi: layout::COM1_GSI };
/// Ports of a 16550.
const SERIAL_PORTS: u64 = 8;

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Guest memory that another process is to provide.
    #[error(transparent)]
    Provider(#[from] UffdError),
    /// Kernel or initrd.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// A device's place.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A disk's serial number.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// The metadata service on a card.
    #[error("the metadata service cannot be connected")]
    Metadata(#[source] std::io::Error),
    /// The host has no randomness.
    #[error("the host gives no random numbers")]
    Random(#[source] std::io::Error),
    /// The balloon.
    #[error(transparent)]
    Balloon(#[from] BalloonError),
    /// A tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A network card's address or MTU.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A tap that was to be inherited.
    #[error("network card {id:?}: its descriptor is not open")]
    InheritedTap {
        /// The card.
        id: String,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
    /// The tables of the machine.
    #[error("the machine cannot be described to the guest")]
    Arch(#[from] arch::ArchError),
    /// The grouping of the CPUs.
    #[error(transparent)]
    Topology(#[from] arch::TopologyError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The CPU template's file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The CPU template wants what this KVM has not.
    #[error("this host's KVM does not have capability {capability}, which the CPU template needs")]
    NoCapability {
        /// Its number.
        capability: u32,
    },
    /// More vCPUs than this KVM has.
    #[error("--cpus {asked} is more than this host's KVM allows: {limit}")]
    TooManyCpus {
        /// What was asked for.
        asked: u16,
        /// What KVM says.
        limit: usize,
    },
    /// A CPU that this process has not got.
    #[error(
        "{who} cannot be pinned to CPU {cpu}: this process may use {allowed} (a cpuset or taskset says so, or the host has no more)"
    )]
    Pin {
        /// The thread.
        who: String,
        /// The CPU.
        cpu: u16,
        /// The CPUs that it has.
        allowed: String,
    },
    /// The host does not give a thread, or does not tell its CPUs.
    #[error("cannot {what}")]
    Thread {
        /// What was being done.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
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

impl BuildError {
    /// Whether the user asked for what cannot be, or the host failed.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Vcpu(VcpuError::Template(_) | VcpuError::TemplateMsr { .. }) => {
                ExitCode::BadConfiguration
            }
            Self::Kvm(_)
            | Self::Metadata(_)
            | Self::Random(_)
            | Self::Memory(_)
            | Self::Vcpu(_)
            | Self::Thread { .. }
            | Self::Write { .. } => ExitCode::HostFailure,
            Self::Snapshot(error) => error.exit_code(),
            _ => ExitCode::BadConfiguration,
        }
    }
}

/// What outlives a machine when it is built again after a reboot.
pub struct Persistent<'a> {
    /// Where its files come from.
    pub provisions: &'a Provisions,
    /// The loop that serves its devices.
    pub on: LoopHandle,
    /// The host side of its consoles.
    pub consoles: &'a Consoles,
    /// The host side of its socket device.
    pub vsock: Option<&'a UnixEndpoint>,
    /// What the guest is told.
    pub metadata: Option<&'a Arc<Service>>,
    /// The loops besides [`Self::on`].
    pub iothreads: &'a IoThreads,
    /// What it goes on from, if it does not boot.
    pub source: Option<&'a Source>,
    /// The power button's line.
    pub power_button: &'a EventFd,
    /// Where its end is reported.
    pub ending: &'a Ending,
    /// Whether somebody will want to know how long things take.
    pub is_measured: bool,
}

/// The first part of a machine, for which nothing need be read that a guest's owner wrote.
pub struct Begun {
    kvm: Arc<Kvm>,
    topology: Topology,
    template: CpuTemplate,
    memory: GuestMemory,
    vm: Vm,
}

/// Begins the machine of `plan`, which goes on from `source` if it does not boot, in the memory of the machine `before`,
/// which is gone.
///
/// # Errors
/// [`BuildError`]; nothing is left behind.
pub fn begin(
    plan: &Plan,
    provisions: &Provisions,
    source: Option<&Source>,
    before: Option<GuestMemory>,
) -> Result<Begun, BuildError> {
    let kvm = provisions.kvm()?;
    boot_trace::mark(Stage::KvmOpen);
    let topology = topology(plan, &kvm)?;
    let template = cpu_template(plan, &kvm)?;
    let memory = match (before, source) {
        (Some(memory), _) => memory::renew(&memory, plan.backing).map(|()| memory)?,
        (None, Some(source)) => restore::memory(plan, source)?,
        (None, None) => memory::reserve(plan.memory_bytes, plan.backing)?,
    };
    let vm = Vm::new(&kvm, memory.clone())?;
    boot_trace::mark(Stage::Memory);
    Ok(Begun { kvm, topology, template, memory, vm })
}

/// Builds the rest of the machine of `plan`.
///
/// # Errors
/// [`BuildError`]; nothing is left behind.
pub fn build(plan: &Plan, around: &Persistent<'_>, begun: Begun) -> Result<Microvm, BuildError> {
    let Begun { kvm, topology, template, memory, vm } = begun;
    let loaded = match around.source {
        Some(_) => None,
        None => Some(load(plan, around, &memory)?),
    };

    let mut manager = DeviceManager::new(&vm, around.on.clone());
    vm.connect_line(around.power_button, layout::POWER_BUTTON_GSI)?;
    attach_platform(&mut manager)?;
    let (serial, serial_counters) = attach_serial(&mut manager, around)?.unzip();
    let mut controls = attach_virtio(&mut manager, plan, around)?;
    if let Some(counters) = serial_counters {
        controls.set_serial(counters);
    }
    let Collected { buses, windows, virtio, legacy } = manager.finish();

    let (vcpus, is_at_rest) = match loaded {
        Some(loaded) => {
            let has_serial = serial.is_some();
            let machine = describe(plan, topology, &loaded, windows, has_serial)?;
            let registers = write_boot_tables(&memory, &machine, &loaded.kernel)?;
            boot_trace::mark(Stage::KernelLoaded);
            (create_vcpus(&kvm, &vm, topology, registers, template)?, false)
        }
        None => match around.source {
            Some(source) => {
                let devices = (virtio.as_slice(), legacy.as_slice());
                (restore::machine(source, &kvm, &vm, topology, devices)?, true)
            }
            None => (Vec::new(), false),
        },
    };
    let vcpus = vcpus.into_iter().map(|fd| VcpuSetup {
        fd,
        buses: buses.clone(),
        ending: around.ending.clone(),
        on: around.on.clone(),
    });
    let sources = serial.into_iter().collect();
    let (vcpus, devices) = (vcpus.collect(), virtio);
    Ok(Microvm { vcpus, vm, devices, legacy, controls, sources, is_at_rest })
}

/// What is loaded to boot.
struct Loaded {
    kernel: Kernel,
    initrd: Option<Range>,
    cmdline: Range,
}

fn load(plan: &Plan, around: &Persistent<'_>, memory: &GuestMemory) -> Result<Loaded, BuildError> {
    let (file, may_map) = (around.provisions.kernel(), may_map_kernel(plan));
    let kernel = boot::load_kernel(&plan.kernel, file, plan.boot, memory, may_map)?;
    let (initrd, file) = (plan.initrd.as_deref(), around.provisions.initrd());
    let initrd = initrd.map(|path| boot::load_initrd(path, file, &kernel, memory)).transpose()?;
    let cmdline = write_cmdline(memory, &plan.cmdline)?;
    Ok(Loaded { kernel, initrd, cmdline })
}

fn describe(
    plan: &Plan,
    topology: Topology,
    loaded: &Loaded,
    virtio: Vec<MmioDevice>,
    has_serial: bool,
) -> Result<Machine, BuildError> {
    Ok(Machine {
        topology,
        memory: layout::ram_ranges(plan.memory_bytes),
        initrd: loaded.initrd,
        cmdline: loaded.cmdline,
        virtio,
        serial_ports: has_serial.then_some(COM1).into_iter().collect(),
        // It is there for `reboot=k`, which needs no driver; a kernel that is told of it probes for a
        // keyboard, which takes long.
        i8042: false,
        pvpanic_port: Some(layout::PVPANIC_PORT),
        power: layout::POWER,
        power_button_gsi: layout::POWER_BUTTON_GSI,
        generation_id: generation::new_id()?,
    })
}

/// Checks that this process has the CPUs that threads are to be pinned to.
///
/// # Errors
/// [`BuildError::Pin`], or the host does not tell.
pub(crate) fn check_pins(plan: &Plan) -> Result<(), BuildError> {
    let vcpus =
        (0..).zip(&plan.cpus.pin).map(|(index, cpu): (u16, _)| (format!("vcpu {index}"), cpu));
    let iothreads = plan
        .iothreads
        .iter()
        .flat_map(|thread| thread.pin.iter().map(|cpu| (format!("iothread {}", thread.id), cpu)));
    let mut pins = vcpus.chain(iothreads).peekable();
    if pins.peek().is_none() {
        return Ok(());
    }
    let what = "find out which CPUs there are";
    let allowed = CpuSet::of_this_thread().map_err(|source| BuildError::Thread { what, source })?;
    match pins.find(|(_, cpu)| !allowed.contains(**cpu)) {
        Some((who, &cpu)) => Err(BuildError::Pin { who, cpu, allowed: allowed.to_string() }),
        None => Ok(()),
    }
}

fn topology(plan: &Plan, kvm: &Kvm) -> Result<Topology, BuildError> {
    let Cpus { count, cores, threads, sockets, .. } = plan.cpus;
    // Every KVM has one vCPU, and need not be asked.
    if count > 1 {
        let limit = kvm.max_vcpus();
        if usize::from(count) > limit {
            return Err(BuildError::TooManyCpus { asked: count, limit });
        }
    }
    Ok(Topology::new(count, Some(cores), Some(threads), Some(sockets))?)
}

fn cpu_template(plan: &Plan, kvm: &Kvm) -> Result<CpuTemplate, BuildError> {
    let Some(template) = &plan.cpu_template else { return Ok(CpuTemplate::default()) };
    let template = template.load()?;
    for &capability in &template.capabilities {
        if !kvm.has_capability(capability) {
            return Err(BuildError::NoCapability { capability });
        }
    }
    Ok(template)
}

/// Files can be mapped into memory of the usual kind. What a balloon lets go must be zeroes later, not the file again.
fn may_map_kernel(plan: &Plan) -> bool {
    plan.backing == Backing::default() && plan.balloon.is_none()
}

fn write_cmdline(memory: &GuestMemory, text: &str) -> Result<Range, BuildError> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    write(memory, layout::CMDLINE, &bytes)?;
    Ok(Range { start: layout::CMDLINE, len: bytes.len() as u64 })
}

fn attach_platform(manager: &mut DeviceManager<'_>) -> Result<(), BuildError> {
    let ports = POWER_PORTS;
    manager.attach_ports("power", layout::POWER.sleep_control, ports, shared(Power))?;
    manager.attach_ports("pvpanic", layout::PVPANIC_PORT, 1, shared(PvPanic))?;
    // As wide as the widest access, so that one of those reaches it too.
    manager.attach_ports("debug-exit", layout::DEBUG_EXIT_PORT, 4, shared(DebugExit))?;
    let span = u64::from(layout::I8042_COMMAND_PORT - layout::I8042_DATA_PORT) + 1;
    let timer = layout::BOOT_TIMER;
    manager.attach_memory("boot-timer", timer, shared(BootTimer))?;
    manager.attach_ports("i8042", layout::I8042_DATA_PORT, span, shared(I8042::default()))?;
    Ok(())
}

/// What feeds a serial port, and what that counts.
type SerialParts = (Box<dyn LoopSource>, Arc<SerialCounters>);

/// The serial port; none when it leads nowhere.
fn attach_serial(
    manager: &mut DeviceManager<'_>,
    around: &Persistent<'_>,
) -> Result<Option<SerialParts>, BuildError> {
    let Some(port) = around.consoles.serial() else { return Ok(None) };
    let line = manager.connect_line("serial", COM1.gsi)?;
    let serial = Serial::new(Box::new(line), port.clone());
    let counters = serial.counters();
    let serial = Arc::new(Mutex::new(serial));
    manager.attach_ports("serial", COM1.port, SERIAL_PORTS, serial.clone())?;
    let input = OnLoop::new(SerialInput::new(serial), around.ending);
    Ok(Some((Box::new(input), counters)))
}

/// The tables that the kernel reads first, and the registers that point to them.
fn write_boot_tables(
    memory: &GuestMemory,
    machine: &Machine,
    kernel: &Kernel,
) -> Result<BootRegisters, BuildError> {
    let (protocol, registers) = match kernel.entry {
        Entry::Linux64 { address, header } => (
            BootProtocol::Linux64 { setup_header: header },
            registers::linux64(address, layout::ZERO_PAGE),
        ),
        Entry::Pvh { address } => {
            (BootProtocol::Pvh, registers::pvh(address, layout::PVH_START_INFO))
        }
    };
    for (address, bytes) in arch::boot_tables(machine, &protocol)? {
        write(memory, address, &bytes)?;
    }
    Ok(registers)
}

fn create_vcpus(
    kvm: &Kvm,
    vm: &Vm,
    topology: Topology,
    registers: BootRegisters,
    template: CpuTemplate,
) -> Result<Vec<VcpuFd>, BuildError> {
    let apic_ids = ApicIds::new(&topology);
    let mut vcpus = Vec::with_capacity(usize::from(topology.cpus()));
    for id in apic_ids.iter() {
        vcpus.push(vm.create_vcpu(id)?);
    }
    let tsc_khz = vcpus.first().and_then(|vcpu| vcpu.get_tsc_khz().ok());
    let facts =
        CpuFacts { index: 0, topology, tsc_khz, tsc_deadline_timer: kvm.has_tsc_deadline_timer() };
    let mut state = BootState::new(kvm.supported_cpuid()?, &facts, registers, template)?;
    for (index, vcpu) in (0..).zip(&vcpus) {
        state.apply(vcpu, index)?;
    }
    Ok(vcpus)
}

/// Writes what a guest is to find.
pub(crate) fn write(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<(), BuildError> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|source| BuildError::Write { address, source })
}

fn shared(device: impl BusDevice + 'static) -> Arc<Mutex<dyn BusDevice>> {
    Arc::new(Mutex::new(device))
}
