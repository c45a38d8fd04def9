use super::*;
use crate::Topology;
use crate::x86_64::tests::{machine, machine_with, number, sum};

/// The entries of a configuration table, walked by their lengths as a kernel does.
fn entries(table: &[u8]) -> Vec<&[u8]> {
    let mut rest = &table[HEADER..];
    let mut entries = Vec::new();
    while let Some(kind) = rest.first() {
        let (entry, behind) = rest.split_at(if *kind == 0 { CPU_ENTRY } else { ENTRY });
        entries.push(entry);
        rest = behind;
    }
    entries
}

fn table(machine: &Machine) -> Vec<u8> {
    build(machine).unwrap().remove(0).1
}

#[test]
fn the_pointer_is_valid_and_points_at_the_table() {
    let chunks = build(&machine(1, 1)).unwrap();
    let [(table_at, _), (pointer_at, pointer)] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!((*table_at, *pointer_at), (MP_TABLE.start, MP_POINTER));
    assert_eq!(&pointer[..4], b"_MP_");
    assert_eq!(number::<4>(pointer, 4), *table_at);
    assert_eq!(pointer.len(), 16 * usize::from(pointer[8]));
    assert_eq!(sum(pointer), 0);
}

#[test]
fn the_header_agrees_with_the_entries_for_every_number_of_cpus() {
    for cpus in 1..=254 {
        let table = table(&machine(cpus, 19));
        assert_eq!(&table[..4], b"PCMP");
        assert_eq!(number::<2>(&table, 4), table.len() as u64);
        assert_eq!(number::<2>(&table, 34), entries(&table).len() as u64);
        assert_eq!(number::<4>(&table, 36), 0xFEE0_0000);
        assert_eq!(sum(&table), 0);
        assert!(table.len() <= MAX_LEN);
    }
}

#[test]
fn every_cpu_is_listed_and_the_first_boots() {
    let table = table(&machine(6, 0));
    let cpus: Vec<&[u8]> = entries(&table).into_iter().filter(|entry| entry[0] == 0).collect();
    let ids: Vec<u8> = cpus.iter().map(|cpu| cpu[1]).collect();
    let flags: Vec<u8> = cpus.iter().map(|cpu| cpu[3]).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
    assert_eq!(flags, [3, 1, 1, 1, 1, 1]);
}

#[test]
fn no_cpu_has_the_identifier_of_the_io_apic() {
    let groupings = [(1, 1, 1), (2, 2, 1), (6, 3, 1), (254, 254, 1), (254, 127, 1), (243, 9, 3)];
    for (cpus, cores, threads) in groupings {
        let topology = Topology::new(cpus, Some(cores), Some(threads), None).unwrap();
        let table = table(&machine_with(topology, 1));
        let entries = entries(&table);
        let io_apic = entries.iter().find(|entry| entry[0] == 2).unwrap();
        assert_ne!(io_apic[1], 0xff);
        assert!(!entries.iter().any(|entry| entry[0] == 0 && entry[1] == io_apic[1]));
        assert_eq!(number::<4>(io_apic, 4), 0xFEC0_0000);
        assert!(entries.iter().filter(|entry| entry[0] == 3).all(|line| line[6] == io_apic[1]));
    }
}

#[test]
fn identifiers_beyond_8_bits_and_the_broadcast_are_left_out() {
    let topology = Topology::new(243, Some(9), Some(3), None).unwrap();
    let listed = entries(&table(&machine_with(topology, 0)))
        .into_iter()
        .filter(|entry| entry[0] == 0)
        .count();
    assert_eq!(listed, ApicIds::new(&topology).iter().filter(|id| *id < 255).count());
    assert!(listed < 243);
}

#[test]
fn interrupts_in_use_are_listed_once_and_routed_straight() {
    let mut machine = machine(1, 3);
    machine.virtio.push(machine.virtio[0]);
    let table = table(&machine);
    let lines: Vec<(u8, u8)> = entries(&table)
        .into_iter()
        .filter(|entry| entry[0] == 3)
        .map(|entry| (entry[5], entry[7]))
        .collect();
    assert_eq!(lines, [(0, 0), (1, 1), (4, 4), (5, 5), (6, 6), (7, 7)]);
}

#[test]
fn an_interrupt_without_a_pin_is_refused() {
    for gsi in [24, 256, u32::MAX] {
        let mut machine = machine(1, 1);
        machine.virtio[0].gsi = gsi;
        assert_eq!(build(&machine).unwrap_err(), MpTableError::Gsi { gsi });
    }
}

#[test]
fn kernels_without_acpi_are_told_of_virtio_devices() {
    assert_eq!(virtio_mmio_params(&[]), "");
    assert_eq!(
        virtio_mmio_params(&machine(1, 2).virtio),
        "virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6"
    );
    let odd = MmioDevice { base: 0xd000_0000, len: 0x200, gsi: 23 };
    assert_eq!(virtio_mmio_params(&[odd]), "virtio_mmio.device=512@0xd0000000:23");
}
