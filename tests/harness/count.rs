//! What a machine costs, in counts that do not depend on how fast or how busy the host is.
//!
//! Nothing here takes a time. The machine's guest decides what is counted: one that ends at once gives a whole life,
//! one that halts can be looked at.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use crate::{Scratch, Vmm};

/// User instructions from exec to the end of the process, all threads, by callgrind. The environment is empty: the C
/// library looks through it for parameters of its own, at some hundred instructions each.
///
/// # Panics
/// When the run does not end with exit code 0, or valgrind does not say what it counted.
#[must_use]
#[track_caller]
pub fn instructions(vmm: Vmm) -> u64 {
    let tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let path = std::env::var("PATH").unwrap_or_default();
    let end = vmm.under(&tool).without_environment().env("PATH", &path).run().expect_code(0);
    let collected = end.stderr.lines().find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.unwrap_or_else(|| panic!("callgrind says nothing of a count:\n{}", end.stderr))
}

/// System calls, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Calls {
    /// How often each was made; an ioctl of KVM counts under its own name.
    pub by_name: BTreeMap<String, usize>,
}

impl Calls {
    /// The calls in the output of `strace -f`.
    #[must_use]
    pub fn listed(text: &str) -> Self {
        let mut calls = Self::default();
        text.lines().for_each(|line| calls.add(line));
        calls
    }

    /// What is there more often than in `other`.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        let more = self.by_name.iter().map(|(name, count)| {
            let before = other.by_name.get(name).copied().unwrap_or(0);
            (name.clone(), count.saturating_sub(before))
        });
        Self { by_name: more.filter(|(_, count)| *count > 0).collect() }
    }

    /// But for those of these names.
    #[must_use]
    pub fn without(mut self, names: &[&str]) -> Self {
        self.by_name.retain(|name, _| !names.contains(&name.as_str()));
        self
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.by_name.values().sum()
    }

    /// The ioctls of KVM.
    #[must_use]
    pub fn kvm(&self) -> usize {
        self.by_name
            .iter()
            .filter(|(name, _)| name.starts_with("KVM_"))
            .map(|(_, count)| count)
            .sum()
    }

    /// Adds a line of strace's output; what is no call, or the end of one that was counted, is passed over.
    fn add(&mut self, line: &str) {
        let Some((name, arguments)) = call(line) else { return };
        let request = arguments.split(", ").nth(1).unwrap_or_default();
        let request = request.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
        let is_kvm = name == "ioctl" && request.is_some_and(|name| name.starts_with("KVM_"));
        let name = if is_kvm { request.unwrap_or_default() } else { name };
        *self.by_name.entry(name.to_owned()).or_default() += 1;
    }
}

/// The system calls of all threads from exec to the first KVM_RUN, exec included and KVM_RUN not, by strace.
///
/// # Panics
/// When the run does not end with exit code 0, or no vCPU ever ran.
#[must_use]
#[track_caller]
pub fn calls_until_first_run(vmm: Vmm) -> Calls {
    let scratch = Scratch::new();
    let file = scratch.join("calls").display().to_string();
    vmm.under(&["strace", "-f", "-o", &file]).run().expect_code(0);
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let until = text.find("KVM_RUN").unwrap_or_else(|| panic!("no vCPU ran:\n{text}"));
    let until = text[..until].rfind('\n').unwrap_or(0);
    Calls::listed(&text[..until])
}

/// Name and arguments of the call that begins in a line: `PID name(arguments...`.
fn call(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(' ')?;
    let (name, arguments) = rest.trim_start().split_once('(')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some((name, arguments))
}

/// Memory of a process in bytes, its guest's RAM apart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Pages that no other process has. The program's own pages are among them while no other runs.
    pub private: u64,
    /// Pages that belong to no file: heap, stacks, data that was written to.
    pub anonymous: u64,
    /// All pages in memory.
    pub resident: u64,
    /// Pages of the guest's RAM in memory.
    pub guest: u64,
    /// Those of them that no other process has: in a copy of a machine, what it has written to.
    pub guest_private: u64,
}

/// Memory of process `pid`, whose guest has `ram` bytes, less than fits below the hole at 3 GiB.
#[must_use]
pub fn memory(pid: u32, ram: u64) -> Memory {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    memory_in(&text, ram)
}

