use super::{ArchError, BootProtocol, boot_tables, layout};
use crate::{Machine, MmioDevice, Range, SerialPort, Topology};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A machine with everything on it, as the product would describe it.
pub(super) fn machine(cpus: u16, devices: u32) -> Machine {
    machine_with(Topology::new(cpus, None, None, None).unwrap(), devices)
}

/// The same with a given topology.
pub(super) fn machine_with(topology: Topology, devices: u32) -> Machine {
    let device = |number: u32| MmioDevice {
        base: layout::VIRTIO_MMIO.start + u64::from(number) * layout::VIRTIO_MMIO_LEN,
        len: layout::VIRTIO_MMIO_LEN,
        gsi: layout::DEVICE_GSIS.start() + number,
    };
    Machine {
        topology,
        memory: layout::ram_ranges(64 * MIB),
        initrd: Some(Range { start: 32 * MIB, len: 12_345 }),
        cmdline: Range { start: layout::CMDLINE, len: layout::CMDLINE_MAX },
        virtio: (0..devices).map(device).collect(),
        serial_ports: vec![SerialPort { port: layout::COM1_PORT, gsi: layout::COM1_GSI }],
        i8042: true,
        pvpanic_port: Some(layout::PVPANIC_PORT),
        power: layout::POWER,
        power_button_gsi: layout::POWER_BUTTON_GSI,
        generation_id: *b"0123456789abcdef",
    }
}

/// A 16-, 32- or 64-bit little-endian number inside a table.
pub(super) fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(&bytes[offset..offset + N]);
    u64::from_le_bytes(wide)
}

/// All bytes of a table must add up to zero.
pub(super) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn protocols() -> [BootProtocol; 2] {
    [BootProtocol::Linux64 { setup_header: None }, BootProtocol::Pvh]
}

#[test]
fn tables_are_disjoint_ascending_and_low_for_every_size_of_machine() {
    for cpus in 1..=254 {
        for devices in 0..=19 {
            let machine = machine(cpus, devices);
            for protocol in protocols() {
                let chunks = boot_tables(&machine, &protocol).unwrap();
                let mut next = 0;
                for (address, bytes) in &chunks {
                    let chunk = Range { start: *address, len: bytes.len() as u64 };
                    assert!(chunk.len > 0);
                    assert!(chunk.start >= next, "{cpus} CPUs, {devices} devices: {chunk:x?}");
                    assert!(!chunk.overlaps(&machine.cmdline));
                    next = chunk.end().unwrap();
                }
                assert!(next <= layout::HIMEM);
            }
        }
    }
}

#[test]
fn no_table_lies_in_memory_that_the_map_offers_but_for_boot_information() {
    let machine = machine(254, 19);
    let chunks = boot_tables(&machine, &BootProtocol::Pvh).unwrap();
    let lasting = [layout::MP_TABLE, layout::ACPI_TABLES];
    for (address, bytes) in chunks {
        let chunk = Range { start: address, len: bytes.len() as u64 };
        let boot_information = chunk.end().unwrap() <= 0xc000;
        assert!(boot_information || lasting.iter().any(|range| range.contains(&chunk)));
    }
}

#[test]
fn each_protocol_gets_its_own_tables() {
    let machine = machine(1, 1);
    let [linux, pvh] = protocols().map(|protocol| {
        let chunks = boot_tables(&machine, &protocol).unwrap();
        chunks.into_iter().map(|(address, _)| address).collect::<Vec<u64>>()
    });
    let only = |this: &[u64], other: &[u64]| {
        this.iter().copied().filter(|address| !other.contains(address)).collect::<Vec<u64>>()
    };
    assert_eq!(only(&linux, &pvh), [layout::ZERO_PAGE, layout::PAGE_TABLES]);
    assert_eq!(
        only(&pvh, &linux),
        [layout::PVH_START_INFO, layout::PVH_MODULES, layout::PVH_MEMORY_MAP]
    );
    for shared in [layout::GDT, layout::MP_TABLE.start, layout::MP_POINTER, layout::RSDP] {
        assert!(linux.contains(&shared) && pvh.contains(&shared), "{shared:#x}");
    }
}

fn error(change: impl FnOnce(&mut Machine)) -> ArchError {
    let mut machine = machine(1, 1);
    change(&mut machine);
    boot_tables(&machine, &BootProtocol::Pvh).unwrap_err()
}

#[test]
fn memory_must_make_sense() {
    let bad = |start, len| error(|machine| machine.memory.push(Range { start, len }));
    assert!(matches!(bad(32 * MIB, MIB), ArchError::Memory { .. }), "overlaps the first range");
    assert!(matches!(bad(4 * GIB, 0), ArchError::Memory { .. }), "empty");
    assert!(matches!(bad(4 * GIB, u64::MAX), ArchError::Memory { .. }), "wraps");
    assert!(matches!(bad(3 * GIB, MIB), ArchError::Memory { .. }), "in the hole");
    assert!(matches!(bad(GIB, 4 * GIB), ArchError::Memory { .. }), "across the hole");
    let tiny = error(|machine| machine.memory = layout::ram_ranges(MIB));
    assert!(matches!(tiny, ArchError::LowMemory { len: MIB }));
    let none = error(|machine| machine.memory.clear());
    assert!(matches!(none, ArchError::LowMemory { len: 0 }));
    let late = error(|machine| machine.memory[0].start = MIB);
    assert!(matches!(late, ArchError::LowMemory { .. }));
}

#[test]
fn the_command_line_must_be_low_short_and_apart() {
    let bad = |start, len| error(|machine| machine.cmdline = Range { start, len });
    assert!(matches!(bad(layout::CMDLINE, 0), ArchError::Cmdline { .. }));
    assert!(matches!(bad(layout::CMDLINE, 2049), ArchError::Cmdline { .. }));
    assert!(matches!(bad(layout::HIMEM, 10), ArchError::Cmdline { .. }));
    assert!(matches!(bad(u64::MAX, 10), ArchError::Cmdline { .. }));
    assert!(matches!(bad(layout::GDT + 8, 1), ArchError::Overlap { address: layout::GDT }));
}

#[test]
fn the_initrd_must_be_in_high_memory() {
    let bad = |start, len| error(|machine| machine.initrd = Some(Range { start, len }));
    assert!(matches!(bad(layout::HIMEM - 1, 10), ArchError::Initrd { .. }));
    assert!(matches!(bad(64 * MIB - 1, 2), ArchError::Initrd { .. }));
    assert!(matches!(bad(u64::MAX, 2), ArchError::Initrd { .. }));
    assert!(matches!(bad(32 * MIB, 0), ArchError::Initrd { .. }));
}

#[test]
fn an_error_tells_its_cause_once() {
    let error = error(|machine| machine.virtio[0].base = u64::MAX);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("below 4 GiB"), "{cause}");
    assert!(!error.to_string().contains(&cause));
}

#[test]
fn a_machine_of_many_sparse_cpus_still_fits() {
    let topology = Topology::new(243, Some(9), Some(3), None).unwrap();
    for protocol in protocols() {
        boot_tables(&machine_with(topology, 19), &protocol).unwrap();
    }
}
