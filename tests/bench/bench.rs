//! What all measurements share: how many rounds, the disk and the tap of the machines, and turns that are fair.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::mem;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use harness::network::{self, Tap};
use harness::{Scratch, need};

use crate::contender::{Contender, Machine};
use crate::guest::Guest;
use crate::stats::Samples;
use crate::table::Outcome;

/// Rounds that run but do not count: they pay for cold caches.
pub const WARM_UP: usize = 2;
/// Bytes of the disk.
pub const DISK: u64 = 256 << 20;
/// Each so many bytes of the disk begin with their own number, which the guest checks.
const MARKED: usize = 4096;
const TAP: &str = "bench0";

/// One run of the benchmarks.
pub struct Bench {
    /// Rounds that count, of the start.
    pub start_rounds: usize,
    /// Rounds that count, of the devices.
    pub device_rounds: usize,
    /// What to measure: groups of rows, or parts of metrics' names; all when empty.
    pub only: Vec<String>,
    /// Whom to compare besides the floor and QEMU.
    pub peers: Vec<Contender>,
    /// Files of this run.
    pub scratch: Scratch,
    disk: OnceCell<PathBuf>,
    tap: OnceCell<Result<Tap, String>>,
}

impl Bench {
    /// Nothing is made before it is needed.
    pub fn new(rounds: usize, only: Vec<String>, peers: Vec<Contender>) -> Self {
        let (disk, tap) = (OnceCell::new(), OnceCell::new());
        // A device needs fewer rounds: each is a mean over many requests.
        let device_rounds = rounds.div_ceil(5);
        Self {
            start_rounds: rounds,
            device_rounds,
            only,
            peers,
            scratch: Scratch::new(),
            disk,
            tap,
        }
    }

    /// Whether a row is asked for, by its group, which is how its name begins, or by a part of its name.
    pub fn wants(&self, metric: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| metric.contains(only.as_str()))
    }

    /// Starts a machine, when nobody has its disk any more.
    pub fn start(&self, contender: &Contender, machine: &Machine) -> Result<Guest, String> {
        if let Some(disk) = &machine.disk {
            wait_until_free(disk)?;
        }
        Guest::run(&mut contender.command(machine))
    }

    /// The disk image, in the page cache.
    pub fn disk(&self) -> PathBuf {
        self.disk.get_or_init(|| self.make_disk()).clone()
    }

    /// The name of a tap that is up, or why there is none.
    pub fn tap(&self) -> Result<String, String> {
        let make = || match network::missing() {
            Some(reason) => Err(reason),
            None => {
                // Or the kernel mixes frames of its own with ours. Where there is no IPv6, it does not.
                let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
                let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
                Ok(Tap::new(TAP))
            }
        };
        match self.tap.get_or_init(make) {
            Ok(_) => Ok(TAP.to_owned()),
            Err(reason) => Err(reason.clone()),
        }
    }

    /// Lets the tap hold `frames` until the guest takes them.
    pub fn set_queue_len(&self, frames: usize) {
        if let Some(Ok(tap)) = self.tap.get() {
            let set = tap.set_queue_len(i32::try_from(frames).unwrap_or(i32::MAX));
            set.unwrap_or_else(|e| panic!("queue of a tap: {e}"));
        }
    }

    /// Runs `measure` for all entrants in turn, `rounds` times after the warm-up. An entrant that fails takes no further
    /// part; its reason stands in its place.
    pub fn rounds<E>(
        &self,
        rounds: usize,
        entrants: &[E],
        mut measure: impl FnMut(&E) -> Result<f64, String>,
    ) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Ok(Samples::default()); entrants.len()];
        for _ in 0..rounds + WARM_UP {
            for (entrant, outcome) in entrants.iter().zip(&mut outcomes) {
                if let Ok(samples) = outcome {
                    match measure(entrant) {
                        Ok(sample) => samples.push(sample),
                        Err(reason) => *outcome = Err(reason),
                    }
                }
            }
        }
        outcomes.into_iter().map(|o| o.map(|samples| samples.without_first(WARM_UP))).collect()
    }

    fn make_disk(&self) -> PathBuf {
        let path = self.scratch.join("disk");
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
            for number in 0..DISK / MARKED as u64 {
                let mut block = [0; MARKED];
                block[..8].copy_from_slice(&number.to_le_bytes());
                file.write_all(&block)?;
            }
            file.into_inner()?.sync_all()
        };
        write().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}

/// Why no guest can run here; `None` if one can.
pub fn missing() -> Option<String> {
    need::Need::Kvm.missing()
}

/// The kernel lets go of the files of a killed process that used io_uring some time after the process is reaped.
fn wait_until_free(path: &Path) -> Result<(), String> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let told = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = File::options().read(true).write(true).open(path).map_err(told)?;
    // SAFETY: numbers, of which zero are valid ones: all of the file.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // SAFETY: the command reads one flock, which `lock` is. The lock goes with the file at the end.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        match std::io::Error::last_os_error() {
            _ if result == 0 => return Ok(()),
            error if error.raw_os_error() != Some(libc::EAGAIN) => return Err(told(error)),
            _ if Instant::now() > deadline => {
                return Err(format!("{} stays locked", path.display()));
            }
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entrants_take_turns_and_one_that_fails_stops() {
        let bench = Bench::new(1, vec![], vec![]);
        let mut turns = String::new();
        let outcomes = bench.rounds(2, &['a', 'b'], |&entrant| {
            turns.push(entrant);
            if entrant == 'b' && turns.len() > 4 {
                Err("gone".to_owned())
            } else {
                Ok(turns.len() as f64)
            }
        });
        assert_eq!(turns, "abababa");
        assert_eq!(outcomes, [Ok([5.0, 7.0].into_iter().collect()), Err("gone".to_owned())]);
    }

    #[test]
    fn rows_are_asked_for_by_group_or_by_a_part_of_their_name() {
        let wants = |only: &[&str], metric| {
            let only = only.iter().map(|&only| only.to_owned()).collect();
            Bench::new(1, only, vec![]).wants(metric)
        };
        assert!(wants(&[], "net: 60 B frames sent"));
        assert!(wants(&["block", "net"], "net: 60 B frames sent"));
        assert!(wants(&["frames sent"], "net: 60 B frames sent"));
        assert!(!wants(&["block", "1514"], "net: 60 B frames sent"));
    }
}
