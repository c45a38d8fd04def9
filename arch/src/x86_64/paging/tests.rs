use super::tables;
use crate::layout::{BOOT_MAPPED, PAGE_TABLES};
use crate::x86_64::tests::number;

/// Walks the tables as the processor does; `None` where nothing is mapped.
fn translate(tables: &[u8], address: u64) -> Option<u64> {
    let mut table = PAGE_TABLES;
    for shift in [39, 30, 21] {
        let offset = table - PAGE_TABLES + 8 * ((address >> shift) & 511);
        let entry = number::<8>(tables, usize::try_from(offset).unwrap());
        let (present, writable, large) = (entry & 1, entry & 2, entry & 0x80);
        if present == 0 || writable == 0 {
            return None;
        }
        table = entry & !0xfff;
        if large != 0 {
            return Some((entry & !0x1f_ffff) | (address & 0x1f_ffff));
        }
    }
    None
}

#[test]
fn the_first_gib_maps_to_itself() {
    let tables = tables();
    for address in (0..BOOT_MAPPED).step_by(0x10_1357) {
        assert_eq!(translate(&tables, address), Some(address));
    }
    assert_eq!(translate(&tables, BOOT_MAPPED - 1), Some(BOOT_MAPPED - 1));
}

#[test]
fn nothing_else_is_mapped() {
    let tables = tables();
    for address in [BOOT_MAPPED, 4 << 30, 1 << 39, 1 << 47] {
        assert_eq!(translate(&tables, address), None);
    }
}

#[test]
fn the_tables_are_three_pages() {
    assert_eq!(tables().len(), 3 * 4096);
}
