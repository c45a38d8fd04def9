//! The disk, on a file in memory.

use std::fs::File;
use std::num::NonZeroU16;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::backend::disk::io::{Engine, Rings};
use devices::backend::disk::{Disk, DiskOptions};
use devices::rate_limiter::{Limiter, Limits};
use devices::virtio::block::{Block, BlockControl, BlockOptions};
use devices::virtio::device::VirtioDevice;

use crate::bytes::Bytes;
use crate::memory_file;
use crate::rig::{Rig, Subject, drive};

/// Bytes of the disk.
const DISK: u64 = 0x1_0000;
const SECTOR: u64 = 512;

/// See the module.
pub fn run(input: &[u8]) {
    drive(&mut *subject(), input);
}

/// The disk.
pub fn subject() -> Box<dyn Subject> {
    Box::new(Storage { control: None, successors: vec![2, 3] })
}

/// Files that outlive inputs; no input can make what they hold matter to another. The first two are open already: for
/// writing, and read-only. The others can take their place.
struct Files {
    _files: [File; 4],
    paths: [PathBuf; 4],
    disks: [Arc<Disk>; 2],
}

thread_local! {
    static FILES: Files = Files::new();
}

impl Files {
    fn new() -> Self {
        let files = [DISK, DISK, DISK, DISK / 2].map(|len| {
            let file = memory_file();
            file.set_len(len).expect("a file in memory");
            file
        });
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let paths = files.each_ref().map(path);
        let open = |path: &Path, read_only| {
            let options = DiskOptions { read_only, ..DiskOptions::default() };
            Arc::new(Disk::open(path, options).expect("a disk"))
        };
        let disks = [open(&paths[0], false), open(&paths[1], true)];
        Self { _files: files, paths, disks }
    }
}

struct Storage {
    control: Option<BlockControl>,
    /// Which of [`Files`] were not yet in the place of another.
    successors: Vec<usize>,
}

impl Subject for Storage {
    fn device(&mut self, input: &mut Bytes<'_>) -> Box<dyn VirtioDevice> {
        let disk = FILES.with(|files| files.disks[usize::from(input.one_in(4))].clone());
        let block = Block::new(BlockOptions {
            id: "disk".to_owned(),
            serial: None,
            disk,
            queues: NonZeroU16::MIN.saturating_add(input.below(2) as u16),
            engine: Engine::Sync,
            rings: Rings::default(),
            limiter: Limiter::new(Limits::NONE),
        });
        self.control = Some(block.control());
        Box::new(block)
    }

    fn request(&mut self, rig: &mut Rig, input: &mut Bytes<'_>) {
        let kind = input.of(&[0, 0, 1, 1, 4, 8, 11, 13, 13, 99]);
        let sector = match input.u8() & 3 {
            0 => input.u64(),
            1 => (DISK / SECTOR).wrapping_sub(u64::from(input.u8() & 15)),
            _ => u64::from(input.u8()) % (DISK / SECTOR),
        };
        let mut header = [0; 16];
        header[..4].copy_from_slice(&u32::to_le_bytes(if kind == 99 { input.u32() } else { kind }));
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let mut chain =
            vec![rig.sent(&header[..if input.one_in(16) { input.below(17) } else { 16 }])];
        for _ in 0..input.below(4) {
            let sectors = u32::from(input.u8() & 7) * SECTOR as u32;
            let len = if input.one_in(8) { input.u16().into() } else { sectors };
            match kind {
                0 | 8 => chain.push(rig.room(len)),
                11 | 13 => chain.push(rig.sent(input.take(16))),
                _ => {
                    let address = rig.buffer(len.into());
                    chain.push((address, len, input.one_in(16)));
                }
            }
        }
        if !input.one_in(16) {
            chain.push(rig.room(1));
        }
        rig.offer(0, &chain, input);
    }

    fn host(&mut self, input: &mut Bytes<'_>) {
        let Some(control) = &self.control else { return };
        // A disk that was left may still be in use by a request; each takes its place once, then only again.
        let path = match self.successors.pop() {
            Some(number) if !input.one_in(2) => FILES.with(|files| files.paths[number].clone()),
            _ => control.disk().path().to_owned(),
        };
        control.set_disk(&path).expect("a disk");
    }

    fn good(&mut self, rig: &mut Rig) {
        let header = rig.sent(&[0; 16]);
        let (data, status) = (rig.room(512), rig.room(1));
        rig.write(status.0, &[0x77]);
        assert_eq!(rig.must_answer(0, &[header, data, status]), 513);
        assert_eq!(rig.read::<1>(status.0), [0]);
    }
}
