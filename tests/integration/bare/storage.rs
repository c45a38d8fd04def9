//! Disks under load and disks that fail: many requests at a time on several queues, with what arrives compared on the
//! host; a host that has no space left.

use std::fs;
use std::path::Path;

use harness::confine::Confinement;
use harness::network::noise;
use harness::puppet::{FREE_MEMORY, Puppet};
use harness::scratch::in_little_space;
use harness::virtio::{Answer, Descriptor, Device, Kind, Queue};
use harness::{Need, Random, Scratch, Vmm};
use libtest_mimic::Trial;

use crate::suite::trial;

/// All of them.
pub fn tests() -> Vec<Trial> {
    const KVM: &[Need] = &[Need::Kvm];
    const MOUNTS: &[Need] = &[Need::Kvm, Need::Mounts];
    let mut all = Vec::new();
    for engine in ["sync", "uring"] {
        let name = |test| format!("bare::storage::{engine}::{test}");
        all.push(trial(name("what_is_written_arrives"), KVM, || what_is_written_arrives(engine)));
        all.push(trial(name("file_too_large"), KVM, || file_too_large(engine)));
        all.push(trial(name("no_space_left"), MOUNTS, || no_space_left(engine)));
    }
    let name = |test| format!("bare::storage::overlay::{test}");
    all.push(trial(name("image_stays_as_it_is"), KVM, image_stays_as_it_is));
    all.push(trial(name("no_space_left"), MOUNTS, no_space_for_an_overlay));
    all.push(trial(name("kill_keeps_what_was_flushed"), KVM, kill_keeps_what_was_flushed));
    all
}

const SECTOR: u64 = 512;
/// `VIRTIO_BLK_T_*` (virtio 1.3, 5.2.6)
pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
/// Features: flush, several queues, discard.
const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
pub(super) const OK: u8 = 0;
const IO_ERROR: u8 = 1;

/// Requests at a time on each queue.
const DEPTH: u32 = 32;
/// Most data of one request.
const LARGEST: u32 = 32 << 10;
/// Where headers, statuses and data lie, behind the rings of [`Queue`].
const HEADERS: u32 = FREE_MEMORY + 0x10_0000;
const STATUSES: u32 = HEADERS + 0x1_0000;
pub(super) const DATA: u32 = FREE_MEMORY + 0x20_0000;

/// A driver with two queues of a disk, and many requests at a time.
pub(super) struct Disk<'p> {
    puppet: &'p Puppet,
    queues: Vec<Queue<'p>>,
}

/// A transfer between sectors and the buffer of a slot, of which no two at a time may be the same.
#[derive(Clone, Copy)]
struct Transfer {
    slot: u32,
    sector: u64,
    len: u32,
}

impl<'p> Disk<'p> {
    pub(super) fn ready(puppet: &'p Puppet) -> Self {
        let device = Device::find(puppet, Kind::Block);
        let offered = device.offered();
        device.negotiate(offered & (F_FLUSH | F_MQ | F_DISCARD));
        let count = if offered & F_MQ != 0 { 2 } else { 1 };
        let queues = (0..count).map(|index| {
            let mut queue = Queue::new(device, index);
            queue.size = 128;
            queue.clear();
            queue.register();
            queue
        });
        let queues = queues.collect();
        device.driver_ok();
        Self { puppet, queues }
    }

