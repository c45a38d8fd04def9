//! What the host tells of this process: how long its threads ran and waited for a processor, how much memory is in
//! use and whose it is.
//!
//! Read from /proc when somebody asks, and costs nothing otherwise: to tell pages apart takes the kernel some
//! milliseconds for each GiB. Where there is no /proc, there is nothing to tell.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::time::Duration;

/// What the host tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The threads.
    pub threads: Vec<Thread>,
    /// The memory that is in use.
    pub resident: Option<Resident>,
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// How long it ran.
    pub ran: Duration,
    /// How long it could have run and had no processor: of a vCPU, time that was stolen from the guest.
    pub waited: Duration,
}

/// Memory in use, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// The guest's.
    pub guest: u64,
    /// This program's own, with what it shares with others.
    pub own: u64,
}

impl Host {
    /// Asks the host now; the guest's memory lies in `guest`.
    #[must_use]
    pub fn ask(guest: &[Range<usize>]) -> Self {
        let resident = File::open("/proc/self/smaps").ok();
        Self {
            threads: threads(),
            resident: resident.and_then(|file| parse_smaps(BufReader::new(file), guest)),
        }
    }
}

fn threads() -> Vec<Thread> {
    let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let read = |entry: fs::DirEntry| {
        let path = entry.path();
        // A thread may have ended by now.
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let (ran, waited) = parse_schedstat(&fs::read_to_string(path.join("schedstat")).ok()?)?;
        let name = name.trim_end_matches('\n').to_owned();
        Some((entry.file_name(), Thread { name, ran, waited }))
    };
    let mut threads: Vec<_> = entries.filter_map(|entry| read(entry.ok()?)).collect();
    threads.sort_by(|one, other| one.0.cmp(&other.0));
    threads.into_iter().map(|(_, thread)| thread).collect()
}

/// Nanoseconds that a thread ran, that it waited for a processor, and how often it got one (kernel documentation,
/// scheduler/sched-stats).
fn parse_schedstat(text: &str) -> Option<(Duration, Duration)> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
    let mut time = || numbers.next().flatten().map(Duration::from_nanos);
    Some((time()?, time()?))
}

/// Adds up the mappings (proc(5), /proc/PID/smaps): a line with the addresses of each, then lines with its sizes.
fn parse_smaps(from: impl BufRead, guest: &[Range<usize>]) -> Option<Resident> {
    let mut resident = Resident::default();
    let mut is_guests = false;
    for line in from.lines() {
        let line = line.ok()?;
        if let Some(rest) = line.strip_prefix("Rss:") {
            let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
            let whose = if is_guests { &mut resident.guest } else { &mut resident.own };
            *whose += kib << 10;
        } else if let Some(start) = start_of_mapping(&line) {
            is_guests = guest.iter().any(|range| range.contains(&start));
        }
    }
    Some(resident)
}

/// The address in a line such as `7f0a10000000-7f0a20000000 rw-p 00000000 00:00 0`.
fn start_of_mapping(line: &str) -> Option<usize> {
    let (start, _) = line.split_once('-')?;
    usize::from_str_radix(start, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00500000 r-xp 00000000 08:01 12 /usr/bin/vmm
Size:               1024 kB
Rss:                 400 kB
Pss:                 100 kB
VmFlags: rd ex mr mw me sd
7f0000000000-7f0008000000 rw-p 00000000 00:00 0 [anon:guest]
Rss:                8192 kB
AnonHugePages:         0 kB
7f0008000000-7f0008200000 rw-p 00000000 08:01 13 /boot/vmlinux-6.1
Rss:                  12 kB
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
Rss:                  20 kB
";

    #[test]
    fn pages_are_the_guests_or_our_own() {
        let guest = 0x7f00_0000_0000..0x7f00_1000_0000;
        let resident = parse_smaps(SMAPS.as_bytes(), std::slice::from_ref(&guest)).unwrap();
        assert_eq!(resident, Resident { guest: 8204 << 10, own: 420 << 10 });
        let all = parse_smaps(SMAPS.as_bytes(), &[]).unwrap();
        assert_eq!(all, Resident { guest: 0, own: 8624 << 10 });
        assert_eq!(parse_smaps(&b"Rss: many kB\n"[..], &[]), None);
    }

    #[test]
    fn times_of_a_thread() {
        let times = (Duration::from_nanos(1_234), Duration::from_nanos(56));
        assert_eq!(parse_schedstat("1234 56 7\n"), Some(times));
        assert_eq!(parse_schedstat("1234"), None);
        assert_eq!(parse_schedstat("x 1 2"), None);
    }

    #[test]
    fn this_process_has_a_thread_and_memory() {
        let mapped = vec![1_u8; 64 << 20];
        let start = mapped.as_ptr() as usize;
        let host =
            Host::ask(std::slice::from_ref(&(start.next_multiple_of(4096)..start + mapped.len())));
        let resident = host.resident.unwrap();
        assert!(resident.own > 0);
        assert!(host.threads.iter().any(|thread| !thread.ran.is_zero()), "{host:?}");
    }
}
