//! The memory map, as both boot protocols hand it over: RAM and what is reserved around it.
//!
//! Device windows are not listed: they lie where there is no RAM, and ACPI names them.

use super::layout::{ACPI_TABLES, HIMEM, KVM_PAGES, MP_TABLE};
use crate::Range;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Usable RAM.
    Ram,
    /// Not to be used.
    Reserved,
}

impl Kind {
    /// Its number, the same in E820 and in PVH.
    pub(crate) fn number(self) -> u32 {
        match self {
            Kind::Ram => 1,
            Kind::Reserved => 2,
        }
    }
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) range: Range,
    pub(crate) kind: Kind,
}

/// The map of a machine whose RAM is `memory`, ascending.
///
/// Base memory ends early, for the MP table; RAM resumes above the BIOS area.
pub(crate) fn memory_map(memory: &[Range]) -> Vec<Entry> {
    let ram = |range| Entry { range, kind: Kind::Ram };
    let reserved = |range| Entry { range, kind: Kind::Reserved };
    let mut map = Vec::with_capacity(memory.len() + 5);
    map.push(ram(Range { start: 0, len: MP_TABLE.start }));
    map.push(reserved(MP_TABLE));
    map.push(reserved(ACPI_TABLES));
    let mut kvm_pages = Some(reserved(KVM_PAGES));
    for range in memory {
        if range.start > KVM_PAGES.start {
            map.extend(kvm_pages.take());
        }
        let start = range.start.max(HIMEM);
        let len = range.len.saturating_sub(start - range.start);
        if len > 0 {
            map.push(ram(Range { start, len }));
        }
    }
    map.extend(kvm_pages);
    map
}

#[cfg(test)]
mod tests;
