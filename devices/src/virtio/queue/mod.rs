//! A split virtqueue (virtio 1.3, 2.7) as a device uses it: pop a chain, do the work, push it back.
//!
//! Nothing malformed passes silently: a chain is walked and checked as a whole before a device sees any of
//! it, and whatever is wrong with it is a [`QueueError`]. `virtio-queue` decides whether a configuration is
//! usable; after that the rings stay where they were found ([`ring`]), and addresses and size cannot
//! change. The queue also holds its two doorbells. Setting it up is the transport's business
//! ([`QueueConfig`]).

mod chain;
mod ring;

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use virtio_queue::QueueT;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

pub use chain::{Chain, ChainFault};
pub use ring::RingFault;

use crate::interrupt::Interrupt;
use crate::memory::GuestMemory;
use ring::Rings;

/// What the driver writes to set a queue up; plain data, nothing believed yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueConfig {
    /// Number of descriptors; at most the device's maximum, a power of two.
    pub size: u16,
    /// Whether the driver enabled the queue.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the driver area (available ring).
    pub driver: u64,
    /// Guest-physical address of the device area (used ring).
    pub device: u64,
}

/// What is wrong with a queue, or with what the driver put on it. The device needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The driver enabled a queue that cannot be used.
    #[error(
        "queue {queue} is not usable: size {}, areas at {:#x}, {:#x}, {:#x}",
        .config.size, .config.descriptors, .config.driver, .config.device
    )]
    Setup {
        /// Index of the queue.
        queue: u16,
        /// What the driver asked for.
        config: QueueConfig,
    },
    /// Ring indices are impossible.
    #[error("queue {queue}: broken ring")]
    Ring {
        /// Index of the queue.
        queue: u16,
        /// What is wrong with it.
        #[source]
        source: RingFault,
    },
    /// A descriptor chain is malformed.
    #[error("queue {queue}: malformed chain at descriptor {head}: {fault}")]
    Chain {
        /// Index of the queue.
        queue: u16,
        /// First descriptor of the chain.
        head: u16,
        /// What is wrong with it.
        fault: ChainFault,
    },
    /// A buffer or ring is no longer where it was: guest memory could not be accessed.
    #[error("queue {queue}: guest memory is not accessible")]
    Memory {
        /// Index of the queue.
        queue: u16,
        /// The failed access.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The chain is well-formed, but the device cannot do anything with its layout.
    #[error("queue {queue}: {what}")]
    Protocol {
        /// Index of the queue.
        queue: u16,
        /// What the driver must do instead.
        what: &'static str,
    },
}

/// What a device can find wrong with a well-formed chain.
#[derive(Debug)]
pub enum Fault {
    /// Guest memory could not be accessed.
    Memory(vm_memory::GuestMemoryError),
    /// The layout makes no sense to the device; the text says what the driver must do instead.
    Protocol(&'static str),
}

impl From<vm_memory::GuestMemoryError> for Fault {
    fn from(error: vm_memory::GuestMemoryError) -> Self {
        Self::Memory(error)
    }
}

/// A queue in use. Owned by one handler at a time.
pub struct Queue {
    index: u16,
    rings: Rings,
    memory: GuestMemory,
    indirect: bool,
    kick: Arc<EventFd>,
    interrupt: Interrupt,
    unannounced: bool,
    /// Where the used ring stood when the driver's wish for an interrupt was last looked at.
    considered: u16,
}

/// Where a queue stands. Chains between the two are with the device: one that hands chains back in the order of
/// the ring can be saved with some, because a copy of it takes them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// Next entry of the available ring to look at.
    pub next_avail: u16,
    /// Next entry of the used ring to fill.
    pub next_used: u16,
}

