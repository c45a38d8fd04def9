//! ELF kernels: vmlinux by its 64-bit entry, and anything with a PVH entry, 32- or 64-bit.
//!
//! The program headers are read and checked as a whole before anything is loaded. Segments go to their
//! physical addresses; what a segment has in memory but not in the file stays zero, as fresh memory is.

use arch::layout;
use devices::memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::mapped::{MappedFile, PAGE};

use super::{BootError, BootProtocol, Entry, Fields, Kernel, Source, low_memory_end};

const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the note that gives the PVH entry.
const NOTE_PVH: u32 = 18;
/// Notes of a kernel are a few hundred bytes; a longer segment is skipped, not searched.
const MAX_NOTES: u64 = 64 << 10;
/// Bytes of a segment from which on mapping it costs less than reading it: a lease, a mapping, and faults of the
/// guest against a copy.
const MAP_MIN: u64 = 256 << 10;
/// Program headers of a kernel: a handful. More would only cost time.
const MAX_HEADERS: u16 = 128;

struct Program {
    entry: u64,
    is_64_bit: bool,
    segments: Vec<LoadSegment>,
    pvh_entry: Option<u64>,
}

struct LoadSegment {
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

pub(super) fn load(
    source: &mut Source,
    choice: BootProtocol,
    memory: &GuestMemory,
) -> Result<Kernel, BootError> {
    let program = read_program(source)?;
    let entry = choose_entry(source, &program, choice)?;
    let end = check_segments(source, &program, memory)?;
    if let Entry::Linux64 { .. } = entry {
        source.check_reach(end)?;
    }
    let mut mapped = None;
    for segment in program.segments.iter().filter(|s| s.in_file > 0) {
        load_segment(source, segment, memory, &mut mapped)?;
    }
    if let Some(mapped) = mapped {
        mapped.keep();
    }
    // Without a setup header nothing limits the initrd but the 32-bit fields that carry its address.
    Ok(Kernel { entry, end, initrd_limit: 1 << 32 })
}

fn choose_entry(
    source: &Source,
    program: &Program,
    choice: BootProtocol,
) -> Result<Entry, BootError> {
    match (choice, program.pvh_entry) {
        (BootProtocol::Auto | BootProtocol::Pvh, Some(address)) => Ok(Entry::Pvh { address }),
        (BootProtocol::Pvh, None) => Err(source.no_entry("PVH", "linux64")),
        (BootProtocol::Linux64, _) | (BootProtocol::Auto, None) if program.is_64_bit => {
            Ok(Entry::Linux64 { address: program.entry, header: None })
        }
        (BootProtocol::Linux64, Some(_)) => Err(source.no_entry("64-bit", "pvh")),
        (BootProtocol::Linux64 | BootProtocol::Auto, _) => Err(BootError::WrongFile {
            role: source.role,
            path: source.path.clone(),
            found: "a 32-bit ELF file without a PVH entry".to_owned(),
            remedy: "build it for x86_64, or with a PVH note",
        }),
    }
}

/// Every segment lies in the file, above the boot tables and in memory, and none overlaps another.
fn check_segments(
    source: &Source,
    program: &Program,
    memory: &GuestMemory,
) -> Result<u64, BootError> {
    let mut end = 0;
    let mut ranges = Vec::with_capacity(program.segments.len());
    for segment in &program.segments {
        let file_end = segment.offset.checked_add(segment.in_file);
        if file_end.is_none_or(|end| end > source.len) || segment.in_file > segment.in_memory {
            return Err(source.damaged(format!(
                "a segment of {} bytes at offset {:#x} lies beyond its end, so it was cut short; copy it again",
                segment.in_file, segment.offset
            )));
        }
        if segment.address < layout::HIMEM {
            return Err(source.damaged(format!(
                "a segment wants address {:#x}, below 1 MiB, where the boot tables are",
                segment.address
            )));
        }
        let last = segment.address.checked_add(segment.in_memory);
        let last = last.ok_or_else(|| source.damaged("a segment wraps around"))?;
        ranges.push((segment.address, last));
        end = end.max(last);
    }
    if ranges.is_empty() {
        return Err(source.damaged("it has no loadable segment"));
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| matches!(pair, [(_, end), (start, _)] if end > start)) {
        return Err(source.damaged("its segments overlap"));
    }
    if end > low_memory_end(memory) {
        return Err(source.too_large(end, memory));
    }
    Ok(end)
}

/// Maps the whole pages of a segment where that can be done, and reads the rest.
fn load_segment(
    source: &mut Source,
    segment: &LoadSegment,
    memory: &GuestMemory,
    mapped: &mut Option<MappedFile>,
) -> Result<(), BootError> {
    let &LoadSegment { offset, address, in_file, .. } = segment;
    let Some(pages) = source.may_map.then(|| whole_pages(segment)).flatten() else {
        return read_segment_part(source, memory, address, offset, in_file);
    };
    if let Err(error) = map_pages(source, memory, &pages, mapped) {
        log::debug!("the kernel is read, not mapped: {error}");
        source.may_map = false;
        return read_segment_part(source, memory, address, offset, in_file);
    }
    let (before, done) = (pages.address - address, pages.address - address + pages.len);
    read_segment_part(source, memory, address, offset, before)?;
    // The last page is the memory's own: what the file has behind the segment must not be seen.
    read_segment_part(source, memory, address + done, offset + done, in_file - done)
}

/// Pages of a file that lie in memory as they do in the file.
struct WholePages {
    address: u64,
    offset: u64,
    len: u64,
}

/// The pages that a segment fills, if file and memory are divided alike and there are enough of them.
fn whole_pages(segment: &LoadSegment) -> Option<WholePages> {
    let &LoadSegment { offset, address, in_file, .. } = segment;
    let start = address.checked_next_multiple_of(PAGE)?;
    let end = address.checked_add(in_file)? / PAGE * PAGE;
    let len = end.checked_sub(start)?;
    let offset = offset.checked_add(start - address)?;
    (offset % PAGE == 0 && len >= MAP_MIN).then_some(WholePages { address: start, offset, len })
}

fn map_pages(
    source: &Source,
    memory: &GuestMemory,
    pages: &WholePages,
    mapped: &mut Option<MappedFile>,
) -> std::io::Result<()> {
    let file = match mapped {
        Some(file) => file,
        None => mapped.insert(MappedFile::lease(&source.file)?),
    };
    // The size was asked for before the lease began.
    if source.file.metadata()?.len() < pages.offset + pages.len {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    file.map(memory, pages.address, pages.offset, pages.len)
}

fn read_segment_part(
    source: &mut Source,
    memory: &GuestMemory,
    address: u64,
    offset: u64,
    len: u64,
) -> Result<(), BootError> {
    use std::io::{Seek, SeekFrom};
    if len == 0 {
        return Ok(());
    }
    source.file.seek(SeekFrom::Start(offset)).map_err(|e| source.unreadable(e))?;
    let len = usize::try_from(len).map_err(|_| source.damaged("a segment is too long"))?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut source.file, len)
        .map_err(|e| source.unreadable(std::io::Error::other(e)))
}

fn read_program(source: &Source) -> Result<Program, BootError> {
    let mut header = [0; 64];
    if !source.read_at(0, &mut header)? {
        return Err(source.damaged("it ends inside its ELF header"));
    }
    let header = Fields(&header);
    let (class, machine) = (header.u8(4), header.u16(18));
    let is_64_bit = match (class, machine) {
        (CLASS_64, MACHINE_X86_64) => true,
        (CLASS_32, MACHINE_386) => false,
        _ => {
            return Err(BootError::WrongFile {
                role: source.role,
                path: source.path.clone(),
                found: format!("an ELF file for another machine (type {machine})"),
                remedy: "pass a kernel for x86_64",
            });
        }
    };
    let (entry, table, entry_size, count) = if is_64_bit {
        (header.u64(24), header.u64(32), header.u16(54), header.u16(56))
    } else {
        let (entry, table) = (header.u32(24), header.u32(28));
        (u64::from(entry), u64::from(table), header.u16(42), header.u16(44))
    };
    let wanted_size = if is_64_bit { 56 } else { 32 };
    if entry_size != wanted_size || count > MAX_HEADERS {
        return Err(source.damaged(format!("{count} program headers of {entry_size} bytes")));
    }
    let mut table_bytes = vec![0; usize::from(entry_size) * usize::from(count)];
    if !source.read_at(table, &mut table_bytes)? {
        return Err(source.damaged("it ends inside its program headers"));
    }
    let mut program = Program { entry, is_64_bit, segments: Vec::new(), pvh_entry: None };
    for bytes in table_bytes.chunks_exact(usize::from(entry_size)) {
        let (kind, segment) = read_segment(&Fields(bytes), is_64_bit);
        match kind {
            PT_LOAD if segment.in_memory > 0 => program.segments.push(segment),
            PT_NOTE if program.pvh_entry.is_none() => {
                program.pvh_entry = find_pvh_entry(source, &segment)?;
            }
            _ => {}
        }
    }
    Ok(program)
}

fn read_segment(header: &Fields<'_>, is_64_bit: bool) -> (u32, LoadSegment) {
    let segment = if is_64_bit {
        LoadSegment {
            offset: header.u64(8),
            address: header.u64(24),
            in_file: header.u64(32),
            in_memory: header.u64(40),
        }
    } else {
        LoadSegment {
            offset: u64::from(header.u32(4)),
            address: u64::from(header.u32(12)),
            in_file: u64::from(header.u32(16)),
            in_memory: u64::from(header.u32(20)),
        }
    };
    (header.u32(0), segment)
}

/// Looks through all notes of a segment: a kernel may carry several, of several owners.
fn find_pvh_entry(source: &Source, notes: &LoadSegment) -> Result<Option<u64>, BootError> {
    if notes.in_file > MAX_NOTES {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(notes.in_file).unwrap_or(0)];
    if !source.read_at(notes.offset, &mut bytes)? {
        return Err(source.damaged("it ends inside its notes, so it was cut short; copy it again"));
    }
    let mut rest = bytes.as_slice();
    while rest.len() >= 12 {
        let note = Fields(rest);
        let (name_len, desc_len, kind) = (note.u32(0), note.u32(4), note.u32(8));
        let name = 12;
        let Some(desc) = padded(name, name_len) else { break };
        let Some(next) = padded(desc, desc_len) else { break };
        if kind == NOTE_PVH && name_len == 4 && note.bytes(name) == *b"Xen\0" {
            let wide = desc_len >= 8;
            return Ok(Some(if wide { note.u64(desc) } else { u64::from(note.u32(desc)) }));
        }
        rest = rest.get(next..).unwrap_or_default();
    }
    Ok(None)
}

/// Where the field after one of `len` bytes at `start` begins: notes are aligned to 4 bytes.
fn padded(start: usize, len: u32) -> Option<usize> {
    start.checked_add(usize::try_from(len).ok()?)?.checked_next_multiple_of(4)
}
