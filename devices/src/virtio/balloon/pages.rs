//! Inflating and deflating: the driver names pages one by one (virtio 1.3, 5.5.6).
//!
//! Pages that it puts into the balloon are released in runs, because each call of the kernel costs as much as
//! many pages do. Pages that it takes out need nothing: they come back at the first touch.

use std::sync::Arc;

use super::control::{PAGE_SHIFT, Session, Shared, count};
use super::release::Releaser;
use crate::event::Interest;
use crate::memory::Buffers;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Chain, Fault, Queue, QueueError};

const KICK: u16 = 0;

/// Most pages of one request that are looked at; Linux names 256. Each can cost a call of the kernel, and a
/// driver could name the same page a million times.
const MAX_PAGES: usize = 1024;
/// Most requests before other devices get their turn: some milliseconds' work if no two pages are neighbours.
const MAX_BATCH: usize = 4;

/// Bytes of one page number.
const NUMBER: usize = 4;

/// Serves the queue of pages that go into the balloon.
pub(super) struct Inflate {
    queue: Queue,
    chain: Chain,
    releaser: Releaser,
    numbers: Vec<u32>,
    _session: Session,
}

impl Inflate {
    pub(super) fn new(queue: Queue, releaser: Releaser, session: Session) -> Self {
        Self { queue, chain: Chain::new(), releaser, numbers: Vec::new(), _session: session }
    }
}

impl QueueHandler for Inflate {
    fn interests(&self) -> Vec<Interest> {
        vec![self.queue.kick_interest(KICK)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        let Self { queue, chain, releaser, numbers, .. } = self;
        queue.serve(MAX_BATCH, chain, |memory, chain| {
            read_numbers(&chain.readable(memory), numbers, &releaser.shared)?;
            let counting = &releaser.shared.counting;
            count(&counting.inflations, 1);
            count(&counting.inflated_pages, numbers.len() as u64);
            // Released before the request is answered: afterwards the driver may use them again.
            for (first, pages) in runs(numbers) {
                releaser.release(memory, u64::from(first) << PAGE_SHIFT, pages << PAGE_SHIFT);
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

/// Serves the queue of pages that the driver takes out again.
pub(super) struct Deflate {
    queue: Queue,
    chain: Chain,
    shared: Arc<Shared>,
}

impl Deflate {
    pub(super) fn new(queue: Queue, shared: Arc<Shared>) -> Self {
        Self { queue, chain: Chain::new(), shared }
    }
}

impl QueueHandler for Deflate {
    fn interests(&self) -> Vec<Interest> {
        vec![self.queue.kick_interest(KICK)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        let Self { queue, chain, shared } = self;
        queue.serve(MAX_BATCH, chain, |memory, chain| {
            let pages = chain.readable(memory).len() / NUMBER;
            count(&shared.counting.deflations, 1);
            count(&shared.counting.deflated_pages, pages as u64);
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

/// Reads the first [`MAX_PAGES`] page numbers of a request.
fn read_numbers(from: &Buffers<'_>, numbers: &mut Vec<u32>, shared: &Shared) -> Result<(), Fault> {
    let mut bytes = [0; MAX_PAGES * NUMBER];
    let len = from.read_at(0, &mut bytes)?;
    let (whole, _) = bytes.get(..len).unwrap_or_default().as_chunks::<NUMBER>();
    numbers.clear();
    numbers.extend(whole.iter().map(|bytes| u32::from_le_bytes(*bytes)));
    let left_out = from.len() / NUMBER - numbers.len();
    count(&shared.counting.excess, (left_out as u64) << PAGE_SHIFT);
    Ok(())
}

/// Sorts `numbers` and gives their runs: the first page, and how many pages from there on.
fn runs(numbers: &mut Vec<u32>) -> impl Iterator<Item = (u32, u64)> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers
        .chunk_by(|one, next| one.checked_add(1) == Some(*next))
        .filter_map(|run| Some((*run.first()?, run.len() as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_joined_to_runs() {
        let runs_of = |numbers: &[u32]| runs(&mut numbers.to_vec()).collect::<Vec<_>>();
        assert_eq!(runs_of(&[]), []);
        assert_eq!(runs_of(&[5]), [(5, 1)]);
        assert_eq!(runs_of(&[7, 5, 6, 9]), [(5, 3), (9, 1)]);
        assert_eq!(runs_of(&[3, 3, 3]), [(3, 1)]);
        assert_eq!(runs_of(&[u32::MAX, 0]), [(0, 1), (u32::MAX, 1)]);
    }
}
