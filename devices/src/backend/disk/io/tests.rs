//! Both engines on real files: transfers, ranges, alignment, failures.

use std::num::NonZeroU16;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::tempfile::TempFile;

use super::super::{DiskOptions, Kind};
use super::clear::Way;
use super::*;
use crate::test_util::guest_memory;

const SIZE: u64 = 64 << 10;
const ENGINES: [Engine; 2] = [Engine::Sync, Engine::IoUring];

struct Rig {
    memory: GuestMemory,
    disk: Arc<Disk>,
    io: Box<dyn DiskIo>,
}

fn temp_file() -> TempFile {
    let file = TempFile::new().unwrap();
    file.as_file().write_all_at(&vec![0xaa; 64 << 10], 0).unwrap();
    file
}

fn open(file: &TempFile) -> Disk {
    Disk::open(file.as_path(), DiskOptions::default()).unwrap()
}

fn rig(engine: Engine, disk: Disk) -> Rig {
    let memory = guest_memory(1 << 20);
    let disk = Arc::new(disk);
    let io = disk.open_io(engine, &Rings::for_queues(NonZeroU16::MIN), 8, &memory);
    Rig { memory, disk, io }
}

impl Rig {
    /// One operation from beginning to end, on the buffer of `segments`.
    fn run(&mut self, op: Op, segments: &[(u64, u32)]) -> Outcome {
        let segments: Vec<_> = segments
            .iter()
            .map(|&(address, len)| Segment { address: GuestAddress(address), len })
            .collect();
        match self.io.start(3, op, &segments) {
            Started::Done(outcome) => outcome,
            Started::InFlight => {
                self.io.submit().unwrap();
                self.io.wait().unwrap();
                let (token, outcome) = self.io.completed().unwrap();
                assert_eq!(token, 3);
                assert!(self.io.completed().is_none());
                outcome
            }
        }
    }
}

#[test]
fn a_transfer_ends_where_the_disk_does() {
    for engine in ENGINES {
        let file = temp_file();
        let mut rig = rig(engine, open(&file));
        let read = |offset, len| Op::Read { offset, start: 0, len };
        assert_eq!(rig.run(read(0, 4096), &[(0, 4096)]).unwrap(), 4096);
        assert_eq!(rig.run(read(SIZE - 512, 1024), &[(0, 1024)]).unwrap(), 512);
        assert_eq!(rig.run(read(SIZE, 512), &[(0, 512)]).unwrap(), 0);
    }
}

