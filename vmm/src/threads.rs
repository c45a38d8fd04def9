//! The threads of a machine: started once, before a guest runs, and lent to every machine that a reboot builds.
//!
//! Nothing else starts threads after that, so that no thread needs the right to.

use std::io;

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
