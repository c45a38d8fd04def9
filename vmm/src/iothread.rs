//! Threads with an event loop of their own, so that a busy or slow device holds up no other.
//!
//! They are made with the first machine and serve those that a reboot builds as well. Which device is on which is the
//! plan's choice.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;

use devices::event::chain;

use crate::affinity::CpuSet;
use crate::config::IoThread;
use crate::end::{EndReason, Ending};
use crate::event_loop::{EventLoop, LoopHandle};
use crate::metrics::Snapshot;
use crate::seccomp::{Filters, Thread};
use crate::threads::{Handover, rest_for_good};

/// The loops, and their threads once these are started. Dropped, the threads leave their loops; whatever is on those
/// must be gone by then.
#[derive(Default)]
pub struct IoThreads {
    all: Vec<Loop>,
    told: Arc<AtomicBool>,
}

struct Loop {
    id: String,
    on: LoopHandle,
    state: State,
}

enum State {
    /// The loop that the thread will run, and where.
    Prepared(Box<(EventLoop, Option<CpuSet>)>),
    /// Given when the thread has left its loop.
    Running(Arc<Handover<()>>),
    Gone,
}

impl IoThreads {
    /// The loops of `plan`, which nobody runs yet.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn prepare(plan: &[IoThread]) -> io::Result<Self> {
        let prepare = |one: &IoThread| {
            let event_loop = EventLoop::new()?;
            let on = event_loop.handle();
            let pin = (!one.pin.is_empty()).then(|| CpuSet::new(&one.pin));
            Ok(Loop { id: one.id.clone(), on, state: State::Prepared(Box::new((event_loop, pin))) })
        };
        let all = plan.iter().map(prepare).collect::<io::Result<_>>()?;
        Ok(Self { all, told: Arc::default() })
    }

    /// Starts the threads; what goes wrong in one is reported to `ending`.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(&mut self, ending: &Ending, filters: &Filters) -> io::Result<()> {
        for thread in &mut self.all {
            let state = std::mem::replace(&mut thread.state, State::Gone);
            let State::Prepared(prepared) = state else { continue };
            let (event_loop, pin) = *prepared;
            let (id, told, ending) = (thread.id.clone(), self.told.clone(), ending.clone());
            let filters = filters.clone();
            filters.announce();
            let end = Arc::new(Handover::default());
            let left = end.clone();
            Builder::new().name(format!("io {id}")).spawn(move || {
                if let Err(error) = serve(event_loop, pin.as_ref(), &filters, &told) {
                    let what = format!("iothread {id}: {}", chain(&*error));
                    ending.report(EndReason::HostFailure(what));
                }
                left.give(());
                rest_for_good()
            })?;
            thread.state = State::Running(end);
        }
        Ok(())
    }

    /// Writes down what the loops have counted.
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        for thread in &self.all {
            snapshot.push("loop", &[("loop", &thread.id)], thread.on.counts(), Vec::new());
        }
    }

    /// The loop of thread `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&LoopHandle> {
        self.all.iter().find(|thread| thread.id == id).map(|thread| &thread.on)
    }
}

impl Drop for IoThreads {
    fn drop(&mut self) {
        self.told.store(true, Ordering::Release);
        for thread in &mut self.all {
            thread.on.wake();
            if let State::Running(left) = std::mem::replace(&mut thread.state, State::Gone) {
                left.take();
            }
        }
    }
}

fn serve(
    mut event_loop: EventLoop,
    pin: Option<&CpuSet>,
    filters: &Filters,
    told: &AtomicBool,
) -> Result<(), Box<dyn Error>> {
    let pinned = pin.map_or(Ok(()), CpuSet::pin_this_thread);
    filters.confine(Thread::Io)?;
    pinned?;
    while !told.load(Ordering::Acquire) {
        event_loop.run_once()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
