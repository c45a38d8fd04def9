//! A device that writes back what it reads: the queue and the transport by themselves.

use devices::event::Interest;
use devices::virtio::DeviceType;
use devices::virtio::device::{
    ActivateError, Activation, QueueHandler, VirtioDevice, read_config_bytes,
};
use devices::virtio::queue::{Chain, Queue, QueueError};

use crate::bytes::Bytes;
use crate::rig::{Rig, Subject, drive};

/// Most bytes written back.
const MAX: usize = 4096;
/// Chains answered before others would get their turn.
const MAX_BATCH: usize = 3;

/// Chains of every kind.
pub fn queue(input: &[u8]) {
    drive(&mut *subject(), input);
}

/// The device that writes back.
pub fn subject() -> Box<dyn Subject> {
    Box::new(Echoing)
}

/// Registers in every order.
pub fn transport(input: &[u8]) {
    let mut input = Bytes::new(input);
    let mut rig = Rig::new(Box::new(Echo { config: [0; 8] }));
    if input.one_in(2) {
        rig.bring_up(input.u64(), &mut Bytes::new(&[]));
    }
    while !input.is_empty() {
        match input.below(8) {
            0 => rig.run(),
            1 => Echoing.request(&mut rig, &mut input),
            _ => rig.any_access(&mut input),
        }
        assert_eq!(rig.get(0), 0x7472_6976, "the magic number");
    }
    rig.run();
    rig.bring_up(u64::MAX, &mut Bytes::new(&[]));
    Echoing.good(&mut rig);
}

struct Echoing;

impl Subject for Echoing {
    fn device(&mut self, _input: &mut Bytes<'_>) -> Box<dyn VirtioDevice> {
        Box::new(Echo { config: [0; 8] })
    }

    fn request(&mut self, rig: &mut Rig, input: &mut Bytes<'_>) {
        let queue = input.below(2);
        let count = input.below(8);
        let readable = input.below(count + 1);
        let buffers: Vec<_> =
            (0..count)
                .map(|n| {
                    if n < readable { rig.sent(input.some()) } else { rig.room(input.u16().into()) }
                })
                .collect();
        rig.offer(queue, &buffers, input);
    }

    fn good(&mut self, rig: &mut Rig) {
        for queue in [0, 1] {
            let to = rig.room(4);
            let from = rig.sent(b"good");
            assert_eq!(rig.must_answer(queue, &[from, to]), 4);
            assert_eq!(&rig.read::<4>(to.0), b"good");
        }
    }
}

/// The device: two queues and eight bytes that can be written.
struct Echo {
    config: [u8; 8],
}

impl VirtioDevice for Echo {
    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 64]
    }

    fn features(&self) -> u64 {
        1 << 3 | 1 << 40
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(place) = self.config.get_mut(start..start.saturating_add(data.len())) {
            place.copy_from_slice(data);
        }
    }

    fn activate(
        &mut self,
        mut activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError> {
        let queues = [activation.take_queue(0)?, activation.take_queue(1)?];
        let handlers = queues.map(|queue| -> Box<dyn QueueHandler> {
            Box::new(Handler { queue, chain: Chain::new() })
        });
        Ok(handlers.into())
    }
}

struct Handler {
    queue: Queue,
    chain: Chain,
}

impl QueueHandler for Handler {
    fn interests(&self) -> Vec<Interest> {
        vec![self.queue.kick_interest(0)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        let Self { queue, chain } = self;
        queue.serve(MAX_BATCH, chain, |memory, chain| {
            let mut bytes = vec![0; chain.readable(memory).len().min(MAX)];
            let read = chain.readable(memory).read_at(0, &mut bytes)?;
            assert_eq!(read, bytes.len(), "less was there than was said");
            Ok(chain.writable(memory).write_at(0, &bytes)? as u32)
        })
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}