#[test]
fn a_transfer_starts_anywhere_in_the_buffer() {
    for engine in ENGINES {
        let file = temp_file();
        let mut rig = rig(engine, open(&file));
        rig.memory.write_slice(&[1; 600], GuestAddress(0x1000)).unwrap();
        rig.memory.write_slice(&[2; 600], GuestAddress(0x8000)).unwrap();
        let write = Op::Write { offset: 512, start: 100, len: 1000 };
        assert_eq!(rig.run(write, &[(0x1000, 600), (0x8000, 600)]).unwrap(), 1000);
        let mut found = [0; 1002];
        file.as_file().read_exact_at(&mut found, 511).unwrap();
        assert_eq!((found[0], found[1001]), (0xaa, 0xaa));
        assert_eq!(found[1..501], [1; 500]);
        assert_eq!(found[501..1001], [2; 500]);
    }
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    for engine in ENGINES {
        let file = temp_file();
        let mut rig = rig(engine, open(&file));
        let op = Op::Read { offset: 0, start: 0, len: 4096 };
        let error = rig.run(op, &[((1 << 20) - 512, 4096)]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        assert!(rig.run(op, &[(0, 4096)]).is_ok());
    }
}

#[test]
fn the_host_s_refusals_come_back_as_they_are() {
    for engine in ENGINES {
        let (_memfd, path) = memory_file(libc::F_SEAL_WRITE);
        let mut rig = rig(engine, Disk::open(&path, DiskOptions::default()).unwrap());
        let ops = [
            Op::Write { offset: 0, start: 0, len: 512 },
            Op::Discard { offset: 0, len: 4096 },
            Op::Zero { offset: 0, len: 4096, unmap: true },
        ];
        for op in ops {
            let error = rig.run(op, &[(0, 512)]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{engine:?} {op:?}");
        }
        assert_eq!(rig.run(Op::Read { offset: 0, start: 0, len: 512 }, &[(0, 512)]).unwrap(), 512);
        assert_eq!(rig.run(Op::Sync, &[]).unwrap(), 0);
    }
}

#[test]
fn a_sync_reaches_the_file() {
    for engine in ENGINES {
        let file = temp_file();
        let mut disk = open(&file);
        // A file that cannot be synced.
        disk.file = std::fs::File::open("/dev/null").unwrap();
        let error = rig(engine, disk).run(Op::Sync, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}

#[test]
fn what_a_file_system_refuses_is_done_another_way() {
    for engine in ENGINES {
        let (file, path) = memory_file(0);
        file.write_all_at(&[0xaa; 8192], 0).unwrap();
        let mut rig = rig(engine, Disk::open(&path, DiskOptions::default()).unwrap());
        // Memory files know holes, but not how to zero a range.
        assert_eq!(zero(&mut rig, 512, 4096, false), 4096);
        assert!(rig.disk.no_zero_range.load(Ordering::Relaxed));
        let mut found = [0; 8192];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found[512..4608], [0; 4096]);
        assert_eq!(found.iter().filter(|&&b| b == 0xaa).count(), 4096);
    }
}

/// A file in memory with `seals`.
fn memory_file(seals: libc::c_int) -> (std::fs::File, PathBuf) {
    use std::os::fd::FromRawFd;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0);
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let file = unsafe { std::fs::File::from_raw_fd(fd) };
    file.set_len(SIZE).unwrap();
    // SAFETY: takes no pointers.
    let ret = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    assert_eq!(ret, 0);
    let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
    (file, path)
}

#[test]
fn ranges_are_cleared_in_every_way_there_is() {
    for engine in ENGINES {
        for (no_punch, no_zero_range) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            for unmap in [false, true] {
                let file = temp_file();
                let mut rig = rig(engine, open(&file));
                rig.disk.no_punch.store(no_punch, Ordering::Relaxed);
                rig.disk.no_zero_range.store(no_zero_range, Ordering::Relaxed);
                assert_eq!(zero(&mut rig, 512, 3 * 4096, unmap), 3 * 4096);
                let mut found = vec![0; 64 << 10];
                file.as_file().read_exact_at(&mut found, 0).unwrap();
                assert_eq!(found[..512], [0xaa; 512]);
                assert_eq!(found[512..512 + 3 * 4096], [0; 3 * 4096]);
                assert_eq!(found[512 + 3 * 4096..4 * 4096 + 512], [0xaa; 4096]);
            }
        }
    }
}

/// Zeroes a range in as many operations as it takes.
fn zero(rig: &mut Rig, offset: u64, len: u64, unmap: bool) -> u64 {
    let mut done = 0;
    while done < len {
        let op = Op::Zero { offset: offset + done, len: len - done, unmap };
        let n = rig.run(op, &[]).unwrap();
        assert!(n > 0);
        done += n;
    }
    done
}

#[test]
fn zeroes_written_like_data_come_in_bounded_pieces() {
    let file = TempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let mut rig = rig(Engine::Sync, open(&file));
    rig.disk.no_zero_range.store(true, Ordering::Relaxed);
    let first = rig.run(Op::Zero { offset: 0, len: 1 << 20, unmap: false }, &[]).unwrap();
    assert!((512..1 << 20).contains(&first), "{first}");
}

#[test]
fn a_discard_that_is_not_possible_is_as_good_as_done() {
    for engine in ENGINES {
        let file = temp_file();
        let mut rig = rig(engine, open(&file));
        rig.disk.no_punch.store(true, Ordering::Relaxed);
        assert_eq!(rig.run(Op::Discard { offset: 0, len: 4096 }, &[]).unwrap(), 4096);
        let mut found = [0; 4096];
        file.as_file().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, [0xaa; 4096]);
    }
}

#[test]
fn what_is_refused_once_is_not_asked_again_unless_only_this_range_was() {
    let unsupported = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    let unaligned = io::Error::from_raw_os_error(libc::EINVAL);
    let full = io::Error::from_raw_os_error(libc::ENOSPC);
    let discard = Op::Discard { offset: 0, len: 512 };
    let zero = Op::Zero { offset: 0, len: 512, unmap: false };
    let unmap = Op::Zero { offset: 0, len: 512, unmap: true };
    let file = temp_file();
    let disk = open(&file);
    for op in [discard, zero, unmap] {
        assert_eq!(disk.way_after(op, disk.way_to_clear(op), &full), None);
        assert_eq!(disk.way_after(op, disk.way_to_clear(op), &unaligned), None);
    }
    assert_eq!(disk.way_to_clear(discard), Way::Punch);
    assert_eq!(disk.way_to_clear(unmap), Way::Punch);
    assert_eq!(disk.way_after(unmap, Way::Punch, &unsupported), Some(Way::ZeroRange));
    assert_eq!(disk.way_to_clear(discard), Way::Ignore);
    assert_eq!(disk.way_after(unmap, Way::ZeroRange, &unsupported), Some(Way::Write));
    assert_eq!(disk.way_to_clear(zero), Way::Write);
    drop(disk);

    let mut device = open(&file);
    device.kind = Kind::BlockDevice;
    assert_eq!(device.way_to_clear(discard), Way::DeviceDiscard);
    assert_eq!(device.way_after(discard, Way::DeviceDiscard, &unaligned), Some(Way::Ignore));
    assert_eq!(device.way_after(zero, Way::ZeroRange, &unaligned), Some(Way::Write));
    assert_eq!(device.way_to_clear(discard), Way::DeviceDiscard);
    assert_eq!(device.way_after(discard, Way::DeviceDiscard, &unsupported), Some(Way::Ignore));
    assert_eq!(device.way_to_clear(discard), Way::Ignore);
}

