//! The threads of a machine: started once, before a guest runs, and lent to every machine that a reboot builds.
//!
//! Nothing else starts threads after that, so that no thread needs the right to.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crate::config::Plan;
use crate::end::Ending;
use crate::iothread::IoThreads;
use crate::seccomp::Filters;
use crate::vcpu::VcpuThread;

/// The threads that do what a plan says.
pub struct Threads {
    /// One for each vCPU, in order.
    pub vcpus: Vec<VcpuThread>,
    /// The loops besides the main thread's.
    pub io: IoThreads,
}

/// One thing that one thread gives and another one waits for.
pub struct Handover<T> {
    place: Mutex<Option<T>>,
    given: Condvar,
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self { place: Mutex::new(None), given: Condvar::new() }
    }
}

impl<T> Handover<T> {
    /// Gives it.
    pub fn give(&self, thing: T) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(thing);
        self.given.notify_all();
    }

    /// Waits for it.
    pub fn take(&self) -> T {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(thing) = place.take() {
                return thing;
            }
            place = self.given.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What a thread does when there is nothing left for it to do. To end takes rights that it never needs otherwise; it ends
/// with the process.
pub fn rest_for_good() -> ! {
    loop {
        thread::park();
    }
}

impl Threads {
    /// Starts the threads of `plan`, `io` among them, each confined by its filter. They have nothing to do yet.
    ///
    /// # Errors
    /// When the host has no thread left. Those that were started stay, and wait for nothing.
    pub fn start(
        plan: &Plan,
        mut io: IoThreads,
        ending: &Ending,
        filters: &Filters,
    ) -> io::Result<Self> {
        io.start(ending, filters)?;
        let pin = |index: u16| plan.cpus.pin.get(usize::from(index)).copied();
        let start = |index| VcpuThread::start(index, pin(index), filters.clone());
        let vcpus = (0..plan.cpus.count).map(start);
        Ok(Self { vcpus: vcpus.collect::<io::Result<_>>()?, io })
    }
}
