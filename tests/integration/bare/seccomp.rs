//! Filters of system calls: every thread has one, a violation ends the process and says what it was, and a process that
//! runs code of an attacker gets nowhere.

use std::fs;
use std::path::{Path, PathBuf};

use harness::{Ending, Machine, Need, Scratch, Vmm, artifacts};

const VIOLATION: i32 = 148;
const BAD_CONFIGURATION: i32 = 152;
/// How a process ends that has attacked itself.
const DONE: i32 = 42;
/// How many attacks it tries at least.
const ACTIONS: usize = 40;

mod plain {
    use super::*;

    crate::suite::tests! { "bare::seccomp" needs &[Need::Kvm];
        every_thread_has_a_filter,
        none_when_none_is_wanted,
        filters_of_the_users,
        a_violation_ends_the_process,
        a_violation_may_be_logged_instead,
        files_that_are_no_filters,
    }
}

mod drill {
    use super::*;

    crate::suite::tests! { "bare::seccomp" needs &[Need::Kvm, Need::Jail, Need::Drill];
        a_compromised_process_gets_nowhere,
        an_api_lets_the_main_thread_fork_and_no_more,
        every_call_is_forbidden_that_is_not_listed,
    }
}

/// All of them.
pub fn tests() -> Vec<libtest_mimic::Trial> {
    [plain::tests(), drill::tests()].into_iter().flatten().collect()
}

/// A machine with a thread of each kind: main, two vCPUs, a loop of its own, the API.
fn machine(scratch: &Scratch, words: &str) -> Vmm {
    Vmm::puppet(words)
        .args(["--cpus", "2", "--iothread", "disks"])
        .disk(scratch.sparse_file("disk", 1 << 20), ",iothread=disks")
        .arg("--api-sock")
        .arg(scratch.join("api.sock"))
}

/// Name, `Seccomp` and `NoNewPrivs` of each thread, sorted.
fn threads(machine: &Machine) -> Vec<(String, String, String)> {
    let pid = machine.inside().unwrap_or_else(|| machine.pid());
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut threads: Vec<_> = tasks
        .map(|task| {
            let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let word = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.unwrap_or_default().trim().to_owned()
            };
            (word("Name"), word("Seccomp"), word("NoNewPrivs"))
        })
        .collect();
    // The kernel has threads of its own in a process that has a machine.
    threads.retain(|(name, ..)| !name.starts_with("kvm-"));
    threads.sort();
    threads
}

fn running(vmm: Vmm) -> Machine {
    let mut machine = vmm.serial("stdio").spawn();
    machine.wait_for("puppet: \n");
    machine
}

fn every_thread_has_a_filter() {
    for jail in [&[][..], &["--jail"]] {
        for mode in ["kill", "log"] {
            let scratch = Scratch::new();
            let vmm = machine(&scratch, "").args(["--seccomp", mode]).args(jail);
            let machine = running(vmm);
            let threads = threads(&machine);
            let names: Vec<_> = threads.iter().map(|(name, ..)| name.as_str()).collect();
            assert_eq!(names, ["api", "io disks", "vcpu 0", "vcpu 1", "vmm"]);
            let confined = ("2".to_owned(), "1".to_owned());
            assert!(
                threads.iter().all(|(_, filter, nnp)| (filter, nnp) == (&confined.0, &confined.1)),
                "{threads:?}"
            );
            machine.kill();
        }
    }
}

fn none_when_none_is_wanted() {
    for words in [&["--seccomp", "off"][..], &["--no-seccomp"]] {
        let scratch = Scratch::new();
        let machine = running(machine(&scratch, "").args(words).without_jail());
        let threads = threads(&machine);
        assert!(threads.iter().all(|(_, filter, _)| filter == "0"), "{threads:?}");
        machine.kill();
    }
}

/// An instruction of a filter (`struct sock_filter`).
const fn step(code: u64, yes: u64, no: u64, operand: u64) -> u64 {
    code | yes << 16 | no << 24 | operand << 32
}

const ALLOW: u64 = step(0x06, 0, 0, 0x7fff_0000);
const TRAP: u64 = step(0x06, 0, 0, 0x0003_0000);

