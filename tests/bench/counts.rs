//! What does not depend on how fast or how busy the host is: instructions and system calls.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::artifacts;
use harness::count::Calls;

use crate::bench::Bench;
use crate::contender::{Contender, Machine};
use crate::device::{self, Job};
use crate::guest::Guest;
use crate::interrupt;
use crate::stats::Samples;
use crate::table::{Outcome, Row, Unit};

/// How many requests one batch of the block job has.
const DEPTH: u64 = 32;
/// Requests of the shorter of two runs; the longer one has three times as many.
const REQUESTS: u64 = 128 * 16;

/// The rows that are counted.
pub fn rows(bench: &Bench) -> Vec<Row> {
    if !bench.wants("counts") {
        return Vec::new();
    }
    let mut rows = Vec::from(start_rows(bench));
    let block = Job::Block { is_write: false, size: 4 << 10, depth: DEPTH, batches: 0 };
    let [ours, qemu] = both(bench, block);
    rows.push(row("block, depth 32: exits to vmm per request", exits, (&ours, &qemu), 0.0));
    rows.push(row("block, depth 32: system calls per request", calls, (&ours, &qemu), 0.15));
    let send = Job::Send { size: device::GSO, is_gso: true, batches: 0 };
    let [ours, qemu] = both(bench, send);
    rows.push(row("net: system calls per GSO frame sent", calls, (&ours, &qemu), 1.0));
    let receive = Job::Receive { size: device::GSO, is_gso: true, frames: 0, rounds: 16 };
    let [ours, qemu] = both(bench, receive);
    rows.push(row("net: system calls per GSO frame received", calls, (&ours, &qemu), 1.0));
    rows
}

/// Calls that requests cost, and how many requests.
type PerRequest = Result<(Calls, f64), String>;

fn calls((calls, requests): &(Calls, f64)) -> f64 {
    (calls.total() - count(calls, "KVM_RUN")) as f64 / requests
}

/// To two digits: a single exit in thousands of requests is none of theirs.
fn exits((calls, requests): &(Calls, f64)) -> f64 {
    (count(calls, "KVM_RUN") as f64 / requests * 100.0).round() / 100.0
}

fn count(calls: &Calls, name: &str) -> usize {
    calls.by_name.get(name).copied().unwrap_or(0)
}

fn row(
    metric: &str,
    value: fn(&(Calls, f64)) -> f64,
    (ours, qemu): (&PerRequest, &PerRequest),
    most: f64,
) -> Row {
    let outcome = |counted: &PerRequest| -> Outcome {
        counted.as_ref().map(|counted| one(value(counted))).map_err(String::clone)
    };
    Row { qemu: Some(outcome(qemu)), ..Row::alone(metric, Unit::Count, outcome(ours), most) }
}

fn start_rows(bench: &Bench) -> [Row; 3] {
    let first = Machine { kernel: artifacts::first_guest(), ..Machine::default() };
    let whole_life = Machine {
        kernel: artifacts::puppet(),
        words: "mute exit=0".to_owned(),
        ..Machine::default()
    };
    let until_run = |contender: Contender| calls_until_run(bench, &contender, &first);
    let [ours, floor, qemu] = [Contender::Vmm, Contender::Floor, Contender::Qemu].map(until_run);
    let all = |calls: &Result<Calls, String>| -> Outcome {
        calls.as_ref().map(|calls| one(calls.total() as f64)).map_err(String::clone)
    };
    let kvm = |calls: &Result<Calls, String>| -> Outcome {
        calls.as_ref().map(|calls| one(calls.kvm() as f64)).map_err(String::clone)
    };
    let until = |metric, part: &dyn Fn(&Result<Calls, String>) -> Outcome, most| Row {
        floor: Some(part(&floor)),
        qemu: Some(part(&qemu)),
        ..Row::alone(metric, Unit::Count, part(&ours), most)
    };
    [
        Row {
            floor: Some(instructions(&Contender::Floor, &first)),
            ..Row::alone(
                "start: user instructions",
                Unit::Count,
                instructions(&Contender::Vmm, &whole_life),
                250e3,
            )
        },
        until("start: system calls before the guest runs", &all, 110.0),
        until("start: KVM calls among them", &kvm, 25.0),
    ]
}

/// User instructions from exec to the end of a process that ends by itself, by callgrind.
fn instructions(contender: &Contender, machine: &Machine) -> Outcome {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    // The C library looks through the environment, at some hundred instructions for each variable.
    append(&mut command, &contender.command(machine)).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    let child = interrupt::spawn(command.stdout(Stdio::null()).stderr(Stdio::piped()));
    let output = child.and_then(Child::wait_with_output).map_err(|e| format!("valgrind: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let number = collected.and_then(|(_, number)| number.trim().parse().ok());
    number.map(one).ok_or_else(|| format!("callgrind counted nothing: {}", output.status))
}

/// System calls of all threads from exec to the first KVM_RUN.
fn calls_until_run(
    bench: &Bench,
    contender: &Contender,
    machine: &Machine,
) -> Result<Calls, String> {
    let text = traced(bench, contender, machine, |guest| guest.expect(b'S').map(drop))?;
    let until = text.find("KVM_RUN").ok_or("no vCPU ran")?;
    let until = text[..until].rfind('\n').unwrap_or(0);
    Ok(Calls::listed(&text[..until]))
}

/// Calls that requests cost: what a longer run makes more than a shorter one.
fn both(bench: &Bench, job: Job) -> [PerRequest; 2] {
    [Contender::Vmm, Contender::Qemu].map(|contender| {
        let calls = |requests| {
            let job = job.with_requests(requests);
            let machine = job.machine(bench)?;
            let text = traced(bench, &contender, &machine, |guest| {
                device::run(bench, guest, job).map(drop)
            })?;
            Ok::<_, String>(Calls::listed(&text))
        };
        let (short, long) = (calls(REQUESTS)?, calls(3 * REQUESTS)?);
        let (more, requests) = (long.beyond(&short), 2.0 * REQUESTS as f64);
        let listed =
            more.by_name.iter().map(|(name, &n)| format!("{name} {:.3}", n as f64 / requests));
        eprintln!(
            "bench: {} per request: {}",
            contender.name(),
            listed.collect::<Vec<_>>().join(", ")
        );
        Ok((more, requests))
    })
}

/// Runs `machine` under strace until `drive` is done with its guest, and gives the list of its calls.
fn traced(
    bench: &Bench,
    contender: &Contender,
    machine: &Machine,
    drive: impl FnOnce(&mut Guest) -> Result<(), String>,
) -> Result<String, String> {
    let file = bench.scratch.join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&file);
    append(&mut command, &contender.command(machine));
    let mut guest = Guest::run(&mut command)?;
    drive(&mut guest)?;
    // strace writes what it still has when its child ends.
    guest.end_children()?;
    read(&file)
}

fn append<'c>(command: &'c mut Command, other: &Command) -> &'c mut Command {
    command.arg(other.get_program()).args(other.get_args())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn one(value: f64) -> Samples {
    [value].into_iter().collect()
}