#[test]
fn a_part_of_a_block_is_replaced_without_its_surroundings() {
    for engine in ENGINES {
        let file = temp_file();
        let mut disk = open(&file);
        disk.set_alignment(4096);
        let mut rig = rig(engine, disk);
        rig.memory.write_slice(&[5; 512], GuestAddress(0)).unwrap();
        let write = Op::Write { offset: 4096 + 512, start: 0, len: 512 };
        assert_eq!(rig.run(write, &[(0, 512)]).unwrap(), 512);
        let mut found = [0; 3 * 4096];
        file.as_file().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found[4608..5120], [5; 512]);
        assert_eq!(found.iter().filter(|&&b| b == 0xaa).count(), 3 * 4096 - 512);
        let read = Op::Read { offset: 4096 + 512, start: 1, len: 512 };
        assert_eq!(rig.run(read, &[(0x2000, 513)]).unwrap(), 512);
        let mut read = [0; 512];
        rig.memory.read_slice(&mut read, GuestAddress(0x2001)).unwrap();
        assert_eq!(read, [5; 512]);
    }
}

#[test]
fn a_part_of_a_block_is_replaced_when_no_other_is() {
    let file = temp_file();
    let mut disk = open(&file);
    disk.set_alignment(4096);
    let disk = Arc::new(disk);
    let turn = disk.partial_write.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut io = disk.open_io(Engine::Sync, &Rings::default(), 1, &guest_memory(4096));
            let segment = [Segment { address: GuestAddress(0), len: 512 }];
            let op = Op::Write { offset: 0, start: 0, len: 512 };
            assert!(matches!(io.start(0, op, &segment), Started::Done(Ok(512))));
        });
        // Time for the other to go wrong in; it is right however long this takes.
        std::thread::sleep(std::time::Duration::from_millis(50));
        file.as_file().write_all_at(&[0xbb; 512], 512).unwrap();
        drop(turn);
    });
    let mut found = [0; 1024];
    file.as_file().read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found[..512], [0; 512]);
    assert_eq!(found[512..], [0xbb; 512]);
}

#[test]
fn neighbours_in_one_block_do_not_undo_each_other() {
    let file = temp_file();
    let mut disk = open(&file);
    disk.set_alignment(4096);
    let disk = Arc::new(disk);
    std::thread::scope(|scope| {
        for sector in 0..8_u64 {
            let disk = disk.clone();
            scope.spawn(move || {
                let memory = guest_memory(4096);
                let mut io = disk.open_io(Engine::Sync, &Rings::default(), 1, &memory);
                let op = Op::Write { offset: 512 * sector, start: 0, len: 512 };
                let segment = [Segment { address: GuestAddress(0), len: 512 }];
                for value in 1..=100 {
                    memory.write_slice(&[value; 512], GuestAddress(0)).unwrap();
                    assert!(matches!(io.start(0, op, &segment), Started::Done(Ok(512))));
                }
            });
        }
    });
    let mut found = [0; 4096];
    file.as_file().read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, [100; 4096]);
}

#[test]
fn a_ring_that_cannot_be_had_is_replaced() {
    let file = temp_file();
    let memory = guest_memory(4096);
    let disk = Arc::new(open(&file));
    let none = disk.open_io(Engine::IoUring, &Rings::default(), 8, &memory);
    assert_eq!(none.completion_fd(), None);
}

#[test]
fn a_ring_is_lent_to_one_engine_after_the_other() {
    let memory = guest_memory(4096);
    let rings = Rings::for_queues(NonZeroU16::MIN);
    let ring_for = |file| {
        let disk = Arc::new(open(file));
        let [io, other] = [0; 2].map(|_| disk.open_io(Engine::IoUring, &rings, 8, &memory));
        assert_eq!(other.completion_fd(), None, "it is lent twice");
        io.completion_fd()
    };
    let files = [temp_file(), temp_file()];
    let [first, second] = [ring_for(&files[0]), ring_for(&files[1])];
    assert_eq!(first, second);
    // A ring that nobody uses holds no disk.
    let left = files.map(|file| Disk::open(file.as_path(), DiskOptions::default()).is_ok());
    assert_eq!(left, [true, true]);
}
