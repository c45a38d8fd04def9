//! What a machine costs that does nothing: memory, wake-ups, processor time. Its guest has written a byte and halted.

use std::fs;
use std::thread;
use std::time::Duration;

use harness::artifacts;
use harness::count::{self, Activity, Memory};

use crate::bench::Bench;
use crate::contender::{Contender, MEMORY_MIB, Machine};
use crate::guest::Guest;
use crate::stats::Samples;
use crate::table::{Outcome, Row, Unit};

const MIB: f64 = 1_048_576.0;
/// How long idleness is watched.
const IDLE: Duration = Duration::from_secs(10);
/// What a process may need to come to rest after its guest did.
const SETTLE: Duration = Duration::from_millis(300);
/// How many machines run side by side.
const CROWD: usize = 100;
/// How often they do, for the host's other processes take and free memory meanwhile.
const CROWDS: usize = 3;

/// The rows about idle machines.
pub fn rows(bench: &Bench) -> Vec<Row> {
    if !bench.wants("idle") {
        return Vec::new();
    }
    let [ours, floor, qemu] =
        [Contender::Vmm, Contender::Floor, Contender::Qemu].map(|who| footprint(&who));
    let part = |memory: &Result<Memory, String>, part: fn(&Memory) -> u64| -> Outcome {
        memory.as_ref().map(|memory| one(part(memory) as f64)).map_err(String::clone)
    };
    let memory = |metric, value: fn(&Memory) -> u64, most| Row {
        floor: Some(part(&floor, value)),
        qemu: Some(part(&qemu, value)),
        ..Row::alone(metric, Unit::Size, part(&ours, value), most)
    };
    let mut rows = vec![
        memory("memory: private, beside guest RAM", |m| m.private, 1.5 * MIB),
        memory("memory: resident, beside guest RAM", |m| m.resident, 3.0 * MIB),
    ];
    rows.extend(idle_rows());
    rows.push(Row {
        qemu: Some(crowds(&Contender::Qemu, 1)),
        ..Row::alone(
            "memory: each of 100 idle machines, all in",
            Unit::Size,
            crowds(&Contender::Vmm, CROWDS),
            3.0 * MIB,
        )
    });
    let len = fs::metadata(artifacts::vmm()).map(|file| one(file.len() as f64));
    rows.push(Row::alone(
        "size of the binary",
        Unit::Size,
        len.map_err(|e| e.to_string()),
        3.0 * MIB,
    ));
    rows
}

/// Of the second of two machines: what those share is not private.
fn footprint(contender: &Contender) -> Result<Memory, String> {
    let _first = halted(contender)?;
    let guest = halted(contender)?;
    thread::sleep(SETTLE);
    Ok(count::memory(guest.pid(), u64::from(MEMORY_MIB) << 20))
}

/// Both are watched at the same time.
fn idle_rows() -> [Row; 2] {
    let guests = [Contender::Vmm, Contender::Qemu].map(|contender| halted(&contender));
    let activity = |guest: &Result<Guest, String>| -> Result<Activity, String> {
        Ok(count::activity(guest.as_ref().map_err(String::clone)?.pid()))
    };
    thread::sleep(SETTLE);
    let before = guests.each_ref().map(activity);
    thread::sleep(IDLE);
    let [ours, qemu] = [0, 1].map(|who| -> Result<Activity, String> {
        let (before, after) = (before[who].clone()?, activity(&guests[who])?);
        let wakeups = after.wakeups - before.wakeups;
        Ok(Activity { wakeups, cpu_ns: after.cpu_ns - before.cpu_ns })
    });
    let row = |metric, unit, value: fn(Activity) -> f64| Row {
        qemu: Some(qemu.clone().map(|activity| one(value(activity)))),
        ..Row::alone(metric, unit, ours.clone().map(|activity| one(value(activity))), 0.0)
    };
    [
        row("idle: wake-ups in 10 s", Unit::Count, |activity| activity.wakeups as f64),
        row("idle: processor time in 10 s", Unit::Time, |activity| activity.cpu_ns as f64 / 1e9),
    ]
}

/// The memory that the host has less for each machine: the kernel's part and the guest's pages included.
fn crowds(contender: &Contender, times: usize) -> Outcome {
    (0..times).map(|_| crowd(contender)).collect()
}

fn crowd(contender: &Contender) -> Result<f64, String> {
    let before = available_memory()?;
    let guests: Result<Vec<Guest>, String> = (0..CROWD).map(|_| halted(contender)).collect();
    let guests = guests?;
    thread::sleep(SETTLE);
    let after = available_memory()?;
    drop(guests);
    // Below zero when others give memory back, which must show.
    Ok((before as f64 - after as f64) / CROWD as f64)
}

/// Bytes that new programs could have.
fn available_memory() -> Result<u64, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|e| format!("/proc/meminfo: {e}"))?;
    available_in(&text).ok_or_else(|| "/proc/meminfo tells no available memory".to_owned())
}

fn available_in(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(value.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

fn halted(contender: &Contender) -> Result<Guest, String> {
    let machine = Machine { kernel: artifacts::first_guest(), ..Machine::default() };
    let mut guest = Guest::run(&mut contender.command(&machine))?;
    guest.expect(b'S')?;
    Ok(guest)
}

fn one(value: f64) -> Samples {
    [value].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_what_the_kernel_says() {
        let text = "MemTotal: 9 kB\nMemFree:  7 kB\nMemAvailable:   12 kB\n";
        assert_eq!(available_in(text), Some(12 << 10));
        assert_eq!(available_in("MemFree: 7 kB\n"), None);
    }
}
