//! The virtio life cycle: status bits, feature negotiation, queue set-up (virtio 1.3, 2.1, 2.2, 3.1).
//!
//! One [`Transport`] per device owns the state machine; a decoder ([`mmio`]) translates its registers
//! into these calls. Writes that come out of order are counted and change nothing: no register can be
//! altered while a device is active.

pub mod mmio;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Activation, DeviceHost, VirtioDevice, Worker};
use super::feature;
use super::queue::{Queue, QueueConfig};
use crate::interrupt::Interrupt;
use crate::memory::GuestMemory;

/// Device status bits (virtio 1.3, 2.1).
pub mod status {
    /// The driver noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u32 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u32 = 8;
    /// The device is beyond repair until it is reset.
    pub const NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
}

/// Why a device could not be activated.
type ActivationFailure = Box<dyn std::error::Error + Send + Sync>;

/// A device, its registers and its life cycle.
pub struct Transport {
    name: String,
    /// Never contended: the loop that serves the device has it while this transport waits for that.
    device: Arc<Mutex<Box<dyn VirtioDevice>>>,
    host: Box<dyn DeviceHost>,
    memory: GuestMemory,
    interrupt: Interrupt,
    status: u32,
    driver_features: u64,
    queues: Vec<QueueConfig>,
    kicks: Vec<(u16, Arc<EventFd>)>,
    /// The worker while the machine is paused.
    resting: Option<Worker>,
    /// That worker has never been on a loop: the driver knows another machine's.
    is_restored: bool,
    /// Register writes that the state machine refused.
    refused: u64,
}

impl Transport {
    /// A freshly reset device called `name`.
    #[must_use]
    pub fn new(
        name: String,
        device: Box<dyn VirtioDevice>,
        host: Box<dyn DeviceHost>,
        memory: GuestMemory,
        interrupt: Interrupt,
    ) -> Self {
        let queues = vec![QueueConfig::default(); device.queue_sizes().len()];
        Self {
            name,
            device: Arc::new(Mutex::new(device)),
            host,
            memory,
            interrupt,
            status: 0,
            driver_features: 0,
            queues,
            kicks: Vec::new(),
            resting: None,
            is_restored: false,
            refused: 0,
        }
    }