/// Everything but one call.
fn all_but(call: libc::c_long) -> Vec<u64> {
    let number = u64::try_from(call).unwrap();
    vec![step(0x20, 0, 0, 0), step(0x15, 0, 1, number), TRAP, ALLOW]
}

/// A file as Firecracker's seccompiler-bin writes it.
fn filter_file(scratch: &Scratch, filters: [(&str, Vec<u64>); 3]) -> PathBuf {
    let mut bytes = 3_u64.to_le_bytes().to_vec();
    for (name, program) in filters {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((program.len() as u64).to_le_bytes());
        bytes.extend(program.iter().flat_map(|step| step.to_le_bytes()));
    }
    scratch.file("filters.bpf", bytes)
}

fn with_filters(scratch: &Scratch, file: &Path) -> Vmm {
    machine(scratch, "mute exit=0").arg("--seccomp-filter").arg(file)
}

fn filters_of_the_users() {
    let scratch = Scratch::new();
    let every = || vec![ALLOW];
    let file = filter_file(&scratch, [("vmm", every()), ("vcpu", every()), ("api", every())]);
    with_filters(&scratch, &file).run().expect_code(0);
}

/// Which thread may not do what it does in every run.
fn a_violation_ends_the_process() {
    let every = || vec![ALLOW];
    for (which, call, thread, name) in [
        (0, libc::SYS_epoll_wait, "vmm", "epoll_wait"),
        (1, libc::SYS_ioctl, "vcpu ", "ioctl"),
        (2, libc::SYS_epoll_wait, "api", "epoll_wait"),
    ] {
        let scratch = Scratch::new();
        let mut programs = [every(), every(), every()];
        programs[which] = all_but(call);
        let [vmm, vcpu, api] = programs;
        let file = filter_file(&scratch, [("Vmm", vmm), ("Vcpu", vcpu), ("Api", api)]);
        let end = with_filters(&scratch, &file).run().expect_code(VIOLATION);
        let line = end.stderr.lines().find(|line| line.contains("forbidden system call"));
        let line = line.unwrap_or_else(|| panic!("no line: {}", end.stderr));
        // Loops of their own have the main thread's filter here.
        let is_named = line.contains(&format!("thread \"{thread}"))
            || which == 0 && (line.contains("thread \"main\"") || line.contains("thread \"io "));
        assert!(is_named, "{line}");
        assert!(line.contains(&format!("{call} ({name})")), "{line}");
    }
}

fn a_violation_may_be_logged_instead() {
    let scratch = Scratch::new();
    let file = filter_file(
        &scratch,
        [
            ("vmm", all_but(libc::SYS_epoll_wait)),
            ("vcpu", all_but(libc::SYS_ioctl)),
            ("api", all_but(libc::SYS_epoll_wait)),
        ],
    );
    with_filters(&scratch, &file).args(["--seccomp", "log"]).run().expect_code(0);
}

fn files_that_are_no_filters() {
    let scratch = Scratch::new();
    let whole =
        filter_file(&scratch, [("vmm", vec![ALLOW]), ("vcpu", vec![ALLOW]), ("api", vec![ALLOW])]);
    let cut = fs::read(&whole).unwrap();
    let without = filter_file(&scratch, [("a", vec![]), ("vcpu", vec![]), ("api", vec![])]);
    for (file, word) in [
        (scratch.join("missing"), "cannot be read"),
        (scratch.file("text", "{\"Vmm\": {}}"), "JSON is compiled"),
        (scratch.file("cut", &cut[..cut.len() - 1]), "layout"),
        (without, "no filter for threads called \"vmm\""),
    ] {
        with_filters(&scratch, &file)
            .run()
            .expect_code(BAD_CONFIGURATION)
            .expect_one_line(&["filter file", word]);
    }
}

