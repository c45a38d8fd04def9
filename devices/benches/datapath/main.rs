//! What each queue handler costs per request: time, allocations, system calls. No KVM is needed.
//!
//! `cargo bench --bench datapath [FILTER]` prints a table. `cargo test --bench datapath` measures no time:
//! it fails when a handler allocates in its steady state, or makes more system calls than its budget.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "as in a test")]
#![expect(clippy::cast_possible_truncation, reason = "as in a test")]

mod block;
mod count;
mod net;
mod rig;
mod simple;
mod vsock;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use count::{Calls, CountingAllocator};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Rounds before anything is counted: buffers have grown to their size by then.
const WARM_UP: u32 = 64;
/// Rounds that are counted.
const COUNTED: u32 = 100;
/// System calls of a round that do not depend on its requests: epoll_wait, one submission or one attempt too many,
/// the interrupt. That makes 0.094 per request at depth 32.
const PER_ROUND: f64 = 3.0;
/// Slices of time whose median counts, and how long one is.
const SLICES: usize = 15;
const SLICE: Duration = Duration::from_millis(40);

/// A device, its host side and its driver, ready to work.
pub(crate) trait Subject {
    /// Offers a fixed number of requests and serves them to the end.
    fn round(&mut self);

    /// The driver's kicks so far, which are `write` calls of this process.
    fn driver_calls(&self) -> u64;

    /// The peer's frames so far, which are `sendto` calls of this process.
    fn peer_calls(&self) -> u64 {
        0
    }

    /// The time that the peer took so far, which is not the device's.
    fn peer_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// A measurement.
pub(crate) struct Case {
    name: String,
    /// Requests per round.
    requests: u16,
    /// System calls allowed for each, beside [`PER_ROUND`].
    per_request: f64,
    make: Box<dyn Fn() -> Box<dyn Subject>>,
}

impl Case {
    /// A case whose rounds make `requests` requests with at most `per_request` system calls each.
    pub(crate) fn new(
        name: String,
        requests: u16,
        per_request: f64,
        make: impl Fn() -> Box<dyn Subject> + 'static,
    ) -> Self {
        Self { name, requests, per_request, make: Box::new(make) }
    }

    fn per_request(&self, total: u64, rounds: u32) -> f64 {
        total as f64 / f64::from(rounds) / f64::from(self.requests)
    }

    fn warm(&self) -> Box<dyn Subject> {
        let mut subject = (self.make)();
        for _ in 0..WARM_UP {
            subject.round();
        }
        subject
    }

    /// Allocations per request in the steady state.
    fn allocations(&self) -> f64 {
        let mut subject = self.warm();
        let before = count::allocations();
        for _ in 0..COUNTED {
            subject.round();
        }
        self.per_request(count::allocations() - before, COUNTED)
    }

    /// System calls in [`COUNTED`] rounds; `None` where tracing is not permitted.
    fn syscalls(&self) -> Option<Calls> {
        // What is not the device's is the same in every round, so that it can be counted here.
        let mut subject = self.warm();
        let before = (subject.driver_calls(), subject.peer_calls());
        (0..COUNTED).for_each(|_| subject.round());
        let kicks = subject.driver_calls() - before.0;
        let frames = subject.peer_calls() - before.1;
        drop(subject);
        let mut calls =
            count::syscalls(|| self.warm(), |subject| (0..COUNTED).for_each(|_| subject.round()))?;
        for (number, own) in [(libc::SYS_write, kicks), (libc::SYS_sendto, frames)] {
            if let Some(count) = calls.get_mut(&number.unsigned_abs()) {
                *count = count.saturating_sub(own);
            }
        }
        Some(calls)
    }

    /// Nanoseconds per request: least and median of the slices.
    fn time(&self) -> (f64, f64) {
        let mut subject = self.warm();
        let mut slices: Vec<f64> = (0..SLICES)
            .map(|_| {
                let (start, peer) = (Instant::now(), subject.peer_time());
                let mut rounds = 0;
                while start.elapsed() < SLICE {
                    subject.round();
                    rounds += 1;
                }
                let own = start.elapsed() - (subject.peer_time() - peer);
                self.per_request(own.as_nanos() as u64, rounds)
            })
            .collect();
        slices.sort_by(f64::total_cmp);
        (slices[0], slices[SLICES / 2])
    }

    fn print_row(&self) {
        let (least, median) = self.time();
        let allocations = self.allocations();
        let (calls, kinds) = match self.syscalls() {
            Some(calls) => (format!("{:.3}", self.total(&calls)), self.kinds(&calls)),
            None => ("?".to_owned(), "tracing is not permitted here".to_owned()),
        };
        let name = &self.name;
        println!("{name:<36} {least:>8.0} {median:>8.0} {allocations:>7.2} {calls:>9}  {kinds}");
    }

    fn total(&self, calls: &Calls) -> f64 {
        self.per_request(calls.values().sum(), COUNTED)
    }

    fn kinds(&self, calls: &Calls) -> String {
        let kinds = calls.iter().filter(|(_, count)| **count > 0).map(|(&number, &count)| {
            format!("{} {:.3}", count::name(number), self.per_request(count, COUNTED))
        });
        kinds.collect::<Vec<_>>().join(", ")
    }

    /// What is over its budget; `Err` says why it could not be found out.
    fn check(&self) -> Result<Vec<String>, &'static str> {
        let mut faults = Vec::new();
        let allocations = self.allocations();
        if allocations > 0.0 {
            faults.push(format!("{allocations} allocations per request"));
        }
        let calls = self.syscalls().ok_or("tracing a child is not permitted")?;
        let (total, most) =
            (self.total(&calls), self.per_request + PER_ROUND / f64::from(self.requests));
        if total > most {
            let kinds = self.kinds(&calls);
            faults.push(format!("{total:.3} system calls per request, not {most:.3}: {kinds}"));
        }
        Ok(faults)
    }
}

/// Checks every budget, and reports as the standard test runner does.
fn check_all(cases: &[Case], mut ignored: u32) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    println!("running {} tests", cases.len());
    for case in cases {
        let outcome = match case.check() {
            Ok(faults) if faults.is_empty() => {
                passed += 1;
                "ok".to_owned()
            }
            Ok(faults) => {
                failed += 1;
                format!("FAILED: {}", faults.join("; "))
            }
            Err(reason) => {
                ignored += 1;
                format!("ignored, {reason}")
            }
        };
        println!("test datapath::{} ... {outcome}", case.name.replace(' ', "_").replace(',', ""));
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored;");
    ExitCode::from(u8::from(failed > 0))
}

fn main() -> ExitCode {
    let (flags, filters): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let mut cases = simple::cases();
    cases.extend(block::cases());
    cases.extend(vsock::cases());
    let has_network = net::enter_own_network();
    if has_network {
        cases.extend(net::cases());
    } else {
        println!("test datapath::net ... ignored, this host permits no tap in an own network");
    }
    cases.retain(|case| filters.iter().all(|filter| case.name.contains(filter.as_str())));
    // Cargo says this for `cargo bench`, and nothing for `cargo test`.
    if !flags.iter().any(|flag| flag == "--bench") {
        return check_all(&cases, u32::from(!has_network));
    }
    println!("per request:                          ns min   median  allocs  syscalls");
    cases.iter().for_each(Case::print_row);
    ExitCode::SUCCESS
}
