//! What only a ring does: many operations at a time, and nothing but what it was restricted to.

use std::num::NonZeroU16;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::tempfile::TempFile;

use super::super::super::DiskOptions;
use super::*;
use crate::test_util::{guest_memory, skipped};

const DEPTH: u16 = 16;

/// A ring, unless the host forbids it, which is said loudly.
fn ring(file: &TempFile, direct: bool) -> Option<(GuestMemory, UringIo)> {
    file.as_file().set_len(1 << 20).unwrap();
    let memory = guest_memory(1 << 20);
    let options = DiskOptions { direct, ..DiskOptions::default() };
    let disk = Arc::new(Disk::open(file.as_path(), options).unwrap());
    match UringIo::open(&Rings::for_queues(NonZeroU16::MIN), &disk, DEPTH, &memory) {
        Ok(ring) => Some((memory, ring)),
        Err(error) => {
            skipped("a test of io_uring", &format!("this host has none: {error}"));
            None
        }
    }
}

fn segment(address: u64, len: u32) -> [Segment; 1] {
    [Segment { address: GuestAddress(address), len }]
}

fn write(token: u16) -> (Op, [Segment; 1]) {
    let at = 4096 * u64::from(token);
    (Op::Write { offset: at, start: 0, len: 4096 }, segment(at, 4096))
}

#[test]
fn everything_is_submitted_at_once_and_all_of_it_completes() {
    let file = TempFile::new().unwrap();
    let Some((memory, mut ring)) = ring(&file, true) else {
        return;
    };
    memory.write_slice(&[7; 65536], GuestAddress(0)).unwrap();
    for round in 0..20 {
        for token in 0..DEPTH {
            let (op, segments) = write(token);
            assert!(matches!(ring.start(token, op, &segments), Started::InFlight), "{round}");
        }
        ring.submit().unwrap();
        assert!(ring.ring.submission().is_empty());
        let mut seen = [false; DEPTH as usize];
        for _ in 0..DEPTH {
            ring.wait().unwrap();
            let (token, outcome) = ring.completed().unwrap();
            assert_eq!(outcome.unwrap(), 4096);
            assert!(!std::mem::replace(&mut seen[usize::from(token)], true));
        }
        assert_eq!(ring.in_flight, 0);
    }
    let mut found = [0; 65536];
    file.as_file().read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, [7; 65536]);
}

#[test]
fn a_dropped_ring_has_finished_its_work() {
    for _ in 0..50 {
        let file = TempFile::new().unwrap();
        let Some((memory, mut ring)) = ring(&file, true) else {
            return;
        };
        memory.write_slice(&[9; 65536], GuestAddress(0)).unwrap();
        for token in 0..DEPTH {
            let (op, segments) = write(token);
            assert!(matches!(ring.start(token, op, &segments), Started::InFlight));
        }
        ring.submit().unwrap();
        drop(ring);
        // What the guest writes from now on must not reach the disk.
        memory.write_slice(&[1; 65536], GuestAddress(0)).unwrap();
        let mut found = [0; 65536];
        file.as_file().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, [9; 65536]);
    }
}

#[test]
fn more_than_the_ring_holds_is_done_at_once() {
    let file = TempFile::new().unwrap();
    let Some((_memory, mut ring)) = ring(&file, false) else {
        return;
    };
    // Tokens of operations in flight, which only this test gives twice.
    for count in 0..super::super::rings::DEPTH {
        let token = u16::try_from(count).unwrap() % DEPTH;
        assert!(matches!(ring.start(token, Op::Sync, &[]), Started::InFlight), "{count}");
    }
    assert!(matches!(ring.start(0, Op::Sync, &[]), Started::Done(Ok(0))));
    assert!(matches!(ring.start(DEPTH, Op::Sync, &[]), Started::Done(Ok(0))));
}

#[test]
fn what_the_kernel_has_no_means_for_is_done_without_the_ring() {
    let file = TempFile::new().unwrap();
    let Some((_memory, mut ring)) = ring(&file, false) else { return };
    for errno in [libc::EAGAIN, libc::ECANCELED] {
        let (op, segments) = write(0);
        assert!(matches!(ring.start(0, op, &segments), Started::InFlight));
        ring.wait().unwrap();
        ring.ring.completion().next().unwrap();
        ring.in_flight -= 1;
        let error = ring.outcome(0, -errno).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(ring.start(0, op, &segments), Started::Done(Ok(4096))));
        assert!(matches!(ring.start(0, op, &segments), Started::InFlight));
        ring.wait().unwrap();
        assert_eq!(ring.completed().unwrap().1.unwrap(), 4096);
    }
}

