//! What a driver may believe to be on the disk after a flush, whatever order the host works in.
//!
//! The model: what a sync makes durable is what had been written when it began.

use std::collections::BTreeSet;
use std::io;

use super::support::*;
use crate::backend::disk::io::Op;
use crate::test_util::Random;

const SCRIPTS: u64 = 100;
const REQUESTS: u64 = 240;

/// A disk that loses everything but what was synced.
#[derive(Default)]
struct Model {
    written: BTreeSet<u64>,
    durable: BTreeSet<u64>,
    /// For each sync in flight, in order of submission, what had been written when it began.
    syncs: Vec<BTreeSet<u64>>,
    seen: usize,
}

impl Model {
    /// Takes note of syncs that were submitted since the last call.
    fn observe(&mut self, script: &Script) {
        let state = script.lock();
        for op in state.submitted.iter().skip(self.seen) {
            if *op == Op::Sync {
                self.syncs.push(self.written.clone());
            }
        }
        self.seen = state.submitted.len();
    }

    /// Ends one operation in flight, chosen by `random`, perhaps not as hoped.
    fn end_one(&mut self, script: &Script, random: &mut Random) {
        let in_flight = script.lock().in_flight.clone();
        if in_flight.is_empty() {
            return;
        }
        let index = random.below(u32::try_from(in_flight.len()).unwrap()) as usize;
        let (_, op) = in_flight[index];
        if random.one_in(8) {
            script.end(index, Err(io::Error::from_raw_os_error(libc::EINTR)));
            if op == Op::Sync {
                self.syncs.remove(sync_position(&in_flight, index));
            }
            return;
        }
        match op {
            Op::Write { offset, len, .. } if random.one_in(4) && len > 512 => {
                assert_eq!(offset % 1024, 0);
                script.end(index, Ok(512));
            }
            Op::Write { offset, len, .. } => {
                self.written.insert(offset / 1024);
                script.end(index, Ok(len as u64));
            }
            Op::Sync => {
                self.durable.extend(self.syncs.remove(sync_position(&in_flight, index)));
                script.end(index, Ok(0));
            }
            _ => panic!("unexpected {op:?}"),
        }
    }
}

/// Which of the syncs in flight the one at `index` is.
fn sync_position(in_flight: &[(u16, Op)], index: usize) -> usize {
    in_flight[..index].iter().filter(|(_, op)| *op == Op::Sync).count()
}

/// A request that was sent and not answered.
enum Waiting {
    Write { number: u64 },
    Flush { number: u64, answered_before: BTreeSet<u64> },
}

impl Waiting {
    fn number(&self) -> u64 {
        match self {
            Self::Write { number } | Self::Flush { number, .. } => *number,
        }
    }
}

fn run_script(seed: u64, features: u64) -> u64 {
    let mut random = Random::new(seed * 0x9e37_79b9 + 1);
    let (mut rig, script) = Setup { features, ..Setup::default() }.start_scripted();
    let mut model = Model::default();
    let mut waiting: Vec<(Sent, Waiting)> = Vec::new();
    let mut answered = BTreeSet::new();
    let (mut sent, mut flushed) = (0, 0);
    while sent < REQUESTS || !waiting.is_empty() {
        // The driver reuses descriptors in turn: five requests of three may lie behind the oldest.
        let oldest = waiting.first().map_or(sent, |(_, request)| request.number());
        if sent < REQUESTS && sent < oldest + 5 && random.one_in(2) {
            let number = sent;
            waiting.push(if random.one_in(3) {
                let answered_before = answered.clone();
                (rig.send(FLUSH, 0, &[]), Waiting::Flush { number, answered_before })
            } else {
                let buffer = [(DATA, 1024, false)];
                (rig.send(OUT, 2 * number, &buffer), Waiting::Write { number })
            });
            sent += 1;
            rig.running.kick(0);
        } else {
            model.end_one(&script, &mut random);
            rig.running.host.run();
        }
        model.observe(&script);
        for (head, _) in rig.running.queues[0].take_used() {
            let position = waiting.iter().position(|(sent, _)| sent.head == head).unwrap();
            let (sent, request) = waiting.remove(position);
            assert_eq!(rig.status(sent), OK);
            match request {
                Waiting::Write { number } => {
                    assert!(model.written.contains(&number));
                    if features & F_FLUSH == 0 {
                        assert!(model.durable.contains(&number), "write {number} not durable");
                    }
                    answered.insert(number);
                }
                Waiting::Flush { answered_before, .. } => {
                    assert!(answered_before.is_subset(&model.durable), "flush too early");
                    flushed += 1;
                }
            }
        }
    }
    flushed
}

#[test]
fn a_flush_covers_every_write_that_was_answered_before_it() {
    let flushes: u64 = (0..SCRIPTS).map(|seed| run_script(seed, F_FLUSH)).sum();
    assert!(flushes > 20 * SCRIPTS, "the scripts hardly flush");
}

#[test]
fn without_flush_every_write_is_durable_when_it_is_answered() {
    for seed in 0..SCRIPTS / 4 {
        run_script(seed, 0);
    }
}

#[test]
fn without_flush_zeroes_are_durable_too_and_reads_cost_no_sync() {
    let features = F_DISCARD | F_WRITE_ZEROES;
    let (mut rig, script) = Setup { features, ..Setup::default() }.start_scripted();
    rig.put_range(DATA, 8, 8, 0);
    script.lock().at_once.extend([Ok(4096), Ok(0), Ok(512)]);
    assert_eq!(rig.ask(WRITE_ZEROES, 0, &[(DATA, 16, false)]).0, OK);
    assert_eq!(rig.ask(IN, 0, &[(DATA, 512, true)]).0, OK);
    let zero = Op::Zero { offset: 4096, len: 4096, unmap: false };
    let read = Op::Read { offset: 0, start: 0, len: 512 };
    assert_eq!(script.lock().submitted, [zero, Op::Sync, read]);
}
