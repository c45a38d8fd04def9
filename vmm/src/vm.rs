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
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::bus::BusDevice;
use devices::memory::GuestMemory;
use devices::metrics::Numbers;
use devices::state::State;
use devices::virtio::transport::Transport;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::controls::Controls;
use crate::device_manager::{Attached, Legacy};
use crate::event_loop::{EventLoop, LoopSource, SourceId};
use crate::kvm::Vm;
use crate::kvm::state::{self, Pieces};
use crate::memory::{self, mapped};
use crate::metrics::Snapshot;
use crate::snapshot::SnapshotError;
use crate::snapshot::host::Host;
use crate::threads::Threads;
use crate::vcpu::{VcpuSetup, VcpuThread};

/// A machine that has not run yet.
pub struct Microvm {
    pub(crate) vm: Vm,
    pub(crate) vcpus: Vec<VcpuSetup>,
    pub(crate) devices: Vec<Attached>,
    pub(crate) legacy: Vec<Legacy>,
    pub(crate) controls: Controls,
    /// What the loop serves for this machine besides its virtio devices.
    pub(crate) sources: Vec<Box<dyn LoopSource>>,
    /// Whether it stands where another machine was saved: it does not run until it is resumed.
    pub(crate) is_at_rest: bool,
}

/// A machine whose vCPUs run.
pub struct RunningVm {
    // Field order is drop order: devices are gone before the VM.
    devices: Vec<Attached>,
    legacy: Vec<Legacy>,
    controls: Controls,
    sources: Vec<SourceId>,
    vm: Vm,
    /// Of the vCPUs, which the threads have until [`Self::stop`] takes them back.
    vcpu_fds: Vec<RawFd>,
    threads: Rc<Threads>,
}

impl Microvm {
    /// Runs every vCPU on its thread; the machine's sources are served by `event_loop`.
    ///
    /// # Errors
    /// When the loop cannot watch them; no vCPU runs then.
    pub fn start(self, event_loop: &mut EventLoop, threads: Rc<Threads>) -> io::Result<RunningVm> {
        let (devices, legacy, controls, vm) = (self.devices, self.legacy, self.controls, self.vm);
        let sources = Vec::with_capacity(self.sources.len());
        let vcpu_fds = self.vcpus.iter().map(|vcpu| vcpu.fd.as_raw_fd()).collect();
        let mut running = RunningVm { devices, legacy, controls, sources, vm, vcpu_fds, threads };
        for source in self.sources {
            match event_loop.add(source) {
                Ok(source) => running.sources.push(source),
                Err(error) => {
                    running.sources.drain(..).for_each(|source| event_loop.remove(source));
                    return Err(error);
                }
            }
        }
        let is_at_rest = self.is_at_rest;
        for (thread, setup) in running.vcpus().iter().zip(self.vcpus) {
            thread.run(setup, is_at_rest);
        }
        if is_at_rest {
            running.wait_for_rest(event_loop)?;
        }
        Ok(running)
    }
}

