//! A disk with requests on the ring and at the host goes on elsewhere, on a copy of its file.

use super::super::{Block, BlockOptions};
use super::support::*;
use crate::backend::disk::io::Engine;
use crate::test_util::Random;
use crate::test_util::life::{Life, is_never_noticed};
use crate::virtio::feature;

/// Requests that are on the ring at a time, three descriptors each.
const AT_ONCE: usize = 5;
const SECTORS_EACH: u64 = 8;
const LEN: usize = 512 * 8;
/// Bytes of the disk.
const DISK: usize = 1 << 20;

struct Transfers {
    rig: Rig,
    setup: Setup,
    /// Every request so far, whether it reads, and where its data is.
    sent: Vec<(Sent, u32, u64)>,
    answered: usize,
}

impl Transfers {
    fn begin(engine: Engine, features: u64) -> Self {
        let setup = Setup { features: F_ALL | features, ..Setup::engine(engine) };
        let rig = setup.start();
        let bytes: Vec<u8> = (0..DISK).map(|i| (i / 512 % 251).to_le_bytes()[0]).collect();
        rig.fill_disk(0, &bytes);
        Self { rig, setup, sent: Vec::new(), answered: 0 }
    }

    fn run(&mut self) {
        assert!(self.rig.running.host.run(), "the device failed");
    }

    /// Waits for all answers: how soon they come is the host's business, and nothing may depend on it.
    fn take_answers(&mut self) {
        for _ in 0..1_000_000 {
            self.run();
            self.answered += self.rig.running.queues[0].take_used().len();
            if self.answered >= self.sent.len() {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(self.answered, self.sent.len(), "each is answered once");
    }
}

impl Life for Transfers {
    /// Statuses, what was read, and the disk.
    type Outcome = (Vec<u8>, Vec<Vec<u8>>, Vec<u8>);

    fn step(&mut self, random: &mut Random) {
        let kind = random.of(&[IN, IN, OUT, OUT, OUT, FLUSH, GET_ID]);
        let filling = random.below(255_u8);
        let then = random.below(4_u32);
        if self.sent.len() - self.answered < AT_ONCE {
            let number = self.sent.len() as u64;
            let data = DATA + LEN as u64 * number;
            // No two at the same place: their order is anybody's.
            let sector = SECTORS_EACH * number;
            self.rig.put(data, &vec![filling; LEN]);
            let len = u32::try_from(LEN).unwrap();
            let buffers = match kind {
                FLUSH => vec![],
                GET_ID => vec![(data, 20, true)],
                _ => vec![(data, len, kind == IN)],
            };
            let sent = self.rig.send(kind, sector, &buffers);
            self.sent.push((sent, kind, data));
            let has_event_idx = self.setup.features & feature::EVENT_IDX != 0;
            self.rig.running.kick_if_wanted(0, 1, has_event_idx);
        }
        match then {
            0 => self.run(),
            1 => self.take_answers(),
            _ => {}
        }
    }

    fn copy(&mut self) -> Self {
        let file = temp_disk(SECTORS);
        let setup = Setup { features: self.setup.features, ..Setup::engine(self.setup.engine) };
        let block = Block::new(setup.options(&file));
        let rig = self.rig.copy(block, file);
        rig.fill_disk(0, &self.rig.on_disk(0, DISK));
        Self { rig, setup, sent: self.sent.clone(), answered: self.answered }
    }

    fn end(mut self) -> Self::Outcome {
        self.take_answers();
        self.run();
        assert_eq!(self.rig.running.queues[0].take_used(), [], "nothing twice");
        let statuses = self.sent.iter().map(|(sent, ..)| self.rig.status(*sent)).collect();
        let reads = self.sent.iter().filter(|(_, kind, _)| [IN, GET_ID].contains(kind));
        let reads = reads.map(|(_, _, data)| self.rig.get(*data, LEN)).collect();
        (statuses, reads, self.rig.on_disk(0, DISK))
    }
}

#[test]
fn requests_are_answered_once_wherever_the_device_is_saved() {
    for engine in [Engine::Sync, Engine::IoUring] {
        for features in [0, feature::EVENT_IDX] {
            is_never_noticed(1..2, || Transfers::begin(engine, features));
        }
    }
}

#[test]
fn what_the_host_does_not_finish_keeps_the_device_from_being_saved() {
    let (mut rig, script) = Setup::default().start_scripted();
    rig.send(IN, 0, &[(DATA, 512, true)]);
    assert!(rig.running.kick(0));
    script.lock().cannot_wait = true;
    rig.running.transport.pause();
    let error = rig.running.transport.save().unwrap_err();
    assert_eq!(error.to_string(), "the device is not at rest");
    rig.running.transport.resume();
    script.end(0, Ok(512));
    assert!(rig.running.host.run());
    assert_eq!(rig.running.queues[0].take_used().len(), 1);
}

#[test]
fn a_disk_that_became_larger_is_another_one_to_the_driver() {
    let mut parent = Setup::default().start();
    let file = temp_disk(2 * SECTORS);
    let options: BlockOptions = Setup::default().options(&file);
    let copy = parent.copy(Block::new(options), file);
    let mut capacity = [0; 8];
    copy.running.transport.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 2 * SECTORS);
    assert_eq!(copy.running.transport.interrupt().status(), 3);
    assert_eq!(copy.running.line.edges(), 1);
}

#[test]
fn a_disk_that_cannot_be_written_is_not_the_one_that_could() {
    let mut parent = Setup::default().start();
    parent.running.transport.pause();
    let state = parent.running.transport.save().unwrap();
    let mut other = Setup { read_only: true, ..Setup::default() }.start();
    other.running.transport.reset();
    let error = other.running.transport.restore(&state).unwrap_err().to_string();
    assert!(error.starts_with("the guest uses features 0x6000, which"), "{error}");
}
