use std::os::fd::AsRawFd;

use vm_memory::{Bytes, FileOffset};
use vmm_sys_util::tempfile::TempFile;

use super::*;

const PAGE: u64 = 4096;
const PAGES: u64 = 64;

/// How many pages of the range are present, by mincore(2).
fn present(memory: &GuestMemory, start: u64, pages: u64) -> usize {
    let len = usize::try_from(pages * PAGE).unwrap();
    let host = memory.get_host_address(GuestAddress(start)).unwrap();
    let mut there = vec![0_u8; usize::try_from(pages).unwrap()];
    // SAFETY: the range is mapped, and `there` has one byte for each of its pages.
    let result = unsafe { libc::mincore(host.cast(), len, there.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    there.iter().filter(|page| *page & 1 == 1).count()
}

fn filled(memory: &GuestMemory) {
    memory.write_slice(&vec![7; usize::try_from(PAGES * PAGE).unwrap()], GuestAddress(0)).unwrap();
}

#[test]
fn private_memory_goes_and_comes_back_as_zeroes() {
    let memory = crate::test_util::guest_memory(1 << 20);
    filled(&memory);
    HostReclaim::new(PAGE).reclaim(&memory, GuestAddress(PAGE), 8 * PAGE).unwrap();
    assert_eq!(present(&memory, PAGE, 8), 0);
    assert_eq!(present(&memory, 0, PAGES), 64 - 8);
    assert_eq!(memory.read_obj::<u64>(GuestAddress(PAGE)).unwrap(), 0);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(PAGE - 1)).unwrap(), 7);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(9 * PAGE)).unwrap(), 7);
}

#[test]
fn shared_memory_is_cut_out_of_its_file() {
    // /dev/shm is a tmpfs as a memfd is.
    let file = TempFile::new_in(std::path::Path::new("/dev/shm")).unwrap().into_file();
    file.set_len(PAGES * PAGE).unwrap();
    let shared = file.try_clone().unwrap();
    let len = usize::try_from(PAGES * PAGE).unwrap();
    let ranges = [(GuestAddress(0), len, Some(FileOffset::new(file, 0)))];
    let memory = GuestMemory::from_ranges_with_files(ranges).unwrap();
    filled(&memory);
    let blocks =
        |file: &std::fs::File| std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
    let before = blocks(&shared);
    HostReclaim::new(PAGE).reclaim(&memory, GuestAddress(0), 32 * PAGE).unwrap();
    assert_eq!(before - blocks(&shared), 32 * PAGE / 512, "fd {}", shared.as_raw_fd());
    assert_eq!(memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 0);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(32 * PAGE)).unwrap(), 7);
}

#[test]
fn what_is_not_whole_pages_of_ram_is_refused() {
    let memory = GuestMemory::from_ranges(&[
        (GuestAddress(0), 4 * 4096),
        (GuestAddress(4 * PAGE), 4 * 4096),
    ])
    .unwrap();
    memory.write_obj(7_u8, GuestAddress(0)).unwrap();
    let host = HostReclaim::new(PAGE);
    for (start, len) in [
        (0, 8 * PAGE),
        (0, PAGE / 2),
        (8, PAGE),
        (7 * PAGE, 2 * PAGE),
        (8 * PAGE, PAGE),
        (u64::MAX, PAGE),
        (0, u64::MAX),
        (0, 0),
    ] {
        let result = host.reclaim(&memory, GuestAddress(start), len);
        // Nothing at all is a range of whole pages, too.
        let is_right = if len == 0 { result.is_ok() } else { result.is_err() };
        assert!(is_right, "{start:#x}+{len:#x}");
    }
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
}

#[test]
fn a_refusal_of_the_kernel_names_the_range() {
    let memory = crate::test_util::guest_memory(1 << 20);
    let host = memory.get_host_address(GuestAddress(0)).unwrap();
    // SAFETY: one page of the mapping above; locking does not change it.
    let locked = unsafe { libc::mlock(host.cast(), 4096) };
    assert_eq!(locked, 0, "{}", io::Error::last_os_error());
    let error = HostReclaim::new(PAGE).reclaim(&memory, GuestAddress(0), PAGE).unwrap_err();
    assert_eq!(error.to_string(), "the host keeps 0x0+0x1000");
}
