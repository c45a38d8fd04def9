//! The contract between a virtio device, its transport and the event loop.
//!
//! A device has a control plane ([`VirtioDevice`]: identity, features, configuration space) and a data
//! plane (one or more [`QueueHandler`]s). The transport owns the life cycle:
//!
//! ```text
//!            DRIVER_OK: activate(queues)          event loop: handle(token) ...
//!  inactive ───────────────────────────▶ active ◀──────────────────────────────┐
//!     ▲                                    │  handler returns an error          │
//!     │ status = 0: stop() hands the       ├──────────▶ NEEDS_RESET ────────────┘
//!     │ queues back                        │            (handlers idle)
//!     └────────────────────────────────────┘
//! ```
//!
//! `activate` moves the queues into the handlers; [`QueueHandler::stop`] hands them back and is the only
//! way out. A machine that pauses takes the handlers off their loop as they are, after
//! [`QueueHandler::quiesce`], and puts them back when it resumes. A device knows neither its address nor KVM.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::DeviceType;
use super::queue::{Queue, QueueError, QueuePosition};
use crate::event::Interest;
use crate::interrupt::Interrupt;
use crate::memory::GuestMemory;
use crate::state::{State, StateError};

/// Control plane of a device. Called by the transport, never concurrently: [`Self::activate`] on the loop that will
/// serve the device, the rest on vCPU threads.
pub trait VirtioDevice: Send {
    /// The device type the driver sees.
    fn device_type(&self) -> DeviceType;

    /// The largest size of each queue, a power of two up to 32768; the length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// The device's own feature bits; the transport adds [`super::feature::COMMON`].
    fn features(&self) -> u64;