impl RunningVm {
    /// What can be changed while it runs.
    #[must_use]
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Writes down what the machine has counted.
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        for (index, vcpu) in self.vcpus().iter().enumerate() {
            snapshot.push("vcpu", &[("vcpu", &index.to_string())], vcpu.exits(), Vec::new());
        }
        self.threads.io.count_into(snapshot);
        snapshot.memory = memory::ranges(self.vm.memory());
        let size: usize = snapshot.memory.iter().map(ExactSizeIterator::len).sum();
        snapshot.add("memory", Numbers::new("size", &[size as u64]));
        self.controls.count_into(snapshot);
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    /// Bytes of it.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory().iter().map(GuestMemoryRegion::len).sum()
    }

    fn vcpus(&self) -> &[VcpuThread] {
        &self.threads.vcpus
    }

    /// Tells every vCPU to stop, and does not wait for it.
    pub fn tell_to_stop(&self) {
        self.vcpus().iter().for_each(VcpuThread::kick_to_stop);
    }

    /// Brings the machine to rest: every vCPU waits between two instructions, every device is off its loop with
    /// nothing in flight. A vCPU that reports the end of the machine meanwhile counts as resting.
    ///
    /// # Errors
    /// When the loop itself fails.
    pub fn pause(&self, event_loop: &mut EventLoop) -> io::Result<()> {
        self.vcpus().iter().for_each(VcpuThread::kick_to_pause);
        self.wait_for_rest(event_loop)?;
        self.on_devices(event_loop, Transport::pause)
    }

    fn wait_for_rest(&self, event_loop: &mut EventLoop) -> io::Result<()> {
        // A vCPU may be waiting for the loop at this moment.
        while !self.vcpus().iter().all(VcpuThread::is_at_rest) {
            event_loop.run_for(REST_ROUND_MS)?;
        }
        Ok(())
    }

    /// The state of everything but memory; the machine is at rest.
    ///
    /// # Errors
    /// [`SnapshotError::State`], [`SnapshotError::Device`].
    pub fn save(&self, host: &Host) -> Result<SavedState, SnapshotError> {
        let vcpus = (0..).zip(&self.vcpu_fds);
        let vcpus = vcpus.map(|(index, fd)| state::save_vcpu(fd, index, host.facts()));
        let mut saved = SavedState {
            vcpus: vcpus.collect::<Result<_, _>>()?,
            vm: state::save_vm(&self.vm)?,
            devices: Vec::new(),
        };
        // No vCPU runs that could hold them.
        for (name, device) in &self.legacy {
            let state = device.lock().unwrap_or_else(std::sync::PoisonError::into_inner).save();
            let name = (*name).to_owned();
            saved.push(name, state)?;
        }
        for (index, device) in self.devices.iter().enumerate() {
            let registers =
                device.registers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            saved.push(device.state_name(index), registers.save())?;
        }
        Ok(saved)
    }

    /// Lets a machine that was paused go on.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn resume(&self, event_loop: &mut EventLoop) -> io::Result<()> {
        self.on_devices(event_loop, Transport::resume)?;
        self.vcpus().iter().for_each(VcpuThread::resume);
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

    /// Does something to all devices, on the thread of a vCPU, which is at rest: taking a device off its loop waits for
    /// the loop, which is served here.
    fn on_devices(&self, event_loop: &mut EventLoop, change: fn(&mut Transport)) -> io::Result<()> {
        let devices: Vec<_> = self.devices.iter().map(|device| device.registers.clone()).collect();
        let (false, Some(thread)) = (devices.is_empty(), self.vcpus().first()) else {
            return Ok(());
        };
        let (on, is_done) = (event_loop.handle(), Arc::new(AtomicBool::new(false)));
        let done = is_done.clone();
        thread.hand(Box::new(move || {
            for registers in devices {
                let mut registers =
                    registers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                change(registers.transport_mut());
            }
            done.store(true, Ordering::Release);
            on.wake();
        }));
        while !is_done.load(Ordering::Acquire) {
            event_loop.run_once()?;
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
        while self.vcpus().iter().any(|vcpu| !vcpu.has_left()) {
            self.vcpus().iter().filter(|v| !v.has_left()).for_each(VcpuThread::kick_to_stop);
            event_loop.run_for(STOP_ROUND_MS)?;
        }
        self.on_devices(event_loop, Transport::reset)?;
        self.devices.clear();
        self.legacy.clear();
        self.vcpus().iter().for_each(|vcpu| drop(vcpu.take_back()));
        self.sources.drain(..).for_each(|source| event_loop.remove(source));
        Ok(())
    }
}

/// What [`RunningVm::save`] found.
pub struct SavedState {
    /// Interrupt controllers and clock.
    pub vm: Pieces,
    /// Each vCPU.
    pub vcpus: Vec<Pieces>,
    /// Each device that has state, by its name.
    pub devices: Vec<(String, State)>,
}

impl SavedState {
    /// Adds the state of a device, if it has one.
    fn push(
        &mut self,
        id: String,
        state: Result<State, devices::state::StateError>,
    ) -> Result<(), SnapshotError> {
        match state {
            Ok(state) if state.is_empty() => {}
            Ok(state) => self.devices.push((id, state)),
            Err(source) => return Err(SnapshotError::Device { id, source }),
        }
        Ok(())
    }
}

/// How long one wait for the loop may take while stopping, in milliseconds; a thread that leaves its machine does not
/// wake the loop.
const STOP_ROUND_MS: i32 = 1;
/// The same while pausing; whoever comes to rest wakes the loop, so this is only for a thread that leaves it.
const REST_ROUND_MS: i32 = 5;
