//! Block device (virtio 1.3, 5.2): a disk of the host as a disk of the guest.
//!
//! [`Block`] is the control plane; each queue has a handler of its own, so that queues can be
//! served by different threads. What a request means is in `request`, how bytes reach the disk in
//! [`crate::backend::disk::io`]. There are no geometry, no zones, no secure erase and no lifetime report.

mod config;
mod control;
mod counters;
mod handler;
mod request;

use std::num::NonZeroU16;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::DeviceType;
use super::device::{ActivateError, Activation, QueueHandler, VirtioDevice, read_config_bytes};
use crate::backend::disk::Disk;
use crate::backend::disk::io::{DiskIo, Engine, Rings};
use crate::memory::GuestMemory;
use crate::rate_limiter::Limiter;

pub use control::BlockControl;
pub use counters::{QueueCounters, QueueCounts};

use config::{QUEUE_SIZE, bit};
use control::Shared;
use handler::{Handler, Link};
use request::{ID_LEN, Rules};

/// The serial number that a guest sees: up to 20 printable ASCII characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial([u8; ID_LEN]);

/// Why a text cannot be a serial number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("serial number {text:?} must be 1 to {ID_LEN} printable ASCII characters")]
pub struct SerialError {
    /// The text.
    pub text: String,
}

impl std::str::FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let is_printable = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if text.is_empty() || text.len() > ID_LEN || !is_printable {
            return Err(SerialError { text: text.to_owned() });
        }
        Ok(Self::cut(text))
    }
}

impl Serial {
    /// The first 20 bytes of `text`.
    fn cut(text: &str) -> Self {
        let mut id = [0; ID_LEN];
        for (to, from) in id.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self(id)
    }
}

/// What makes up a block device.
pub struct BlockOptions {
    /// The name that the user gave it, for the log.
    pub id: String,
    /// The serial number; by default one that tells the host's disks apart.
    pub serial: Option<Serial>,
    /// Where the data is.
    pub disk: Arc<Disk>,
    /// Number of queues; one per vCPU is the most that helps.
    pub queues: NonZeroU16,
    /// How transfers are made.
    pub engine: Engine,
    /// What [`Engine::IoUring`] makes them with.
    pub rings: Rings,
    /// What all queues together are limited by.
    pub limiter: Arc<Limiter>,
}

/// Opens an engine of the given depth on a disk and a guest's memory.
type OpenIo = Box<dyn Fn(&Arc<Disk>, u16, &GuestMemory) -> Box<dyn DiskIo> + Send>;

/// The block device.
pub struct Block {
    name: Arc<str>,
    serial: Serial,
    shared: Arc<Shared>,
    queue_sizes: Vec<u16>,
    open_io: OpenIo,
}

impl Block {
    /// A device as `options` say.
    #[must_use]
    pub fn new(options: BlockOptions) -> Self {
        let (engine, rings) = (options.engine, options.rings.clone());
        let open_io = Box::new(move |disk: &Arc<Disk>, depth, memory: &_| {
            disk.open_io(engine, &rings, depth, memory)
        });
        Self::with_io(options, open_io)
    }

    /// Changes the device later.
    #[must_use]
    pub fn control(&self) -> BlockControl {
        BlockControl::new(self.shared.clone())
    }

    /// The counters of each queue, in order; they go on counting when the device is reset.
    #[must_use]
    pub fn counters(&self) -> &[Arc<QueueCounters>] {
        &self.shared.counters
    }

    fn with_io(options: BlockOptions, open_io: OpenIo) -> Self {
        let BlockOptions { id, serial, disk, queues, limiter, .. } = options;
        let queues = usize::from(queues.get());
        Self {
            name: id.into(),
            serial: serial.unwrap_or_else(|| Serial::cut(disk.identity())),
            shared: Shared::new(disk, limiter, queues),
            queue_sizes: vec![QUEUE_SIZE; queues],
            open_io,
        }
    }

    fn queue_count(&self) -> u16 {
        u16::try_from(self.queue_sizes.len()).unwrap_or(u16::MAX)
    }

    fn rules(&self, disk: &Disk, features: u64) -> Rules {
        let has = |feature| features & bit(feature) != 0;
        Rules {
            sectors: disk.sectors(),
            read_only: disk.is_read_only(),
            discard: has(VIRTIO_BLK_F_DISCARD),
            write_zeroes: has(VIRTIO_BLK_F_WRITE_ZEROES),
            write_through: !has(VIRTIO_BLK_F_FLUSH),
            id: self.serial.0,
        }
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        config::features(&self.shared.disk(), self.queue_count())
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&config::space(&self.shared.disk(), self.queue_count()), offset, data);
    }

    fn activate(
        &mut self,
        activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError> {
        let Activation { memory, features, queues, interrupt } = activation;
        let shared = &self.shared;
        let session = shared.sessions.begin(queues.iter().flatten(), interrupt);
        let changes = shared.changes();
        let disk = shared.disk();
        let mut handlers: Vec<Box<dyn QueueHandler>> = Vec::with_capacity(queues.len());
        // A driver may use fewer queues than there are (virtio 1.3, 5.2.5), but not none.
        for (queue, counters) in queues.into_iter().zip(&shared.counters) {
            let Some(queue) = queue else { continue };
            let io = (self.open_io)(&disk, queue.size(), &memory);
            let rules = self.rules(&disk, features);
            let link = Link { shared: shared.clone(), changes, _session: session.clone() };
            handlers.push(Box::new(Handler::new(
                self.name.clone(),
                queue,
                io,
                rules,
                counters.clone(),
                link,
            )));
        }
        if handlers.is_empty() {
            return Err(ActivateError::QueueMissing { index: 0 });
        }
        Ok(handlers)
    }
}

#[cfg(test)]
mod tests;