    /// Makes one request per transfer, all at the same time, the queues in turns; the statuses.
    fn all_at_once(&mut self, kind: u32, transfers: &[Transfer]) -> Vec<u8> {
        let write = kind == IN;
        let queues = u32::try_from(self.queues.len()).unwrap();
        let mut headers = Vec::new();
        for Transfer { sector, .. } in transfers {
            headers.extend(u64::from(kind).to_le_bytes());
            headers.extend(sector.to_le_bytes());
        }
        self.puppet.store(HEADERS, &headers);
        self.puppet.store(STATUSES, &vec![0x77; transfers.len()]);
        let mut chains: Vec<Vec<Descriptor>> = self.queues.iter().map(|_| Vec::new()).collect();
        for (number, &Transfer { slot, len, .. }) in (0..).zip(transfers) {
            let chain = &mut chains[(number % queues) as usize];
            let next = u16::try_from(chain.len()).unwrap() + 1;
            // In two pieces of odd lengths, where there is data.
            let cut = (len / 3) | 1;
            let at = DATA + slot * LARGEST;
            let data = |at, len| match write {
                true => Descriptor::writable(at, len),
                false => Descriptor::readable(at, len),
            };
            chain.push(Descriptor::readable(HEADERS + 16 * number, 16).then(next));
            chain.push(data(at, cut).then(next + 1));
            chain.push(data(at + cut, len - cut).then(next + 2));
            chain.push(Descriptor::writable(STATUSES + number, 1));
        }
        for (queue, chain) in self.queues.iter_mut().zip(&chains) {
            queue.describe(chain);
            for head in (0..chain.len()).step_by(4) {
                queue.offer(u16::try_from(head).unwrap());
            }
            queue.kick();
        }
        for (queue, chain) in self.queues.iter_mut().zip(&chains) {
            for _ in 0..chain.len() / 4 {
                assert!(matches!(queue.answer(), Answer::Used(..)), "the device gave up");
            }
        }
        self.puppet.load(STATUSES, u32::try_from(transfers.len()).unwrap())
    }

    pub(super) fn one(&mut self, kind: u32, sector: u64, len: u32) -> u8 {
        self.all_at_once(kind, &[Transfer { slot: 0, sector, len }])[0]
    }

    fn discard(&mut self, sector: u64, sectors: u32) -> u8 {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(sectors.to_le_bytes());
        range.extend([0; 4]);
        self.puppet.store(DATA, &range);
        self.one(DISCARD, 0, 16)
    }
}

