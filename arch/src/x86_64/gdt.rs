//! The descriptor table that the boot CPU's segment registers appear to have been loaded from.
//!
//! Selectors are Linux's `__BOOT_CS` and `__BOOT_DS`, which the 64-bit boot protocol requires; the
//! PVH entry leaves them free, so both use the same.

use super::registers::Segment;

/// The three segments of a boot environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segments {
    pub(crate) code: Segment,
    pub(crate) data: Segment,
    pub(crate) task: Segment,
}

/// Flat 64-bit code.
pub(crate) const LONG_MODE: Segments =
    Segments { code: Segment { l: 1, db: 0, ..FLAT_CODE }, data: FLAT_DATA, task: TASK };

/// Flat 32-bit code.
pub(crate) const PROTECTED_MODE: Segments =
    Segments { code: FLAT_CODE, data: FLAT_DATA, task: TASK };

/// Limit of the table's register: the last byte of its last entry.
pub(crate) const LIMIT: u16 = 47;

/// Two unused entries, code, data, and two for the task segment, whose descriptor is 16 bytes long
/// in long mode.
const ENTRIES: usize = 6;
const _: () = assert!(8 * ENTRIES == LIMIT as usize + 1);

const FLAT_DATA: Segment = Segment {
    base: 0,
    limit: u32::MAX,
    selector: 0x18,
    type_: 0x3, // read, write, accessed
    present: 1,
    dpl: 0,
    db: 1,
    s: 1,
    l: 0,
    g: 1,
    avl: 0,
    unusable: 0,
};

const FLAT_CODE: Segment = Segment { selector: 0x10, type_: 0xb, ..FLAT_DATA };

/// The shortest task segment, at 0: never used, but virtualization extensions require one that is
/// busy (SDM volume 3, 27.3.1.2).
const TASK: Segment =
    Segment { limit: 0x67, selector: 0x20, type_: 0xb, db: 0, s: 0, g: 0, ..FLAT_DATA };

/// The table's bytes.
pub(crate) fn table(segments: &Segments) -> Vec<u8> {
    let entries: [u64; ENTRIES] = [
        0,
        0,
        descriptor(&segments.code),
        descriptor(&segments.data),
        descriptor(&segments.task),
        segments.task.base >> 32,
    ];
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// A segment in the packed form of SDM volume 3, figure 3-8.
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let field = |value: u8, shift: u32| u64::from(value) << shift;
    (limit & 0xffff)
        | ((segment.base & 0xff_ffff) << 16)
        | field(segment.type_, 40)
        | field(segment.s, 44)
        | field(segment.dpl, 45)
        | field(segment.present, 47)
        | (((limit >> 16) & 0xf) << 48)
        | field(segment.avl, 52)
        | field(segment.l, 53)
        | field(segment.db, 54)
        | field(segment.g, 55)
        | (((segment.base >> 24) & 0xff) << 56)
}

#[cfg(test)]
mod tests;
