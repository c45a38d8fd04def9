//! Random requests against a disk in memory: every engine, cached and direct, must agree with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::*;
use crate::backend::disk::io::Engine;
use crate::test_util::{Buffer, Random, skipped};

const STEPS: u32 = 80;
/// Each of the requests that run at the same time has a part of the disk to itself.
const PARTS: u32 = 4;
const PART_SECTORS: u32 = 512;
const MAX_SECTORS: u32 = 40;

struct Planned {
    kind: u32,
    offset: usize,
    len: usize,
    data: u64,
    sent: Sent,
}

#[test]
fn every_engine_agrees_with_a_disk_in_memory() {
    for engine in [Engine::Sync, Engine::IoUring] {
        for (direct, alignment) in [(false, None), (true, None), (false, Some(4096))] {
            for seed in 1..4 {
                agrees(&Setup { direct, alignment, ..Setup::engine(engine) }, seed);
            }
        }
    }
}

#[test]
fn every_engine_agrees_on_a_block_device() {
    let file = temp_disk(SECTORS);
    let Some(device) = LoopDevice::over(file.as_path()) else {
        skipped("every_engine_agrees_on_a_block_device", "this host permits no loop device");
        return;
    };
    for engine in [Engine::Sync, Engine::IoUring] {
        for direct in [false, true] {
            let device = Some(device.path.clone());
            agrees(&Setup { direct, device, ..Setup::engine(engine) }, 5);
        }
    }
}

fn agrees(setup: &Setup, seed: u64) {
    let mut rig = setup.start();
    rig.fill_disk(0, &[0; 1 << 20]);
    let mut random = Random::new(seed);
    let mut model = vec![0_u8; 1 << 20];
    for step in 0..STEPS {
        let planned: Vec<_> =
            (0..PARTS).map(|part| plan(&mut rig, &mut random, &mut model, part, step)).collect();
        rig.finish(planned.len());
        for request in planned {
            assert_eq!(rig.status(request.sent), OK, "seed {seed} step {step}");
            let expected = &mut model[request.offset..request.offset + request.len];
            let found = match request.kind {
                IN => rig.get(request.data, request.len),
                _ => rig.on_disk(request.offset as u64, request.len),
            };
            if request.kind == DISCARD {
                // Undefined, but from now on it must stay what it is.
                expected.copy_from_slice(&found);
            }
            assert!(found == expected, "seed {seed} step {step} kind {}", request.kind);
        }
    }
    assert!(rig.on_disk(0, model.len()) == model);
}

/// Sends a random request within `part` and does the same to `model`.
fn plan(rig: &mut Rig, random: &mut Random, model: &mut [u8], part: u32, step: u32) -> Planned {
    let sectors = 1 + random.below(MAX_SECTORS);
    let sector = part * PART_SECTORS + random.below(PART_SECTORS - sectors);
    let (offset, len) = (512 * sector as usize, 512 * sectors as usize);
    // Not always aligned, so that direct transfers have to cope.
    let data = DATA + u64::from(part * 0x10_0000 + random.below(2) * random.below(4096));
    let covered = &mut model[offset..offset + len];
    let kind = random.of(&[IN, IN, OUT, OUT, OUT, WRITE_ZEROES, DISCARD]);
    let sent = match kind {
        IN => {
            rig.put(data, &vec![NONE; len]);
            rig.send(kind, u64::from(sector), &cut(random, data, len, true))
        }
        OUT => {
            covered.fill_with(|| u8::try_from(random.below(256_u32)).unwrap());
            rig.put(data, covered);
            rig.send(kind, u64::from(sector), &cut(random, data, len, false))
        }
        _ => {
            covered.fill(0);
            let unmap = u32::from(kind == WRITE_ZEROES && step.is_multiple_of(2));
            rig.put_range(data, u64::from(sector), sectors, unmap);
            rig.send(kind, 0, &[(data, 16, false)])
        }
    };
    Planned { kind, offset, len, data, sent }
}

/// One or two buffers; sixteen descriptors carry four requests of up to four.
fn cut(random: &mut Random, data: u64, len: usize, write: bool) -> Vec<Buffer> {
    let len = u32::try_from(len).unwrap();
    let first = random.below(len);
    if first == 0 {
        return vec![(data, len, write)];
    }
    vec![(data, first, write), (data + u64::from(first), len - first, write)]
}

/// A file as a block device, for as long as it lives.
struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    fn over(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let path = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| Self { path: path.trim_end().into() })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let status = Command::new("losetup").arg("--detach").arg(&self.path).status();
        assert!(status.unwrap().success(), "{} stays behind", self.path.display());
    }
}
