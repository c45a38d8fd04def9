//! Counts that may not grow unnoticed: what a start, and a machine that does nothing, cost.
//!
//! The machine is the smallest one: one vCPU, 128 MiB, a PVH guest, the serial port on standard output. Counts depend
//! a little on the host's C library and kernel, never on its speed, so each budget has a small margin over what was
//! counted when it was set. A budget is raised only by somebody who can say what is bought with it.

use std::fs;
use std::thread;
use std::time::Duration;

use harness::api::Api;
use harness::{Machine, Need, Scratch, Vmm, artifacts, count};
use libtest_mimic::Trial;

use crate::suite::trial;

/// User instructions of a whole life: exec, start, a guest that ends at once, exit. A third is the parser of the
/// command line, a sixth the program relocating itself.
const INSTRUCTIONS: u64 = 250_000;
/// System calls until the first KVM_RUN, the dynamic loader's none of them.
const CALLS: usize = 106;
/// Those of them that go to KVM: each is work in the kernel, some of it tens of microseconds.
const KVM_CALLS: usize = 22;
/// Memory that one more machine needs beside its guest's, the page tables of the kernel not counted: heap, stacks,
/// relocated data.
const PRIVATE: u64 = 768 << 10;
/// Memory beside the guest's that is in use, the program's own pages included, which all machines share.
const RESIDENT: u64 = 3 << 20;
/// Memory that the API needs beside that: a thread, its stack, the replies that nobody has read.
const API_PRIVATE: u64 = 512 << 10;
/// System calls that the API makes until the first KVM_RUN, but for those that only wait.
const API_CALLS: usize = 28;
/// The program on disk.
const PROGRAM: u64 = 3 << 20;

const RAM: u64 = 128 << 20;

/// All of them.
pub fn tests() -> Vec<Trial> {
    vec![
        trial("bare::budgets::instructions", &[Need::Kvm, Need::Valgrind], instructions),
        trial("bare::budgets::system_calls", &[Need::Kvm, Need::Strace], system_calls),
        trial("bare::budgets::memory", &[Need::Kvm], memory),
        trial("bare::budgets::api_memory", &[Need::Kvm], api_memory),
        trial("bare::budgets::api_calls", &[Need::Kvm, Need::Strace], api_calls),
        trial("bare::budgets::idle_wakeups", &[Need::Kvm], idle_wakeups),
        trial("bare::budgets::program_size", &[], program_size),
    ]
}

fn smallest(words: &str) -> Vmm {
    let vmm = Vmm::new().kernel(artifacts::puppet()).serial("stdio");
    vmm.args(["--memory", "128M", "--rng", "off", "--cmdline", words])
}

/// A machine whose guest has halted for good.
fn halted(vmm: Vmm) -> Machine {
    let mut machine = vmm.spawn();
    machine.wait_for("puppet: \n");
    machine.send("h\n");
    // The guest says nothing any more: it has halted when its vCPU thread does nothing. KVM itself wakes a vCPU
    // once, 100 ms after its first run, to set its clock.
    let mut before = count::activity(machine.pid());
    loop {
        thread::sleep(Duration::from_millis(300));
        let now = count::activity(machine.pid());
        if now == before {
            return machine;
        }
        before = now;
    }
}

fn instructions() {
    // What counts them does not know seccomp(2); a filter that was compiled before costs a handful.
    let count = count::instructions(smallest("mute exit=0").arg("--no-seccomp"));
    println!("{count} instructions of {INSTRUCTIONS}");
    assert!(count <= INSTRUCTIONS, "{count} instructions, {INSTRUCTIONS} are the budget");
}

fn system_calls() {
    let calls = count::calls_until_first_run(smallest("mute exit=0"));
    println!("{} calls of {CALLS}, {} to KVM of {KVM_CALLS}", calls.total(), calls.kvm());
    assert!(calls.total() <= CALLS, "{} calls, {CALLS} are the budget: {calls:#?}", calls.total());
    assert!(
        calls.kvm() <= KVM_CALLS,
        "{} to KVM, {KVM_CALLS} are the budget: {calls:#?}",
        calls.kvm()
    );
}

fn memory() {
    // With a second one running, what both share counts as shared.
    let (machine, _other) = (halted(smallest("")), halted(smallest("")));
    let memory = count::memory(machine.pid(), RAM);
    println!("{memory:?}");
    assert!(memory.private <= PRIVATE, "{memory:?}, {PRIVATE} private bytes are the budget");
    assert!(memory.resident <= RESIDENT, "{memory:?}, {RESIDENT} resident bytes are the budget");
    assert!(memory.anonymous > 0, "nothing was found: {memory:?}");
}

/// Side by side, and each of them the second of its kind.
fn api_memory() {
    let scratch = Scratch::new();
    let served = |name: &str| {
        let path = scratch.join(name);
        let machine = halted(smallest("").arg("--api-sock").arg(&path));
        // A client has come and gone.
        assert_eq!(Api::at(&path).get("/")["state"], "Running");
        machine
    };
    let plain = [halted(smallest("")), halted(smallest(""))];
    let served = [served("a"), served("b")];
    let [plain, served] = [&plain, &served].map(|them| count::memory(them[0].pid(), RAM));
    println!("{served:?} with the API, {plain:?} without");
    let more = served.private.saturating_sub(plain.private);
    assert!(more <= API_PRIVATE, "{more} more private bytes, {API_PRIVATE} are the budget");
    let more = served.resident.saturating_sub(plain.resident);
    assert!(more <= API_PRIVATE, "{more} more resident bytes, {API_PRIVATE} are the budget");
}

fn api_calls() {
    let scratch = Scratch::new();
    let served = smallest("mute exit=0").arg("--api-sock").arg(scratch.join("api.sock"));
    // Which of two threads waits for the other is chance.
    let acting = |vmm| count::calls_until_first_run(vmm).without(&["futex", "epoll_wait"]).total();
    let plain = acting(smallest("mute exit=0"));
    let served = acting(served);
    println!("{served} calls with the API, {plain} without");
    assert!(served <= plain + API_CALLS, "{served} calls, {plain} without the API");
}

fn idle_wakeups() {
    let machine = halted(smallest(""));
    let before = count::activity(machine.pid());
    assert!(before.cpu_ns > 0, "nothing was found: {before:?}");
    // Long enough for a timer of a Linux kind, ten per second, to show.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(count::activity(machine.pid()), before, "an idle machine runs");
}

fn program_size() {
    let path = artifacts::vmm();
    let size = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).len();
    println!("{size} bytes of {PROGRAM}");
    assert!(size <= PROGRAM, "{} has {size} bytes, {PROGRAM} are the budget", path.display());
}
