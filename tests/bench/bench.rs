//! What all measurements share: how many rounds, the disk and the tap of the machines, and turns that are fair.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use harness::network::{self, Tap};
use harness::{Scratch, need};

use crate::contender::Contender;
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
    /// Whom to compare besides the floor and QEMU.
    pub peers: Vec<Contender>,
    /// Files of this run.
    pub scratch: Scratch,
    disk: OnceCell<PathBuf>,
    tap: OnceCell<Result<Tap, String>>,
}

impl Bench {
    /// Nothing is made before it is needed.
    pub fn new(start_rounds: usize, device_rounds: usize, peers: Vec<Contender>) -> Self {
        let scratch = Scratch::new();
        let (disk, tap) = (OnceCell::new(), OnceCell::new());
        Self { start_rounds, device_rounds, peers, scratch, disk, tap }
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
            tap.set_queue_len(i32::try_from(frames).unwrap_or(i32::MAX));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entrants_take_turns_and_one_that_fails_stops() {
        let bench = Bench::new(0, 0, vec![]);
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
}
