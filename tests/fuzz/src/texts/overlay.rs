//! Files that say they are overlays of a disk: refused, or read and written as what they say, within their bounds.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use devices::backend::disk::Disk;
use devices::backend::disk::io::{Engine, Op, Rings, Started};
use devices::memory::Segment;
use vm_memory::GuestAddress;

use crate::bytes::Bytes;
use crate::memory_file;
use crate::ram::Ram;

/// Bytes of a cluster.
const CLUSTER: u64 = 64 << 10;
const CLUSTERS: u64 = 4;
/// Where the table is, and where data begins.
const TABLE: u64 = 4096;
const DATA: u64 = CLUSTER;
/// Bytes of a transfer, and where it goes.
const LEN: u32 = 4096;
const BUFFER: u64 = 0x4000;

/// Files that outlive inputs: the image, and what holds the overlay.
struct Files {
    overlay: File,
    _image: File,
    paths: [PathBuf; 2],
    /// What is in the file of an overlay that nobody has written to.
    fresh: Vec<u8>,
}

thread_local! {
    static FILES: Files = Files::new();
}

impl Files {
    fn new() -> Self {
        let [image, overlay] = [memory_file(), memory_file()];
        image.set_len(CLUSTERS * CLUSTER).expect("a file in memory");
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let paths = [path(&image), path(&overlay)];
        drop(Disk::open_overlaid(&paths[0], Some(&paths[1]), None).expect("a new overlay"));
        let mut fresh = vec![0; DATA as usize];
        overlay.read_exact_at(&mut fresh, 0).expect("what was made");
        Self { overlay, _image: image, paths, fresh }
    }
}

/// See the module.
pub fn run(input: &[u8]) {
    FILES.with(|files| try_overlay(files, &mut Bytes::new(input)));
}

fn try_overlay(files: &Files, input: &mut Bytes<'_>) {
    let mut bytes = files.fresh.clone();
    if input.one_in(2) {
        let header = input.take(40);
        bytes[..header.len()].copy_from_slice(header);
    }
    for entry in 0..CLUSTERS as usize {
        let at = TABLE as usize + 4 * entry;
        let value = if input.one_in(4) { input.u32() } else { input.below(6) as u32 };
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let data = input.u8() & 3;
    files.overlay.set_len(0).expect("a file in memory");
    files.overlay.write_all_at(&bytes, 0).expect("a file in memory");
    let len = DATA + u64::from(data) * CLUSTER + u64::from(input.u8());
    files.overlay.set_len(if input.one_in(8) { input.u16().into() } else { len }).expect("so long");
    let disk = match Disk::open_overlaid(&files.paths[0], Some(&files.paths[1]), None) {
        Ok(disk) => Arc::new(disk),
        Err(error) => {
            let line = devices::event::chain(&error);
            return assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
        }
    };
    let ram = Ram::of_thread();
    let mut io = disk.open_io(Engine::Sync, &Rings::default(), 1, ram.memory());
    let segment = [Segment { address: GuestAddress(BUFFER), len: LEN }];
    for _ in 0..8 {
        let offset = 512 * (u64::from(input.u16()) % ((CLUSTERS * CLUSTER - u64::from(LEN)) / 512));
        let (start, len) = (0, LEN as usize);
        let cluster = offset / CLUSTER * CLUSTER;
        let op = match input.below(6) {
            0 => Op::Write { offset, start, len },
            1 => Op::Zero { offset: cluster, len: CLUSTER, unmap: true },
            2 => Op::Discard { offset: cluster, len: CLUSTER },
            3 => Op::Sync,
            _ => Op::Read { offset, start, len },
        };
        let Started::Done(outcome) = io.start(0, op, &segment) else { panic!("it is not over") };
        // A read finds nothing where a file that was cut off ends.
        let least = u64::from(matches!(op, Op::Write { .. }));
        if let (Ok(done), Op::Read { .. } | Op::Write { .. }) = (outcome, op) {
            assert!((least..=u64::from(LEN)).contains(&done), "{op:?} did {done}");
        }
    }
    let end = files.overlay.metadata().expect("a file in memory").len();
    assert!(end <= DATA + (CLUSTERS + 13) * CLUSTER, "the overlay has {end} bytes");
}
