use std::io::Read;
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use devices::test_util::skipped;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::Backing;
use crate::jail::sys::{receive, wait_for};
use crate::memory::reserve;
use crate::test_dir::TestDir;

const PAGE: usize = 4096;
const UFFDIO_COPY: libc::Ioctl = 0xc028_aa03;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;

/// What a provider was told and did.
struct Seen {
    ranges: Value,
    pages: Vec<u64>,
    removed: Vec<(u64, u64)>,
}

/// Gives each page that is asked for the number of its place in the file, in each byte, until `events` have come.
fn provide(listener: UnixListener, events: usize) -> JoinHandle<Seen> {
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut text = [0; 1024];
        let (count, fd) = receive(stream.as_fd(), &mut text).unwrap();
        let (fd, ranges) = (fd.unwrap(), serde_json::from_slice(&text[..count]).unwrap());
        let mut seen = Seen { ranges, pages: Vec::new(), removed: Vec::new() };
        let base = seen.ranges[0]["base_host_virt_addr"].as_u64().unwrap();
        let file = File::from(fd.try_clone().unwrap());
        for _ in 0..events {
            wait_for([Some(fd.as_fd())]).unwrap();
            // A fault has flags and an address, a removal where it begins and ends.
            let [kind, first, second, _] = read_event(&file);
            match kind.to_le_bytes()[0] {
                EVENT_PAGEFAULT => {
                    let number = (second - base) / PAGE as u64;
                    seen.pages.push(number);
                    let page = [u8::try_from(number).unwrap(); PAGE];
                    let mut copy = [second, page.as_ptr() as u64, PAGE as u64, 0, 0];
                    ioctl(fd.as_fd(), UFFDIO_COPY, &mut copy).unwrap();
                }
                EVENT_REMOVE => seen.removed.push((first - base, second - base)),
                other => panic!("event {other:#x}"),
            }
        }
        seen
    })
}

/// `struct uffd_msg` as words.
fn read_event(mut file: &File) -> [u64; 4] {
    let mut bytes = [0; 32];
    file.read_exact(&mut bytes).unwrap();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

#[test]
fn pages_come_from_the_provider_when_they_are_touched() {
    if let Err(error) = create() {
        return skipped(
            "memory::uffd::pages_come_from_the_provider_when_they_are_touched",
            &error.to_string(),
        );
    }
    let dir = TestDir::new();
    let path = dir.path().join("provider");
    let provider = provide(UnixListener::bind(&path).unwrap(), 3);
    let memory = reserve(16 << 20, Backing::default()).unwrap();
    hand_over(&memory, PAGE as u64, &path).unwrap();
    assert!(is_provided());
    let byte = |page: u64| memory.read_obj::<u8>(GuestAddress(page * PAGE as u64 + 5)).unwrap();
    assert_eq!([byte(3), byte(200), byte(3)], [3, 200, 3]);
    let (start, _) = extent(memory.iter().next().unwrap()).unwrap();
    // SAFETY: the range is guest memory, which nobody else uses.
    let done = unsafe {
        libc::madvise((start + 3 * PAGE) as *mut libc::c_void, PAGE, libc::MADV_DONTNEED)
    };
    assert_eq!(done, 0);
    let seen = provider.join().unwrap();
    assert_eq!(seen.pages, [3, 200]);
    assert_eq!(seen.removed, [(3 * PAGE as u64, 4 * PAGE as u64)]);
    let expected = json!([{
        "base_host_virt_addr": start, "size": 16 << 20, "offset": 0, "page_size": 4096, "page_size_kib": 4096,
    }]);
    assert_eq!(seen.ranges, expected);
}

#[test]
fn nobody_there_is_said() {
    if create().is_err() {
        return skipped("memory::uffd::nobody_there_is_said", "no userfaultfd here");
    }
    let memory = reserve(1 << 20, Backing::default()).unwrap();
    let error = hand_over(&memory, 4096, Path::new("/nowhere")).unwrap_err();
    assert_eq!(error.to_string(), "no provider of pages answers at \"/nowhere\"");
}

#[test]
fn ranges_follow_each_other_in_the_file() {
    let memory = reserve(6 << 30, Backing::default()).unwrap();
    let ranges = describe(&memory, 4096);
    let all: Vec<(u64, u64)> = ranges
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["offset"].as_u64().unwrap(), it["size"].as_u64().unwrap()))
        .collect();
    let [(0, below), (at, above)] = all[..] else { panic!("{all:?}") };
    assert_eq!((at, below + above), (below, 6 << 30));
}
