//! The guest goes on while its memory is written, by a process that has it as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use harness::api::Api;
use harness::confine::Confinement;
use harness::puppet::Puppet;
use harness::scratch::in_little_space;
use harness::{Machine, Need, Scratch, Vmm, artifacts};
use libtest_mimic::Trial;

use super::super::kernel_file::{has_leases, long_kernel};
use super::{copy_of, disk_contents, save};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    let own: [(&str, fn()); 7] = [
        ("goes_on_while_it_is_written", goes_on_while_it_is_written),
        ("a_writer_of_its_own_that_is_killed", a_writer_of_its_own_that_is_killed),
        ("a_machine_that_ends_meanwhile", a_machine_that_ends_meanwhile),
        ("a_writer_holds_nothing", a_writer_holds_nothing),
        ("a_kernel_that_changes_meanwhile", a_kernel_that_changes_meanwhile),
        ("no_process_can_be_started", no_process_can_be_started),
        ("memory_that_a_fork_does_not_copy", memory_that_a_fork_does_not_copy),
    ];
    let own = own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), &[Need::Kvm], test));
    let space = trial(
        "bare::snapshot::a_writer_of_its_own_without_room",
        &[Need::Kvm, Need::Mounts],
        a_writer_of_its_own_without_room,
    );
    own.into_iter().chain([space]).collect()
}

/// Where the guest has 24 MiB that are not zero.
const FULL: u32 = 0x100_0000;
const LEN: u32 = 24 << 20;
/// What a process that writes has open: its file, and perhaps the page map.
const FILES: usize = 2;
/// How often a process that writes may be missed before it is thought not to be there.
const ATTEMPTS: usize = 50;

/// A machine with so much in memory that to write it takes a while.
fn full(scratch: &Scratch, change: impl FnOnce(Vmm) -> Vmm) -> Puppet {
    full_of(scratch, &artifacts::puppet(), "128M", change)
}

fn full_of(
    scratch: &Scratch,
    kernel: &Path,
    memory: &str,
    change: impl FnOnce(Vmm) -> Vmm,
) -> Puppet {
    let vmm = Vmm::new().kernel(kernel).args(["--memory", memory, "--cmdline", "", "--rng", "off"]);
    let vmm = vmm.without_jail().arg("--api-sock").arg(scratch.join("api.sock"));
    let puppet = Puppet::start(change(vmm));
    // A port that nothing is at reads as ones.
    puppet.port_in_string(4, 0xffff, LEN / 4, FULL);
    puppet.sync();
    let _ = Api::at(&scratch.join("api.sock"));
    puppet
}

/// A process that writes, stopped.
struct Stopped(libc::pid_t);

impl Stopped {
    fn send(&self, signal: libc::c_int) {
        // SAFETY: takes numbers; the process is stopped, so that nobody else can have its number.
        unsafe { libc::kill(self.0, signal) };
    }

    fn go_on(&self) {
        self.send(libc::SIGCONT);
    }
}