    /// Fills `data` from the configuration space at `offset`. Bytes beyond its end read as zero, which
    /// [`read_config_bytes`] does.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes `data` to the configuration space. Devices without writable fields ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready (`DRIVER_OK`): takes the queues and returns the handlers that serve them.
    /// After the handlers were stopped it may be called again.
    ///
    /// # Errors
    /// When a host resource is missing; the transport then sets `NEEDS_RESET`.
    fn activate(
        &mut self,
        activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError>;

    /// What the driver and the host have made of the device so far, besides what the transport knows: for
    /// [`Self::restore`] of another one. Called while the handlers are at rest.
    fn save(&self) -> State {
        State::new()
    }

    /// Takes over what another device saved. If `is_active`, [`Self::activate`] follows, with queues that go on where
    /// that one's were; otherwise its driver is gone, or will reset the device.
    ///
    /// # Errors
    /// [`StateError`] when `state` is not one of such a device, which is of no use then.
    fn restore(&mut self, _state: &State, _is_active: bool) -> Result<(), StateError> {
        Ok(())
    }
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// All guest RAM.
    pub memory: GuestMemory,
    /// The features that the driver accepted, a subset of those offered.
    pub features: u64,
    /// One entry per queue of the device; `None` where the driver did not set the queue up.
    pub queues: Vec<Option<Queue>>,
    /// For configuration changes; queues carry their own.
    pub interrupt: Interrupt,
}

impl Activation {
    /// Takes queue `index`, which this device cannot work without.
    ///
    /// # Errors
    /// [`ActivateError::QueueMissing`] when the driver did not enable it.
    pub fn take_queue(&mut self, index: usize) -> Result<Queue, ActivateError> {
        self.queues
            .get_mut(index)
            .and_then(Option::take)
            .ok_or(ActivateError::QueueMissing { index })
    }
}

/// Why a device could not start.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver said `DRIVER_OK` without a queue that the device needs.
    #[error("queue {index} was not set up by the driver")]
    QueueMissing {
        /// Index of the queue.
        index: usize,
    },
    /// The host refused something.
    #[error("{what}")]
    Host {
        /// What was being done, on what.
        what: String,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Data plane of a device: owns its queues while the device is active, and lives on one event loop.
pub trait QueueHandler: Send {
    /// What to watch, asked once after activation. Kick descriptors come from [`Queue::kick_fd`].
    fn interests(&self) -> Vec<Interest>;

    /// `token` of [`Self::interests`] is ready. Work per call is bounded: a handler that stops early
    /// calls [`Queue::kick_again`].
    ///
    /// # Errors
    /// When the driver broke the protocol or guest memory vanished: the device then needs a reset.
    /// Trouble of the host (a failed read of a disk) is answered to the guest instead.
    fn handle(&mut self, token: u16) -> Result<(), QueueError>;

    /// The machine is about to stand still, and this handler with it: waits for everything that is in flight
    /// and answers it, so that nothing changes guest memory afterwards. Takes nothing new off the ring.
    /// Handlers that finish everything in [`Self::handle`] need not do anything.
    ///
    /// # Errors
    /// As [`Self::handle`].
    fn quiesce(&mut self) -> Result<(), QueueError> {
        Ok(())
    }

    /// What is to be watched besides since [`Self::interests`] was asked; asked after each [`Self::handle`].
    fn late_interest(&mut self) -> Option<Interest> {
        None
    }

    /// The queues that [`Self::stop`] would hand back, to see where they stand.
    fn queues(&self) -> Vec<&Queue>;

    /// Whether [`Self::quiesce`] has done what it says. Chains that are kept all the same were taken last of all,
    /// nothing was written to them that matters, and what they ask for may be done again.
    fn is_at_rest(&self) -> bool {
        true
    }

    /// Gives up: nothing in flight is lost, and the queues go back to the transport.
    fn stop(self: Box<Self>) -> Vec<Queue>;
}

/// The handlers of one active device, as the event loop drives them.
///
/// After a handler's error the whole device is marked `NEEDS_RESET` and its handlers idle until the
/// driver resets it: a broken ring must not be touched again.
pub struct Worker {
    name: String,
    handlers: Vec<Box<dyn QueueHandler>>,
    kicks: Vec<(u16, Arc<EventFd>)>,
    interrupt: Interrupt,
    failed: bool,
    /// Late interests that the event loop has not taken.
    late: Vec<(u32, Interest)>,
}

impl Worker {
    /// The handlers of the device called `name`, with the kick descriptor of each live queue.
    #[must_use]
    pub fn new(
        name: String,
        handlers: Vec<Box<dyn QueueHandler>>,
        kicks: Vec<(u16, Arc<EventFd>)>,
        interrupt: Interrupt,
    ) -> Self {
        Self { name, handlers, kicks, interrupt, failed: false, late: Vec::new() }
    }

    /// The name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The queue index and kick descriptor of each live queue.
    #[must_use]
    pub fn kicks(&self) -> &[(u16, Arc<EventFd>)] {
        &self.kicks
    }

    /// Everything to watch, with the owner's index in the upper half of the event data.
    #[must_use]
    pub fn interests(&self) -> Vec<(u32, Interest)> {
        let mut all = Vec::new();
        for (index, handler) in (0_u32..).zip(&self.handlers) {
            for interest in handler.interests() {
                all.push((index << 16 | u32::from(interest.token), interest));
            }
        }
        all
    }

    /// Passes a ready descriptor on to its handler. Returns `false` when the device failed and nothing
    /// of it needs to be watched any more.
    pub fn handle(&mut self, data: u32) -> bool {
        let token = (data & 0xffff) as u16;
        let handler = usize::try_from(data >> 16).ok().and_then(|i| self.handlers.get_mut(i));
        if self.failed {
            return false;
        }
        if let Some(handler) = handler {
            if let Err(error) = handler.handle(token) {
                log::warn!("{}: guest driver broke the protocol: {error}", self.name);
                self.fail();
            } else if let Some(interest) = handler.late_interest() {
                self.late.push((data & !0xffff | u32::from(interest.token), interest));
            }
        }
        !self.failed
    }

    /// Lets every handler finish what is in flight; they rest until a loop serves them again.
    pub fn quiesce(&mut self) {
        if self.failed {
            return;
        }
        for handler in &mut self.handlers {
            if let Err(error) = handler.quiesce() {
                log::warn!("{}: guest driver broke the protocol: {error}", self.name);
                self.failed = true;
                self.interrupt.needs_reset();
            }
        }
        // A handler that was in the middle of its ring goes on when it is served again.
        self.kick_all();
    }

    /// Has every queue looked at as soon as a loop serves the device.
    pub(super) fn kick_all(&self) {
        for (queue, kick) in &self.kicks {
            if let Err(error) = kick.write(1) {
                log::error!("{}: kick of queue {queue} lost: {error}", self.name);
            }
        }
    }

    /// Index and position of each queue, once the handlers are at rest; `None` when one of them is not.
    pub(super) fn positions(&self) -> Option<Vec<(u16, QueuePosition)>> {
        let is_at_rest = self.handlers.iter().all(|handler| handler.is_at_rest());
        let queues = self.handlers.iter().flat_map(|handler| handler.queues());
        is_at_rest.then(|| queues.map(|queue| (queue.index(), queue.position())).collect())
    }

    /// Whether the device waits for a reset.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// What [`Self::handle`] made necessary to watch besides [`Self::interests`], in the same form.
    pub fn late_interests(&mut self) -> impl Iterator<Item = (u32, Interest)> {
        self.late.drain(..)
    }

    /// The event loop cannot watch what the device needs: it is of no use until it is reset.
    pub fn cannot_watch(&mut self, error: &dyn std::error::Error) {
        log::error!("{}: a descriptor cannot be watched: {error}", self.name);
        self.fail();
    }

    fn fail(&mut self) {
        self.failed = true;
        self.interrupt.needs_reset();
    }

    /// Stops every handler; the queues come back in no particular order.
    #[must_use]
    pub fn stop(self) -> Vec<Queue> {
        self.handlers.into_iter().flat_map(QueueHandler::stop).collect()
    }
}

/// What a transport asks of the VMM around it; implemented over KVM and the event loop there, by a
/// recorder in tests. One per device: the host knows the device's address and line.
pub trait DeviceHost: Send + Sync {
    /// Routes the guest's kicks to the worker's descriptors and serves it on an event loop.
    ///
    /// # Errors
    /// When the host refuses; nothing of the worker is left registered then.
    fn start(&self, worker: Worker) -> std::io::Result<()>;

    /// Takes the worker back, if one was started. When this returns, none of its handlers runs.
    fn stop(&self) -> Option<Worker>;

    /// Has `work` done by the thread that serves the device, and waits for that. Whatever needs the host goes there:
    /// the thread that runs the guest may ask the host for next to nothing. Work that cannot be done is dropped.
    fn on_loop(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

/// Copies from a configuration space of `config` bytes; what lies beyond its end reads as zero.
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let tail = usize::try_from(offset).ok().and_then(|start| config.get(start..));
    for (to, from) in data.iter_mut().zip(tail.unwrap_or_default()) {
        *to = *from;
    }
}

impl Queue {
    /// The descriptor that a kick of this queue makes readable, for [`QueueHandler::interests`]. Every kick
    /// is an edge of its own, so that nobody needs to read it.
    #[must_use]
    pub fn kick_interest(&self, token: u16) -> Interest {
        Interest::readable_edge(self.kick_fd(), token)
    }
}
