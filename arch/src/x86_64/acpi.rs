//! The ACPI tables of a hardware-reduced machine (ACPI 6.5): RSDP, XSDT, FADT, MADT and DSDT.
//!
//! There is no fixed hardware (no PM timer, no SCI, no PIC, no RTC), no sleeping state but off, and
//! no CPU hot-plug. The byte code describes devices and dispatches one event; it computes nothing.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use thiserror::Error;

use super::layout::{IO_APIC, LOCAL_APIC, RSDP, VMCLOCK};
use super::topology::ApicIds;
use super::vmclock;
use crate::{Machine, Topology};

mod aml;
mod dsdt;

const OEM_ID: [u8; 6] = *b"VMM   ";
const OEM_TABLE_ID: [u8; 8] = *b"VMM     ";
const OEM_REVISION: u32 = 1;

/// Revisions of the tables that we write, as of ACPI 6.5.
const DSDT_REVISION: u8 = 2;
const MADT_REVISION: u8 = 6;

/// Length of a table's header.
const HEADER: u32 = 36;
/// Bytes from the root pointer to the generation identifier behind it.
const BEFORE_ID: usize = 48;

/// FADT boot flags (ACPI 6.5, table 5.11).
const BOOT_8042: u16 = 1 << 1;
const BOOT_VGA_NOT_PRESENT: u16 = 1 << 2;
const BOOT_CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// MADT structure for identifiers beyond 8 bits (ACPI 6.5, 5.2.12.12).
const LOCAL_X2APIC: u8 = 9;
const LOCAL_X2APIC_LEN: u8 = 16;
/// Highest identifier of the 8-bit structure; 255 is the broadcast address.
const MAX_LOCAL_APIC_ID: u32 = 254;

/// Tables ready to be written.
#[derive(Clone, Debug)]
pub struct AcpiTables {
    /// Address of the root pointer, for the zero page and the PVH start info.
    pub rsdp: u64,
    /// Address and bytes of each table.
    pub chunks: Vec<(u64, Vec<u8>)>,
}

/// The tables of this machine, placed one after the other in [`super::layout::ACPI_TABLES`], and the page at its end that they name.
///
/// # Errors
///
/// If they do not fit there, a virtio window is beyond 4 GiB, or there are more devices than names.
pub fn tables(machine: &Machine) -> Result<AcpiTables, AcpiError> {
    let mut area = Area { chunks: Vec::with_capacity(6), next: RSDP };
    // The root pointer and the identifier come first, but the former knows the other addresses: their room is kept.
    area.skip(BEFORE_ID + machine.generation_id.len())?;
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&dsdt::byte_code(machine)?);
    let dsdt = area.place(&dsdt)?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(area.place(&fadt(machine, dsdt).finalize())?);
    xsdt.add_entry(area.place(&madt(&machine.topology))?);
    let xsdt = area.place(&xsdt)?;
    let mut first = bytes(&Rsdp::new(OEM_ID, xsdt));
    first.resize(BEFORE_ID, 0);
    first.extend_from_slice(&machine.generation_id);
    area.chunks.push((RSDP, first));
    area.chunks.push((VMCLOCK.start, vmclock::page([0; 16])));
    Ok(AcpiTables { rsdp: RSDP, chunks: area.chunks })
}

/// Hands out the room for tables, lowest address first.
struct Area {
    chunks: Vec<(u64, Vec<u8>)>,
    next: u64,
}

impl Area {
    /// Puts a table at the next address, which is returned.
    fn place(&mut self, table: &dyn Aml) -> Result<u64, AcpiError> {
        let bytes = bytes(table);
        let address = self.skip(bytes.len())?;
        self.chunks.push((address, bytes));
        Ok(address)
    }

    /// Passes over `len` bytes; returns where they start, a multiple of 16.
    fn skip(&mut self, len: usize) -> Result<u64, AcpiError> {
        let start = self.next;
        let room = VMCLOCK.start - start;
        let needed = u64::try_from(len).unwrap_or(u64::MAX);
        if needed > room {
            return Err(AcpiError::TooLarge { needed, room });
        }
        self.next = (start + needed).next_multiple_of(16);
        Ok(start)
    }
}

/// How the machine is switched off and reset, and what a PC has that it lacks (5.2.9).
fn fadt(machine: &Machine, dsdt: u64) -> FADTBuilder {
    let keyboard = if machine.i8042 { BOOT_8042 } else { 0 };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // The power button is a device, and there is no sleep button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (keyboard | BOOT_VGA_NOT_PRESENT | BOOT_CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = byte_port(machine.power.reset);
    fadt.reset_value = machine.power.reset_value;
    fadt.sleep_control_reg = byte_port(machine.power.sleep_control);
    fadt.sleep_status_reg = byte_port(machine.power.sleep_status);
    fadt
}

fn byte_port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

/// The CPUs and the I/O APIC (5.2.12). No interrupt is overridden: without a PIC every pin is what
/// the DSDT says, edge-triggered and active high.
fn madt(topology: &Topology) -> Sdt {
    let mut body = Vec::with_capacity(32 + 8 * usize::from(topology.cpus()));
    body.extend_from_slice(&LOCAL_APIC.to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes()); // no PC/AT interrupt controllers
    for (uid, id) in (0u32..).zip(ApicIds::new(topology).iter()) {
        match (u8::try_from(uid), u8::try_from(id)) {
            (Ok(uid), Ok(id)) if u32::from(id) <= MAX_LOCAL_APIC_ID => {
                let cpu = ProcessorLocalApic::new(uid, id, EnabledStatus::Enabled);
                cpu.to_aml_bytes(&mut body);
            }
            _ => {
                body.extend_from_slice(&[LOCAL_X2APIC, LOCAL_X2APIC_LEN, 0, 0]);
                body.extend_from_slice(&id.to_le_bytes());
                body.extend_from_slice(&1u32.to_le_bytes()); // enabled
                body.extend_from_slice(&uid.to_le_bytes());
            }
        }
    }
    IoApic::new(0, IO_APIC, 0).to_aml_bytes(&mut body);
    let mut madt = Sdt::new(*b"APIC", HEADER, MADT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append_slice(&body);
    madt
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A machine that the tables cannot describe.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AcpiError {
    /// The tables are longer than their area.
    #[error("tables do not fit: the next needs {needed} bytes, {room} are left")]
    TooLarge {
        /// Bytes of the table that did not fit.
        needed: u64,
        /// Bytes left for it.
        room: u64,
    },
    /// A register window that 32-bit descriptors cannot name.
    #[error("device window of {len:#x} bytes at {base:#x} is not below 4 GiB")]
    Window {
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
    },
    /// More devices of a kind than names for them.
    #[error("no name left for device number {number} of those whose names start with {prefix}")]
    Name {
        /// What the names of this kind start with.
        prefix: &'static str,
        /// Number of the device.
        number: u32,
    },
}

#[cfg(test)]
mod tests;