/// Left alone, it would be there for ever.
impl Drop for Stopped {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// State and parent of a process.
fn facts(process: libc::pid_t) -> Option<(char, libc::pid_t)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut words = behind_name.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// The process that writes for the machine, once it is by itself.
fn child_of(machine: u32) -> Option<libc::pid_t> {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.find(|process| {
        facts(*process).is_some_and(|(state, parent)| {
            !"ZX".contains(state) && u32::try_from(parent) == Ok(machine)
        })
    })
}

/// What a process has open.
fn files(process: libc::pid_t) -> Vec<PathBuf> {
    let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    files.filter_map(|it| fs::read_link(it.ok()?.path()).ok()).collect()
}

/// Has a snapshot made in `directory`, and stops who writes it.
#[track_caller]
fn stop_writing(scratch: &Scratch, puppet: &Puppet, directory: &Path) -> (Machine, Stopped) {
    let pid = puppet.with_machine(|machine| machine.pid());
    for _ in 0..ATTEMPTS {
        let ctl = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot");
        let mut ctl = ctl.arg(directory).spawn();
        while ctl.is_running() {
            let Some(child) = child_of(pid) else { continue };
            // Before that it is on its way.
            while files(child).len() > FILES {
                thread::yield_now();
            }
            let stopped = Stopped(child);
            stopped.send(libc::SIGSTOP);
            for _ in 0..1000 {
                match facts(child) {
                    Some(('T', _)) => return (ctl, stopped),
                    Some(('R' | 'S' | 'D', _)) => thread::sleep(Duration::from_millis(1)),
                    _ => break,
                }
            }
        }
        ctl.wait().expect_code(0);
    }
    panic!("nobody writes beside the machine");
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("in vain: {what}");
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn goes_on(puppet: &Puppet, value: u32) {
    puppet.write(4, FULL + 0x1000, value);
    assert_eq!(puppet.read(4, FULL + 0x1000), value);
}

fn goes_on_while_it_is_written() {
    let scratch = Scratch::new();
    let puppet = full(&scratch, |vmm| vmm);
    let (ctl, writer) = stop_writing(&scratch, &puppet, &scratch.join("first"));
    goes_on(&puppet, 5);
    // So do its API, and another snapshot, which waits for nobody.
    let api = Api::at(&scratch.join("api.sock"));
    assert_eq!(api.get("/")["state"], "Running");
    let second = save(&scratch, &["second"]);
    goes_on(&puppet, 6);
    writer.go_on();
    ctl.wait().expect_code(0);
    goes_on(&puppet, 7);
    puppet.finish();
    for (saved, value) in [(scratch.join("first"), u32::MAX), (second, 5)] {
        let copy = Puppet::go_on(copy_of(&saved));
        assert_eq!(copy.read(4, FULL + 0x1000), value);
        assert_eq!(copy.read(4, FULL + LEN - 4), u32::MAX);
        assert_eq!(copy.read(4, FULL + LEN), 0);
        copy.finish();
    }
}

fn a_writer_of_its_own_that_is_killed() {
    let scratch = Scratch::new();
    let puppet = full(&scratch, |vmm| vmm);
    let saved = scratch.join("saved");
    let (ctl, writer) = stop_writing(&scratch, &puppet, &saved);
    writer.send(libc::SIGKILL);
    let end = ctl.wait().expect_code(115);
    end.expect_one_line(&["cannot be written", "was killed (signal 9)"]);
    // A snapshot that was there before the one that failed is there still.
    let before: Vec<_> = names(&saved).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(before, Vec::<String>::new());
    goes_on(&puppet, 5);
    let saved = save(&scratch, &["saved"]);
    puppet.finish();
    let copy = Puppet::go_on(copy_of(&saved));
    assert_eq!(copy.read(4, FULL + 0x1000), 5);
    copy.finish();
}

/// Nobody would name the files, so they are given up.
fn a_machine_that_ends_meanwhile() {
    for is_killed in [false, true] {
        let scratch = Scratch::new();
        let puppet = full(&scratch, |vmm| vmm);
        let saved = scratch.join("saved");
        let (ctl, writer) = stop_writing(&scratch, &puppet, &saved);
        let was_there = names(&saved).iter().any(|name| name == "state");
        puppet.with_machine(|machine| {
            match is_killed {
                false => machine.send("o 1 f4 0\n"),
                true => machine.signal(libc::SIGKILL),
            }
            wait_until("the machine ends", || !machine.is_running());
        });
        let end = ctl.wait();
        assert_ne!(end.code, Some(0), "{}", end.story());
        assert!(end.stderr.lines().count() == 1, "{}", end.story());
        let child = writer.0;
        drop(writer);
        let is_gone = || facts(child).is_none_or(|(state, _)| state == 'Z');
        wait_until("the process that writes ends", is_gone);
        assert_eq!(names(&saved).iter().any(|name| name == "state"), was_there);
        if !is_killed {
            assert!(names(&saved).iter().all(|name| !name.starts_with('.')), "{:?}", names(&saved));
        }
    }
}

fn a_writer_holds_nothing() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    let puppet = full(&scratch, |vmm| vmm.disk(&disk, ""));
    let (ctl, writer) = stop_writing(&scratch, &puppet, &scratch.join("saved"));
    let files = files(writer.0);
    assert!((1..=FILES).contains(&files.len()), "{files:?}");
    assert!(files.iter().any(|it| it.to_string_lossy().contains("-memory-")), "{files:?}");
    puppet.with_machine(|machine| {
        machine.signal(libc::SIGKILL);
        wait_until("the machine ends", || !machine.is_running());
    });
    let _ = ctl.wait();
    // The disk is free although the process is there.
    let other = Puppet::start(Vmm::puppet("").args(["--rng", "off"]).disk(&disk, ""));
    other.finish();
    assert!(facts(writer.0).is_some_and(|(state, _)| state == 'T'));
    drop(writer);
}

/// Who writes would find pages of the kernel's file changed.
fn a_kernel_that_changes_meanwhile() {
    let scratch = Scratch::new();
    let kernel = long_kernel(&scratch);
    if !has_leases(&kernel) {
        return;
    }
    let puppet = full_of(&scratch, &kernel, "128M", |vmm| vmm);
    let (ctl, writer) = stop_writing(&scratch, &puppet, &scratch.join("saved"));
    let change = {
        let kernel = kernel.clone();
        // Waits until it may.
        thread::spawn(move || fs::write(kernel, vec![0xff; 0x20_0000]))
    };
    goes_on(&puppet, 5);
    writer.go_on();
    let end = ctl.wait();
    if end.code == Some(0) {
        // It was done before anybody asked for the kernel.
        assert!(end.stderr.is_empty(), "{}", end.story());
    } else {
        end.expect_one_line(&["cannot be written", "given up: somebody changes the kernel's file"]);
    }
    change.join().unwrap().unwrap();
    assert_eq!(puppet.read(4, 0x40_0000), 0x5a5a_5a5a);
    let saved = save(&scratch, &["again"]);
    puppet.finish();
    let copy = Puppet::go_on(copy_of(&saved));
    assert_eq!(copy.read(4, 0x40_0000), 0x5a5a_5a5a);
    copy.finish();
}

/// The guest waits then.
fn no_process_can_be_started() {
    let scratch = Scratch::new();
    let fails = Confinement::Fails(libc::SYS_clone, libc::EAGAIN);
    let puppet = full(&scratch, |vmm| vmm.confined(fails));
    let saved = save(&scratch, &["saved"]);
    goes_on(&puppet, 5);
    let end = puppet.finish();
    assert!(end.stderr.contains("the guest waits until it is saved"), "{}", end.story());
    let copy = Puppet::go_on(copy_of(&saved));
    assert_eq!(copy.read(4, FULL + 0x1000), u32::MAX);
    copy.finish();
}

fn memory_that_a_fork_does_not_copy() {
    let scratch = Scratch::new();
    let puppet = full_of(&scratch, &artifacts::puppet(), "128M,shared", |vmm| vmm);
    let saved = save(&scratch, &["saved"]);
    goes_on(&puppet, 5);
    puppet.finish();
    let copy = Puppet::go_on(copy_of(&saved));
    assert_eq!(copy.read(4, FULL + 0x1000), u32::MAX);
    copy.finish();
}

fn a_writer_of_its_own_without_room() {
    let scratch = Scratch::new();
    let directory = scratch.join("little");
    fs::create_dir(&directory).unwrap();
    in_little_space(&directory.clone(), 8 << 20, move || {
        let scratch = Scratch::new();
        let puppet = full(&scratch, |vmm| vmm);
        let saved = directory.join("saved");
        let ctl = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot").arg(&saved);
        let end = ctl.run().expect_code(115);
        end.expect_one_line(&["cannot be written", "No space left on device"]);
        assert_eq!(names(&saved), Vec::<String>::new());
        goes_on(&puppet, 5);
        puppet.finish();
    });
}
