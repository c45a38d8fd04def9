//! What a machine costs that does nothing: memory, wake-ups, processor time. Its guest has written a byte and halted.

use std::fs;
use std::thread;
use std::time::Duration;

use harness::artifacts;

use crate::bench::Bench;
use crate::contender::{Contender, Machine};
use crate::guest::Guest;
use crate::proc::{self, Footprint, Work};
use crate::stats::Samples;
use crate::table::{Outcome, Row, Unit};

const MIB: f64 = 1_048_576.0;
/// How long idleness is watched.
const IDLE: Duration = Duration::from_secs(10);
/// What a process may need to come to rest after its guest did.
const SETTLE: Duration = Duration::from_millis(300);
/// How many machines run side by side.
const CROWD: usize = 100;

/// The rows about idle machines.
pub fn rows(_: &Bench) -> Vec<Row> {
    let [ours, floor, qemu] =
        [Contender::Vmm, Contender::Floor, Contender::Qemu].map(|who| footprint(&who));
    let part = |outcome: &Result<Footprint, String>, part: fn(&Footprint) -> u64| -> Outcome {
        outcome.as_ref().map(|footprint| one(part(footprint) as f64)).map_err(String::clone)
    };
    let memory = |metric, value: fn(&Footprint) -> u64, most| Row {
        floor: Some(part(&floor, value)),
        qemu: Some(part(&qemu, value)),
        ..Row::alone(metric, Unit::Size, part(&ours, value), most)
    };
    let mut rows = vec![
        memory("memory: private, beside guest RAM", |f| f.private, 1.5 * MIB),
        memory("memory: resident, beside guest RAM", |f| f.resident, 3.0 * MIB),
    ];
    rows.extend(idle_rows());
    rows.push(Row {
        qemu: Some(crowd(&Contender::Qemu)),
        ..Row::alone(
            "memory: each of 100 idle machines",
            Unit::Size,
            crowd(&Contender::Vmm),
            3.0 * MIB,
        )
    });
    let len = fs::metadata(artifacts::vmm()).map(|file| one(file.len() as f64));
    let len = len.map_err(|e| e.to_string());
    rows.push(Row::alone("size of the binary", Unit::Size, len, 3.0 * MIB));
    rows
}

/// Of the second of two machines: what those share is not private.
fn footprint(contender: &Contender) -> Result<Footprint, String> {
    let _first = halted(contender)?;
    let guest = halted(contender)?;
    thread::sleep(SETTLE);
    proc::footprint(guest.pid())
}

/// Both are watched at the same time.
fn idle_rows() -> [Row; 2] {
    let guests = [Contender::Vmm, Contender::Qemu].map(|contender| halted(&contender));
    thread::sleep(SETTLE);
    let look =
        || guests.each_ref().map(|guest| proc::work(guest.as_ref().map_err(String::clone)?.pid()));
    let before = look();
    thread::sleep(IDLE);
    let after = look();
    let [ours, qemu]: [Result<Work, String>; 2] =
        [0, 1].map(|who| Ok(after[who].clone()?.since(before[who].clone()?)));
    let wakeups = |work: &Result<Work, String>| work.clone().map(|work| one(work.wakeups as f64));
    let time = |work: &Result<Work, String>| work.clone().map(|work| one(work.time.as_secs_f64()));
    [
        Row {
            qemu: Some(wakeups(&qemu)),
            ..Row::alone("idle: wake-ups in 10 s", Unit::Count, wakeups(&ours), 0.0)
        },
        Row {
            qemu: Some(time(&qemu)),
            ..Row::alone("idle: processor time in 10 s", Unit::Time, time(&ours), 0.0)
        },
    ]
}

/// The memory that the host has less for each machine, the kernel's part and the guest's pages included.
fn crowd(contender: &Contender) -> Outcome {
    let before = proc::available_memory()?;
    let guests: Result<Vec<Guest>, String> = (0..CROWD).map(|_| halted(contender)).collect();
    let _guests = guests?;
    thread::sleep(SETTLE);
    let used = before.saturating_sub(proc::available_memory()?);
    Ok(one(used as f64 / CROWD as f64))
}

fn halted(contender: &Contender) -> Result<Guest, String> {
    let machine = Machine { kernel: artifacts::first_guest(), ..Machine::default() };
    let mut guest = Guest::start(contender, &machine)?;
    guest.expect(b'S')?;
    Ok(guest)
}

fn one(value: f64) -> Samples {
    [value].into_iter().collect()
}
