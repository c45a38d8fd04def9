use std::collections::BTreeSet;

use super::*;
use crate::x86_64::layout::GENERATION_ID;
use crate::x86_64::tests::{machine, machine_with, number, sum};

/// The table at `address`.
fn at(tables: &AcpiTables, address: u64) -> &[u8] {
    &tables.chunks.iter().find(|(start, _)| *start == address).unwrap().1
}

/// The table with a signature, found as a kernel finds it: through root pointer and XSDT.
fn find<'a>(tables: &'a AcpiTables, signature: &[u8; 4]) -> &'a [u8] {
    let xsdt = at(tables, number::<8>(at(tables, tables.rsdp), 24));
    let mut listed = xsdt[36..].chunks(8).map(|entry| at(tables, number::<8>(entry, 0)));
    match signature {
        b"XSDT" => xsdt,
        b"DSDT" => at(tables, number::<8>(find(tables, b"FACP"), 140)),
        _ => listed.find(|table| table.starts_with(signature)).unwrap(),
    }
}

/// The structures of the MADT, walked by their lengths.
fn structures(madt: &[u8]) -> Vec<&[u8]> {
    let mut rest = &madt[44..];
    let mut structures = Vec::new();
    while !rest.is_empty() {
        let (structure, behind) = rest.split_at(rest[1].into());
        structures.push(structure);
        rest = behind;
    }
    structures
}

#[test]
fn the_root_pointer_is_found_and_valid() {
    let tables = tables(&machine(1, 1)).unwrap();
    assert_eq!(tables.rsdp, RSDP);
    let rsdp = at(&tables, tables.rsdp);
    assert!(rsdp.starts_with(b"RSD PTR "));
    assert_eq!((rsdp[15], number::<4>(rsdp, 20)), (2, 36));
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp[..36])), (0, 0));
}

#[test]
fn every_table_has_its_length_and_checksum_for_every_size_of_machine() {
    for cpus in 1..=254 {
        let tables = tables(&machine(cpus, u32::from(cpus) % 20)).unwrap();
        for signature in [b"XSDT", b"FACP", b"APIC", b"DSDT"] {
            let table = find(&tables, signature);
            assert!(table.starts_with(signature));
            assert_eq!(number::<4>(table, 4), table.len() as u64, "{signature:?}");
            assert_eq!(sum(table), 0, "{signature:?}");
        }
        for (address, _) in &tables.chunks {
            assert_eq!(address % 16, 0);
        }
    }
}

#[test]
fn the_fadt_says_how_to_power_off_and_reset_and_what_is_missing() {
    let mut machine = machine(1, 1);
    let with_keyboard = tables(&machine).unwrap();
    let fadt = find(&with_keyboard, b"FACP");
    let port =
        |offset| (fadt[offset], fadt[offset + 1], fadt[offset + 3], number::<8>(fadt, offset + 4));
    assert_eq!(port(116), (1, 8, 1, 0x602), "RESET_REG");
    assert_eq!(fadt[128], 1, "RESET_VALUE");
    assert_eq!(port(244), (1, 8, 1, 0x600), "SLEEP_CONTROL_REG");
    assert_eq!(port(256), (1, 8, 1, 0x601), "SLEEP_STATUS_REG");
    let flags = number::<4>(fadt, 112);
    assert_eq!(flags, (1 << 20) | (1 << 10) | (1 << 5) | (1 << 4) | 1);
    assert_eq!(number::<2>(fadt, 109), 0b10_0110, "no RTC, no VGA, 8042");
    machine.i8042 = false;
    let without = tables(&machine).unwrap();
    assert_eq!(number::<2>(find(&without, b"FACP"), 109), 0b10_0100);
}

