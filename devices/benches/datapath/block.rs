//! The block device on a file in the page cache, with both engines.

use std::fs::File;
use std::num::NonZeroU16;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use devices::backend::disk::io::{Engine, Rings};
use devices::backend::disk::{Disk, DiskOptions};
use devices::rate_limiter::{Limiter, Limits};
use devices::virtio::block::{Block, BlockOptions};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::tempfile::TempFile;

use crate::rig::{BUFFERS, Rig};
use crate::simple::{Rounds, add_requests};
use crate::{Case, Subject};

const DISK: u64 = 16 << 20;
/// Chains on the ring: what three descriptors each leave of 256.
const CHAINS: u16 = 64;

/// All of them, and what the same reads cost without a device.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for len in [4096, 65536] {
        let name = format!("read {len} B, plain pread");
        all.push(Case::new(name, 32, 1.0, move || plain_reads(len)));
    }
    for (engine, label) in [(Engine::Sync, "sync"), (Engine::IoUring, "uring")] {
        for (write, len, depth) in [
            (false, 4096, 1),
            (false, 4096, 4),
            (false, 4096, 32),
            (false, 4096, 64),
            (true, 4096, 1),
            (true, 4096, 32),
            (false, 65536, 1),
            (false, 65536, 32),
            (true, 65536, 32),
        ] {
            let what = if write { "write" } else { "read" };
            let per_request = match (engine, depth) {
                // It stops for other devices now and then, so that a round may take two turns.
                (Engine::Sync, _) => 1.125,
                // Where the file system lets the kernel's workers do the writing, which many do, each
                // completion may be a wake-up of its own.
                (Engine::IoUring, _) if write => 1.0,
                (Engine::IoUring, 1) => 1.0,
                // One call for a whole batch.
                (Engine::IoUring, _) => 0.0,
            };
            let name = format!("block {label} {what} {len} B, depth {depth}");
            let make = move || block(engine, write, len, depth, false);
            all.push(Case::new(name, depth, per_request, make));
        }
    }
    // The same with the time of each request measured.
    for (engine, label, depth, per_request) in [
        (Engine::Sync, "sync", 1, 1.125),
        (Engine::Sync, "sync", 32, 1.125),
        (Engine::IoUring, "uring", 32, 0.0),
    ] {
        let name = format!("block {label} read 4096 B, depth {depth}, timed");
        let make = move || block(engine, false, 4096, depth, true);
        all.push(Case::new(name, depth, per_request, make));
    }
    all
}

fn temporary_disk() -> TempFile {
    let temporary = TempFile::new().unwrap();
    let piece = vec![0xa5; 1 << 20];
    for offset in (0..DISK).step_by(piece.len()) {
        temporary.as_file().write_all_at(&piece, offset).unwrap();
    }
    temporary
}

fn block(engine: Engine, write: bool, len: u32, depth: u16, timed: bool) -> Box<dyn Subject> {
    let temporary = temporary_disk();
    let disk = Arc::new(Disk::open(temporary.as_path(), DiskOptions::default()).unwrap());
    let queues = NonZeroU16::MIN;
    let id = "disk".to_owned();
    let limiter = Limiter::new(Limits::NONE);
    let rings = Rings::for_queues(queues);
    let device =
        Block::new(BlockOptions { id, serial: None, disk, queues, engine, rings, limiter });
    if timed {
        device.control().measure_times();
    }
    // FLUSH: a driver without it makes every write durable.
    let rig = Rig::new(Box::new(device), 1 << 9, 256, |memory, rings| {
        for i in 0..u64::from(CHAINS) {
            // Spread over the disk, so that neighbours are not read together.
            let sector = i * 37 % 64 * (DISK / 64 / 512);
            let header = [u64::from(u32::from(write)), sector];
            memory.write_obj(header, GuestAddress(BUFFERS + 16 * i)).unwrap();
        }
        add_requests(&mut rings[0], CHAINS, len, !write);
    });
    let statuses = rig.memory.clone();
    let mut subject = Rounds { rig, queue: 0, depth };
    for _ in 0..CHAINS {
        subject.round();
    }
    let mut status = [0xff; CHAINS as usize];
    statuses.read_slice(&mut status, GuestAddress(BUFFERS + 0x4000)).unwrap();
    assert_eq!(status, [0; CHAINS as usize], "a request failed");
    Box::new(subject)
}

/// What the host's page cache gives without a device in between.
struct PlainReads {
    file: File,
    buffers: Vec<u8>,
    len: usize,
}

impl Subject for PlainReads {
    fn round(&mut self) {
        for (i, buffer) in (0_u64..32).zip(self.buffers.chunks_mut(self.len)) {
            self.file.read_exact_at(buffer, i * 37 % 64 * (DISK / 64)).unwrap();
        }
    }

    fn driver_calls(&self) -> u64 {
        0
    }
}

fn plain_reads(len: usize) -> Box<dyn Subject> {
    let file = temporary_disk().into_file();
    Box::new(PlainReads { file, buffers: vec![0; 32 * len], len })
}
