//! The byte code of the DSDT: each device with its identifier, registers and interrupt.
//!
//! PCI is not described: there is none.

use super::AcpiError;
use super::aml::{Block, Code, Id, Resource, Segment};
use crate::Machine;
use crate::x86_64::layout::{GENERATION_GSI, I8042_COMMAND_PORT, I8042_DATA_PORT, SLEEP_TYPE_S5};

/// Value of a notification that a button was pressed (ACPI 6.5, table 5.160).
const BUTTON_PRESSED: u8 = 0x80;
/// Value of a notification that the generation identifier is another one, or that the VMClock page is.
const GENERATION_CHANGED: u8 = 0x80;

/// The device that says where the generation identifier lies. Nothing of it depends on the machine, so it is here as the
/// encoder would write it, which takes no time.
///
/// ```text
/// Device (VGEN) {
///     Name (_HID, "VMMV0001")
///     Name (_CID, "VM_Gen_Counter")
///     Name (_DDN, "VM_Gen_Counter")
///     Name (ADDR, Package (2) { 0x000E0030, Zero })
/// }
/// ```
const GENERATION: &[u8] = b"\x5b\x82\x4d\x04VGEN\
\x08_HID\x0dVMMV0001\0\
\x08_CID\x0dVM_Gen_Counter\0\
\x08_DDN\x0dVM_Gen_Counter\0\
\x08ADDR\x12\x08\x02\x0c\x30\x00\x0e\x00\x00";

/// The device that says where the VMClock page lies (UAPI.13), as above.
///
/// ```text
/// Device (VCLK) {
///     Name (_HID, "AMZNC10C")
///     Name (_CID, "VMCLOCK")
///     Name (_DDN, "VMCLOCK")
///     Name (_CRS, ResourceTemplate () { Memory32Fixed (ReadOnly, 0x000FF000, 0x1000) })
/// }
/// ```
const CLOCK: &[u8] = b"\x5b\x82\x48\x04VCLK\
\x08_HID\x0dAMZNC10C\0\
\x08_CID\x0dVMCLOCK\0\
\x08_DDN\x0dVMCLOCK\0\
\x08_CRS\x11\x11\x0a\x0e\x86\x09\x00\x00\x00\xf0\x0f\x00\x00\x10\x00\x00\x79\x00";

/// Bytes of code for one virtio device, and for all else on a usual machine.
const VIRTIO_DEVICE: usize = 66;
const THE_REST: usize = 530;

/// The code below the table's header.
pub(super) fn byte_code(machine: &Machine) -> Result<Vec<u8>, AcpiError> {
    let mut code = Code::with_capacity(THE_REST + VIRTIO_DEVICE * machine.virtio.len());
    let scope = code.open(Block::Scope);
    code.raw(b"\\_SB_");
    for (index, serial) in (0u32..).zip(&machine.serial_ports) {
        let resources =
            [Resource::Ports { first: serial.port, count: 8 }, Resource::Edge { gsi: serial.gsi }];
        let name = numbered("COM", index + 1)?;
        device(&mut code, &name, Id::Pnp(0x0501), index, &resources);
    }
    if machine.i8042 {
        // Found by its identifier, the controller is not probed for a mouse. It has no keyboard and no interrupt.
        let resources = [
            Resource::Ports { first: I8042_DATA_PORT, count: 1 },
            Resource::Ports { first: I8042_COMMAND_PORT, count: 1 },
        ];
        device(&mut code, b"KBD_", Id::Pnp(0x0303), 0, &resources);
    }
    if let Some(first) = machine.pvpanic_port {
        let resources = [Resource::Ports { first, count: 1 }];
        device(&mut code, b"PVPN", Id::Text("QEMU0001"), 0, &resources);
    }
    code.raw(GENERATION);
    code.raw(CLOCK);
    events(&mut code, machine.power_button_gsi);
    for (index, virtio) in (0u32..).zip(&machine.virtio) {
        let outside = || AcpiError::Window { base: virtio.base, len: virtio.len };
        let base = u32::try_from(virtio.base).map_err(|_| outside())?;
        let len = u32::try_from(virtio.len).map_err(|_| outside())?;
        base.checked_add(len).ok_or_else(outside)?;
        let resources = [Resource::Window { base, len }, Resource::Edge { gsi: virtio.gsi }];
        device(&mut code, &numbered("V", index)?, Id::Text("LNRO0005"), index, &resources);
    }
    code.close(scope);
    power_off(&mut code);
    Ok(code.into_bytes())
}

/// A device that is simply there: identifier, number among its like, and resources.
fn device(code: &mut Code, name: &Segment, id: Id, number: u32, resources: &[Resource]) {
    let device = code.open(Block::Device);
    code.raw(name);
    code.id(id);
    code.name(b"_UID");
    code.integer(number);
    code.resources(resources);
    code.close(device);
}

/// The power button, and the device that turns interrupts into notifications (ACPI 6.5, 5.6.9).
fn events(code: &mut Code, power_button_gsi: u32) {
    let button = code.open(Block::Device);
    code.raw(b"PWRB");
    code.id(Id::Pnp(0x0c0c));
    code.close(button);

    let events = code.open(Block::Device);
    code.raw(b"GED_");
    code.id(Id::Text("ACPI0013"));
    let edges = [power_button_gsi, GENERATION_GSI];
    code.resources(&edges.map(|gsi| Resource::Edge { gsi }));
    let method = code.open(Block::Method);
    code.raw(b"_EVT");
    code.raw(&[0b1001]); // serialized, one argument
    code.notify_if_arg0_is(power_button_gsi, b"PWRB", BUTTON_PRESSED);
    code.notify_if_arg0_is(GENERATION_GSI, b"VGEN", GENERATION_CHANGED);
    code.notify_if_arg0_is(GENERATION_GSI, b"VCLK", GENERATION_CHANGED);
    code.close(method);
    code.close(events);
}

/// The only sleep type: what to write to the sleep control register, and three unused numbers.
fn power_off(code: &mut Code) {
    code.name(b"_S5_");
    let package = code.open(Block::Package);
    code.raw(&[4]);
    for value in [SLEEP_TYPE_S5, 0, 0, 0] {
        code.integer(value.into());
    }
    code.close(package);
}

/// A name of four characters: a prefix, filled up with the number in hexadecimal.
fn numbered(prefix: &'static str, number: u32) -> Result<Segment, AcpiError> {
    let mut name = *b"____";
    let mut rest = number;
    let filled = name.iter_mut().zip(prefix.bytes());
    let digits_from = filled.map(|(to, from)| *to = from).count();
    for digit in name.iter_mut().skip(digits_from).rev() {
        *digit = match u8::try_from(rest & 0xf) {
            Ok(value @ ..=9) => b'0' + value,
            Ok(value) => b'A' + value - 10,
            Err(_) => b'0',
        };
        rest >>= 4;
    }
    if rest != 0 {
        return Err(AcpiError::Name { prefix, number });
    }
    Ok(name)
}
