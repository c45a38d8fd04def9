//! No rule is redundant: each is needed by some machine of a run of the suite that was recorded (`tests/run.sh`).

use std::fs;
use std::path::Path;

use super::super::tables::{Is, ROWS, Row};
use super::{THREADS, Thread, name};

/// A call that a thread made after it was confined.
struct Call {
    thread: Thread,
    name: String,
    arguments: Vec<u64>,
}

/// The calls in a recording, whose lines are `PID<THREAD> CALL(0x1, 0x2...`. A thread has its name before its filter, and
/// a fork has the filter of who forked.
fn calls_in(text: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<Call> {
    let mut confined = Vec::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once('<') else { continue };
        let Some((thread, rest)) = rest.split_once("> ") else { continue };
        let id = (pid.trim().to_owned(), thread.to_owned());
        if (rest.starts_with("clone(") || rest.starts_with("<... clone resumed"))
            && confined.contains(&id)
            && let Some((_, child)) = rest.rsplit_once(" = 0x")
            && let Ok(child) = u32::from_str_radix(child.trim(), 16)
        {
            confined.push((child.to_string(), thread.to_owned()));
        }
        let Some((call, rest)) = rest.split_once('(') else { continue };
        if call == "seccomp" {
            confined.push(id);
        } else if is_wanted(call) && confined.contains(&id) {
            let end = rest.find([')', '<']).unwrap_or(rest.len());
            let arguments = rest[..end].split(',').map(|word| {
                let word = word.trim();
                u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).unwrap_or(0)
            });
            let arguments = arguments.collect();
            calls.push(Call { thread: kind(thread), name: call.to_owned(), arguments });
        }
    }
    calls
}

fn kind(thread: &str) -> Thread {
    match thread {
        "api" => Thread::Api,
        name if name.starts_with("vcpu ") => Thread::Vcpu,
        name if name.starts_with("io ") => Thread::Io,
        _ => Thread::Main,
    }
}

/// Loops of their own do what the main one does; which devices they serve is the user's choice.
fn is_the_same(one: Thread, other: Thread) -> bool {
    let place = |thread| if thread == Thread::Io { Thread::Main } else { thread };
    place(one) == place(other)
}

fn fits(row: &Row, call: &Call) -> bool {
    let has = |(index, test): &(u8, Is)| {
        let argument = call.arguments.get(usize::from(*index)).copied().unwrap_or(0);
        match *test {
            Is::Int(value) => argument & 0xffff_ffff == u64::from(value),
            Is::Long(value) => argument == value,
            Is::Without(bits) => argument & bits == 0,
            Is::Process => true,
            Is::Fork => argument == u64::from(libc::SIGCHLD.cast_unsigned()),
        }
    };
    call.name == name(row.call) && row.tests.iter().all(has)
}

#[test]
fn every_rule_is_needed() {
    let Some(directory) = std::env::var_os("VMM_TEST_TRACE") else {
        return devices::test_util::skipped("seccomp::every_rule_is_needed", "nothing is recorded");
    };
    let mut unused: Vec<_> = ROWS
        .iter()
        .flat_map(|row| THREADS.map(|(thread, bit)| (thread, bit, row)))
        .filter(|(_, bit, row)| row.on & bit != 0 && !row.rare)
        .collect();
    let mut count = 0;
    for file in fs::read_dir(Path::new(&directory)).unwrap() {
        let is_wanted =
            |call: &str| unused.iter().any(|(_, _, row): &(_, _, &Row)| name(row.call) == call);
        let calls = calls_in(&fs::read_to_string(file.unwrap().path()).unwrap(), is_wanted);
        count += calls.len();
        for call in &calls {
            unused
                .retain(|(thread, _, row)| !is_the_same(*thread, call.thread) || !fits(row, call));
        }
    }
    assert!(count > 1000, "only {count} calls were recorded");
    let unused: Vec<_> =
        unused.iter().map(|(thread, _, row)| (thread, name(row.call), row.tests)).collect();
    assert!(unused.is_empty(), "{count} calls, and none needs {unused:#x?}");
}

#[test]
fn recordings_are_understood() {
    let text = "\
        7<vmm> openat(0xffffff9c, 0x7ffe, 0x80000, 0) = 0x3\n\
        7<vmm> seccomp(0x1, 0, 0x7ffe) = 0\n\
        8<vcpu 0> seccomp(0x1, 0, 0x7ff7) = 0\n\
        8<vcpu 0> ioctl(0xb, 0xae80, 0 <unfinished ...>\n\
        7<vmm> epoll_wait(0x6, 0x55, 0x40, 0xffffffff) = 0x1\n\
        8<vcpu 0> <... ioctl resumed>) = 0\n\
        9<io x> read(0x1, 0, 0) = 0\n\
        7<vmm> clone(0x11, 0, 0, 0, 0 <unfinished ...>\n\
        7<vmm> <... clone resumed>) = 0xb\n\
        11<vmm> close_range(0, 0x6, 0) = 0\n";
    let calls = calls_in(text, |_| true);
    let seen: Vec<_> = calls.iter().map(|it| (it.thread, it.name.as_str())).collect();
    let expected = [
        (Thread::Vcpu, "ioctl"),
        (Thread::Main, "epoll_wait"),
        (Thread::Main, "clone"),
        (Thread::Main, "close_range"),
    ];
    assert_eq!(seen, expected);
    assert!(ROWS.iter().any(|row| fits(row, &calls[2])));
    assert_eq!(calls[0].arguments, [0xb, 0xae80, 0]);
    let is_run = |row: &&Row| fits(row, &calls[0]);
    assert_eq!(ROWS.iter().filter(is_run).count(), 1);
}
