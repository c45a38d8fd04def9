//! Sending: from the driver's buffers into the host's network.
//!
//! Every buffer is completed at once, sent or not: like a wire, the host's network loses frames, and the
//! counters tell why. Nothing is kept for a second try, so a network that is full costs no memory and
//! cannot stall the queue.

use std::io::ErrorKind;
use std::ops::ControlFlow;

use crate::event::Interest;
use crate::guest_io::IoVecs;
use crate::memory::Buffers;
use crate::rate_limiter::Gate;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Chain, Queue, QueueError};

use super::{Port, header, is_gone};

const KICK: u16 = 0;
const GATE: u16 = 1;

/// Most frames sent before other devices get their turn; at 64 KiB each about a millisecond's work.
const MAX_BATCH: usize = 64;

/// Serves one transmit queue.
pub(super) struct Sender {
    port: Port,
    queue: Queue,
    chain: Chain,
    iovecs: IoVecs,
    gate: Gate,
}

impl Sender {
    pub(super) fn new(port: Port, queue: Queue) -> Self {
        let gate = Gate::new(port.shared.tx_limiter.clone());
        Self { port, queue, chain: Chain::new(), iovecs: IoVecs::new(), gate }
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
        let Self { port, queue, chain, iovecs, gate } = self;
        port.shared.counters.tx_kicks.add(usize::from(token == KICK));
        if gate.is_closed() {
            return Ok(());
        }
        queue.serve_until(MAX_BATCH, chain, |memory, chain| {
            let frame = chain.readable(memory);
            send(port, iovecs, &frame);
            gate.charge(frame.len().saturating_sub(header::LEN) as u64);
            // Nothing is written to a sent buffer.
            Ok(if gate.is_closed() { ControlFlow::Break(0) } else { ControlFlow::Continue(0) })
        })
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}

fn send(port: &Port, iovecs: &mut IoVecs, frame: &Buffers<'_>) {
    const SHORTEST: usize = header::LEN + header::ETHERNET;
    let counters = &port.shared.counters;
    if !(SHORTEST..=header::MAX_FRAME).contains(&frame.len()) || !port.is_active() {
        counters.tx_rejected.increment();
        return;
    }
    match port.shared.backend.write_frame(port.pair, iovecs, frame) {
        Ok(_) => {
            counters.tx_frames.increment();
            counters.tx_bytes.add(frame.len() - header::LEN);
        }
        Err(error) if is_full(&error) => {
            counters.tx_no_room.increment();
        }
        // The driver's doing, so it must not reach the log.
        Err(error) if is_rejection(&error) => {
            counters.tx_rejected.increment();
        }
        Err(error) => {
            port.host_failed(&counters.tx_errors, "sending to", &error);
            if is_gone(&error) {
                port.lose_link();
            }
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
