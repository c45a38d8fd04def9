use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use vmm_sys_util::tempdir::TempDir;

use super::super::io::{DiskIo, Engine, Op, Rings, Started};
use super::super::{Disk, SECTOR};
use super::*;
use crate::memory::{GuestMemory, Segment};
use crate::test_util::{Random, guest_memory};
use vm_memory::{Bytes, GuestAddress};

pub(super) const CLUSTER: usize = 64 << 10;
/// Five clusters and a bit.
pub(super) const SIZE: usize = 5 * CLUSTER + 3 * 512;
const SECTORS: u32 = 5 * 128 + 3;
const MEMORY: usize = 1 << 20;

/// An image, and its overlay's place.
pub(super) struct Place {
    directory: TempDir,
}

/// A disk on it with an engine.
pub(super) struct Opened {
    pub(super) disk: Arc<Disk>,
    io: Box<dyn DiskIo>,
    memory: GuestMemory,
}

impl Place {
    pub(super) fn new() -> Self {
        let place = Self { directory: TempDir::new().unwrap() };
        std::fs::write(place.image(), image()).unwrap();
        place
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.as_path().join(name)
    }

    pub(super) fn image(&self) -> PathBuf {
        self.file("image")
    }

    fn kept(&self) -> PathBuf {
        self.file("kept")
    }

    fn open(&self, kept: bool) -> Opened {
        self.try_open(kept).unwrap()
    }

    fn try_open(&self, kept: bool) -> Result<Opened, DiskError> {
        let path = self.kept();
        Disk::open_overlaid(&self.image(), kept.then_some(path.as_path()), None).map(Opened::of)
    }
}

/// What the image holds.
pub(super) fn image() -> Vec<u8> {
    (0..SIZE).map(|i| (i / 512 * 7 + i).to_le_bytes()[0] | 1).collect()
}

impl Opened {
    pub(super) fn of(disk: Disk) -> Self {
        let (disk, memory) = (Arc::new(disk), guest_memory(MEMORY));
        let io = disk.open_io(Engine::Sync, &Rings::default(), 16, &memory);
        Self { disk, io, memory }
    }

    /// Does all of an operation, however many steps it takes.
    fn all(&mut self, len: usize, op: impl Fn(usize, usize) -> Op) -> io::Result<()> {
        let segment = Segment { address: GuestAddress(0), len: u32::try_from(MEMORY).unwrap() };
        let mut done = 0;
        while done < len {
            let Started::Done(outcome) = self.io.start(0, op(done, len - done), &[segment]) else {
                panic!("it is over when it returns");
            };
            let n = usize::try_from(outcome?).unwrap();
            assert!((1..=len - done).contains(&n), "{n} of {}", len - done);
            done += n;
        }
        Ok(())
    }

    pub(super) fn read(&mut self, offset: usize, len: usize) -> Vec<u8> {
        self.memory.write_slice(&vec![0xee; len], GuestAddress(0)).unwrap();
        let at = |done| (offset + done) as u64;
        self.all(len, |done, len| Op::Read { offset: at(done), start: done, len }).unwrap();
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_slice(bytes, GuestAddress(0)).unwrap();
        let at = |done| (offset + done) as u64;
        self.all(bytes.len(), |done, len| Op::Write { offset: at(done), start: done, len })
    }

    pub(super) fn zero(&mut self, offset: usize, len: usize) {
        let at = |done| (offset + done) as u64;
        self.all(len, |done, len| Op::Zero { offset: at(done), len: len as u64, unmap: true })
            .unwrap();
    }

    fn discard(&mut self, offset: usize, len: usize) {
        let at = |done| (offset + done) as u64;
        self.all(len, |done, len| Op::Discard { offset: at(done), len: len as u64 }).unwrap();
    }

    fn flush(&mut self) {
        let Started::Done(outcome) = self.io.start(0, Op::Sync, &[]) else { panic!() };
        outcome.unwrap();
    }

    /// The process is killed: what it has not told the kernel is gone.
    fn kill(self) {
        let Self { disk, io, .. } = self;
        drop(io);
        let overlay = disk.overlay.clone().unwrap();
        drop(disk);
        let mut overlay = Arc::into_inner(overlay).unwrap();
        overlay.kept = None;
    }
}

