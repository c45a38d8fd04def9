//! Entropy source (virtio 1.3, 5.4): fills the driver's buffers with bytes of the host's generator.
//!
//! The smallest device, and the pattern for the others. It has no features and no configuration.

use std::io::Read;
use std::sync::Arc;

use super::DeviceType;
use super::device::{ActivateError, Activation, QueueHandler, VirtioDevice, read_config_bytes};
use super::queue::{Chain, Fault, Queue, QueueError};
use crate::counters;
use crate::event::Interest;
use crate::memory::Buffers;

/// Most bytes given for one request. A driver may offer a buffer of gigabytes; the used length tells it
/// how much it got, and it asks again (Linux takes 64 bytes at a time).
const MAX_REQUEST: usize = 4096;
/// Most requests answered before other devices get their turn.
const MAX_BATCH: usize = 64;

const QUEUE_SIZES: [u16; 1] = [64];
const KICK: u16 = 0;

/// Where the entropy comes from; a new reader for each activation.
pub type OpenSource = Box<dyn Fn() -> std::io::Result<Box<dyn Read + Send>> + Send>;

counters! {
    /// What the device counts.
    pub struct Counters {
        /// Requests that were answered.
        requests,
        /// Bytes given to the guest.
        bytes,
        /// Requests that the source failed.
        failed,
    }
}

/// The entropy device.
pub struct Rng {
    open: OpenSource,
    counters: Arc<Counters>,
}

impl Rng {
    /// A device fed by what `open` opens, such as `/dev/urandom`.
    #[must_use]
    pub fn new(open: OpenSource) -> Self {
        Self { open, counters: Arc::default() }
    }

    /// What the device counts, from its creation on.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&[], offset, data);
    }

    fn activate(
        &mut self,
        mut activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError> {
        let queue = activation.take_queue(0)?;
        let source = (self.open)().map_err(|source| ActivateError::Host {
            what: "entropy source cannot be opened".to_owned(),
            source,
        })?;
        let (counters, chain) = (self.counters.clone(), Chain::new());
        Ok(vec![Box::new(Handler { queue, source, chain, counters })])
    }
}

struct Handler {
    queue: Queue,
    source: Box<dyn Read + Send>,
    chain: Chain,
    counters: Arc<Counters>,
}

impl QueueHandler for Handler {
    fn interests(&self) -> Vec<Interest> {
        vec![self.queue.kick_interest(KICK)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        let Self { queue, source, chain, counters } = self;
        queue.serve(MAX_BATCH, chain, |memory, chain| {
            fill(&mut **source, &chain.writable(memory), counters)
        })
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}

/// Answers one request; a source that fails answers with no bytes.
fn fill(source: &mut dyn Read, to: &Buffers<'_>, counters: &Counters) -> Result<u32, Fault> {
    counters.requests.add(1);
    let mut bytes = [0; MAX_REQUEST];
    let wanted = bytes.get_mut(..to.len().min(MAX_REQUEST)).unwrap_or_default();
    if let Err(error) = source.read_exact(wanted) {
        log::error!("entropy source failed: {error}");
        counters.failed.add(1);
        return Ok(0);
    }
    let written = to.write_at(0, wanted)?;
    counters.bytes.add(written as u64);
    Ok(u32::try_from(written).unwrap_or(0))
}

#[cfg(test)]
mod tests;
