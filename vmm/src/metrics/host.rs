//! What the host tells of this process: how long its threads ran and waited for a processor, how much memory is in
//! use and whose it is.
//!
//! Read from /proc when somebody asks, and costs nothing otherwise: to tell pages apart takes the kernel some
//! milliseconds for each GiB. Where there is no /proc, there is nothing to tell.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use devices::guest_io;
use devices::metrics::Numbers;

use super::Snapshot;
use super::cgroup::Accounts;

/// Bytes that are asked for at a time.
const PIECE: usize = 4096;

/// Memory in use, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Resident {
    guest: u64,
    /// The program's, with what it shares with others.
    own: u64,
}

/// What the host says of this process, open from the start: whoever reads it later may open nothing.
#[derive(Debug)]
pub struct Files {
    mappings: Option<File>,
    /// With the names of the threads.
    threads: Vec<(String, File)>,
    cgroup: Accounts,
}

/// Files are the same when they are the very same.
impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Files {
    /// Opens what there is about the process, its first thread, and `others` by name and number; `cgroup` is open.
    #[must_use]
    pub fn open(others: &[(String, i64)], cgroup: Accounts) -> Self {
        // What says it about the process says it about its first thread.
        let first = File::open("/proc/self/schedstat").ok().map(|file| ("vmm".to_owned(), file));
        let open = |(name, id): &(String, i64)| {
            let file = File::open(format!("/proc/self/task/{id}/schedstat")).ok()?;
            Some((name.clone(), file))
        };
        let threads = first.into_iter().chain(others.iter().filter_map(open)).collect();
        Self { mappings: File::open("/proc/self/smaps").ok(), threads, cgroup }
    }

    /// Asks the host, and writes down what it tells.
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        for (name, file) in &self.threads {
            if let Some((ran, waited)) = read(file).as_deref().and_then(parse_schedstat) {
                let numbers = Numbers::new("ran_ns waited_ns", &[ran, waited]);
                snapshot.push("thread", &[("thread", name)], numbers, Vec::new());
            }
        }
        let smaps = self.mappings.as_ref().and_then(read);
        if let Some(resident) = smaps.and_then(|text| parse_smaps(&text, &snapshot.memory)) {
            let numbers = Numbers::new("guest own", &[resident.guest, resident.own]);
            snapshot.add("resident", numbers);
        }
        self.cgroup.count_into(snapshot);
    }
}

/// All of a file of the kernel's, which is written anew for who reads it from its beginning.
pub(super) fn read(file: &File) -> Option<String> {
    let mut text = Vec::new();
    let mut piece = [0; PIECE];
    loop {
        match guest_io::read_at(file.as_fd(), &mut piece, text.len() as u64) {
            Ok(0) => return String::from_utf8(text).ok(),
            Ok(count) => text.extend(piece.get(..count)?),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Nanoseconds that a thread ran, that it waited for a processor, and how often it got one (kernel documentation,
/// scheduler/sched-stats).
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Adds up the mappings (proc(5), /proc/PID/smaps): a line with the addresses of each, then lines with its sizes.
fn parse_smaps(text: &str, guest: &[Range<usize>]) -> Option<Resident> {
    let mut resident = Resident::default();
    let mut is_guests = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Rss:") {
            let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
            let whose = if is_guests { &mut resident.guest } else { &mut resident.own };
            *whose += kib << 10;
        } else if let Some(start) = start_of_mapping(line) {
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
    use crate::life_cycle::Phase;
    use crate::metrics::Subject;

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
        let resident = parse_smaps(SMAPS, std::slice::from_ref(&guest)).unwrap();
        assert_eq!(resident, Resident { guest: 8204 << 10, own: 420 << 10 });
        let all = parse_smaps(SMAPS, &[]).unwrap();
        assert_eq!(all, Resident { guest: 0, own: 8624 << 10 });
        assert_eq!(parse_smaps("Rss: many kB\n", &[]), None);
    }

    #[test]
    fn times_of_a_thread() {
        assert_eq!(parse_schedstat("1234 56 7\n"), Some((1234, 56)));
        assert_eq!(parse_schedstat("1234"), None);
        assert_eq!(parse_schedstat("x 1 2"), None);
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        let mut snapshot = Snapshot::new("x", Phase::Running);
        Files::open(&[], Accounts::default()).count_into(&mut snapshot);
        let ran = |thread: &Subject| thread.numbers.get("ran_ns");
        assert!(snapshot.of("thread").filter_map(ran).any(|ns| ns > 0), "{snapshot:?}");
        let resident = snapshot.of("resident").next().unwrap();
        assert_eq!(resident.numbers.get("guest"), Some(0));
        assert!(resident.numbers.get("own").unwrap() > 4096);
    }
}
