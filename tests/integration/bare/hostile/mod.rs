//! Hostile drivers: a table of cases, many in each guest. Whatever a driver does, the machine lives, and the device
//! works again for one that behaves, after a reset at the latest.
//!
//! A case says itself whether the device went along with it (`pass`) or asked for a reset (`reject`), and asserts
//! what of that is certain. After each, a good request must complete; a device that keeps one waiting is `wedged`.

mod balloon;
mod block;
mod chains;
mod console;
mod net;
mod queues;
mod registers;
mod rings;
mod rng;
mod status;
mod vsock;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use harness::virtio::{Answer, Descriptor, Device, Queue};
use libtest_mimic::Trial;

use super::subject::Subject;
use crate::suite::trial;

/// Cases of all devices together, at least.
const MANY: usize = 400;

/// How a device took a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It went on.
    Pass,
    /// It asked for a reset.
    Reject,
}

impl From<Answer> for Verdict {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Used(..) => Self::Pass,
            Answer::NeedsReset => Self::Reject,
        }
    }
}

/// Something that a driver does to a device, whatever state that is in.
pub(super) struct Case {
    name: String,
    run: Box<dyn Fn(&Device<'_>) -> Verdict + Send>,
}

impl Case {
    pub(super) fn new(
        name: impl Into<String>,
        run: impl Fn(&Device<'_>) -> Verdict + Send + 'static,
    ) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// A name, and what is done under it.
type Named<T> = (&'static str, T);

/// Makes a chain of a queue's own buffers.
type MakeChain = fn(&Queue<'_>) -> Vec<Descriptor>;

/// What became of all cases so far.
#[derive(Default)]
struct Tally {
    pass: usize,
    reject: usize,
    wedged: Vec<String>,
    failed: Vec<String>,
}

impl Tally {
    fn cases(&self) -> usize {
        self.pass + self.reject + self.wedged.len() + self.failed.len()
    }

    fn add(&mut self, other: &Self) {
        self.pass += other.pass;
        self.reject += other.reject;
        self.wedged.extend_from_slice(&other.wedged);
        self.failed.extend_from_slice(&other.failed);
    }

    fn print(&self, of: &str) {
        let Self { pass, reject, wedged, failed } = self;
        let (cases, wedged, failed) = (self.cases(), wedged.len(), failed.len());
        println!(
            "{of}: {cases} cases: {pass} pass, {reject} reject, {wedged} wedged, {failed} failed"
        );
    }
}

/// The devices that are done, and what became of theirs.
static ALL: Mutex<(usize, Option<Tally>)> = Mutex::new((0, None));

/// One test for each device.
pub fn tests() -> Vec<Trial> {
    let of = |subject: Subject| {
        trial(format!("bare::hostile::{}", subject.name()), subject.needs(), move || run(subject))
    };
    Subject::ALL.into_iter().map(of).collect()
}

fn cases(subject: Subject) -> Vec<Case> {
    let own = match subject {
        Subject::Rng => rng::cases(),
        Subject::Block => block::cases(),
        Subject::Net => net::cases(),
        Subject::Console => console::cases(),
        Subject::Vsock => vsock::cases(),
        Subject::Balloon => balloon::cases(),
    };
    let common = [
        registers::cases(subject),
        status::cases(subject),
        rings::cases(subject),
        chains::cases(subject),
        queues::cases(subject),
    ];
    common.into_iter().flatten().chain(own).collect()
}

fn run(subject: Subject) {
    let mut left = cases(subject).into_iter().peekable();
    let tally = Arc::new(Mutex::new(Tally::default()));
    while left.peek().is_some() {
        // A guest for as many cases as go well; after one that does not, another.
        let rest = Arc::new(Mutex::new(left.collect::<Vec<_>>()));
        let (mine, counts) = (rest.clone(), tally.clone());
        let before = lock(&counts).cases();
        let life = catch_unwind(AssertUnwindSafe(|| {
            subject.with_device(move |device| run_some(subject, device, &mine, &counts));
        }));
        if life.is_err() && lock(&tally).cases() == before {
            let name = lock(&rest).first().map_or_else(String::new, |case| case.name.clone());
            lock(&tally).failed.push(format!("{name} (no machine)"));
            lock(&rest).drain(..1);
        } else if life.is_err() {
            lock(&tally).failed.push("the machine did not end as it should".to_owned());
        }
        left = std::mem::take(&mut *lock(&rest)).into_iter().peekable();
    }
    let tally = lock(&tally);
    tally.print(&format!("hostile {}", subject.name()));
    let mut all = lock(&ALL);
    all.0 += 1;
    let sum = all.1.get_or_insert_default();
    sum.add(&tally);
    if all.0 == Subject::ALL.len() {
        all.1.as_ref().into_iter().for_each(|sum| {
            sum.print("hostile guests");
            assert!(sum.cases() >= MANY, "only {} cases", sum.cases());
        });
    }
    drop(all);
    let Tally { wedged, failed, .. } = &*tally;
    assert!(wedged.is_empty() && failed.is_empty(), "wedged: {wedged:?}, failed: {failed:?}");
}

/// Runs cases until one does not go well; those that are left stay in `cases`.
fn run_some(subject: Subject, device: &Device<'_>, cases: &Mutex<Vec<Case>>, tally: &Mutex<Tally>) {
    loop {
        let mut all = lock(cases);
        if all.is_empty() {
            return;
        }
        let case = all.remove(0);
        drop(all);
        let name = format!("{}::{}", subject.name(), case.name);
        let Ok(verdict) = catch_unwind(AssertUnwindSafe(|| (case.run)(device))) else {
            return lock(tally).failed.push(name);
        };
        let good = catch_unwind(AssertUnwindSafe(|| subject.good_request(device)));
        let mut tally = lock(tally);
        match (verdict, good) {
            (_, Err(_)) => return tally.wedged.push(name),
            (Verdict::Pass, Ok(())) => tally.pass += 1,
            (Verdict::Reject, Ok(())) => tally.reject += 1,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