#[test]
fn the_ring_does_nothing_but_transfers_on_its_disk() {
    let file = TempFile::new().unwrap();
    let Some((_memory, mut ring)) = ring(&file, false) else {
        return;
    };
    let other = io_uring::types::Fd(file.as_file().as_raw_fd());
    let forbidden = [
        opcode::Nop::new().build(),
        opcode::Fsync::new(other).build(),
        opcode::Close::new(other).build(),
        opcode::Fsync::new(DISK).build().flags(squeue::Flags::ASYNC),
    ];
    for entry in forbidden {
        // SAFETY: none of the entries has pointers.
        unsafe { ring.ring.submission().push(&entry) }.unwrap();
        ring.ring.submit_and_wait(1).unwrap();
        let result = ring.ring.completion().next().unwrap().result();
        assert_eq!(result, -libc::EACCES, "{entry:?}");
    }
    let refused = ring.ring.submitter().unregister_files().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    assert!(matches!(ring.start(0, Op::Sync, &[]), Started::InFlight));
    ring.wait().unwrap();
    assert_eq!(ring.completed().unwrap().1.unwrap(), 0);
}

#[test]
fn the_ring_s_descriptor_is_readable_while_there_are_completions() {
    let file = TempFile::new().unwrap();
    let Some((_memory, mut ring)) = ring(&file, false) else {
        return;
    };
    let is_readable = |ring: &UringIo| {
        let mut poll =
            libc::pollfd { fd: ring.completion_fd().unwrap(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd for the whole call, which does not wait.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    };
    assert!(!is_readable(&ring));
    ring.start(0, Op::Read { offset: 0, start: 0, len: 512 }, &segment(0, 512));
    ring.wait().unwrap();
    assert!(is_readable(&ring));
    assert_eq!(ring.completed().unwrap().1.unwrap(), 512);
    assert!(!is_readable(&ring));
}

/// Starts reads of 512 bytes, submits them, and waits for all of them; returns how many the ring made.
fn reads_by_the_ring(ring: &mut UringIo, count: u16) -> usize {
    for token in 0..count {
        let at = 512 * u64::from(token);
        let op = Op::Read { offset: at, start: 0, len: 512 };
        assert!(matches!(ring.start(token, op, &segment(at, 512)), Started::InFlight));
    }
    ring.submit().unwrap();
    let by_the_ring = usize::from(count) - usize::from(ring.at_once.is_some());
    let mut seen = 0;
    while seen < count {
        ring.wait().unwrap();
        let (_, outcome) = ring.completed().unwrap();
        assert_eq!(outcome.unwrap(), 512);
        seen += 1;
    }
    assert_eq!(ring.in_flight, 0);
    assert!(ring.completed().is_none());
    by_the_ring
}

#[test]
fn a_read_that_comes_alone_is_had_from_the_page_cache_without_the_ring() {
    let file = TempFile::new().unwrap();
    let Some((memory, mut ring)) = ring(&file, false) else { return };
    file.as_file().write_all_at(&[5; 4096], 0).unwrap();
    // Where the file system cannot tell, the first one finds out and the others are the ring's.
    let first = reads_by_the_ring(&mut ring, 1);
    assert_eq!(first == 1, ring.always_waits);
    assert_eq!(reads_by_the_ring(&mut ring, 1), first);
    assert_eq!(reads_by_the_ring(&mut ring, 3), 3);
    assert_eq!(reads_by_the_ring(&mut ring, 1), first);
    let mut found = [0; 1536];
    memory.read_slice(&mut found, GuestAddress(0)).unwrap();
    assert_eq!(found, [5; 1536]);
}

#[test]
fn a_read_that_comes_alone_is_the_ring_s_where_it_must_wait() {
    let file = TempFile::new().unwrap();
    let Some((_memory, mut ring)) = ring(&file, true) else { return };
    assert_eq!(reads_by_the_ring(&mut ring, 1), 1);
}

#[test]
fn a_read_that_was_not_submitted_is_finished_all_the_same() {
    let file = TempFile::new().unwrap();
    let Some((_memory, mut ring)) = ring(&file, false) else { return };
    let read = Op::Read { offset: 0, start: 0, len: 512 };
    assert!(matches!(ring.start(0, read, &segment(0, 512)), Started::InFlight));
    assert!(ring.alone.is_some());
    ring.wait().unwrap();
    assert_eq!(ring.completed().unwrap().1.unwrap(), 512);
    assert!(matches!(ring.start(0, read, &segment(0, 512)), Started::InFlight));
    drop(ring);
}
