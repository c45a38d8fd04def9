//! Disks and network cards at work: requests each second from a guest that does nothing else.

use std::time::Duration;

use harness::artifacts;

use crate::bench::{Bench, DISK};
use crate::contender::{Contender, Machine};
use crate::flood::Flood;
use crate::guest::Guest;
use crate::host;
use crate::table::{Outcome, Rival, Row, Target, Unit};

/// What a guest does to its device.
#[derive(Clone, Copy)]
pub enum Job {
    /// Reads or writes of `size` bytes, `depth` at a time.
    Block { is_write: bool, size: u64, depth: u64, batches: u64 },
    /// Frames from the guest to the tap, 128 at a time.
    Send { size: usize, is_gso: bool, batches: u64 },
    /// Frames from the tap to the guest, in rounds: the frames of one wait in the tap when the clock starts.
    Receive { size: usize, is_gso: bool, frames: u64, rounds: u64 },
}

/// How many frames are on their way at a time, at most.
const SEND_DEPTH: u64 = 128;

/// The rows about disks.
pub fn block_rows(bench: &Bench) -> Vec<Row> {
    let read = |size, depth, batches| Job::Block { is_write: false, size, depth, batches };
    let write = |size, depth, batches| Job::Block { is_write: true, size, depth, batches };
    let at_least = |times| Target::LeastTimes(times, Rival::Qemu);
    let jobs = [
        ("block: 4 KiB reads, depth 64", read(4 << 10, 64, 2000), at_least(2.0)),
        ("block: 64 KiB reads, depth 64", read(64 << 10, 64, 500), at_least(1.3)),
        ("block: 64 KiB writes, depth 64", write(64 << 10, 64, 100), at_least(1.3)),
    ];
    let rows = jobs.into_iter().filter_map(|(metric, job, target)| row(bench, metric, job, target));
    let lone = read(4 << 10, 1, 10_000);
    let target = Target::MostTimes(1.0, Rival::Qemu);
    rows.chain(row(bench, "block: 4 KiB reads, depth 1, each", lone, target).map(latency)).collect()
}

/// The rows about network cards.
pub fn net_rows(bench: &Bench) -> Vec<Row> {
    let send = |size, is_gso, batches| Job::Send { size, is_gso, batches };
    let receive = |size, is_gso, frames| Job::Receive { size, is_gso, frames, rounds: 50 };
    let at_least = |times| Target::LeastTimes(times, Rival::Qemu);
    let jobs = [
        ("net: 60 B frames sent", send(60, false, 1000), at_least(1.2)),
        ("net: 1514 B frames sent", send(1514, false, 1000), at_least(1.2)),
        ("net: 64 KiB GSO frames sent", send(GSO, true, 250), at_least(1.0)),
        ("net: 60 B frames received", receive(60, false, 2000), at_least(1.2)),
        ("net: 1514 B frames received", receive(1514, false, 2000), at_least(1.2)),
        ("net: 64 KiB GSO frames received", receive(GSO, true, 100), at_least(1.0)),
    ];
    jobs.into_iter().filter_map(|(metric, job, target)| row(bench, metric, job, target)).collect()
}

/// Bytes of the largest frame that TCP makes of 1448-byte segments.
pub const GSO: usize = 14 + 20 + 20 + 45 * 1448;

/// `None` when nobody wants it.
fn row(bench: &Bench, metric: &str, job: Job, target: Target) -> Option<Row> {
    if !bench.wants(metric) {
        return None;
    }
    let entrants = [Contender::Vmm, Contender::Qemu];
    let outcome = job.machine(bench).map(|machine| {
        bench.rounds(bench.device_rounds, &entrants, |contender| {
            let time = run(bench, &mut bench.start(contender, &machine)?, job)?;
            job.settle(bench)?;
            Ok(job.requests() as f64 / time.as_secs_f64())
        })
    });
    let mut outcomes = match outcome {
        Ok(outcomes) => outcomes.into_iter(),
        Err(reason) => vec![Err(reason.clone()), Err(reason)].into_iter(),
    };
    let mut next = || outcomes.next().unwrap_or_else(|| Err("not run".to_owned()));
    Some(Row {
        metric: metric.to_owned(),
        unit: Unit::Rate,
        ours: next(),
        floor: None,
        qemu: Some(next()),
        peers: Vec::new(),
        targets: vec![target],
    })
}

