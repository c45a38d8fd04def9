//! What a machine counts, told in two forms: Firecracker's JSON lines, and OpenMetrics text.
//!
//! ```text
//!  devices, vCPUs, loops, API: counters ──▶ Snapshot ──┬──▶ firecracker: a line each minute ──▶ sink: file or FIFO
//!                (relaxed loads, no locks)             └──▶ openmetrics, with what the host tells of the process
//! ```
//!
//! A [`Snapshot`] is taken on the main thread, which owns the machine; it costs as many loads as there are numbers.
//! It is a list of [`Subject`]s, things of some kind with numbers that have names; what each form calls them is in a
//! table of that form. Nothing here counts anything, and while nobody asks, nothing here runs.

pub mod api;
pub mod cgroup;
pub mod firecracker;
pub mod host;
pub mod openmetrics;
pub mod sink;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use devices::metrics::{Numbers, TimeCounts};

use crate::life_cycle::Phase;
use host::Files;

/// Everything that is counted, at one moment. Counts begin with the process or, for what belongs to the machine, when
/// that was built.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The machine's name.
    pub id: String,
    /// Since 1970.
    pub at: Duration,
    /// Where the machine is in its life.
    pub phase: Phase,
    /// What there is, each kind together.
    pub subjects: Vec<Subject>,
    /// Where the guest's memory lies in this process.
    pub memory: Vec<Range<usize>>,
    /// What the host can be asked besides, which takes a while.
    pub host: Option<Arc<Files>>,
}

/// Something that has numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// What it is: `disk`, `vcpu` and so on. The tables name these.
    pub kind: &'static str,
    /// Which of them: what tells it apart, and how it is called.
    pub labels: Vec<(&'static str, String)>,
    /// What was counted.
    pub numbers: Numbers,
    /// How long things took, by what they were.
    pub times: Vec<(&'static str, TimeCounts)>,
}

impl Snapshot {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(id: &str, phase: Phase) -> Self {
        Self {
            id: id.to_owned(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            phase,
            subjects: Vec::new(),
            memory: Vec::new(),
            host: None,
        }
    }

    /// Adds a thing that is the only one of its kind.
    pub fn add(&mut self, kind: &'static str, numbers: Numbers) {
        self.push(kind, &[], numbers, Vec::new());
    }

    /// Adds a thing that is told apart from others of its kind by `labels`.
    #[inline(never)]
    pub fn push(
        &mut self,
        kind: &'static str,
        labels: &[(&'static str, &str)],
        numbers: Numbers,
        times: Vec<(&'static str, TimeCounts)>,
    ) {
        let labels = labels.iter().map(|(label, text)| (*label, (*text).to_owned())).collect();
        self.subjects.push(Subject { kind, labels, numbers, times });
    }

    /// Things of a kind.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Subject> {
        self.subjects.iter().filter(move |subject| subject.kind == kind)
    }
}

/// Takes from a table what comes before the next `end`, or all.
#[inline(never)]
fn cut<'a>(rest: &mut &'a str, end: char) -> &'a str {
    match rest.split_once(end) {
        Some((first, more)) => {
            *rest = more;
            first
        }
        None => std::mem::take(rest),
    }
}

/// A time as a number; the tables call it `_ns`.
#[must_use]
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How long `since` ago is, as a number.
#[must_use]
pub fn elapsed(since: Instant) -> u64 {
    nanoseconds(since.elapsed())
}

#[cfg(test)]
mod tests;
