//! What the guest says of its memory (virtio 1.3, 5.5.6.3).
//!
//! The driver offers one buffer with its numbers. The device keeps it, and to ask for new numbers it hands the
//! buffer back; the driver fills it again and offers it again. Nothing a guest says here is relied on.

use std::sync::Arc;

use serde::Serialize;

use super::control::Shared;
use crate::event::Interest;
use crate::memory::Buffers;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Chain, Fault, Queue, QueueError};

const KICK: u16 = 0;
const POLL: u16 = 1;

/// Most buffers looked at before other devices get their turn; a driver has one.
const MAX_BATCH: usize = 4;
/// Bytes of one number: its tag (16 bits) and its value (64 bits).
const ENTRY: usize = 10;
/// Most numbers that are read; 16 tags are known.
const MAX_ENTRIES: usize = 64;

/// The guest's numbers, each as of when the guest said it; `None` where it did not. The names are those of
/// Firecracker's API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Bytes swapped in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    /// Page faults that needed a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// Bytes that are used for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    /// Bytes of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_memory: Option<u64>,
    /// Bytes that new programs could have without swapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_memory: Option<u64>,
    /// Bytes of caches that can be dropped at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_caches: Option<u64>,
    /// Huge pages given to programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that programs did not get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_failures: Option<u64>,
    /// Processes killed for want of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alloc_stall: Option<u64>,
    /// Bytes looked at for reclaim in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_scan: Option<u64>,
    /// Bytes looked at by who needed them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_scan: Option<u64>,
    /// Bytes reclaimed in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_reclaim: Option<u64>,
    /// Bytes reclaimed by who needed them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_reclaim: Option<u64>,
}

impl Statistics {
    /// Reads the numbers of one buffer; tags that are unknown are skipped, the last of equal ones counts.
    fn read(from: &Buffers<'_>) -> Result<Self, Fault> {
        let mut bytes = [0; MAX_ENTRIES * ENTRY];
        let len = from.read_at(0, &mut bytes)?;
        let (entries, _) = bytes.get(..len).unwrap_or_default().as_chunks::<ENTRY>();
        let mut all = Self::default();
        for [t, u, value @ ..] in entries {
            if let Some(number) = all.by_tag(u16::from_le_bytes([*t, *u])) {
                *number = Some(u64::from_le_bytes(*value));
            }
        }
        Ok(all)
    }

    /// The number behind `VIRTIO_BALLOON_S_*` (virtio 1.3, 5.5.6.4; from 10 on as Linux 6.12 has them).
    fn by_tag(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            10 => &mut self.oom_kill,
            11 => &mut self.alloc_stall,
            12 => &mut self.async_scan,
            13 => &mut self.direct_scan,
            14 => &mut self.async_reclaim,
            15 => &mut self.direct_reclaim,
            _ => return None,
        })
    }
}

/// Serves the queue of statistics.
pub(super) struct Collector {
    queue: Queue,
    chain: Chain,
    shared: Arc<Shared>,
    /// The driver's buffer, while it waits to be asked.
    held: Option<u16>,
}

impl Collector {
    pub(super) fn new(queue: Queue, shared: Arc<Shared>) -> Self {
        // Linux offers its buffer before it is ready, and its kick is lost then.
        queue.kick_again();
        Self { queue, chain: Chain::new(), shared, held: None }
    }

    fn take(&mut self) -> Result<(), QueueError> {
        for _ in 0..MAX_BATCH {
            if !self.queue.pop(&mut self.chain)? {
                if self.queue.expect_kicks()? {
                    continue;
                }
                return self.queue.announce();
            }
            let numbers = Statistics::read(&self.chain.readable(self.queue.memory()));
            let numbers = numbers.map_err(|fault| self.queue.fault(fault))?;
            self.shared.take_statistics(numbers);
            // One is enough to ask by; a driver that offers a second one gets the first one back.
            if let Some(before) = self.held.replace(self.chain.head()) {
                self.queue.push(before, 0)?;
            }
        }
        self.queue.kick_again();
        self.queue.announce()
    }

    fn ask(&mut self) -> Result<(), QueueError> {
        self.shared.polled();
        if let Some(head) = self.held.take() {
            self.queue.push(head, 0)?;
        }
        self.queue.announce()
    }
}

impl QueueHandler for Collector {
    fn interests(&self) -> Vec<Interest> {
        // The timer is never read, see `Poll::rearm`.
        let poll = self.shared.poll_fd().map(|fd| Interest::readable_edge(fd, POLL));
        std::iter::once(self.queue.kick_interest(KICK)).chain(poll).collect()
    }

    fn handle(&mut self, token: u16) -> Result<(), QueueError> {
        if token == POLL { self.ask() } else { self.take() }
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(mut self: Box<Self>) -> Vec<Queue> {
        if self.held.take().is_some() {
            self.queue.unpop();
        }
        vec![self.queue]
    }
}
