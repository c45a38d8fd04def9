//! Free pages: those the driver reports by itself, and those it hints at when asked (virtio 1.3, 5.5.6.6 and
//! 5.5.6.7).
//!
//! Both name ranges by buffers that the device could write to. The driver uses none of the reported pages before
//! it has its buffer back. Hinted pages it keeps until the host says that it is done, unless it runs out of
//! memory: Linux may then use a page again whose hint still waits here, and loses what it wrote. So hinting is
//! for guests that have memory to spare.

use super::control::count;
use super::release::Releaser;
use crate::event::Interest;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Chain, Queue, QueueError};

const KICK: u16 = 0;

/// Most bytes of one report; Linux reports at most 32 blocks of 4 MiB. To drop them takes the kernel about ten
/// milliseconds.
const MAX_REPORT: u64 = 256 << 20;
/// Most bytes of one hint; Linux hints at one block of 4 MiB.
const MAX_HINT: u64 = 64 << 20;
/// Most hints before other devices get their turn.
const HINTS_AT_A_TIME: usize = 4;

/// Serves the queue of reported pages.
pub(super) struct Reports {
    queue: Queue,
    chain: Chain,
    releaser: Releaser,
}

impl Reports {
    pub(super) fn new(queue: Queue, releaser: Releaser) -> Self {
        Self { queue, chain: Chain::new(), releaser }
    }
}

impl QueueHandler for Reports {
    fn interests(&self) -> Vec<Interest> {
        vec![self.queue.kick_interest(KICK)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        let Self { queue, chain, releaser } = self;
        queue.serve(1, chain, |memory, chain| {
            let released =
                releaser.release_all(memory, chain.writable(memory).segments(), MAX_REPORT);
            let counting = &releaser.shared.counting;
            count(&counting.reports, 1);
            count(&counting.reported, released);
            Ok(0)
        })
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}

/// Serves the queue of hints: ids of commands to read, and ranges.
pub(super) struct Hints {
    queue: Queue,
    chain: Chain,
    releaser: Releaser,
}

impl Hints {
    pub(super) fn new(queue: Queue, releaser: Releaser) -> Self {
        Self { queue, chain: Chain::new(), releaser }
    }
}

impl QueueHandler for Hints {
    fn interests(&self) -> Vec<Interest> {
        vec![self.queue.kick_interest(KICK)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        let Self { queue, chain, releaser } = self;
        queue.serve(HINTS_AT_A_TIME, chain, |memory, chain| {
            let mut command = [0; 4];
            if chain.readable(memory).read_at(0, &mut command)? == command.len() {
                releaser.shared.guest_hints(u32::from_le_bytes(command));
            }
            let pages = chain.writable(memory);
            if releaser.shared.is_hint_current() {
                let released = releaser.release_all(memory, pages.segments(), MAX_HINT);
                let counting = &releaser.shared.counting;
                count(&counting.hints, 1);
                count(&counting.hinted, released);
            } else {
                // Of a command that is over: the driver may be using these pages again.
                count(&releaser.shared.counting.excess, pages.len() as u64);
            }
            Ok(0)
        })
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}