#[test]
fn a_fresh_overlay_shows_the_image_and_leaves_it_alone() {
    let place = Place::new();
    let mut disk = place.open(false);
    assert!(!disk.disk.is_read_only());
    assert_eq!(disk.disk.sectors() * SECTOR, SIZE as u64);
    assert!(disk.read(0, SIZE) == image());
    disk.write(100 * 512, &[7; 1024]).unwrap();
    assert_eq!(disk.read(99 * 512, 4 * 512)[512..1536], [7; 1024]);
    drop(disk);
    assert!(std::fs::read(place.image()).unwrap() == image());
    let names = std::fs::read_dir(place.directory.as_path()).unwrap().count();
    assert_eq!(names, 1, "nothing but the image is there");
    assert!(place.open(false).read(0, SIZE) == image(), "and what was written is gone");
}

#[test]
fn several_machines_have_one_image_and_each_its_own_disk() {
    let place = Place::new();
    let (mut one, mut other) = (place.open(false), place.open(true));
    one.write(0, &[1; 512]).unwrap();
    other.write(0, &[2; 512]).unwrap();
    assert_eq!((one.read(0, 512), other.read(0, 512)), (vec![1; 512], vec![2; 512]));
    let error = place.try_open(true).err().unwrap();
    assert!(matches!(error, DiskError::InUse { .. }), "a kept one belongs to one machine: {error}");
}

/// A random change of the disk and of `model`.
pub(super) fn change(disk: &mut Opened, model: &mut [u8], random: &mut Random) {
    let most = if random.one_in(3) { SECTORS - 1 } else { 20 };
    let count = 1 + random.below(most);
    let first = random.below(SECTORS - count + 1);
    let (offset, len) = (512 * first as usize, 512 * count as usize);
    let part = &mut model[offset..offset + len];
    match random.below(6_u32) {
        0 => {
            part.fill(0);
            disk.zero(offset, len);
        }
        1 => {
            disk.discard(offset, len);
            // Undefined, but it stays what it is.
            part.copy_from_slice(&disk.read(offset, len));
        }
        2 => disk.flush(),
        _ => {
            part.fill(random.below(255_u8));
            disk.write(offset, part).unwrap();
        }
    }
}

#[test]
fn random_changes_are_those_of_a_plain_disk_and_are_kept() {
    for seed in 1..20 {
        let place = Place::new();
        let mut random = Random::new(seed);
        let mut model = image();
        for _ in 0..3 {
            let mut disk = place.open(true);
            assert!(disk.read(0, SIZE) == model, "seed {seed}: opened again");
            for step in 0..15 {
                change(&mut disk, &mut model, &mut random);
                assert!(disk.read(0, SIZE) == model, "seed {seed} step {step}");
            }
        }
        assert!(std::fs::read(place.image()).unwrap() == image());
    }
}

#[test]
fn a_kill_loses_what_was_not_flushed_and_nothing_else() {
    for seed in 1..60 {
        let place = Place::new();
        let mut random = Random::new(seed);
        // Each sector holds the number of the write that it is from.
        let mut flushed = vec![0_u8; SIZE / 512];
        let mut disk = place.open(true);
        disk.zero(0, SIZE);
        disk.flush();
        let mut written: Vec<Vec<u8>> = vec![vec![0]; SIZE / 512];
        for number in 1..1 + random.below(30_u8) {
            let count = 1 + random.below(200_u32);
            let first = random.below(SECTORS - count) as usize;
            let count = count as usize;
            disk.write(512 * first, &vec![number; 512 * count]).unwrap();
            written[first..first + count].iter_mut().for_each(|sector| sector.push(number));
            if random.one_in(4) {
                disk.flush();
                for (flushed, written) in flushed.iter_mut().zip(&written) {
                    *flushed = *written.last().unwrap();
                }
            }
        }
        disk.kill();
        let bytes = place.open(true).read(0, SIZE);
        for (index, sector) in bytes.chunks(512).enumerate() {
            let number = sector[0];
            assert!(sector.iter().all(|byte| *byte == number), "seed {seed}: a torn sector");
            let is_known = written[index].contains(&number);
            assert!(is_known && number >= flushed[index], "seed {seed} sector {index}: {number}");
        }
    }
}

