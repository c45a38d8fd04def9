//! Each system call of a start fails once, with each error in turn: the machine starts all the same, or the process ends
//! with one line that says why. Nothing stays behind either way, and nothing waits for ever.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use harness::network::{in_own_network, interfaces};
use harness::{Need, Scratch, Vmm};
use libtest_mimic::Trial;

use crate::suite::trial;

const ERRORS: [&str; 5] = ["ENOMEM", "EIO", "EMFILE", "EINTR", "EAGAIN"];

/// Calls that are left alone, and why.
const SPARED: &[(&str, &str)] = &[
    ("execve", "without it there is no process"),
    ("brk", "it has no errors: the answer is the new end of the heap, or the old one"),
    ("futex", "waking others has no errors, and a wait is taken up again"),
    ("getrandom", "the standard library's, for a few bytes, which a kernel that runs programs has"),
];

/// Runs at the same time.
const WORKERS: usize = 2;
/// Calls that a start has at least; fewer would mean that the trace was not understood.
const CALLS_AT_LEAST: usize = 80;

/// All of them.
pub fn tests() -> Vec<Trial> {
    const NEEDS: &[Need] = &[Need::Kvm, Need::Network, Need::Strace];
    vec![trial("bare::faults::each_call_of_a_start", NEEDS, each_call_of_a_start)]
}

/// A failure of one call: its name, which one of that name in its thread, and the error.
#[derive(Debug, Clone)]
struct Fault {
    call: String,
    when: usize,
    error: &'static str,
}

fn each_call_of_a_start() {
    let faults: Vec<Fault> = in_own_network(|| faults(&calls()));
    let count = faults.len();
    let left = Arc::new(Mutex::new(faults));
    let sweep = || {
        let left = left.clone();
        thread::spawn(|| in_own_network(move || run_all(&left)))
    };
    let workers: Vec<_> = (0..WORKERS).map(|_| sweep()).collect();
    let mut sum = Tally::default();
    for worker in workers {
        sum.add(worker.join().expect("a worker does not panic"));
    }
    let Tally { survived, refused, wrong } = sum;
    println!("faults: {count} runs: {survived} survived, {refused} refused, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(survived > 0 && refused > 0, "nothing failed at all");
}

#[derive(Default)]
struct Tally {
    survived: usize,
    refused: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.survived += other.survived;
        self.refused += other.refused;
        self.wrong.extend(other.wrong);
    }
}

/// A machine with something of everything, whose guest ends at once.
fn machine(scratch: &Scratch) -> Vmm {
    Vmm::puppet("mute exit=0")
        .inside(scratch)
        .disk("disk", "")
        .args(["--net", "tap=tap0", "--vsock", "socket=vsock", "--api-sock", "api"])
        // A call that is made to fail has no number any more, which no filter lets pass.
        .args(["--serial", "off", "--seccomp", "log"])
}

/// How often each call is made until the guest runs, by the thread that makes it most often: a fault is counted for each
/// thread by itself.
fn calls() -> BTreeMap<String, usize> {
    let scratch = Scratch::new();
    scratch.sparse_file("disk", 1 << 20);
    let trace = scratch.join("trace").display().to_string();
    machine(&scratch).under(&["strace", "-f", "-qq", "-o", &trace]).run().expect_code(0);
    let text = fs::read_to_string(&trace).unwrap();
    let end = text.find("KVM_RUN").unwrap_or_else(|| panic!("no vCPU ran:\n{text}"));
    let mut by_thread = BTreeMap::<(&str, &str), usize>::new();
    for line in text[..end].lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        // What is no call begins with "<" or "+" or "-".
        if name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            *by_thread.entry((thread, name)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, name), count) in by_thread {
        let known = most.entry(name.to_owned()).or_insert(0);
        *known = count.max(*known);
    }
    let total: usize = most.values().sum();
    assert!(total >= CALLS_AT_LEAST, "only {total} calls: {most:?}");
    most
}

fn faults(calls: &BTreeMap<String, usize>) -> Vec<Fault> {
    let mut all = Vec::new();
    for (call, &count) in calls {
        if SPARED.iter().any(|(name, _)| name == call) {
            continue;
        }
        for when in 1..=count {
            all.extend(ERRORS.map(|error| Fault { call: call.clone(), when, error }));
        }
    }
    all
}

fn run_all(left: &Mutex<Vec<Fault>>) -> Tally {
    let mut tally = Tally::default();
    loop {
        let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(fault) = next else { return tally };
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&fault)));
        match outcome.unwrap_or_else(|_| Err("it does not end".to_owned())) {
            Ok(true) => tally.survived += 1,
            Ok(false) => tally.refused += 1,
            Err(what) => tally.wrong.push(format!("{fault:?}: {what}")),
        }
    }
}

/// Whether the guest ran all the same; what is wrong, if anything is.
fn run(fault: &Fault) -> Result<bool, String> {
    let Fault { call, when, error } = fault;
    let scratch = Scratch::new();
    scratch.sparse_file("disk", 1 << 20);
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:error={error}:when={when}");
    let tool = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let end = machine(&scratch).under(&tool).run();
    // What is logged besides has a name in brackets.
    let said: Vec<_> = end.stderr.lines().filter(|line| !line.starts_with("vmm[")).collect();
    // Before the program begins, the C library has its own words and exit code.
    let is_known = |line: &str| line.starts_with("vmm: ") || end.code == Some(127);
    let is_one_line = said.len() == 1 && is_known(said[0]);
    if end.code.is_none() {
        return Err(format!("killed by signal {:?}: {}", end.signal, end.stderr));
    }
    if !is_one_line {
        return Err(format!("not one line: {}", end.stderr));
    }
    // A file that could not be removed stays.
    let files = scratch.names();
    if files != ["disk"] && call != "unlink" {
        return Err(format!("left behind: {files:?}; {}", end.stderr));
    }
    if interfaces() != ["lo"] {
        return Err(format!("left behind: {:?}", interfaces()));
    }
    Ok(end.code == Some(0))
}
