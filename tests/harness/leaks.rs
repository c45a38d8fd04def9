//! What a process may leave behind: other processes. Files and sockets are seen in a [`Scratch`], taps in a
//! network namespace.
//!
//! [`Scratch`]: crate::Scratch

use std::fs;

/// Environment variable that marks a process under test and all its children.
pub const MARK: &str = "VMM_TEST_MARK";

/// The processes that carry `mark`.
#[must_use]
pub fn processes_marked(mark: &str) -> Vec<u32> {
    let wanted = format!("{MARK}={mark}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        // A process that ends meanwhile, or a zombie, reads as nothing.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
    })
    .collect()
}

/// Whether a thread of a process runs, or is about to end; zombies hold nothing any more.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().any(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The state is the first word after the name in parentheses (proc(5)).
        let state = stat.rsplit(") ").next().unwrap_or_default();
        !stat.is_empty() && !state.starts_with(['Z', 'X'])
    })
}

/// Whether `signal` was sent to a process and not taken yet.
#[must_use]
pub fn is_signal_pending(pid: u32, signal: libc::c_int) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    let bits = pending.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    bits.fold(0, |all, mask| all | mask) >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_marked_process_is_found_until_it_is_gone() {
        let mut sleeper = Command::new("sleep").arg("60").env(MARK, "unit").spawn().unwrap();
        while processes_marked("unit").is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(processes_marked("unit"), [sleeper.id()]);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(processes_marked("unit").is_empty());
    }
}