impl Queue {
    /// A queue that starts at index 0 of both rings. Copies `config`: later writes to the registers
    /// change nothing.
    ///
    /// # Errors
    /// [`QueueError::Setup`] when the size is out of range or a ring is not wholly in RAM.
    pub fn new(
        index: u16,
        max_size: u16,
        config: QueueConfig,
        features: u64,
        memory: GuestMemory,
        doorbells: (Arc<EventFd>, Interrupt),
    ) -> Result<Self, QueueError> {
        let has_event_idx = features & super::feature::EVENT_IDX != 0;
        let rings = is_usable(max_size, &config, &memory)
            .then(|| Rings::find(&memory, &config, has_event_idx))
            .flatten()
            .ok_or(QueueError::Setup { queue: index, config })?;
        let (kick, interrupt) = doorbells;
        let indirect = features & super::feature::INDIRECT_DESC != 0;
        Ok(Self {
            index,
            rings,
            memory,
            indirect,
            kick,
            interrupt,
            unannounced: false,
            considered: 0,
        })
    }

    /// The same queue after `next_used` chains were answered (modulo 2^16): the next one to be taken is the first
    /// that was not.
    #[must_use]
    pub fn starting_at(mut self, next_used: u16) -> Self {
        self.rings.start_at(next_used);
        self.considered = next_used;
        self
    }

    /// Index of this queue in its device.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors: also the most chains that can be pending.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// The guest memory that this queue's buffers lie in.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Where the queue stands.
    #[must_use]
    pub fn position(&self) -> QueuePosition {
        self.rings.position()
    }

