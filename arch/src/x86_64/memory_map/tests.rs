use super::{Kind, memory_map};
use crate::layout::{HIMEM, HOLE_END, HOLE_START, KVM_PAGES, ram_ranges};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn ram(bytes: u64) -> Vec<(u64, u64)> {
    let map = memory_map(&ram_ranges(bytes)).into_iter();
    let ram = map.filter(|entry| entry.kind == Kind::Ram);
    ram.map(|entry| (entry.range.start, entry.range.len)).collect()
}

#[test]
fn entries_ascend_without_overlap() {
    for bytes in [32 * MIB, 3 * GIB, 3 * GIB + 4096, 4 * GIB + GIB / 2, 64 * GIB] {
        let map = memory_map(&ram_ranges(bytes));
        let mut next = 0;
        for entry in &map {
            assert!(entry.range.start >= next && entry.range.len > 0, "{bytes:#x}: {map:x?}");
            next = entry.range.end().unwrap();
        }
    }
}

#[test]
fn ram_excludes_the_bios_area_and_nothing_else() {
    assert_eq!(ram(32 * MIB), [(0, 0x9_E000), (HIMEM, 31 * MIB)]);
    assert_eq!(ram(3 * GIB), [(0, 0x9_E000), (HIMEM, HOLE_START - HIMEM)]);
    assert_eq!(ram(64 * GIB), [(0, 0x9_E000), (HIMEM, HOLE_START - HIMEM), (HOLE_END, 61 * GIB)]);
}

#[test]
fn kvm_pages_are_reserved_once_whether_or_not_there_is_ram_above() {
    for bytes in [32 * MIB, 64 * GIB] {
        let map = memory_map(&ram_ranges(bytes));
        let count = map.iter().filter(|entry| entry.range == KVM_PAGES).count();
        assert_eq!(count, 1);
        assert!(map.iter().all(|entry| entry.range != KVM_PAGES || entry.kind == Kind::Reserved));
    }
}

#[test]
fn numbers_are_those_of_e820() {
    assert_eq!((Kind::Ram.number(), Kind::Reserved.number()), (1, 2));
}
