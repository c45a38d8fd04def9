//! The data plane of the console device: both queues and the doorbell of its port.

use crate::backend::console::{ConsolePort, Size};
use crate::event::Interest;
use crate::interrupt::Interrupt;
use crate::memory::Buffers;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Chain, Fault, Queue, QueueError};

const RECEIVE_KICK: u16 = 0;
const TRANSMIT_KICK: u16 = 1;
const DOORBELL: u16 = 2;

/// Most bytes taken from one chain; Linux sends at most 32 KiB. A driver can chain gigabytes from a few
/// pages, and they would only push each other out of the backlog.
const MAX_TRANSMIT: usize = 256 << 10;
/// Most chains served before other devices get their turn.
const MAX_BATCH: usize = 16;
/// Bytes copied at a time.
const PIECE: usize = 4096;

/// Serves an active console.
pub(super) struct Handler {
    receive: Queue,
    transmit: Queue,
    port: ConsolePort,
    /// Where a change of size is announced, when the driver wants to know.
    interrupt: Option<Interrupt>,
    size: Option<Size>,
    chain: Chain,
    /// Output beyond [`MAX_TRANSMIT`] that was not taken, in bytes.
    truncated: u64,
}

impl Handler {
    /// A handler of both queues.
    pub(super) fn new(
        receive: Queue,
        transmit: Queue,
        port: ConsolePort,
        interrupt: Option<Interrupt>,
    ) -> Self {
        let size = port.size();
        Self { receive, transmit, port, interrupt, size, chain: Chain::new(), truncated: 0 }
    }

    /// Sends what the driver has queued.
    fn send(&mut self) -> Result<(), QueueError> {
        let Self { transmit, port, chain, truncated, .. } = self;
        transmit.serve(MAX_BATCH, chain, |memory, chain| {
            let left_out = send_chain(port, &chain.readable(memory))?;
            if left_out > 0 && *truncated == 0 {
                log::warn!("console: a buffer of more than {MAX_TRANSMIT} bytes was cut");
            }
            *truncated += left_out;
            // Nothing is written to a transmitted buffer.
            Ok(0)
        })
    }

    /// Fills the driver's buffers for as long as there are both buffers and input. What stays waits in
    /// the port: for a kick if buffers are missing, for the doorbell if input is.
    fn fill(&mut self) -> Result<(), QueueError> {
        let mut left = MAX_BATCH;
        while self.port.has_input() {
            if !self.receive.pop(&mut self.chain)? {
                if self.receive.expect_kicks()? {
                    continue;
                }
                break;
            }
            let written = self.fill_chain().map_err(|f| self.receive.fault(f))?;
            self.receive.push(self.chain.head(), written)?;
            left -= 1;
            if left == 0 {
                self.receive.kick_again();
                break;
            }
        }
        self.receive.announce()
    }

    /// Fills one buffer with the input there is; a buffer without room goes back empty.
    fn fill_chain(&self) -> Result<u32, Fault> {
        let to = self.chain.writable(self.receive.memory());
        let mut bytes = [0; PIECE];
        let room = bytes.get_mut(..to.len().min(PIECE)).unwrap_or_default();
        let count = self.port.read(room);
        let written = to.write_at(0, bytes.get(..count).unwrap_or_default())?;
        Ok(u32::try_from(written).unwrap_or(0))
    }

    /// Tells the driver if the terminal has another size.
    fn check_size(&mut self) {
        let size = self.port.size();
        if std::mem::replace(&mut self.size, size) != size
            && let Some(interrupt) = &self.interrupt
        {
            interrupt.config_changed();
        }
    }
}

impl QueueHandler for Handler {
    fn interests(&self) -> Vec<Interest> {
        vec![
            self.receive.kick_interest(RECEIVE_KICK),
            self.transmit.kick_interest(TRANSMIT_KICK),
            self.port.doorbell(DOORBELL),
        ]
    }

    fn handle(&mut self, token: u16) -> Result<(), QueueError> {
        match token {
            TRANSMIT_KICK => return self.send(),
            RECEIVE_KICK => {}
            _ => {
                self.port.take_doorbell();
                self.check_size();
            }
        }
        self.fill()
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.receive, &self.transmit]
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        self.port.release();
        vec![self.receive, self.transmit]
    }
}

/// Sends one chain; returns how much of it was left out.
fn send_chain(port: &ConsolePort, from: &Buffers<'_>) -> Result<u64, Fault> {
    let len = from.len().min(MAX_TRANSMIT);
    let mut piece = [0; PIECE];
    let mut sent = 0;
    while sent < len {
        let room = piece.get_mut(..PIECE.min(len - sent)).unwrap_or_default();
        let count = from.read_at(sent, room)?;
        port.write_through(piece.get(..count).unwrap_or_default());
        sent += count;
    }
    Ok((from.len() - len) as u64)
}
