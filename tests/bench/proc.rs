//! What /proc tells about a process and the host.

use std::fs;
use std::time::Duration;

/// Mappings from this size on are the guest's memory.
const SMALLEST_RAM_KIB: u64 = 32 << 10;
/// How `vmm` calls it, however it is mapped.
const RAM_NAME: &str = "guest-ram";

/// Memory of a process without the guest's, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Pages that nobody else has.
    pub private: u64,
    /// All pages that are there.
    pub resident: u64,
}

/// What a process did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// How often one of its threads went to sleep: each time it had been woken.
    pub wakeups: u64,
    /// Time on a processor.
    pub time: Duration,
}

impl Work {
    /// What was done after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            wakeups: self.wakeups.saturating_sub(earlier.wakeups),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

/// Looks at a process.
pub fn footprint(pid: u32) -> Result<Footprint, String> {
    read(&format!("/proc/{pid}/smaps")).map(|text| parse_smaps(&text))
}

/// Looks at all threads of a process.
pub fn work(pid: u32) -> Result<Work, String> {
    let path = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&path).map_err(|e| format!("{path}: {e}"))?;
    let mut work = Work::default();
    for thread in threads.filter_map(Result::ok) {
        let file = |name| read(&thread.path().join(name).to_string_lossy());
        work.wakeups += field(&file("status")?, "voluntary_ctxt_switches:");
        let spent = file("schedstat")?;
        let spent = spent.split(' ').next().and_then(|number| number.parse().ok());
        work.time += Duration::from_nanos(spent.unwrap_or(0));
    }
    Ok(work)
}

/// Bytes that new programs could have.
pub fn available_memory() -> Result<u64, String> {
    read("/proc/meminfo").map(|text| field(&text, "MemAvailable:") << 10)
}

fn parse_smaps(text: &str) -> Footprint {
    let (mut private, mut resident, mut is_ram) = (0, 0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        if !name.ends_with(':') {
            is_ram = line.contains(RAM_NAME);
            continue;
        }
        let kib = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match name {
            "Size:" => is_ram |= kib >= SMALLEST_RAM_KIB,
            "Private_Clean:" | "Private_Dirty:" if !is_ram => private += kib,
            "Rss:" if !is_ram => resident += kib,
            _ => {}
        }
    }
    Footprint { private: private << 10, resident: resident << 10 }
}

/// The number after the line's name.
fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_left_out_by_name_and_by_size() {
        let mapping = |head: &str, size: u64, rss: u64| {
            format!(
                "{head}\nSize: {size} kB\nRss: {rss} kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n"
            )
        };
        let text = [
            mapping("1000-2000 r-xp 0 08:01 5 /usr/bin/x", 100, 64),
            mapping("3000-4000 rw-p 0 00:00 0 [anon:guest-ram]", 4, 4),
            mapping("5000-6000 rw-p 0 00:00 0", 131_072, 900),
            mapping("7000-8000 rw-p 0 00:00 0 [heap]", 8, 8),
        ];
        let footprint = Footprint { private: 6 << 10, resident: 72 << 10 };
        assert_eq!(parse_smaps(&text.concat()), footprint);
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let text = "MemFree:  7 kB\nMemAvailable:   12 kB\n";
        assert_eq!(field(text, "MemAvailable:"), 12);
        assert_eq!(field(text, "Nothing:"), 0);
    }

    #[test]
    fn a_process_that_waits_and_works_shows_it() {
        let before = work(std::process::id()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        let done = work(std::process::id()).unwrap().since(before);
        assert!(done.wakeups > 0);
        assert!(footprint(std::process::id()).unwrap().private > 0);
        assert!(available_memory().unwrap() > 0);
    }
}
