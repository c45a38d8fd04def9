//! How a virtio device gets the driver's attention.
//!
//! Holds the interrupt status that the driver reads and acknowledges; does not know how the line reaches
//! a vCPU.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// Interrupt status bit: a queue has new used buffers (virtio 1.3, 4.2.2 `InterruptStatus`).
const USED_BUFFER: u32 = 1;
/// Interrupt status bit: the configuration changed, or the device needs a reset.
const CONFIG_CHANGE: u32 = 2;
/// All interrupt status bits.
pub(crate) const ALL_BITS: u32 = USED_BUFFER | CONFIG_CHANGE;

/// The wire from a device to the guest's interrupt controller.
pub trait InterruptLine: Send + Sync {
    /// Raises one edge.
    ///
    /// # Errors
    /// When the host refuses; the device goes on without this interrupt.
    fn trigger(&self) -> io::Result<()>;
}

/// An irqfd: a write to it raises the line.
impl InterruptLine for EventFd {
    fn trigger(&self) -> io::Result<()> {
        self.write(1)
    }
}

/// A device's end of its interrupt: cheap to clone, shared by transport and queue handlers.
#[derive(Clone)]
pub struct Interrupt(Arc<Shared>);

struct Shared {
    status: AtomicU32,
    generation: AtomicU32,
    needs_reset: AtomicBool,
    line: Box<dyn InterruptLine>,
}

impl Interrupt {
    /// An interrupt with nothing pending that raises `line`.
    #[must_use]
    pub fn new(line: Box<dyn InterruptLine>) -> Self {
        Self(Arc::new(Shared {
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            line,
        }))
    }

    /// Tells the driver that used buffers are waiting.
    pub fn used_buffer(&self) {
        self.raise(USED_BUFFER);
    }

    /// Tells the driver that the configuration space changed; the generation goes up before the
    /// interrupt, so that a reader can notice a torn read (virtio 1.3, 2.5.1).
    pub fn config_changed(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(CONFIG_CHANGE);
    }

    /// Marks the device as beyond repair until the driver resets it (virtio 1.3, 2.1.2).
    pub fn needs_reset(&self) {
        self.0.needs_reset.store(true, Ordering::Release);
        self.raise(CONFIG_CHANGE);
    }

    /// Tells the driver that anything may be new. It looks and finds what there is; one that was never told does
    /// not look.
    pub fn anything_changed(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(ALL_BITS);
    }

    /// Takes over what another interrupt had pending, and raises nothing.
    pub(crate) fn restore(&self, status: u32, generation: u32, needs_reset: bool) {
        self.0.status.store(status, Ordering::Release);
        self.0.generation.store(generation, Ordering::Release);
        self.0.needs_reset.store(needs_reset, Ordering::Release);
    }

    /// Whether [`Self::needs_reset`] was called since the last [`Self::reset`].
    #[must_use]
    pub fn is_reset_needed(&self) -> bool {
        self.0.needs_reset.load(Ordering::Acquire)
    }

    /// The bits that the driver has not acknowledged yet.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.0.status.load(Ordering::Acquire)
    }

    /// The driver acknowledges `bits`.
    pub fn acknowledge(&self, bits: u32) {
        self.0.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// The configuration generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Back to nothing pending; the generation goes on, so that a stale reader still notices.
    pub fn reset(&self) {
        self.0.status.store(0, Ordering::Release);
        self.0.needs_reset.store(false, Ordering::Release);
    }

    fn raise(&self, bits: u32) {
        self.0.status.fetch_or(bits, Ordering::AcqRel);
        if let Err(error) = self.0.line.trigger() {
            log::error!("interrupt could not be raised: {error}");
        }
    }
}
