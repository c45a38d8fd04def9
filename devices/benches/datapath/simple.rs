//! Devices without a host side worth the name: the ring alone, entropy, console.

use std::path::Path;

use devices::backend::console::{Console as Backend, Stage};
use devices::event::Interest;
use devices::virtio::DeviceType;
use devices::virtio::console::Console;
use devices::virtio::device::{
    ActivateError, Activation, QueueHandler, VirtioDevice, read_config_bytes,
};
use devices::virtio::queue::{Chain, Queue, QueueError};
use devices::virtio::rng::Rng;

use crate::rig::{BUFFERS, Rig, Ring};
use crate::{Case, Subject};

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for depth in [1, 64] {
        all.push(Case::new(format!("ring alone, depth {depth}"), depth, 0.0, move || queue(depth)));
    }
    all.push(Case::new("entropy 64 B, depth 16".to_owned(), 16, 1.0, || entropy(16)));
    all.push(Case::new("console 64 B, depth 16".to_owned(), 16, 1.0, || console(16)));
    all
}

/// Rounds of `depth` chains on one queue.
pub(crate) struct Rounds {
    pub(crate) rig: Rig,
    pub(crate) queue: u32,
    pub(crate) depth: u16,
}

impl Subject for Rounds {
    fn round(&mut self) {
        self.rig.round(self.queue, self.depth);
    }

    fn driver_calls(&self) -> u64 {
        self.rig.kicks
    }
}

/// The shape of a block request: header, 4 KiB, status.
pub(crate) fn add_requests(ring: &mut Ring, count: u16, len: u32, write: bool) {
    for i in 0..u64::from(count) {
        let (header, status) = (BUFFERS + 16 * i, BUFFERS + 0x4000 + i);
        let data = BUFFERS + 0x1_0000 + i * u64::from(len);
        ring.add(&[(header, 16, false), (data, len, write), (status, 1, true)]);
    }
    ring.publish();
}

fn queue(depth: u16) -> Box<dyn Subject> {
    let rig = Rig::new(Box::new(Null), 0, 256, |_, rings| {
        add_requests(&mut rings[0], 64, 4096, true);
    });
    Box::new(Rounds { rig, queue: 0, depth })
}

fn entropy(depth: u16) -> Box<dyn Subject> {
    let open = || -> std::io::Result<Box<dyn std::io::Read + Send>> {
        Ok(Box::new(std::fs::File::open("/dev/urandom")?))
    };
    let rig = Rig::new(Box::new(Rng::new(Box::new(open))), 0, 64, |_, rings| {
        add_buffers(&mut rings[0], 64, true);
    });
    Box::new(Rounds { rig, queue: 0, depth })
}

fn console(depth: u16) -> Box<dyn Subject> {
    let backend = Backend::file(Path::new("/dev/null")).unwrap();
    let port = backend.port(Stage::Late).unwrap();
    let rig = Rig::new(Box::new(Console::new(port)), 0, 64, |_, rings| {
        add_buffers(&mut rings[1], 64, false);
    });
    Box::new(Rounds { rig, queue: 1, depth })
}

fn add_buffers(ring: &mut Ring, len: u32, write: bool) {
    for i in 0..64 {
        ring.add(&[(BUFFERS + i * u64::from(len), len, write)]);
    }
    ring.publish();
}

/// A device that answers every request without looking at it.
struct Null;

impl VirtioDevice for Null {
    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256]
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
        Ok(vec![Box::new(NullHandler { queue, chain: Chain::new() })])
    }
}

struct NullHandler {
    queue: Queue,
    chain: Chain,
}

impl QueueHandler for NullHandler {
    fn interests(&self) -> Vec<Interest> {
        vec![self.queue.kick_interest(0)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        self.queue.serve(256, &mut self.chain, |_, _| Ok(0))
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}
