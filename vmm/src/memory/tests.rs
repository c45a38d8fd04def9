use std::fs;

use devices::test_util::skipped;
use vm_memory::Bytes;

use super::*;

const MIB: u64 = 1 << 20;

fn plain() -> Backing {
    Backing::default()
}

/// The flags of the mapping with `memory`'s first byte; neighbours of the same kind are one mapping.
fn flags_of(memory: &GuestMemory) -> Vec<String> {
    let (address, _) = extent(memory.iter().next().unwrap()).unwrap();
    let is_in = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let (end, _) = rest.split_once(' ')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        Some((number(start)?..number(end)?).contains(&address))
    };
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = text.lines().skip_while(|line| is_in(line) != Some(true));
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
    flags.split_whitespace().map(str::to_owned).collect()
}

/// Pages of 4 KiB that are there.
fn resident_pages(memory: &GuestMemory) -> usize {
    let count = |(start, len): (usize, usize)| {
        let mut pages = vec![0_u8; len / 4096];
        // SAFETY: the range is mapped, and there is a byte for each of its pages.
        let done = unsafe { libc::mincore(start as *mut libc::c_void, len, pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    };
    memory.iter().filter_map(extent).map(count).sum()
}

#[test]
fn ram_goes_around_the_hole_and_carries_its_name() {
    let memory = reserve(5 << 30, plain()).unwrap();
    assert_eq!(memory.num_regions(), 2);
    assert_eq!(memory.iter().map(GuestMemoryRegion::len).sum::<u64>(), 5 << 30);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    // Kernels without CONFIG_ANON_VMA_NAME have no names at all.
    if maps.contains("[anon:") {
        assert!(maps.contains("guest-ram"));
    }
    assert_eq!(resident_pages(&memory), 0, "nothing is touched");
}

#[test]
fn more_than_the_address_space_is_refused_in_words() {
    let error = reserve(1 << 50, plain()).unwrap_err();
    assert!(error.to_string().contains("1073741824 MiB"), "{error}");
    let shared = Backing { shared: true, ..plain() };
    let error = reserve(1 << 50, shared).unwrap_err();
    assert!(error.to_string().contains("1073741824 MiB"), "{error}");
}

#[test]
fn prefaulted_memory_is_there_with_one_thread_and_with_many() {
    for mib in [32, 130] {
        let memory = reserve(mib * MIB, Backing { prefault: true, ..plain() }).unwrap();
        assert_eq!(resident_pages(&memory) as u64, mib * MIB / 4096);
    }
}

#[test]
fn pieces_cover_everything_once() {
    let all: Vec<_> = pieces((4096, 2 * PIECE + 4096)).collect();
    assert_eq!(all, [(4096, PIECE), (4096 + PIECE, PIECE), (4096 + 2 * PIECE, 4096)]);
}

#[test]
fn transparent_pages_are_asked_for() {
    let memory = reserve(32 * MIB, Backing { pages: Pages::Transparent, ..plain() }).unwrap();
    // Kernels without them cannot be asked.
    if fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
        assert!(flags_of(&memory).contains(&"hg".to_owned()));
    }
    let memory = reserve(32 * MIB, plain()).unwrap();
    assert!(!flags_of(&memory).contains(&"hg".to_owned()));
}

#[test]
fn shared_memory_is_one_file_that_nobody_can_shrink() {
    let memory = reserve(4 << 30, Backing { shared: true, ..plain() }).unwrap();
    let offsets: Vec<_> = memory.iter().map(|region| region.file_offset().unwrap()).collect();
    assert_eq!(offsets.iter().map(|it| it.start()).collect::<Vec<_>>(), [0, 3 << 30]);
    let file = offsets[0].file();
    assert!(file.set_len(MIB).is_err() && file.set_len(8 << 30).is_err());
    // What the guest writes above the hole is in the second part of the file.
    memory.write_slice(b"shared", GuestAddress((4 << 30) + 5)).unwrap();
    let mut bytes = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, (3 << 30) + 5).unwrap();
    assert_eq!(&bytes, b"shared");
}

#[test]
fn huge_pages_that_are_not_there_are_told_with_the_remedy() {
    for (pages, size) in [(Pages::Huge2M, "2 MiB"), (Pages::Huge1G, "1 GiB")] {
        for shared in [false, true] {
            // No host has a PiB of them.
            let error = reserve(1 << 46, Backing { pages, shared, ..plain() }).unwrap_err();
            let text = error.to_string();
            let needed = (1_u64 << 46) / pages.reserved_size().unwrap();
            match error {
                MemoryError::HugePages { .. } => {
                    let parts =
                        [format!("needs {needed} huge pages of {size}"), "nr_hugepages".to_owned()];
                    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
                }
                MemoryError::NoSuchPages { .. } => assert!(text.contains(size), "{text}"),
                other => panic!("{other}"),
            }
        }
    }
}

/// Where the host has free ones; the test that reserves them is among those of the whole program.
#[test]
fn huge_pages_are_promised_at_once_and_given_back() {
    let Some(before) = Pool::of_host(2 << 20).filter(|pool| pool.free >= 32) else {
        let why = "32 free huge pages of 2 MiB are needed";
        return skipped("memory::huge_pages_are_promised_at_once_and_given_back", why);
    };
    for shared in [false, true] {
        let memory =
            reserve(32 * MIB, Backing { pages: Pages::Huge2M, shared, prefault: true }).unwrap();
        assert!(Pool::of_host(2 << 20).unwrap().free <= before.free - 16);
        memory.write_slice(b"huge", GuestAddress(31 * MIB)).unwrap();
    }
}