#[test]
fn the_madt_lists_every_cpu_and_one_io_apic() {
    for cpus in [1, 2, 3, 6, 64, 254] {
        let tables = tables(&machine(cpus, 1)).unwrap();
        let madt = find(&tables, b"APIC");
        assert_eq!((number::<4>(madt, 36), number::<4>(madt, 40)), (0xFEE0_0000, 0));
        let structures = structures(madt);
        let (io_apic, cpus_listed) = structures.split_last().unwrap();
        assert_eq!(cpus_listed.len(), usize::from(cpus));
        for (number_of, cpu) in cpus_listed.iter().enumerate() {
            let id = u8::try_from(number_of).unwrap();
            assert_eq!(cpu, &[0, 8, id, id, 1, 0, 0, 0]);
        }
        assert_eq!(io_apic, &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    }
}

#[test]
fn identifiers_beyond_254_use_the_wide_structure() {
    let topology = Topology::new(243, Some(9), Some(3), None).unwrap();
    let tables = tables(&machine_with(topology, 1)).unwrap();
    let mut found = BTreeSet::new();
    for structure in structures(find(&tables, b"APIC")) {
        match structure[0] {
            0 => {
                assert!(structure[3] < 255);
                found.insert(u32::from(structure[3]));
            }
            9 => {
                let id = u32::try_from(number::<4>(structure, 4)).unwrap();
                assert!(id >= 255 && structure.len() == 16);
                assert_eq!(number::<4>(structure, 8), 1, "enabled");
                found.insert(id);
            }
            kind => assert_eq!(kind, 1),
        }
    }
    assert_eq!(found, ApicIds::new(&topology).iter().collect());
}

/// AML `PkgLength` at the start of `code`: its value, which counts itself, and its own length.
fn package(code: &[u8]) -> (usize, usize) {
    let follow = usize::from(code[0] >> 6);
    let mut length = usize::from(code[0] & if follow == 0 { 0x3f } else { 0xf });
    for (number_of, byte) in code[1..=follow].iter().enumerate() {
        length |= usize::from(*byte) << (4 + 8 * number_of);
    }
    (length, 1 + follow)
}

/// Name and body of each device in `\_SB`, by walking the package lengths.
fn devices(dsdt: &[u8]) -> Vec<(String, Vec<u8>)> {
    let code = &dsdt[36..];
    assert_eq!(code[0], 0x10, "Scope");
    let (scope, skip) = package(&code[1..]);
    assert_eq!(&code[1 + skip..][..5], b"\\_SB_");
    let off = &code[1 + scope..];
    assert_eq!(off, b"\x08_S5_\x12\x07\x04\x0a\x05\x00\x00\x00");
    let mut rest = &code[1 + skip + 5..1 + scope];
    let mut devices = Vec::new();
    while !rest.is_empty() {
        assert_eq!(&rest[..2], [0x5b, 0x82], "Device");
        let (length, skip) = package(&rest[2..]);
        let (device, behind) = rest.split_at(2 + length);
        let name = String::from_utf8(device[2 + skip..][..4].to_vec()).unwrap();
        devices.push((name, device[2 + skip + 4..].to_vec()));
        rest = behind;
    }
    devices
}

#[test]
fn the_dsdt_names_each_device_once() {
    let tables = tables(&machine(1, 19)).unwrap();
    let devices = devices(find(&tables, b"DSDT"));
    let names: Vec<&str> = devices.iter().map(|(name, _)| name.as_str()).collect();
    let first = ["COM1", "KBD_", "PVPN", "VGEN", "VCLK", "PWRB", "GED_", "V000", "V001"];
    assert_eq!(names[..9], first);
    assert_eq!(names.last(), Some(&"V012"), "hexadecimal");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 7 + 19);
}

#[test]
fn a_virtio_device_has_its_window_and_interrupt() {
    let tables = tables(&machine(1, 3)).unwrap();
    let devices = devices(find(&tables, b"DSDT"));
    let (_, body) = devices.iter().find(|(name, _)| name == "V002").unwrap();
    let expected = [
        b"\x08_HID\x0dLNRO0005\0".as_slice(),
        b"\x08_UID\x0a\x02",
        b"\x08_CRS\x11\x1a\x0a\x17",
        b"\x86\x09\x00\x01\x00\x30\x00\xc0\x00\x10\x00\x00",
        b"\x89\x06\x00\x03\x01\x07\x00\x00\x00",
        b"\x79\x00",
    ]
    .concat();
    assert_eq!(body, &expected);
}

#[test]
fn the_serial_port_has_its_ports_and_interrupt() {
    let tables = tables(&machine(1, 0)).unwrap();
    let devices = devices(find(&tables, b"DSDT"));
    let (_, body) = &devices[0];
    let expected = [
        b"\x08_HID\x0c\x41\xd0\x05\x01".as_slice(),
        b"\x08_UID\x00",
        b"\x08_CRS\x11\x16\x0a\x13",
        b"\x47\x01\xf8\x03\xf8\x03\x01\x08",
        b"\x89\x06\x00\x03\x01\x04\x00\x00\x00",
        b"\x79\x00",
    ]
    .concat();
    assert_eq!(body, &expected);
}