/// A machine of 32 MiB with one disk, and its driver.
fn with_disk(vmm: Vmm, path: &Path, options: &str, test: impl FnOnce(&mut Disk<'_>)) {
    let puppet = Puppet::start(vmm.args(["--rng", "off"]).disk(path, options));
    test(&mut Disk::ready(&puppet));
    puppet.finish();
}

/// The guest copies what the host put on the disk from place to place, in pieces of all sizes, 64 at a time on two
/// queues: the host does the same in its memory and compares at the end.
fn what_is_written_arrives(engine: &'static str) {
    const LEN: usize = 8 << 20;
    const ROUNDS: usize = 4;
    let scratch = Scratch::new();
    let mut model = noise(LEN);
    let path = scratch.file("disk", &model);
    let mut random = Random::new(7);
    with_disk(Vmm::puppet(""), &path, &format!(",queues=2,engine={engine}"), |disk| {
        for _ in 0..ROUNDS {
            let (from, to) = plan(&mut random, LEN as u64);
            assert_eq!(disk.all_at_once(IN, &from), vec![OK; from.len()]);
            let mut order = to.clone();
            random.shuffle(&mut order);
            assert_eq!(disk.all_at_once(OUT, &order), vec![OK; to.len()]);
            let copy = model.clone();
            for (from, to) in from.iter().zip(&to) {
                let (start, end) = (from.sector * SECTOR, to.sector * SECTOR);
                let len = from.len as usize;
                let data = &copy[start as usize..][..len];
                model[end as usize..][..len].copy_from_slice(data);
            }
        }
    });
    let found = fs::read(&path).unwrap();
    let differs = found.iter().zip(&model).position(|(a, b)| a != b);
    assert_eq!((found.len(), differs), (LEN, None));
}

/// Where to read and where to write the same length. No two writes touch each other.
fn plan(random: &mut Random, len: u64) -> (Vec<Transfer>, Vec<Transfer>) {
    let slots = 2 * DEPTH;
    let share = len / u64::from(slots) / SECTOR;
    let mut places: Vec<u64> = (0..slots.into()).map(|index| index * share).collect();
    random.shuffle(&mut places);
    let transfers = (0..slots).zip(places).map(|(slot, place)| {
        let sectors = 1 + random.below(u64::from(LARGEST) / SECTOR);
        let bytes = u32::try_from(sectors * SECTOR).unwrap();
        let from = random.below(len / SECTOR - sectors);
        let to = place + random.below(share - sectors);
        (Transfer { slot, sector: from, len: bytes }, Transfer { slot, sector: to, len: bytes })
    });
    transfers.unzip()
}

/// The host does not let the file be written beyond a size, which is a signal as well as an error.
fn file_too_large(engine: &'static str) {
    const LIMIT: u64 = 1 << 20;
    let scratch = Scratch::new();
    let path = scratch.sparse_file("disk", 2 * LIMIT);
    let vmm = Vmm::puppet("").confined(Confinement::Limit(libc::RLIMIT_FSIZE, LIMIT));
    with_disk(vmm, &path, &format!(",engine={engine}"), |disk| {
        assert_eq!(disk.one(OUT, LIMIT / SECTOR, 4096), IO_ERROR);
        // Part of it fits, which is not enough.
        assert_eq!(disk.one(OUT, LIMIT / SECTOR - 4, 4096), IO_ERROR);
        let transfers = (0..DEPTH).map(|slot| {
            let half = if slot % 2 == 0 { 0 } else { LIMIT };
            Transfer { slot, sector: half / SECTOR + 64 * u64::from(slot), len: 4096 }
        });
        let statuses = disk.all_at_once(OUT, &transfers.collect::<Vec<_>>());
        for (slot, status) in statuses.into_iter().enumerate() {
            assert_eq!(status, if slot % 2 == 0 { OK } else { IO_ERROR }, "slot {slot}");
        }
        assert_eq!(disk.one(IN, LIMIT / SECTOR, 4096), OK);
    });
}

/// The disk is larger than the space that its file system has: writes fail when that is used up, reads do not, and
/// writes work again once the guest has discarded something.
fn no_space_left(engine: &'static str) {
    const SPACE: u64 = 1 << 20;
    let scratch = Scratch::new();
    let directory = scratch.path().to_owned();
    in_little_space(&directory.clone(), SPACE, move || {
        let path = directory.join("disk");
        fs::File::create(&path).and_then(|file| file.set_len(4 * SPACE)).unwrap();
        with_disk(Vmm::puppet(""), &path, &format!(",engine={engine}"), |disk| {
            let write = |disk: &mut Disk<'_>, first: u64| {
                let transfers = (0..DEPTH).map(|slot| Transfer {
                    slot,
                    sector: (first + u64::from(slot)) * 64,
                    len: LARGEST,
                });
                disk.all_at_once(OUT, &transfers.collect::<Vec<_>>())
            };
            // 32 times 32 KiB are the space; how much of it the file system needs itself is its own affair.
            let statuses = [write(disk, 0), write(disk, 32)].concat();
            let worked = statuses.iter().filter(|&&status| status == OK).count();
            assert!((16..=32).contains(&worked), "{worked} of 64 writes worked: {statuses:?}");
            assert!(statuses.iter().all(|&status| status == OK || status == IO_ERROR));
            let full = statuses.iter().position(|&status| status == IO_ERROR).unwrap() as u64;
            assert_eq!(disk.one(IN, full * 64, LARGEST), OK, "a hole reads as zeroes");
            assert_eq!(disk.discard(0, 64 * 8), OK);
            assert_eq!(disk.one(OUT, full * 64, LARGEST), OK);
        });
    });
}