/// The same row with the time of one request instead of requests each second.
fn latency(row: Row) -> Row {
    let turn = |outcome: Outcome| outcome.map(|rates| rates.map(|rate| 1.0 / rate));
    Row { unit: Unit::Time, ours: turn(row.ours), qemu: row.qemu.map(turn), ..row }
}

/// Lets the guest do its job, and gives the time that took by the guest's clock.
pub fn run(bench: &Bench, guest: &mut Guest, job: Job) -> Result<Duration, String> {
    for _ in 0..job.rounds() {
        // A guest that has its answer before it asks does not wait, and so makes the same calls each time.
        let is_prepared = !matches!(job, Job::Receive { .. });
        if is_prepared {
            guest.go()?;
        }
        guest.expect(b'R')?;
        if let Job::Receive { size, is_gso, frames, .. } = job {
            // Room for all, and for what the kernel may add by itself.
            bench.set_queue_len(usize::try_from(frames).unwrap_or(0) + 1000);
            Flood::new(&bench.tap()?, size, is_gso)?.send(frames)?;
        }
        if !is_prepared {
            guest.go()?;
        }
        guest.expect(b'E')?;
    }
    let report = guest.line()?;
    let numbers: Vec<u64> = report.split(' ').filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [done, 0, ticks] if done == job.requests() => Ok(host::duration(ticks)),
        [done, wrong, _] => Err(format!("{done} requests of {}, {wrong} wrong", job.requests())),
        _ => Err(format!("the guest reports {report:?}")),
    }
}

impl Job {
    /// How many requests or frames it is.
    pub fn requests(self) -> u64 {
        match self {
            Self::Block { depth, batches, .. } => depth * batches,
            Self::Send { batches, .. } => SEND_DEPTH * batches,
            Self::Receive { frames, rounds, .. } => frames * rounds,
        }
    }

    /// How often the clock starts and stops.
    fn rounds(self) -> u64 {
        if let Self::Receive { rounds, .. } = self { rounds } else { 1 }
    }

    /// The same with so many requests, or as many as make whole batches.
    pub fn with_requests(self, requests: u64) -> Self {
        match self {
            Self::Block { is_write, size, depth, .. } => {
                Self::Block { is_write, size, depth, batches: requests / depth }
            }
            Self::Send { size, is_gso, .. } => {
                Self::Send { size, is_gso, batches: requests / SEND_DEPTH }
            }
            Self::Receive { size, is_gso, rounds, .. } => {
                Self::Receive { size, is_gso, frames: requests / rounds, rounds }
            }
        }
    }

    /// The machine that does it.
    pub fn machine(self, bench: &Bench) -> Result<Machine, String> {
        let mut machine = Machine { kernel: artifacts::bench_guest(), ..Machine::default() };
        let gso = |is_gso| if is_gso { " gso" } else { "" };
        match self {
            Self::Block { is_write, size, depth, batches } => {
                let job = if is_write { "write" } else { "read" };
                let blocks = DISK / size;
                machine.words =
                    format!("{job} size={size} depth={depth} batches={batches} blocks={blocks}");
                machine.disk = Some(bench.disk());
            }
            Self::Send { size, is_gso, batches } => {
                let gso = gso(is_gso);
                machine.words =
                    format!("send size={size} depth={SEND_DEPTH} batches={batches}{gso}");
                machine.tap = Some(bench.tap()?);
            }
            Self::Receive { size, is_gso, frames, rounds } => {
                let gso = gso(is_gso);
                machine.words = format!("receive size={size} frames={frames} rounds={rounds}{gso}");
                machine.tap = Some(bench.tap()?);
            }
        }
        Ok(machine)
    }

    /// Waits until what the job left to the kernel is done, so that the next one does not pay for it.
    fn settle(self, bench: &Bench) -> Result<(), String> {
        if matches!(self, Self::Block { is_write: true, .. }) {
            let synced = std::fs::File::open(bench.disk()).and_then(|disk| disk.sync_all());
            synced.map_err(|e| format!("disk: {e}"))?;
        }
        Ok(())
    }
}
