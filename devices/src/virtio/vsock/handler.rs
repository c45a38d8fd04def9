//! The data plane of the vsock device: its queues on one side, the muxer on the other.

use crate::event::Interest;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Chain, Fault, Queue, QueueError};

use super::muxer::{Muxer, Next};
use super::posted::Posted;

const RECEIVE_KICK: u16 = 0;
const TRANSMIT_KICK: u16 = 1;
const EVENT_KICK: u16 = 2;
const HOST: u16 = 3;

/// Most packets in each direction before other devices get their turn: at 64 KiB each a few milliseconds'
/// work.
const MAX_BATCH: usize = 64;

/// Room that a connection with much data gets at a time, in bytes: enough to make the system call cheap, not so
/// much that others have to wait.
const BURST: usize = 64 << 10;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (virtio 1.3, 5.10.6.7): all connections are gone, and the guest's
/// address may be another one.
pub(super) const TRANSPORT_RESET: u32 = 0;

/// Serves an active device.
pub(super) struct Handler {
    receive: Queue,
    transmit: Queue,
    events: Queue,
    muxer: Muxer,
    posted: Posted,
    chain: Chain,
    /// The driver must hear that its connections are gone.
    owes_reset: bool,
    /// Packets wait for the guest to take resets.
    is_held_up: bool,
    expects_buffer_kicks: bool,
}

impl Handler {
    /// A handler of the queues in their order. `owes_reset`: the driver still believes in connections of a
    /// device that is no more.
    pub(super) fn new(queues: [Queue; 3], muxer: Muxer, owes_reset: bool) -> Self {
        let [receive, transmit, events] = queues;
        if owes_reset {
            // Nobody else calls before the guest does something.
            events.kick_again();
        }
        Self {
            receive,
            transmit,
            events,
            muxer,
            posted: Posted::default(),
            chain: Chain::new(),
            owes_reset,
            is_held_up: false,
            expects_buffer_kicks: true,
        }
    }

    /// Takes what the driver has queued, as long as there is room for the answers.
    fn take_packets(&mut self) -> Result<(), QueueError> {
        let Self { transmit, muxer, chain, .. } = self;
        let mut left = MAX_BATCH;
        self.is_held_up = false;
        loop {
            transmit.silence_kicks()?;
            loop {
                if !muxer.takes_packets() {
                    self.is_held_up = true;
                    return transmit.announce();
                }
                if left == 0 {
                    transmit.kick_again();
                    return transmit.announce();
                }
                if !transmit.pop(chain)? {
                    break;
                }
                let received = muxer.receive(&chain.readable(transmit.memory()));
                received.map_err(|e| transmit.fault(Fault::Memory(e)))?;
                transmit.push(chain.head(), 0)?;
                left -= 1;
            }
            if !transmit.expect_kicks()? {
                return transmit.announce();
            }
        }
    }

    /// Gives the guest what is due, as long as it has buffers.
    fn give_packets(&mut self) -> Result<(), QueueError> {
        let mut left = MAX_BATCH;
        while self.muxer.has_next() && self.has_buffer()? {
            if left == 0 {
                self.receive.kick_again();
                break;
            }
            match self.muxer.next() {
                Some(Next::Packet(header)) => {
                    let memory = self.receive.memory();
                    let used = self.posted.complete(memory, &header);
                    self.push(used)?;
                    left -= 1;
                }
                Some(Next::Data { id, limit, is_busy }) => {
                    if is_busy {
                        self.posted.gather(&mut self.receive, limit.min(BURST))?;
                    }
                    self.posted.choose(limit);
                    let count = self.muxer.read(id, &self.posted.room(self.receive.memory()));
                    left -= 1;
                    let Some(count) = count else { continue };
                    left = left.saturating_sub(self.give_data(id, count)?);
                }
                None => break,
            }
        }
        self.receive.announce()
    }

    /// Makes packets of `count` bytes that were read into the first buffers; returns how many more than one.
    fn give_data(
        &mut self,
        id: crate::backend::vsock::StreamId,
        count: usize,
    ) -> Result<usize, QueueError> {
        let mut left = count;
        let mut packets = 0;
        while left > 0 {
            let len = self.posted.first_len(left);
            let header = self.muxer.data_header(id, len);
            let used = self.posted.complete(self.receive.memory(), &header);
            self.push(used)?;
            left -= len;
            packets += 1;
        }
        self.muxer.has_read(id);
        Ok(packets - 1)
    }

    fn push(
        &mut self,
        used: Result<Option<(u16, u32)>, vm_memory::GuestMemoryError>,
    ) -> Result<(), QueueError> {
        match used {
            Ok(Some((head, written))) => self.receive.push(head, written),
            Ok(None) => Ok(()),
            Err(error) => Err(self.receive.fault(Fault::Memory(error))),
        }
    }

    /// Whether the driver has a buffer; if not, it is asked to kick when it has.
    fn has_buffer(&mut self) -> Result<bool, QueueError> {
        while self.posted.is_empty() {
            if self.posted.gather(&mut self.receive, 0)? {
                if std::mem::take(&mut self.expects_buffer_kicks) {
                    self.receive.silence_kicks()?;
                }
                break;
            }
            self.expects_buffer_kicks = true;
            if !self.receive.expect_kicks()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells the driver that its connections are gone, once it has a buffer for that.
    fn give_reset(&mut self) -> Result<(), QueueError> {
        let Self { events, chain, .. } = self;
        if !self.owes_reset || !events.pop(chain)? {
            return Ok(());
        }
        let to = chain.writable(events.memory());
        let written = to.write_at(0, &TRANSPORT_RESET.to_le_bytes());
        let written = written.map_err(|e| events.fault(Fault::Memory(e)))?;
        events.push(chain.head(), u32::try_from(written).unwrap_or(0))?;
        self.owes_reset = false;
        events.announce()
    }
}

impl QueueHandler for Handler {
    fn interests(&self) -> Vec<Interest> {
        vec![
            self.receive.kick_interest(RECEIVE_KICK),
            self.transmit.kick_interest(TRANSMIT_KICK),
            self.events.kick_interest(EVENT_KICK),
            Interest::readable(self.muxer.fd(), HOST),
        ]
    }

    fn handle(&mut self, token: u16) -> Result<(), QueueError> {
        match token {
            RECEIVE_KICK => {}
            TRANSMIT_KICK => self.take_packets()?,
            EVENT_KICK => return self.give_reset(),
            _ => self.muxer.poll(),
        }
        self.give_packets()?;
        if self.is_held_up && self.muxer.takes_packets() {
            self.is_held_up = false;
            self.transmit.kick_again();
        }
        Ok(())
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.receive, &self.transmit, &self.events]
    }

    fn stop(mut self: Box<Self>) -> Vec<Queue> {
        self.posted.give_back(&mut self.receive);
        vec![self.receive, self.transmit, self.events]
    }
}