    /// The device behind this transport.
    pub fn device(&self) -> MutexGuard<'_, Box<dyn VirtioDevice>> {
        lock(&self.device)
    }

    /// The device's interrupt.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// All features on offer.
    #[must_use]
    pub fn offered_features(&self) -> u64 {
        self.device().features() | feature::COMMON
    }

    /// How many register writes were refused because they came at the wrong time.
    #[must_use]
    pub fn refused_writes(&self) -> u64 {
        self.refused
    }

    /// The status as the driver reads it.
    #[must_use]
    pub fn status(&self) -> u32 {
        let needs_reset = self.interrupt.is_reset_needed() && self.is_active();
        self.status | if needs_reset { status::NEEDS_RESET } else { 0 }
    }

    /// The driver accepts the features in half `half` (0: bits 0 to 31, 1: bits 32 to 63).
    pub fn accept_features(&mut self, half: u32, bits: u32) {
        if !self.is_negotiating() {
            return self.refuse("features");
        }
        match half {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(bits),
            1 => {
                self.driver_features = self.driver_features & 0xffff_ffff | u64::from(bits) << 32;
            }
            // Bits beyond 63 are not offered; asking for none of them is fine.
            _ if bits == 0 => {}
            _ => self.refuse("feature bits beyond 63"),
        }
    }

    /// The largest size of queue `index`; 0 when there is no such queue.
    #[must_use]
    pub fn max_queue_size(&self, index: u32) -> u16 {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.device().queue_sizes().get(index).copied().unwrap_or(0)
    }

    /// The registers of queue `index`.
    #[must_use]
    pub fn queue(&self, index: u32) -> Option<&QueueConfig> {
        self.queues.get(usize::try_from(index).ok()?)
    }

    /// Lets the driver change the registers of queue `index`: only between FEATURES_OK and DRIVER_OK,
    /// and, but for the enable bit, only while the queue is not enabled.
    pub fn configure_queue(&mut self, index: u32, change: impl FnOnce(&mut QueueConfig)) {
        const PHASE: u32 = status::FEATURES_OK | status::DRIVER_OK;
        if self.status & PHASE != status::FEATURES_OK {
            return self.refuse("queue registers");
        }
        let Some(queue) = usize::try_from(index).ok().and_then(|i| self.queues.get_mut(i)) else {
            return self.refuse("a queue that does not exist");
        };
        let mut changed = *queue;
        change(&mut changed);
        if queue.ready && changed.ready {
            return self.refuse("an enabled queue");
        }
        *queue = changed;
    }

    /// The driver kicks queue `index` by a register write, which happens only where the kick was not
    /// routed to the queue's descriptor.
    pub fn kick(&mut self, index: u32) {
        match self.kicks.iter().find(|(queue, _)| u32::from(*queue) == index) {
            Some((_, kick)) => {
                if let Err(error) = kick.write(1) {
                    log::error!("{}: kick of queue {index} lost: {error}", self.name);
                }
            }
            None => self.refuse("a kick of a queue that is not active"),
        }
    }

    /// Reads the configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device().read_config(offset, data);
    }

    /// Writes the configuration space; only a driver that announced itself may.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.status & status::DRIVER == 0 || self.status & status::FAILED != 0 {
            return self.refuse("the configuration space");
        }
        self.device().write_config(offset, data);
    }

    /// The driver writes the status register: 0 resets, anything else may only add the next bit.
    pub fn write_status(&mut self, value: u32) {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
        if value == 0 {
            return self.reset();
        }
        let added = value & !self.status;
        if self.status & !value != 0 {
            return self.refuse("status bits cannot be cleared");
        }
        if self.status & FAILED != 0 || value & FAILED != 0 {
            self.status |= FAILED;
            return;
        }
        for (bit, before) in [
            (ACKNOWLEDGE, 0),
            (DRIVER, ACKNOWLEDGE),
            (FEATURES_OK, ACKNOWLEDGE | DRIVER),
            (DRIVER_OK, ACKNOWLEDGE | DRIVER | FEATURES_OK),
        ] {
            if added & bit == 0 {
                continue;
            }
            if self.status & before != before {
                return self.refuse("status bits out of order");
            }
            match bit {
                FEATURES_OK if !self.are_features_acceptable() => {
                    return self.refuse("features that were not offered, or no VERSION_1");
                }
                DRIVER_OK => {
                    self.status |= DRIVER_OK;
                    self.activate();
                }
                _ => self.status |= bit,
            }
        }
    }

    /// The machine is about to stand still: takes an active device off its loop with everything in flight
    /// answered. The driver sees nothing of it.
    pub fn pause(&mut self) {
        if let Some(mut worker) = self.host.stop() {
            self.resting = self.on_loop(move || {
                worker.quiesce();
                worker
            });
        }
    }

    /// The machine goes on: a device that [`Self::pause`] took off its loop is served again. Where the host
    /// refuses that, the device asks its driver for a reset.
    pub fn resume(&mut self) {
        let Some(worker) = self.resting.take() else { return };
        let is_restored = std::mem::take(&mut self.is_restored);
        if let Err(error) = self.host.start(worker) {
            log::error!("{}: cannot go on after a pause: {error}", self.name);
            self.close_kicks();
            self.interrupt.needs_reset();
        } else if is_restored {
            // An interrupt may have been on its way while the machine was saved, and what the host offers may be
            // another size.
            self.interrupt.anything_changed();
        }
    }

    /// Stops the device and forgets everything that the driver set.
    pub fn reset(&mut self) {
        if let Some(worker) = self.resting.take().or_else(|| self.host.stop()) {
            self.on_loop(move || drop(worker.stop()));
        }
        self.is_restored = false;
        self.close_kicks();
        self.interrupt.reset();
        self.status = 0;
        self.driver_features = 0;
        self.queues.fill(QueueConfig::default());
    }

    fn is_active(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    fn is_negotiating(&self) -> bool {
        self.status & (status::DRIVER | status::FEATURES_OK) == status::DRIVER
    }

    fn are_features_acceptable(&self) -> bool {
        self.driver_features & !self.offered_features() == 0
            && self.driver_features & feature::VERSION_1 != 0
    }

    fn activate(&mut self) {
        if let Err(error) = self.try_activate() {
            log::warn!("{}: cannot be activated: {}", self.name, crate::event::chain(&*error));
            self.close_kicks();
            self.interrupt.needs_reset();
        }
    }

    fn try_activate(&mut self) -> Result<(), ActivationFailure> {
        let start = self.start();
        let worker = self.on_loop(move || start.worker(&[])).ok_or("its loop has ended")??;
        self.kicks = worker.kicks().to_vec();
        Ok(self.host.start(worker)?)
    }

    /// All that it takes to start the device as its driver has set it up.
    fn start(&self) -> Start {
        Start {
            name: self.name.clone(),
            device: self.device.clone(),
            memory: self.memory.clone(),
            interrupt: self.interrupt.clone(),
            features: self.driver_features,
            queues: self.queues.clone(),
        }
    }

    fn close_kicks(&mut self) {
        let kicks = std::mem::take(&mut self.kicks);
        if !kicks.is_empty() {
            self.on_loop(move || drop(kicks));
        }
    }

    /// What comes of `work` on the loop that serves the device; `None` when there is none any more.
    fn on_loop<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let place = Arc::new(Mutex::new(None));
        let result = place.clone();
        self.host.on_loop(Box::new(move || *lock(&place) = Some(work())));
        lock(&result).take()
    }

    fn refuse(&mut self, what: &str) {
        self.refused += 1;
        log::debug!("{}: driver wrote {what} at the wrong time", self.name);
    }
}

/// All that it takes to start a device.
struct Start {
    name: String,
    device: Arc<Mutex<Box<dyn VirtioDevice>>>,
    memory: GuestMemory,
    interrupt: Interrupt,
    features: u64,
    queues: Vec<QueueConfig>,
}

impl Start {
    /// Activates the device. `answered`: how many chains of each queue were answered before, where it is not 0.
    fn worker(self, answered: &[u16]) -> Result<Worker, ActivationFailure> {
        let Self { name, device, memory, interrupt, features, queues: configs } = self;
        let mut device = lock(&device);
        let mut answered = answered.iter();
        let mut queues = Vec::with_capacity(configs.len());
        let mut kicks = Vec::with_capacity(configs.len());
        let sizes = device.queue_sizes().to_vec();
        for ((index, config), max_size) in (0_u16..).zip(configs).zip(sizes) {
            let answered = answered.next().copied().unwrap_or(0);
            if !config.ready {
                queues.push(None);
                continue;
            }
            let kick = Arc::new(EventFd::new(EFD_NONBLOCK)?);
            kicks.push((index, kick.clone()));
            let doorbells = (kick, interrupt.clone());
            let queue = Queue::new(index, max_size, config, features, memory.clone(), doorbells)?;
            queues.push(Some(queue.starting_at(answered)));
        }
        let handlers = device.activate(Activation {
            memory,
            features,
            queues,
            interrupt: interrupt.clone(),
        })?;
        Ok(Worker::new(name, handlers, kicks, interrupt))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
