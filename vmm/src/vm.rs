//! A machine that is built, then runs, then is stopped.
//!
//! ```text
//!   builder::build ──▶ Microvm ── start ──▶ RunningVm ── stop ──▶ (memory and descriptors released)
//!                                            pause │ ▲
//!                                                  ▼ │ resume
//!                                             (at rest: nothing changes guest memory)
//! ```
//!
//! It does not decide when to stop; [`crate::run`] does, by what [`crate::end::Ending`] says.

use std::io;

use devices::metrics::Numbers;
use devices::virtio::transport::Transport;

use crate::controls::Controls;
use crate::device_manager::Attached;
use crate::event_loop::{EventLoop, LoopSource, SourceId};
use crate::iothread::IoThreads;
use crate::kvm::Vm;
use crate::memory::{self, mapped};
use crate::metrics::Snapshot;
use crate::vcpu::{VcpuHandle, VcpuSetup};

/// A machine that has not run yet.
pub struct Microvm {
    pub(crate) vm: Vm,
    pub(crate) vcpus: Vec<VcpuSetup>,
    pub(crate) devices: Vec<Attached>,
    pub(crate) controls: Controls,
    pub(crate) iothreads: IoThreads,
    /// What the loop serves for this machine besides its virtio devices.
    pub(crate) sources: Vec<Box<dyn LoopSource>>,
}

/// A machine whose vCPUs run.
pub struct RunningVm {
    // Field order is drop order: threads are gone before devices, devices before the VM.
    vcpus: Vec<VcpuHandle>,
    devices: Vec<Attached>,
    controls: Controls,
    sources: Vec<SourceId>,
    iothreads: IoThreads,
    vm: Vm,
}

impl Microvm {
    /// Starts every vCPU; the machine's sources are served by `event_loop`.
    ///
    /// # Errors
    /// When the host has no thread left; vCPUs that were started are told to stop.
    pub fn start(self, event_loop: &mut EventLoop) -> io::Result<RunningVm> {
        let mut running = RunningVm {
            vcpus: Vec::with_capacity(self.vcpus.len()),
            devices: self.devices,
            controls: self.controls,
            iothreads: self.iothreads,
            sources: Vec::with_capacity(self.sources.len()),
            vm: self.vm,
        };
        let started = running.start_all(self.sources, self.vcpus, event_loop);
        if let Err(error) = started {
            running.vcpus.iter().for_each(VcpuHandle::kick_to_stop);
            running.sources.drain(..).for_each(|source| event_loop.remove(source));
            return Err(error);
        }
        Ok(running)
    }
}

impl RunningVm {
    fn start_all(
        &mut self,
        sources: Vec<Box<dyn LoopSource>>,
        vcpus: Vec<VcpuSetup>,
        event_loop: &mut EventLoop,
    ) -> io::Result<()> {
        for source in sources {
            self.sources.push(event_loop.add(source)?);
        }
        for setup in vcpus {
            self.vcpus.push(VcpuHandle::start(setup)?);
        }
        Ok(())
    }

    /// What can be changed while it runs.
    #[must_use]
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Writes down what the machine has counted.
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            snapshot.push("vcpu", &[("vcpu", &index.to_string())], vcpu.exits(), Vec::new());
        }
        self.iothreads.count_into(snapshot);
        snapshot.memory = memory::ranges(self.vm.memory());
        let size: usize = snapshot.memory.iter().map(ExactSizeIterator::len).sum();
        snapshot.add("memory", Numbers::new("size", &[size as u64]));
        self.controls.count_into(snapshot);
    }

    /// Tells every vCPU to stop, and does not wait for it.
    pub fn tell_to_stop(&self) {
        self.vcpus.iter().for_each(VcpuHandle::kick_to_stop);
    }

    /// Brings the machine to rest: every vCPU waits between two instructions, every device is off its loop with
    /// nothing in flight. A vCPU that reports the end of the machine meanwhile counts as resting.
    ///
    /// # Errors
    /// When the loop itself fails, or the host has no thread left.
    pub fn pause(&self, event_loop: &mut EventLoop) -> io::Result<()> {
        self.vcpus.iter().for_each(VcpuHandle::kick_to_pause);
        // A vCPU may be waiting for the loop at this moment.
        while !self.vcpus.iter().all(VcpuHandle::is_at_rest) {
            event_loop.run_for(REST_ROUND_MS)?;
        }
        self.on_devices(event_loop, Transport::pause)
    }

    /// Lets a machine that was paused go on.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn resume(&self, event_loop: &mut EventLoop) -> io::Result<()> {
        self.on_devices(event_loop, Transport::resume)?;
        self.vcpus.iter().for_each(VcpuHandle::resume);
        Ok(())
    }

    /// Somebody wants to write to the kernel's file: the machine rests until its memory holds copies.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn keep_kernel(&self, event_loop: &mut EventLoop) -> io::Result<()> {
        self.pause(event_loop)?;
        mapped::let_writers_in();
        self.resume(event_loop)
    }

    /// Does something to all devices, on a thread of its own: taking a device off its loop waits for the loop,
    /// which is served here.
    fn on_devices(&self, event_loop: &mut EventLoop, change: fn(&mut Transport)) -> io::Result<()> {
        let devices: Vec<_> = self.devices.iter().map(|device| device.registers.clone()).collect();
        if devices.is_empty() {
            return Ok(());
        }
        let on = event_loop.handle();
        let worker = std::thread::Builder::new().name("devices".to_owned()).spawn(move || {
            for registers in devices {
                let mut registers =
                    registers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                change(registers.transport_mut());
            }
            on.wake();
        })?;
        while !worker.is_finished() {
            event_loop.run_for(REST_ROUND_MS)?;
        }
        Ok(())
    }

    /// Stops every vCPU and takes every device off its loop.
    ///
    /// A vCPU may be waiting for the loop at this moment, so the loop is served until all have ended.
    ///
    /// # Errors
    /// When the loop itself fails.
    pub fn stop(mut self, event_loop: &mut EventLoop) -> io::Result<()> {
        while self.vcpus.iter().any(|vcpu| !vcpu.is_finished()) {
            self.vcpus.iter().filter(|v| !v.is_finished()).for_each(VcpuHandle::kick_to_stop);
            event_loop.run_for(STOP_ROUND_MS)?;
        }
        self.vcpus.drain(..).for_each(VcpuHandle::join);
        self.on_devices(event_loop, Transport::reset)?;
        self.devices.clear();
        drop(std::mem::take(&mut self.iothreads));
        self.sources.drain(..).for_each(|source| event_loop.remove(source));
        Ok(())
    }
}

/// How long one wait for the loop may take while stopping, in milliseconds; a thread that ends does not
/// wake the loop.
const STOP_ROUND_MS: i32 = 1;
/// The same while pausing; whoever comes to rest wakes the loop, so this is only for a thread that ends.
const REST_ROUND_MS: i32 = 5;
