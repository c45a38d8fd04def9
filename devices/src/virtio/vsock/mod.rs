//! Socket device (virtio 1.3, 5.10): streams between programs of the guest and programs of the host.
//!
//! ```text
//!  transmit queue ──▶ packet ──▶ muxer ──▶ link: connection (state, credit) + stream ──▶ host program
//!  receive queue  ◀── posted buffers ◀── muxer: whose turn ◀── link ◀───────────────────
//! ```
//!
//! Everything but [`handler`] is protocol without queues. Who listens on the host, and how, is the business
//! of the [`Backend`](crate::backend::vsock::Backend) behind it. No datagrams, no sequenced packets.

mod backlog;
mod connection;
mod counters;
mod credit;
mod handler;
mod link;
mod muxer;
mod packet;
mod posted;

use std::sync::Arc;

use super::DeviceType;
use super::device::{ActivateError, Activation, QueueHandler, VirtioDevice, read_config_bytes};
use crate::backend::vsock::Backend;
use crate::state::{State, StateError};
use handler::Handler;
use muxer::Muxer;

pub use counters::Counters;

/// Streams are supported.
pub const F_STREAM: u64 = 1 << 0;

const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// Opens the host's side; a new one for each activation.
pub type OpenBackend = Box<dyn Fn() -> std::io::Result<Box<dyn Backend>> + Send>;

/// The socket device.
pub struct Vsock {
    guest_cid: u32,
    open: OpenBackend,
    counters: Arc<Counters>,
    /// The next driver to be activated believes in connections of another device: it will be told that they are
    /// gone.
    owes_reset: bool,
}

impl Vsock {
    /// A device for a guest with the address `guest_cid`: at least 3, less than `u32::MAX` (virtio 1.3,
    /// 5.10.4).
    #[must_use]
    pub fn new(guest_cid: u32, open: OpenBackend) -> Self {
        Self { guest_cid, open, counters: Arc::default(), owes_reset: false }
    }

    /// What the device counts.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&u64::from(self.guest_cid).to_le_bytes(), offset, data);
    }

    fn activate(
        &mut self,
        mut activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError> {
        let receive = activation.take_queue(0)?;
        let transmit = activation.take_queue(1)?;
        let events = activation.take_queue(2)?;
        let backend = (self.open)().map_err(|source| ActivateError::Host {
            what: "vsock: connections cannot be watched".to_owned(),
            source,
        })?;
        let muxer = Muxer::new(self.guest_cid.into(), backend, self.counters.clone());
        let owes_reset = std::mem::take(&mut self.owes_reset);
        Ok(vec![Box::new(Handler::new([receive, transmit, events], muxer, owes_reset))])
    }

    /// Connections stay where they are, and the address is the one that this device was given: the driver is told
    /// to ask for it again.
    fn restore(&mut self, _state: &State, is_active: bool) -> Result<(), StateError> {
        self.owes_reset = is_active;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
