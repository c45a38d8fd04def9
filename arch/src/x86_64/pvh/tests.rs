use super::*;
use crate::Range;
use crate::x86_64::tests::{machine, number};

const RSDP: u64 = 0xE_0000;

#[test]
fn the_start_info_points_at_everything() {
    let machine = machine(1, 1);
    let chunks = build(&machine, RSDP).unwrap();
    let (address, info) = &chunks[0];
    assert_eq!((*address, info.len()), (PVH_START_INFO, 56));
    assert_eq!(number::<4>(info, 0), 0x336e_c578);
    assert_eq!(number::<4>(info, 4), 1, "version");
    assert_eq!((number::<4>(info, 12), number::<8>(info, 16)), (1, PVH_MODULES));
    assert_eq!(number::<8>(info, 24), machine.cmdline.start);
    assert_eq!(number::<8>(info, 32), RSDP);
    assert_eq!(number::<8>(info, 40), PVH_MEMORY_MAP);
    assert_eq!(number::<4>(info, 48), memory_map(&machine.memory).len() as u64);
}

#[test]
fn the_initrd_is_the_only_module() {
    let chunks = build(&machine(1, 1), RSDP).unwrap();
    let (address, module) = &chunks[1];
    assert_eq!((*address, module.len()), (PVH_MODULES, 32));
    assert_eq!((number::<8>(module, 0), number::<8>(module, 8)), (32 << 20, 12_345));
    assert_eq!(&module[16..], [0; 16]);
}

#[test]
fn without_an_initrd_there_is_no_module_list() {
    let mut machine = machine(1, 1);
    machine.initrd = None;
    let chunks = build(&machine, RSDP).unwrap();
    assert_eq!(chunks.len(), 2);
    assert_eq!((number::<4>(&chunks[0].1, 12), number::<8>(&chunks[0].1, 16)), (0, 0));
}

#[test]
fn the_memory_map_is_that_of_the_machine() {
    let machine = machine(1, 1);
    let chunks = build(&machine, RSDP).unwrap();
    let (address, bytes) = chunks.last().unwrap();
    let map = memory_map(&machine.memory);
    assert_eq!((*address, bytes.len()), (PVH_MEMORY_MAP, 24 * map.len()));
    for (entry, bytes) in map.iter().zip(bytes.chunks(24)) {
        assert_eq!(number::<8>(bytes, 0), entry.range.start);
        assert_eq!(number::<8>(bytes, 8), entry.range.len);
        assert_eq!(number::<8>(bytes, 16), u64::from(entry.kind.number()));
    }
}

#[test]
fn the_memory_map_stays_below_the_zero_page() {
    let mut machine = machine(1, 1);
    let range = |number: u64| Range { start: (4 << 30) + number * 0x10_0000, len: 0x1000 };
    machine.memory.extend((0..155).map(range));
    let chunks = build(&machine, RSDP).unwrap();
    let (address, bytes) = chunks.last().unwrap();
    assert!(address + bytes.len() as u64 <= ZERO_PAGE);
    machine.memory.push(range(155));
    let error = build(&machine, RSDP).unwrap_err();
    assert_eq!(error, PvhError::MemoryMap { entries: 161, max: 160 });
}
