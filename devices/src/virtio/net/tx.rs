//! Sending: from the driver's buffers into the host's network.
//!
//! Every buffer is completed at once, sent or not: like a wire, the host's network loses frames, and the
//! counters tell why. Nothing is kept for a second try, so a network that is full costs no memory and
//! cannot stall the queue.

use std::io::ErrorKind;

use crate::backend::net::Frames;
use crate::event::Interest;
use crate::guest_io::IoVecs;
use crate::rate_limiter::Gate;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Chain, Queue, QueueError};

use super::{Port, header, is_gone};

const KICK: u16 = 0;
const GATE: u16 = 1;

/// Most frames sent before other devices get their turn; at 64 KiB each about a millisecond's work.
const MAX_TURN: usize = 64;
/// Most frames handed to the host together; the driver sees them sent together.
const MAX_BATCH: usize = 32;
const SHORTEST: usize = header::LEN + header::ETHERNET;

/// Serves one transmit queue.
pub(super) struct Sender {
    port: Port,
    queue: Queue,
    chain: Chain,
    iovecs: IoVecs,
    gate: Gate,
    /// The buffers taken off the ring. Nothing is written to a sent buffer.
    taken: Vec<(u16, u32)>,
    /// What of them is to be sent.
    frames: Frames,
}

impl Sender {
    pub(super) fn new(port: Port, queue: Queue) -> Self {
        Self {
            gate: Gate::new(port.shared.tx_limiter.clone()),
            port,
            queue,
            chain: Chain::new(),
            iovecs: IoVecs::new(),
            taken: Vec::new(),
            frames: Frames::default(),
        }
    }

    /// Takes up to `most` frames off the ring, until it is empty or the gate closes.
    fn gather(&mut self, most: usize) -> Result<(), QueueError> {
        while self.taken.len() < most
            && !self.gate.is_closed()
            && self.queue.pop(&mut self.chain)?
        {
            let frame = self.chain.readable(self.queue.memory());
            self.gate.charge(frame.len().saturating_sub(header::LEN) as u64);
            self.taken.push((self.chain.head(), 0));
            if (SHORTEST..=header::MAX_FRAME).contains(&frame.len()) && self.port.is_active() {
                self.frames.push(&frame);
            } else {
                self.port.shared.counters.tx_rejected.increment();
            }
        }
        Ok(())
    }

    /// Sends what was gathered, and gives the buffers back.
    fn send(&mut self) -> Result<(), QueueError> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let Self { port, queue, iovecs, frames, .. } = self;
        let backend = &port.shared.backend;
        backend.write_frames(port.pair, iovecs, queue.memory(), frames, &mut |len, result| {
            match result {
                Ok(_) => count_sent(port, len),
                Err(error) => count_unsent(port, &error),
            }
        });
        self.frames.clear();
        let returned = self.queue.push_all(&self.taken);
        self.taken.clear();
        returned
    }
}

impl QueueHandler for Sender {
    fn interests(&self) -> Vec<Interest> {
        let gate = self.gate.interest(GATE);
        std::iter::once(self.queue.kick_interest(KICK)).chain(gate).collect()
    }

    fn late_interest(&mut self) -> Option<Interest> {
        self.gate.late_interest(GATE)
    }

    fn handle(&mut self, token: u16) -> Result<(), QueueError> {
        self.port.shared.counters.tx_kicks.add(u64::from(token == KICK));
        let mut left = MAX_TURN;
        while !self.gate.is_closed() {
            self.queue.silence_kicks()?;
            let gathered = self.gather(left.min(MAX_BATCH));
            let count = self.taken.len();
            // What came before a malformed chain is sent all the same.
            self.send()?;
            gathered?;
            left -= count;
            if left == 0 {
                self.queue.kick_again();
                break;
            }
            if count == 0 && !self.queue.expect_kicks()? {
                break;
            }
        }
        self.queue.announce()
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}

fn count_sent(port: &Port, len: usize) {
    let counters = &port.shared.counters;
    counters.tx_frames.increment();
    counters.tx_bytes.add((len - header::LEN) as u64);
}

fn count_unsent(port: &Port, error: &std::io::Error) {
    let counters = &port.shared.counters;
    if is_full(error) {
        counters.tx_no_room.increment();
    } else if is_rejection(error) {
        // The driver's doing, so it must not reach the log.
        counters.tx_rejected.increment();
    } else {
        port.host_failed(&counters.tx_errors, "sending to", error);
        if is_gone(error) {
            port.lose_link();
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Whether the host finds fault with the frame or its header.
fn is_rejection(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EFAULT))
}

#[cfg(test)]
mod tests;