/// What a machine says that attacks itself on one of its threads, where the machine has what that takes.
fn attack(thread: &str, what: &str, jail: &[&str], has_api: bool) -> Ending {
    let scratch = Scratch::new();
    let program = artifacts::drill().expect("the program is there");
    let mut vmm = Vmm::program(program)
        .kernel(artifacts::puppet())
        .args(["--memory", "32M", "--serial", "off", "--iothread", "disks"])
        .disk(scratch.sparse_file("disk", 1 << 20), ",iothread=disks")
        .args(jail)
        .without_jail()
        .env("VMM_DRILL", &format!("{thread}:{what}"));
    if has_api {
        vmm = vmm.arg("--api-sock").arg(scratch.join("api.sock"));
    }
    vmm.run().expect_code(DONE)
}

/// What the thread of the API may do, because it writes snapshots.
const OF_THE_API: [&str; 2] = ["open a file of the host", "rename a file"];
const THREADS: [&str; 4] = ["main", "vcpu", "io", "api"];

fn a_compromised_process_gets_nowhere() {
    for jail in [&[][..], &["--jail"]] {
        for thread in THREADS {
            // Who may build machines again may make one.
            let end = attack(thread, "actions", jail, thread == "api");
            let heading = format!("drill {thread}: ");
            let tried: Vec<_> =
                end.stderr.lines().filter_map(|line| line.strip_prefix(&heading)).collect();
            assert!(tried.len() >= ACTIONS, "{} attacks: {}", tried.len(), end.stderr);
            let (forbidden, rest): (Vec<&str>, Vec<&str>) =
                tried.iter().copied().partition(|line| line.ends_with(": forbidden"));
            println!("{thread} {jail:?}: {} of {} forbidden", forbidden.len(), tried.len());
            // In a jail there is nothing to open or to name.
            let is_known = |line: &str| {
                let (what, outcome) = line.split_once(": ").unwrap_or_default();
                let may = thread == "api" && OF_THE_API.contains(&what);
                may && (jail.is_empty() || outcome.starts_with("refused"))
            };
            let wrong: Vec<_> = rest.into_iter().filter(|line| !is_known(line)).collect();
            assert!(wrong.is_empty(), "{thread} {jail:?}: {wrong:#?}");
        }
    }
}

/// What the main thread may do because clients have machines built and saved.
const OF_MAIN: [&str; 6] = [
    "open a file of the host",
    "write to its own memory by a file",
    "open /dev/kvm",
    "make a machine",
    "make a vCPU",
    FORK,
];
const FORK: &str = "start a process";

/// A copy of the process has its filter and its memory, and executes nothing. In a jail, where nothing is saved, there is
/// none.
fn an_api_lets_the_main_thread_fork_and_no_more() {
    for jail in [&[][..], &["--jail"]] {
        let end = attack("main", "actions", jail, true);
        let lines = end.stderr.lines().filter_map(|line| line.strip_prefix("drill main: "));
        let tried: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
        assert!(tried.len() >= ACTIONS, "{} attacks: {}", tried.len(), end.stderr);
        let done = tried.iter().filter(|(_, outcome)| *outcome != "forbidden");
        let wrong: Vec<_> = done.filter(|(what, _)| !OF_MAIN.contains(what)).collect();
        assert!(wrong.is_empty(), "{jail:?}: {wrong:#?}");
        let forks: Vec<_> = tried.iter().filter(|(what, _)| *what == FORK).collect();
        let [(_, outcome)] = forks.as_slice() else { panic!("{forks:?}") };
        assert_eq!(outcome.starts_with("DONE"), jail.is_empty(), "{jail:?}: {outcome}");
        assert_eq!(*outcome == "forbidden", !jail.is_empty(), "{jail:?}: {outcome}");
    }
}

fn every_call_is_forbidden_that_is_not_listed() {
    for thread in THREADS {
        let end = attack(thread, "calls", &[], thread == "api");
        let lines: Vec<_> = end.stderr.lines().filter(|line| line.starts_with("drill ")).collect();
        println!("{lines:?}");
        let [sum] = lines.as_slice() else { panic!("{lines:#?}") };
        let numbers: Vec<usize> = sum.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [forbidden, allowed] = numbers.as_slice() else { panic!("{sum}") };
        // Numbers 0 to 460 of both interfaces of 64-bit processes, but for two calls that no filter is shown.
        assert_eq!(forbidden + allowed, 2 * 461 - 2, "{sum}");
        assert!((5..45).contains(allowed), "{sum}");
    }
}