    /// Takes the next chain off the available ring into `chain`, reusing its storage. `false` when the
    /// driver has put nothing there. The caller owes one [`Self::push`] of its head.
    ///
    /// # Errors
    /// [`QueueError`] when the ring or the chain is malformed.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, QueueError> {
        let queue = self.index;
        let Some(head) = self.rings.pop().map_err(|e| ring_error(queue, e))? else {
            return Ok(false);
        };
        let table =
            self.rings.descriptors().map_err(|source| QueueError::Memory { queue, source })?;
        chain
            .walk(&self.memory, table, self.rings.size(), head, self.indirect)
            .map_err(|fault| QueueError::Chain { queue, head, fault })?;
        Ok(true)
    }

    /// Puts the chain that [`Self::pop`] gave out last back on the available ring: it was not used.
    pub fn unpop(&mut self) {
        self.rings.unpop();
    }

    /// Hands a chain back to the driver, `written` bytes of its writable part being filled. The driver
    /// hears of it at the next [`Self::announce`].
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the head is not one of this queue's.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.push_all(&[(head, written)])
    }

    /// Hands several chains, each with the bytes written to it, back at once: the driver sees all of
    /// them or none. Data spread over several chains needs this (virtio 1.3, 5.1.6.4).
    ///
    /// # Errors
    /// [`QueueError`] when a head is not one of this queue's.
    pub fn push_all(&mut self, used: &[(u16, u32)]) -> Result<(), QueueError> {
        self.put(used)?;
        self.publish()
    }

    /// The same, but the driver sees nothing of it before [`Self::publish`] or [`Self::announce`]. A driver that
    /// waits looks at the index all the time, and each change of it costs both sides a trip of its cache line.
    ///
    /// # Errors
    /// [`QueueError`] when a head is not one of this queue's.
    pub fn put(&mut self, used: &[(u16, u32)]) -> Result<(), QueueError> {
        self.unannounced |= !used.is_empty();
        self.rings.put(used).map_err(|e| ring_error(self.index, e))
    }

    /// Shows the driver what was [put](Self::put) on the used ring.
    ///
    /// # Errors
    /// [`QueueError`] when the ring cannot be written.
    pub fn publish(&mut self) -> Result<(), QueueError> {
        self.rings.publish().map_err(|e| ring_error(self.index, e))
    }

    /// Interrupts the driver if there is something new on the used ring and it wants to hear of it.
    ///
    /// # Errors
    /// [`QueueError`] when the ring cannot be read.
    pub fn announce(&mut self) -> Result<(), QueueError> {
        self.publish()?;
        if std::mem::take(&mut self.unannounced) && self.wants_interrupt()? {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    /// Answers what the driver has put on the ring, in order, and interrupts it once at the end.
    ///
    /// `answer` does the work of one chain and says how many bytes of its writable part it filled. After
    /// `budget` chains the queue reschedules itself, so that a busy driver starves nobody.
    ///
    /// # Errors
    /// [`QueueError`] when the ring or a chain is malformed, or `answer` finds a [`Fault`].
    pub fn serve(
        &mut self,
        budget: usize,
        chain: &mut Chain,
        mut answer: impl FnMut(&GuestMemory, &Chain) -> Result<u32, Fault>,
    ) -> Result<(), QueueError> {
        let mut left = budget;
        loop {
            self.silence_kicks()?;
            while self.pop(chain)? {
                let written = answer(&self.memory, chain).map_err(|f| self.fault(f))?;
                self.push(chain.head(), written)?;
                left = left.saturating_sub(1);
                if left == 0 {
                    self.kick_again();
                    return self.announce();
                }
            }
            if !self.expect_kicks()? {
                return self.announce();
            }
        }
    }

    /// A [`Fault`] in this queue's name.
    #[must_use]
    pub fn fault(&self, fault: Fault) -> QueueError {
        match fault {
            Fault::Memory(source) => QueueError::Memory { queue: self.index, source },
            Fault::Protocol(what) => QueueError::Protocol { queue: self.index, what },
        }
    }

    /// Asks the driver not to kick while its chains are being drained.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the ring cannot be written.
    pub fn silence_kicks(&mut self) -> Result<(), QueueError> {
        self.rings.silence_kicks().map_err(|e| ring_error(self.index, e))
    }

    /// Asks the driver to kick again; `true` when chains arrived meanwhile, so that the caller must look
    /// once more.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the ring cannot be accessed.
    pub fn expect_kicks(&mut self) -> Result<bool, QueueError> {
        self.rings.expect_kicks().map_err(|e| ring_error(self.index, e))
    }

    /// Whether the driver has put something on the ring that was not taken yet, however its kicks stand.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the ring cannot be accessed.
    pub fn has_more(&mut self) -> Result<bool, QueueError> {
        self.rings.has_more().map_err(|e| ring_error(self.index, e))
    }

    /// The descriptor that becomes readable when the driver kicks.
    #[must_use]
    pub fn kick_fd(&self) -> RawFd {
        self.kick.as_raw_fd()
    }

    /// The same descriptor, for whoever wants the queue's handler to be called.
    #[must_use]
    pub fn kick_handle(&self) -> Arc<EventFd> {
        self.kick.clone()
    }

    /// Makes the event loop come back to this queue: the handler stopped before the queue was empty.
    pub fn kick_again(&self) {
        if let Err(error) = self.kick.write(1) {
            log::error!(
                "queue {}: cannot reschedule (fd {}): {error}",
                self.index,
                self.kick.as_raw_fd()
            );
        }
    }

    fn wants_interrupt(&mut self) -> Result<bool, QueueError> {
        let considered = std::mem::replace(&mut self.considered, self.rings.position().next_used);
        self.rings.wants_interrupt(considered).map_err(|e| ring_error(self.index, e))
    }
}

/// Whether size and addresses are what the specification allows, and in RAM.
fn is_usable(max_size: u16, config: &QueueConfig, memory: &GuestMemory) -> bool {
    let check = || -> Result<bool, virtio_queue::Error> {
        let mut ring = virtio_queue::Queue::new(max_size)?;
        ring.try_set_size(config.size)?;
        ring.try_set_desc_table_address(GuestAddress(config.descriptors))?;
        ring.try_set_avail_ring_address(GuestAddress(config.driver))?;
        ring.try_set_used_ring_address(GuestAddress(config.device))?;
        ring.set_ready(true);
        Ok(ring.is_valid(memory))
    };
    // A ring at address 0 means "not set up" to virtio-queue.
    config.driver != 0 && config.device != 0 && check().unwrap_or(false)
}

fn ring_error(queue: u16, fault: RingFault) -> QueueError {
    match fault {
        RingFault::Memory(source) => QueueError::Memory { queue, source },
        source => QueueError::Ring { queue, source },
    }
}

#[cfg(test)]
mod tests;