/// Two machines at a time, and one after another, write to one image, which none of them changes.
fn image_stays_as_it_is() {
    let scratch = Scratch::new();
    let image = noise(1 << 20);
    let path = scratch.file("disk", &image);
    let kept = scratch.path().join("kept");
    let keeps = format!(",snapshot=overlay,overlay={}", kept.display());
    let fill = |disk: &mut Disk<'_>, byte: u8| {
        disk.puppet.store(DATA, &[byte; 512]);
        assert_eq!(disk.one(OUT, 8, 512), OK);
    };
    let found = |disk: &mut Disk<'_>| {
        assert_eq!(disk.one(IN, 8, 512), OK);
        disk.puppet.load(DATA, 512)
    };
    with_disk(Vmm::puppet(""), &path, ",queues=2,snapshot=overlay", |thrown_away| {
        fill(thrown_away, 1);
        with_disk(Vmm::puppet(""), &path, &keeps, |kept| {
            assert!(found(kept) == image[8 * 512..][..512]);
            fill(kept, 2);
        });
        assert_eq!(found(thrown_away), [1; 512]);
    });
    with_disk(Vmm::puppet(""), &path, &keeps, |disk| assert_eq!(found(disk), [2; 512]));
    assert!(fs::read(&path).unwrap() == image);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2, "the image and what is kept");
    // Another image than the overlay's.
    let other = scratch.file("other", noise(2 << 20));
    let end = Vmm::puppet("").disk(&other, &keeps).run();
    end.expect_code(152).expect_one_line(&["kept", "1048576 bytes", "2097152"]);
}

/// What does not fit is an error to the guest, and what was there before is there afterwards.
fn no_space_for_an_overlay() {
    const SPACE: u64 = 1 << 20;
    let scratch = Scratch::new();
    let directory = scratch.path().to_owned();
    let image = scratch.sparse_file("image", 4 * SPACE);
    let little = directory.join("little");
    fs::create_dir(&little).unwrap();
    in_little_space(&little.clone(), SPACE, move || {
        let options = format!(",snapshot=overlay,overlay={}", little.join("kept").display());
        let write = |disk: &mut Disk<'_>, cluster: u64| disk.one(OUT, cluster * 128, LARGEST);
        let mut worked = 0;
        with_disk(Vmm::puppet(""), &image, &options, |disk| {
            disk.puppet.store(DATA, &[7; LARGEST as usize]);
            while write(disk, worked) == OK {
                worked += 1;
            }
            assert!((4..16).contains(&worked), "{worked} clusters fit");
            assert_eq!(disk.one(IN, worked * 128, LARGEST), OK, "the image is still there");
            assert_eq!(disk.one(FLUSH, 0, 16), OK);
        });
        with_disk(Vmm::puppet(""), &image, &options, |disk| {
            for cluster in 0..worked {
                assert_eq!(disk.one(IN, cluster * 128 + 63, 512), OK);
                assert_eq!(disk.puppet.load(DATA, 512), [7; 512]);
            }
        });
    });
}

/// The process is killed after the guest has flushed some of what it wrote.
fn kill_keeps_what_was_flushed() {
    const SECTORS: u64 = 16;
    let scratch = Scratch::new();
    let image = scratch.sparse_file("image", 2 << 20);
    let options = format!(",overlay={}", scratch.path().join("kept").display());
    // What each sector may hold: what was flushed last, and what was written since.
    let mut known: Vec<Vec<u8>> = vec![vec![0]; SECTORS as usize];
    let mut random = Random::new(11);
    for round in 1..6_u8 {
        let puppet = Puppet::start(Vmm::puppet("").args(["--rng", "off"]).disk(&image, &options));
        let mut disk = Disk::ready(&puppet);
        for (sector, known) in (0..).zip(&mut known) {
            // Far apart: each in a cluster of its own.
            assert_eq!(disk.one(IN, sector * 256, 512), OK);
            let found = puppet.load(DATA, 512);
            assert!(known.contains(&found[0]), "round {round}, sector {sector}: {}", found[0]);
            assert_eq!(found, vec![found[0]; 512]);
            *known = vec![found[0]];
        }
        let mut write = |disk: &mut Disk<'_>, byte: u8, known: &mut [Vec<u8>]| {
            puppet.store(DATA, &[byte; 512]);
            for _ in 0..5 {
                let sector = random.below(SECTORS);
                assert_eq!(disk.one(OUT, sector * 256, 512), OK);
                known[sector as usize].push(byte);
            }
        };
        write(&mut disk, round, &mut known);
        assert_eq!(disk.one(FLUSH, 0, 16), OK);
        known.iter_mut().for_each(|known| *known = known.split_off(known.len() - 1));
        write(&mut disk, 100 + round, &mut known);
        puppet.release().kill();
    }
}
