//! Threads with an event loop of their own, so that a busy or slow device holds up no other.
//!
//! They belong to one machine: made before its devices, ended after them. Which device is on which is the
//! plan's choice.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use crate::affinity::CpuSet;
use crate::config::IoThread;
use crate::end::{EndReason, Ending};
use crate::event_loop::{EventLoop, LoopHandle};
use crate::metrics::Snapshot;

/// The threads of a machine. Dropped, they end; whatever is on their loops must be gone by then.
#[derive(Default)]
pub struct IoThreads {
    running: Vec<Running>,
    told: Arc<AtomicBool>,
}

struct Running {
    id: String,
    on: LoopHandle,
    thread: Option<JoinHandle<()>>,
}

impl IoThreads {
    /// Starts the threads of `plan`; what goes wrong in one is reported to `ending`.
    ///
    /// # Errors
    /// When the host has no descriptor or thread left.
    pub fn start(plan: &[IoThread], ending: &Ending) -> io::Result<Self> {
        let mut threads = Self::default();
        for one in plan {
            let event_loop = EventLoop::new()?;
            let on = event_loop.handle();
            let (id, told, ending) = (one.id.clone(), threads.told.clone(), ending.clone());
            let pin = (!one.pin.is_empty()).then(|| CpuSet::new(&one.pin));
            let thread = Builder::new().name(format!("io {id}")).spawn(move || {
                if let Err(error) = serve(event_loop, pin.as_ref(), &told) {
                    ending.report(EndReason::HostFailure(format!("iothread {id}: {error}")));
                }
            })?;
            threads.running.push(Running { id: one.id.clone(), on, thread: Some(thread) });
        }
        Ok(threads)
    }

    /// Writes down what the loops have counted.
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        for thread in &self.running {
            snapshot.push("loop", &[("loop", &thread.id)], thread.on.counts(), Vec::new());
        }
    }

    /// The loop of thread `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&LoopHandle> {
        self.running.iter().find(|thread| thread.id == id).map(|thread| &thread.on)
    }
}

impl Drop for IoThreads {
    fn drop(&mut self) {
        self.told.store(true, Ordering::Release);
        for thread in &mut self.running {
            thread.on.wake();
            if let Some(thread) = thread.thread.take() {
                // With panic = "abort" a thread cannot end by panicking.
                let _ = thread.join();
            }
        }
    }
}

fn serve(mut event_loop: EventLoop, pin: Option<&CpuSet>, told: &AtomicBool) -> io::Result<()> {
    pin.map_or(Ok(()), CpuSet::pin_this_thread)?;
    while !told.load(Ordering::Acquire) {
        event_loop.run_once()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
