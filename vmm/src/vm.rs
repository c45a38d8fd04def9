//! A machine that is built, then runs, then is stopped.
//!
//! ```text
//!   builder::build ──▶ Microvm ── start ──▶ RunningVm ── stop ──▶ (memory and descriptors released)
//! ```
//!
//! It does not decide when to stop; [`crate::run`] does, by what [`crate::end::Ending`] says.

use std::io;

use crate::device_manager::Attached;
use crate::event_loop::{EventLoop, LoopSource, SourceId};
use crate::kvm::Vm;
use crate::vcpu::{VcpuHandle, VcpuSetup};

/// A machine that has not run yet.
pub struct Microvm {
    pub(crate) vm: Vm,
    pub(crate) vcpus: Vec<VcpuSetup>,
    pub(crate) devices: Vec<Attached>,
    /// What the loop serves for this machine besides its virtio devices.
    pub(crate) sources: Vec<Box<dyn LoopSource>>,
}

/// A machine whose vCPUs run.
pub struct RunningVm {
    // Field order is drop order: threads are gone before devices, devices before the VM.
    vcpus: Vec<VcpuHandle>,
    devices: Vec<Attached>,
    sources: Vec<SourceId>,
    _vm: Vm,
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
            sources: self.sources.into_iter().map(|source| event_loop.add(source)).collect(),
            _vm: self.vm,
        };
        for setup in self.vcpus {
            match VcpuHandle::start(setup) {
                Ok(vcpu) => running.vcpus.push(vcpu),
                Err(error) => {
                    running.vcpus.iter().for_each(VcpuHandle::kick_to_stop);
                    return Err(error);
                }
            }
        }
        Ok(running)
    }
}

impl RunningVm {
    /// Tells every vCPU to stop, and does not wait for it.
    pub fn tell_to_stop(&self) {
        self.vcpus.iter().for_each(VcpuHandle::kick_to_stop);
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
        // Devices are reset on a thread of their own: stopping one waits for the loop as well.
        let devices = std::mem::take(&mut self.devices);
        let stopper = std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
            for device in devices {
                let mut registers =
                    device.registers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                registers.transport_mut().reset();
            }
        })?;
        while !stopper.is_finished() {
            event_loop.run_for(STOP_ROUND_MS)?;
        }
        self.sources.drain(..).for_each(|source| event_loop.remove(source));
        Ok(())
    }
}

/// How long one wait for the loop may take while stopping, in milliseconds; a thread that ends does not
/// wake the loop.
const STOP_ROUND_MS: i32 = 1;
