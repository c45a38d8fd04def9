//! The MP table (Intel MultiProcessor Specification 1.4), for kernels built without ACPI.
//!
//! A kernel that has found an ACPI MADT does not read it, so handing over both does no harm. It
//! cannot describe virtio-mmio devices: such kernels learn of those from their command line, see
//! [`virtio_mmio_params`].

use std::fmt::Write;

use thiserror::Error;

use super::layout::{GSI_COUNT, I8042_GSI, IO_APIC, LOCAL_APIC, MP_POINTER, MP_TABLE, TIMER_GSI};
use super::topology::ApicIds;
use crate::{MAX_CPUS, Machine, MmioDevice};

const SPEC_REVISION: u8 = 4;
/// Versions of the APICs that KVM models.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
/// 255 addresses all local APICs.
const BROADCAST: u8 = 0xff;
/// The only bus: its interrupts are edge-triggered and active high unless said otherwise.
const ISA_BUS: u8 = 0;

const CPU_ENABLED: u8 = 1 << 0;
const CPU_BOOT: u8 = 1 << 1;
/// On-chip FPU and APIC: the feature bits that the table itself depends on.
const CPU_FEATURES: u32 = (1 << 0) | (1 << 9);

const HEADER: usize = 44;
const CPU_ENTRY: usize = 20;
const ENTRY: usize = 8;
/// The largest table: every CPU, every interrupt, and the bus, I/O APIC and two local interrupts.
const MAX_LEN: usize = HEADER + CPU_ENTRY * MAX_CPUS as usize + ENTRY * (GSI_COUNT as usize + 4);
const _: () = assert!(MAX_LEN as u64 <= MP_POINTER - MP_TABLE.start);

/// The two parts of the table, each with its address: the pointer that kernels search for, and the
/// configuration table it points at.
///
/// CPUs whose identifier does not fit in 8 bits are left out: the table has no room for more.
///
/// # Errors
///
/// If an interrupt is not one of the I/O APIC's.
pub fn build(machine: &Machine) -> Result<Vec<(u64, Vec<u8>)>, MpTableError> {
    Ok(vec![(MP_TABLE.start, configuration(machine)?), (MP_POINTER, pointer())])
}

/// Command-line parameters that tell a kernel without ACPI of its virtio devices, separated by
/// spaces: `virtio_mmio.device=4K@0xc0001000:5`. A kernel with ACPI must not be given them, as it
/// would see each device twice.
pub fn virtio_mmio_params(devices: &[MmioDevice]) -> String {
    let mut params = String::new();
    for MmioDevice { base, len, gsi } in devices {
        let separator = if params.is_empty() { "" } else { " " };
        let (len, unit) = if len % 1024 == 0 { (len / 1024, "K") } else { (*len, "") };
        // Writing to a string cannot fail.
        let _ = write!(params, "{separator}virtio_mmio.device={len}{unit}@{base:#x}:{gsi}");
    }
    params
}

/// The floating pointer structure (section 4.1).
fn pointer() -> Vec<u8> {
    let [a, b, c, d, ..] = MP_TABLE.start.to_le_bytes();
    let mut bytes = Vec::with_capacity(16);
    bytes.extend_from_slice(b"_MP_");
    bytes.extend_from_slice(&[a, b, c, d]);
    // Its length in units of 16 bytes, checksum, and no feature bytes: there is a table.
    bytes.extend_from_slice(&[1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    seal(&mut bytes, 10);
    bytes
}

/// The configuration table (sections 4.2 and 4.3): header, CPUs, bus, I/O APIC, interrupts.
fn configuration(machine: &Machine) -> Result<Vec<u8>, MpTableError> {
    let ids = ApicIds::new(&machine.topology);
    let io_apic = io_apic_id(machine, &ids);
    let mut table = Vec::with_capacity(MAX_LEN);
    let mut entries: u16 = 0;
    let mut add = |table: &mut Vec<u8>, entry: &[u8]| {
        table.extend_from_slice(entry);
        entries = entries.saturating_add(1);
    };

    table.resize(HEADER, 0);
    for id in ids.iter().filter_map(|id| u8::try_from(id).ok()).filter(|id| *id != BROADCAST) {
        let flags = if id == 0 { CPU_ENABLED | CPU_BOOT } else { CPU_ENABLED };
        let mut entry = [0; CPU_ENTRY];
        entry[..4].copy_from_slice(&[0, id, LOCAL_APIC_VERSION, flags]);
        entry[8..12].copy_from_slice(&CPU_FEATURES.to_le_bytes());
        add(&mut table, &entry);
    }
    add(&mut table, &[1, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IO_APIC.to_le_bytes();
    add(&mut table, &[2, io_apic, IO_APIC_VERSION, 1, a, b, c, d]);
    for gsi in interrupts(machine) {
        match u8::try_from(gsi) {
            Ok(pin) if gsi < GSI_COUNT => {
                add(&mut table, &[3, 0, 0, 0, ISA_BUS, pin, io_apic, pin]);
            }
            _ => return Err(MpTableError::Gsi { gsi }),
        }
    }
    // Local interrupts: the PIC's on pin 0 of the boot CPU, NMI on pin 1 of every CPU.
    add(&mut table, &[4, 3, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&mut table, &[4, 1, 0, 0, ISA_BUS, 0, BROADCAST, 1]);

    let len = u16::try_from(table.len()).unwrap_or(u16::MAX);
    write_header(&mut table, len, entries);
    seal(&mut table, 7);
    Ok(table)
}

fn write_header(table: &mut [u8], len: u16, entries: u16) {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(b"PCMP");
    header.extend_from_slice(&len.to_le_bytes());
    header.extend_from_slice(&[SPEC_REVISION, 0]);
    header.extend_from_slice(b"VMM     VMM         ");
    header.extend_from_slice(&[0; 6]);
    header.extend_from_slice(&entries.to_le_bytes());
    header.extend_from_slice(&LOCAL_APIC.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    for (to, from) in table.iter_mut().zip(header) {
        *to = from;
    }
}

/// The interrupts in use, each once.
fn interrupts(machine: &Machine) -> Vec<u32> {
    let keyboard = machine.i8042.then_some(I8042_GSI);
    let serial = machine.serial_ports.iter().map(|port| port.gsi);
    let virtio = machine.virtio.iter().map(|device| device.gsi);
    let mut gsis: Vec<u32> =
        [TIMER_GSI].into_iter().chain(keyboard).chain(serial).chain(virtio).collect();
    gsis.sort_unstable();
    gsis.dedup();
    gsis
}

/// The lowest identifier that no CPU has: the table wants them distinct. CPUs number upwards from
/// 0, and with at most 254 of them this is at most 254.
fn io_apic_id(machine: &Machine, ids: &ApicIds) -> u8 {
    let cpus = machine.topology.cpus();
    let free = (0..cpus).find(|index| ids.id(*index) != u32::from(*index)).unwrap_or(cpus);
    u8::try_from(free).unwrap_or(0)
}

/// Sets the byte at `checksum` so that all bytes sum to zero.
fn seal(bytes: &mut [u8], checksum: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(checksum) {
        *byte = byte.wrapping_sub(sum);
    }
}

/// A machine that an MP table cannot describe.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MpTableError {
    /// An interrupt is not a pin of the I/O APIC.
    #[error("interrupt {gsi} is not one of the I/O APIC's {GSI_COUNT}")]
    Gsi {
        /// The interrupt.
        gsi: u32,
    },
}

#[cfg(test)]
mod tests;