#[test]
fn the_power_button_event_notifies_the_button() {
    let tables = tables(&machine(1, 0)).unwrap();
    let devices = devices(find(&tables, b"DSDT"));
    let (_, body) = devices.iter().find(|(name, _)| name == "GED_").unwrap();
    assert!(body.windows(9).any(|window| window == b"\x89\x06\x00\x03\x01\x03\x00\x00\x00"));
    let method = [
        b"_EVT\x09".as_slice(),
        b"\xa0\x0c\x93\x68\x0a\x03\x86PWRB\x0a\x80",
        b"\xa0\x0b\x93\x68\x01\x86VGEN\x0a\x80",
        b"\xa0\x0b\x93\x68\x01\x86VCLK\x0a\x80",
    ];
    assert!(body.ends_with(&method.concat()), "{body:x?}");
    let (_, button) = devices.iter().find(|(name, _)| name == "PWRB").unwrap();
    assert_eq!(button, b"\x08_HID\x0c\x41\xd0\x0c\x0c");
}

#[test]
fn the_generation_identifier_is_where_its_device_says_and_an_event_tells_of_another() {
    let machine = machine(1, 0);
    let tables = tables(&machine).unwrap();
    assert_eq!(RSDP + BEFORE_ID as u64, GENERATION_ID.start);
    assert_eq!(at(&tables, RSDP)[BEFORE_ID..], machine.generation_id);
    let devices = devices(find(&tables, b"DSDT"));
    let (_, body) = devices.iter().find(|(name, _)| name == "VGEN").unwrap();
    let mut expected = aml::Code::with_capacity(0);
    expected.id(aml::Id::Text("VMMV0001"));
    for name in [b"_CID", b"_DDN"] {
        expected.name(name);
        expected.raw(b"\x0dVM_Gen_Counter\0");
    }
    expected.name(b"ADDR");
    let package = expected.open(aml::Block::Package);
    expected.raw(&[2]);
    expected.integer(u32::try_from(GENERATION_ID.start).unwrap());
    expected.integer(0);
    expected.close(package);
    assert_eq!(*body, expected.into_bytes());
    let (_, events) = devices.iter().find(|(name, _)| name == "GED_").unwrap();
    assert!(events.windows(9).any(|window| window == b"\x89\x06\x00\x03\x01\x01\x00\x00\x00"));
}

#[test]
fn the_clock_page_is_where_its_device_says() {
    let tables = tables(&machine(1, 0)).unwrap();
    assert_eq!(at(&tables, VMCLOCK.start), vmclock::page([0; 16]));
    let devices = devices(find(&tables, b"DSDT"));
    let (_, body) = devices.iter().find(|(name, _)| name == "VCLK").unwrap();
    let mut expected = aml::Code::with_capacity(0);
    expected.id(aml::Id::Text("AMZNC10C"));
    for name in [b"_CID", b"_DDN"] {
        expected.name(name);
        expected.raw(b"\x0dVMCLOCK\0");
    }
    expected.name(b"_CRS");
    let buffer = expected.open(aml::Block::Buffer);
    expected.integer(14);
    expected.raw(b"\x86\x09\x00\x00"); // memory at a fixed place, not writable
    expected.raw(&u32::try_from(VMCLOCK.start).unwrap().to_le_bytes());
    expected.raw(&u32::try_from(VMCLOCK.len).unwrap().to_le_bytes());
    expected.raw(b"\x79\x00");
    expected.close(buffer);
    assert_eq!(*body, expected.into_bytes());
}

#[test]
fn devices_that_are_absent_are_not_named() {
    let mut machine = machine(1, 0);
    machine.i8042 = false;
    machine.pvpanic_port = None;
    machine.serial_ports.clear();
    let tables = tables(&machine).unwrap();
    let devices = devices(find(&tables, b"DSDT"));
    let names: Vec<&str> = devices.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["VGEN", "VCLK", "PWRB", "GED_"]);
}

#[test]
fn a_window_beyond_32_bits_is_refused() {
    for (base, len) in [(1 << 32, 0x1000), (0xffff_f000, 0x2000), (0, 1 << 32), (u64::MAX, 1)] {
        let mut machine = machine(1, 1);
        machine.virtio[0].base = base;
        machine.virtio[0].len = len;
        assert_eq!(tables(&machine).unwrap_err(), AcpiError::Window { base, len });
    }
}

#[test]
fn too_many_devices_are_refused_rather_than_misnamed() {
    let mut too_many_ports = machine(1, 0);
    too_many_ports.serial_ports = vec![too_many_ports.serial_ports[0]; 16];
    let error = tables(&too_many_ports).unwrap_err();
    assert_eq!(error, AcpiError::Name { prefix: "COM", number: 16 });
    let mut too_long = machine(1, 1);
    too_long.virtio = vec![too_long.virtio[0]; 4096];
    assert!(matches!(tables(&too_long), Err(AcpiError::TooLarge { .. })));
}