#[test]
fn the_table_never_names_what_was_not_written() {
    let place = Place::new();
    let mut disk = place.open(true);
    disk.write(0, &[5; CLUSTER]).unwrap();
    let table = |path: &Path| {
        let file = File::open(path).unwrap();
        let mut entry = [0; 4];
        file.read_exact_at(&mut entry, PAGE_OF_TABLE).unwrap();
        u32::from_le_bytes(entry)
    };
    const PAGE_OF_TABLE: u64 = 4096;
    assert_eq!(table(&place.kept()), AS_BASE, "not before the flush");
    disk.flush();
    assert_eq!(format::data_cluster(table(&place.kept())), Some(0));
    disk.kill();
    // Somebody else's idea of a table.
    let file = OpenOptions::new().write(true).open(place.kept()).unwrap();
    file.write_all_at(&9_u32.to_le_bytes(), PAGE_OF_TABLE).unwrap();
    let mut disk = place.open(true);
    let segment = Segment { address: GuestAddress(0), len: 512 };
    let Started::Done(outcome) =
        disk.io.start(0, Op::Read { offset: 0, start: 0, len: 512 }, &[segment])
    else {
        panic!()
    };
    assert!(outcome.unwrap_err().to_string().contains("names what is not there"));
    assert!(disk.read(CLUSTER, CLUSTER) == image()[CLUSTER..2 * CLUSTER], "the rest is there");
}

#[test]
fn what_is_let_go_of_takes_no_space() {
    let place = Place::new();
    let mut disk = place.open(true);
    disk.write(0, &[5; 4 * CLUSTER]).unwrap();
    disk.flush();
    let blocks = || std::fs::metadata(place.kept()).unwrap().blocks();
    let before = blocks();
    disk.discard(CLUSTER, 2 * CLUSTER);
    disk.zero(3 * CLUSTER, CLUSTER);
    assert!(blocks() < before / 2, "{} of {before}", blocks());
    assert_eq!(disk.read(CLUSTER, 3 * CLUSTER), vec![0; 3 * CLUSTER]);
    assert_eq!(disk.read(0, CLUSTER), vec![5; CLUSTER]);
}

#[test]
fn a_file_that_cannot_be_the_overlay_is_refused_in_one_line() {
    let place = Place::new();
    drop(place.open(true));
    let good = std::fs::read(place.kept()).unwrap();
    let refusal = |bytes: &[u8]| {
        std::fs::write(place.kept(), bytes).unwrap();
        let error = place.try_open(true).err().expect("a refusal");
        let line = crate::event::chain(&error);
        assert!(line.contains("kept") && !line.contains('\n'), "{line}");
        line
    };
    for at in 0..40 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        refusal(&bad);
    }
    for len in 1..40 {
        assert!(refusal(&good[..len]).contains("not an overlay"));
    }
    assert!(refusal(&[0; 4096]).contains("not an overlay"));
    std::fs::write(place.kept(), &good).unwrap();
    assert!(place.try_open(true).is_ok());
    let mut other = image();
    other[17] ^= 1;
    std::fs::write(place.image(), &other).unwrap();
    assert!(refusal(&good).contains("another image"));
    std::fs::write(place.image(), &other[..SIZE - 512]).unwrap();
    assert!(refusal(&good).contains("bytes, and this one has"));
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing_before() {
    // Files in memory have a limit here that is easily reached.
    let place = Place::new();
    let mut disk = place.open(true);
    disk.write(0, &[1; CLUSTER]).unwrap();
    // As if there were no more entries to name data by: the same way out as without space.
    disk.disk.overlay.as_ref().unwrap().map().used = u64::from(u32::MAX);
    assert!(disk.write(CLUSTER, &[2; CLUSTER]).is_err());
    assert!(disk.write(2 * CLUSTER + 512, &[2; 512]).is_err());
    disk.disk.overlay.as_ref().unwrap().map().used = 1;
    assert_eq!(disk.read(0, CLUSTER), [1; CLUSTER]);
    assert!(disk.read(CLUSTER, 2 * CLUSTER) == image()[CLUSTER..3 * CLUSTER]);
    disk.write(CLUSTER, &[3; CLUSTER]).unwrap();
    drop(disk);
    assert_eq!(place.open(true).read(CLUSTER, CLUSTER), [3; CLUSTER]);
}

#[test]
fn an_image_with_an_overlay_stays() {
    let place = Place::new();
    let other = place.directory.as_path().join("other");
    std::fs::write(&other, vec![9; 4096]).unwrap();
    let mut disk = place.open(false);
    disk.write(0, &[1; 512]).unwrap();
    let error = disk.disk.open_successor(&other).unwrap_err();
    assert!(matches!(error, DiskError::OverlayStays { .. }));
    let same = Arc::new(disk.disk.open_successor(&place.image()).unwrap());
    disk.io.set_disk(same.clone());
    assert_eq!(disk.read(0, 512), [1; 512]);
    disk.io = same.open_io(Engine::IoUring, &Rings::default(), 1, &disk.memory);
    assert_eq!(disk.read(0, 512), [1; 512], "the same image has the same overlay");
}
