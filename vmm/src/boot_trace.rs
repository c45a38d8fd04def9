//! `--trace-boot`: when each stage of a start was reached, from the first line of `main` on.
//!
//! One timeline per process, like the log. While it is off, a mark costs one load. Marks are kept and
//! printed together, because printing would be part of what is measured.

use std::fmt::Write;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// Stages of a start, in their usual order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// /dev/kvm is open.
    KvmOpen,
    /// Guest memory is mapped and known to KVM.
    Memory,
    /// Kernel, initrd and boot tables are in guest memory.
    KernelLoaded,
    /// The first vCPU is about to run.
    FirstRun,
    /// The guest's userspace wrote to the boot timer.
    Userspace,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::KvmOpen => "kvm open",
            Self::Memory => "memory",
            Self::KernelLoaded => "kernel loaded",
            Self::FirstRun => "first KVM_RUN",
            Self::Userspace => "guest userspace",
        }
    }
}

static TIMELINE: OnceLock<Timeline> = OnceLock::new();

struct Timeline {
    start: Instant,
    marks: Mutex<Vec<(Stage, Instant)>>,
}

/// Starts the timeline; `start` is when `main` began.
pub fn enable(start: Instant) {
    // A second call would have to come from a second `main`.
    let _ = TIMELINE.set(Timeline { start, marks: Mutex::new(Vec::with_capacity(8)) });
}

/// `stage` is reached. Each stage counts once: a machine that starts again does not change the record.
pub fn mark(stage: Stage) {
    if let Some(timeline) = TIMELINE.get() {
        timeline.mark(stage, Instant::now());
    }
}

/// The timeline so far as lines of text; `None` while it is off.
#[must_use]
pub fn report() -> Option<String> {
    TIMELINE.get().map(Timeline::report)
}

impl Timeline {
    fn mark(&self, stage: Stage, at: Instant) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.iter().all(|(known, _)| *known != stage) {
            marks.push((stage, at));
        }
    }

    fn report(&self) -> String {
        let mut text = String::from("boot trace (ms):      total    delta\n");
        let mut last = self.start;
        for (stage, at) in &*self.marks.lock().unwrap_or_else(PoisonError::into_inner) {
            let total = at.duration_since(self.start).as_secs_f64() * 1e3;
            let delta = at.duration_since(last).as_secs_f64() * 1e3;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {:16} {total:9.3} {delta:+9.3}", stage.name());
            last = *at;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_report_has_totals_and_deltas_and_each_stage_once() {
        let start = Instant::now();
        let timeline = Timeline { start, marks: Mutex::default() };
        timeline.mark(Stage::KvmOpen, start + Duration::from_micros(250));
        timeline.mark(Stage::Memory, start + Duration::from_micros(1000));
        timeline.mark(Stage::KvmOpen, start + Duration::from_secs(9));
        assert_eq!(
            timeline.report(),
            "boot trace (ms):      total    delta\n  \
             kvm open             0.250    +0.250\n  \
             memory               1.000    +0.750\n"
        );
    }

    #[test]
    fn nothing_is_recorded_while_it_is_off() {
        mark(Stage::FirstRun);
        assert_eq!(report(), None);
    }
}
