//! Commands of the driver (virtio 1.3, 5.1.6.5): how many queue pairs it uses, and which offloads.
//!
//! A command is a class, a command and data to read, and room for one byte of answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::event::Interest;
use crate::memory::Buffers;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Chain, Fault, Queue, QueueError};

use super::{Shared, features};

const KICK: u16 = 0;
/// Most commands answered before other devices get their turn.
const MAX_BATCH: usize = 16;

/// `VIRTIO_NET_OK`.
const OK: u8 = 0;
/// `VIRTIO_NET_ERR`.
const REFUSED: u8 = 1;

/// `VIRTIO_NET_CTRL_MQ`, `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`.
const SET_PAIRS: [u8; 2] = [4, 0];
/// `VIRTIO_NET_CTRL_GUEST_OFFLOADS`, `VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET`.
const SET_OFFLOADS: [u8; 2] = [5, 0];
/// The longest command that is known: `SET_OFFLOADS` with 64 bits.
const MAX_COMMAND: usize = 10;

/// Serves the control queue.
pub(super) struct Commands {
    shared: Arc<Shared>,
    queue: Queue,
    chain: Chain,
    acked: u64,
    /// Pairs that the driver set up.
    pairs: u16,
    /// Whether the backend still spreads frames over all pairs, although the driver may use fewer.
    is_spread: bool,
}

impl Commands {
    /// Serves `queue` of a driver that accepted the features `acked` and set up `pairs` pairs.
    pub(super) fn new(shared: Arc<Shared>, queue: Queue, acked: u64, pairs: u16) -> Self {
        let is_spread = pairs > 1;
        if is_spread {
            // To gather the backend's queues as soon as the event loop watches them all.
            queue.kick_again();
        }
        Self { shared, queue, chain: Chain::new(), acked, pairs, is_spread }
    }
}

impl QueueHandler for Commands {
    fn interests(&self) -> Vec<Interest> {
        vec![self.queue.kick_interest(KICK)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        let Self { shared, queue, chain, acked, pairs, .. } = self;
        if std::mem::take(&mut self.is_spread) {
            set_pairs(shared, shared.active_pairs.load(Ordering::Acquire));
        }
        queue.serve(MAX_BATCH, chain, |memory, chain| {
            let obeyed = obey(shared, *acked, *pairs, &chain.readable(memory))?;
            if !obeyed {
                shared.counters.control_refused.increment();
            }
            let answer = [if obeyed { OK } else { REFUSED }];
            // A command without room for the answer is obeyed all the same.
            let written = chain.writable(memory).write_at(0, &answer)?;
            Ok(u32::from(written == 1))
        })
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}

/// Does what `command` says; `false` when it is malformed, not negotiated, or refused by the host.
fn obey(shared: &Shared, acked: u64, pairs: u16, command: &Buffers<'_>) -> Result<bool, Fault> {
    let mut bytes = [0; MAX_COMMAND];
    command.read_at(0, &mut bytes)?;
    let [class, code, data @ ..] = bytes;
    let [a, b, ..] = data;
    Ok(match ([class, code], command.len()) {
        (SET_PAIRS, 4) if acked & features::MQ != 0 => {
            let wanted = u16::from_le_bytes([a, b]);
            (1..=pairs).contains(&wanted) && set_pairs(shared, wanted)
        }
        (SET_OFFLOADS, 10) if acked & features::CTRL_GUEST_OFFLOADS != 0 => {
            let wanted = u64::from_le_bytes(data);
            wanted & !(acked & features::SWITCHABLE) == 0 && set_offloads(shared, wanted)
        }
        _ => false,
    })
}

/// Uses `count` pairs from now on.
fn set_pairs(shared: &Shared, count: u16) -> bool {
    match shared.backend.set_active_queues(count) {
        Ok(()) => {
            shared.active_pairs.store(count, Ordering::Release);
            true
        }
        Err(error) => {
            let Shared { id, backend, .. } = shared;
            log::error!("{id}: {} cannot use {count} queues: {error}", backend.name());
            false
        }
    }
}

fn set_offloads(shared: &Shared, wanted: u64) -> bool {
    let result = shared.backend.set_offloads(features::offloads(wanted));
    match &result {
        Ok(()) => shared.offloads.store(wanted, Ordering::Release),
        Err(error) => {
            let Shared { id, backend, .. } = shared;
            log::error!("{id}: offloads of {} cannot be changed: {error}", backend.name());
        }
    }
    result.is_ok()
}

#[cfg(test)]
mod tests;