fn memory_in(smaps: &str, ram: u64) -> Memory {
    let ranges = || smaps.lines().filter_map(range_of);
    // Pieces of the kernel's file may lie in it, near its start, so the largest piece is its end.
    let largest = ranges().max_by_key(|range| range.end - range.start).unwrap_or_default();
    let ram = largest.end.saturating_sub(ram)..largest.end;
    let (mut memory, mut is_ram) = (Memory::default(), false);
    for line in smaps.lines() {
        if let Some(range) = range_of(line) {
            is_ram = range.start < ram.end && ram.start < range.end;
            continue;
        }
        let mut words = line.split_whitespace();
        let field = match words.next() {
            Some("Rss:") if is_ram => &mut memory.guest,
            Some("Private_Clean:" | "Private_Dirty:" | "Private_Hugetlb:") => {
                if is_ram {
                    &mut memory.guest_private
                } else {
                    &mut memory.private
                }
            }
            _ if is_ram => continue,
            Some("Anonymous:") => &mut memory.anonymous,
            Some("Rss:") => &mut memory.resident,
            _ => continue,
        };
        let kib: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        *field += kib << 10;
    }
    memory
}

/// The addresses of a mapping, from the line that begins its paragraph.
fn range_of(line: &str) -> Option<Range<u64>> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// What the threads of a process have done so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// How often one of them began to run.
    pub wakeups: u64,
    /// Nanoseconds on a processor.
    pub cpu_ns: u64,
}

/// Activity of all threads of process `pid`, those of the kernel that work for it included (proc(5), schedstat).
#[must_use]
pub fn activity(pid: u32) -> Activity {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = Activity::default();
    for task in fs::read_dir(&tasks).unwrap_or_else(|e| panic!("{tasks}: {e}")).flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
        sum.cpu_ns += numbers.next().unwrap_or(0);
        sum.wakeups += numbers.nth(1).unwrap_or(0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_once_and_ioctls_of_kvm_by_name() {
        let lines = "\
            7 execve(\"vmm\", [\"vmm\"], 0x7ffe /* 1 var */) = 0\n\
            7 ioctl(3, KVM_CREATE_VM, 0)       = 4\n\
            7 ioctl(1, TCGETS, 0x7ffe)         = -1 ENOTTY (Inappropriate ioctl for device)\n\
            7 mmap(NULL, 4096 <unfinished ...>\n\
            8 ioctl(3, KVM_CHECK_EXTENSION, KVM_CAP_IRQFD) = 1\n\
            7 <... mmap resumed>)              = 0x7000\n\
            8 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
            8 +++ exited with 0 +++";
        let calls = Calls::listed(lines);
        assert_eq!((calls.total(), calls.kvm()), (5, 2), "{calls:?}");
        assert_eq!(calls.by_name.get("KVM_CREATE_VM"), Some(&1));
        assert_eq!(calls.by_name.get("ioctl"), Some(&1));
    }

    #[test]
    fn only_what_is_more_is_beyond() {
        let calls = |list: &[(&str, usize)]| Calls {
            by_name: list.iter().map(|&(name, count)| (name.to_owned(), count)).collect(),
        };
        let (long, short) =
            (calls(&[("read", 5), ("open", 2)]), calls(&[("read", 2), ("open", 3)]));
        assert_eq!(long.beyond(&short), calls(&[("read", 3)]));
    }

    #[test]
    fn guest_memory_with_pieces_of_a_file_in_it_is_left_out() {
        let smaps = "\
            1000-3000 r-xp 00000000 00:00 0 /bin/vmm\n\
            Rss: 8 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 0 kB\nAnonymous: 0 kB\n\
            7000-8000 rw-p 00000000 00:00 0\n\
            Rss: 4 kB\nPrivate_Clean: 0 kB\nPrivate_Dirty: 4 kB\nAnonymous: 4 kB\n\
            10000-11000 rw-p 00000000 00:00 0\n\
            Rss: 4 kB\nPrivate_Dirty: 4 kB\nAnonymous: 4 kB\n\
            11000-12000 rw-p 00000000 00:00 0 /boot/vmlinux\n\
            Rss: 4 kB\nPrivate_Dirty: 4 kB\nAnonymous: 4 kB\n\
            12000-20000 rw-p 00000000 00:00 0\n\
            Rss: 40 kB\nPrivate_Dirty: 40 kB\nAnonymous: 40 kB\n";
        let memory = memory_in(smaps, 0x10000);
        let (private, anonymous, resident, guest) = (8 << 10, 4 << 10, 12 << 10, 48 << 10);
        let expected = Memory { private, anonymous, resident, guest, guest_private: guest };
        assert_eq!(memory, expected);
    }
}
