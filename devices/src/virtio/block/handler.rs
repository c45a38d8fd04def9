//! Serves one queue of a block device: requests from the ring to an engine, and answers back.
//!
//! Knows neither what requests mean ([`super::request`]) nor how an engine works. Every chain that is
//! taken off the ring has a slot until it is answered, and is answered exactly once.

use std::sync::Arc;
use std::time::Instant;

use super::control::Shared;
use super::counters::{QueueCounters, Stopwatch};
use super::request::{Kind, Request, Rules, Status, Step};
use crate::backend::disk::io::{DiskIo, Op, Started};
use crate::event::Interest;
use crate::rate_limiter::Gate;
use crate::virtio::device::QueueHandler;
use crate::virtio::linger::Linger;
use crate::virtio::queue::{Chain, Fault, Queue, QueueError};
use crate::virtio::session::Session;

const KICK: u16 = 0;
const COMPLETION: u16 = 1;
const GATE: u16 = 2;

/// With an engine that waits for each transfer: the most requests, and about the most bytes, answered
/// before the driver hears of them and other devices get their turn.
const MAX_BATCH: usize = 32;
const MAX_BATCH_BYTES: usize = 1 << 20;
/// How often the ring is looked at again when a driver adds to it as fast as it is emptied, before other
/// devices get their turn.
const MAX_PASSES: usize = 8;

/// One queue at work.
pub(super) struct Handler {
    name: Arc<str>,
    /// Before the queue, so that the engine, which waits for the host, is dropped first.
    io: Box<dyn DiskIo>,
    queue: Queue,
    rules: Rules,
    slots: Vec<Slot>,
    free: Vec<u16>,
    counters: Arc<QueueCounters>,
    /// Where somebody wants to know how long requests take.
    stopwatch: Option<Stopwatch>,
    gate: Gate,
    linger: Linger,
    link: Link,
    /// The driver broke the protocol: the ring must not be touched again.
    broken: bool,
}

/// What ties a queue to the others of its device, and to whoever changes the device.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    /// Which of the disks the engine was opened on, by [`Shared::changes`].
    pub(super) changes: u32,
    pub(super) _session: Arc<Session>,
}

/// A request, and the chain that it came in and goes back by.
struct Slot {
    chain: Chain,
    request: Option<Request>,
    /// When it was found on the ring, where that is measured.
    found_at: Option<Instant>,
}

/// Why no more requests were taken.
enum Stop {
    RingEmpty,
    SlotsFull,
    BatchFull,
    /// The device has reached its limits.
    GateClosed,
}

impl Handler {
    /// Serves `queue` with `io`, which takes as many operations at a time as the queue has entries.
    pub(super) fn new(
        name: Arc<str>,
        queue: Queue,
        io: Box<dyn DiskIo>,
        rules: Rules,
        counters: Arc<QueueCounters>,
        link: Link,
    ) -> Self {
        let times = link.shared.times(queue.index().into());
        let stopwatch = times.cloned().map(Stopwatch::new);
        Self {
            name,
            io,
            queue,
            rules,
            slots: Vec::new(),
            free: Vec::new(),
            stopwatch,
            counters,
            gate: Gate::new(link.shared.limiter.clone()),
            linger: Linger::new(),
            link,
            broken: false,
        }
    }

    fn serve(&mut self) -> Result<(), QueueError> {
        self.finish_completed()?;
        if self.link.shared.changes() != self.link.changes && !self.change_disk() {
            return self.announce();
        }
        for pass in 1.. {
            self.queue.silence_kicks()?;
            if let Some(stopwatch) = &mut self.stopwatch {
                stopwatch.begin();
            }
            let stop = self.take_requests()?;
            self.submit();
            // What was in the page cache is back already.
            self.finish_completed()?;
            match stop {
                Stop::RingEmpty if !self.stays_for_more()? && !self.queue.expect_kicks()? => {
                    self.linger.left(Instant::now());
                    break;
                }
                Stop::RingEmpty if pass < MAX_PASSES => {}
                // Kicks stay off: the completion that frees a slot brings us back here.
                Stop::SlotsFull if self.free.is_empty() => break,
                // Nor are they of use before the gate's timer.
                Stop::GateClosed => break,
                Stop::RingEmpty | Stop::SlotsFull | Stop::BatchFull => {
                    self.queue.kick_again();
                    break;
                }
            }
        }
        self.announce()
    }

    /// Lets the driver hear of what was answered.
    fn announce(&mut self) -> Result<(), QueueError> {
        if let Some(stopwatch) = &mut self.stopwatch {
            stopwatch.announced();
        }
        self.queue.announce()
    }

    /// Stays at an empty ring for a moment if the driver is known to come back soon; `true` when it did. It has
    /// heard of everything before.
    fn stays_for_more(&mut self) -> Result<bool, QueueError> {
        let is_idle = self.slots.len() == self.free.len();
        let Some(until) = self.linger.until(Instant::now()).filter(|_| is_idle) else {
            return Ok(false);
        };
        self.announce()?;
        while !self.queue.has_more()? {
            if Instant::now() >= until {
                self.linger.was_in_vain();
                return Ok(false);
            }
            std::hint::spin_loop();
        }
        self.linger.paid_off();
        Ok(true)
    }

    /// Goes over to the disk that has taken the place of ours. `false` while requests are under way: they end
    /// where they began, and each end brings the handler back.
    fn change_disk(&mut self) -> bool {
        if self.slots.len() > self.free.len() {
            return false;
        }
        let Link { shared, changes, .. } = &mut self.link;
        *changes = shared.changes();
        let disk = shared.disk();
        self.rules.sectors = disk.sectors();
        self.io.set_disk(disk);
        true
    }

    /// Starts what the driver has put on the ring.
    fn take_requests(&mut self) -> Result<Stop, QueueError> {
        let is_waiting = self.io.completion_fd().is_none();
        let most = if is_waiting { MAX_BATCH } else { usize::from(self.queue.size()) };
        let mut bytes = 0;
        for _ in 0..most {
            if is_waiting && bytes >= MAX_BATCH_BYTES {
                break;
            }
            if self.gate.is_closed() {
                return Ok(Stop::GateClosed);
            }
            let Some(index) = self.free_slot() else {
                return Ok(Stop::SlotsFull);
            };
            let Some(slot) = self.slots.get_mut(usize::from(index)) else {
                break;
            };
            if !self.queue.pop(&mut slot.chain)? {
                self.free.push(index);
                return Ok(Stop::RingEmpty);
            }
            let memory = self.queue.memory();
            let (readable, writable) = (slot.chain.readable(memory), slot.chain.writable(memory));
            bytes += readable.len() + writable.len();
            let request = Request::parse(&readable, &writable, &self.rules);
            let request = request.map_err(|fault| self.queue.fault(fault))?;
            self.gate.charge(request.cost());
            slot.request = Some(request);
            slot.found_at = self.stopwatch.as_ref().map(Stopwatch::found_at);
            self.run(index)?;
        }
        Ok(Stop::BatchFull)
    }

    /// Takes note of everything the engine has finished, and carries on with it.
    fn finish_completed(&mut self) -> Result<(), QueueError> {
        loop {
            let mut is_idle = true;
            while let Some((index, outcome)) = self.io.completed() {
                is_idle = false;
                if let Some(request) = self.request(index)
                    && let Err(error) = request.advance(outcome)
                {
                    self.report(&error);
                }
                self.run(index)?;
            }
            self.queue.publish()?;
            if is_idle {
                return Ok(());
            }
            self.submit();
        }
    }

    /// Carries a request on until it is in flight or answered.
    fn run(&mut self, index: u16) -> Result<(), QueueError> {
        let status = loop {
            let Some(slot) = self.slots.get_mut(usize::from(index)) else {
                return Ok(());
            };
            let Some(request) = &mut slot.request else {
                return Ok(());
            };
            let memory = self.queue.memory();
            let readable = slot.chain.readable(memory);
            let op = match request.next(&readable, &self.rules) {
                Ok(Step::Do(op)) => op,
                Ok(Step::Answer(status)) => break status,
                Err(fault) => return Err(self.queue.fault(fault)),
            };
            let buffer = match op {
                Op::Read { .. } => slot.chain.writable(memory),
                _ => readable,
            };
            match self.io.start(index, op, buffer.segments()) {
                Started::InFlight => return Ok(()),
                Started::Done(outcome) => {
                    if let Err(error) = request.advance(outcome) {
                        self.report(&error);
                    }
                }
            }
        };
        self.answer(index, status)
    }

    /// Writes the status, hands the chain back and frees the slot.
    fn answer(&mut self, index: u16, status: Status) -> Result<(), QueueError> {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return Ok(());
        };
        let Some(request) = slot.request.take() else {
            return Ok(());
        };
        self.free.push(index);
        let writable = slot.chain.writable(self.queue.memory());
        let last = writable.len().saturating_sub(1);
        if let Err(error) = writable.write_at(last, &[status.byte()]) {
            return Err(self.queue.fault(Fault::Memory(error)));
        }
        count(&self.counters, &request, status);
        if let (Some(stopwatch), Some(found_at)) = (&mut self.stopwatch, slot.found_at) {
            stopwatch.answered(request.kind(), found_at);
        }
        self.queue.put(&[(slot.chain.head(), request.written())])
    }

    fn submit(&mut self) {
        if let Err(error) = self.io.submit() {
            // It stays started; the loop comes back for another attempt.
            log::debug!("{}: the host takes no transfers now: {error}", self.name);
            self.queue.kick_again();
        }
    }

    /// An index of a slot that is not in use; `None` when as many requests are in flight as the queue
    /// has entries, which takes a driver that offers the same descriptors twice.
    fn free_slot(&mut self) -> Option<u16> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = u16::try_from(self.slots.len()).ok().filter(|&n| n < self.queue.size())?;
        self.slots.push(Slot { chain: Chain::new(), request: None, found_at: None });
        Some(index)
    }

    fn request(&mut self, index: u16) -> Option<&mut Request> {
        self.slots.get_mut(usize::from(index))?.request.as_mut()
    }

    /// Counts a failure of the host. A disk that fails may fail a million times: the log hears of the
    /// 1st, 2nd, 4th, 8th time and so on.
    fn report(&self, error: &std::io::Error) {
        self.counters.failed.add(1);
        let failures = self.counters.failed.get();
        if failures.is_power_of_two() {
            log::error!("{}: the host's disk fails ({failures} so far): {error}", self.name);
        }
    }
}

impl QueueHandler for Handler {
    fn interests(&self) -> Vec<Interest> {
        let mut all = vec![self.queue.kick_interest(KICK)];
        if let Some(fd) = self.io.completion_fd() {
            all.push(Interest::readable(fd, COMPLETION));
        }
        all.extend(self.gate.interest(GATE));
        all
    }

    fn late_interest(&mut self) -> Option<Interest> {
        self.gate.late_interest(GATE)
    }

    fn handle(&mut self, token: u16) -> Result<(), QueueError> {
        if token == KICK {
            self.counters.kicks.add(1);
            self.linger.called(Instant::now());
        }
        let served = self.serve();
        self.broken |= served.is_err();
        // What was answered before a driver's mistake is answered.
        let published = self.queue.publish();
        served.and(published)
    }

    fn quiesce(&mut self) -> Result<(), QueueError> {
        while !self.broken && self.slots.len() > self.free.len() {
            self.submit();
            if let Err(error) = self.io.wait() {
                log::error!("{}: cannot wait for the host's disk: {error}", self.name);
                break;
            }
            let served = self.finish_completed().and_then(|()| self.announce());
            self.broken = served.is_err();
            served?;
        }
        Ok(())
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn is_at_rest(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    fn stop(mut self: Box<Self>) -> Vec<Queue> {
        // What the driver did wrong is of no interest to a device that is reset.
        let _ = self.quiesce();
        // Dropping the engine waits for whatever a broken ring kept from being answered.
        let Self { io, queue, .. } = *self;
        drop(io);
        vec![queue]
    }
}

fn count(counters: &QueueCounters, request: &Request, status: Status) {
    let moved = request.moved() as u64;
    match (request.kind(), status) {
        (Kind::Refused, _) => counters.refused.add(1),
        (Kind::Read, Status::Ok) => {
            counters.reads.add(1);
            counters.read_bytes.add(moved);
        }
        (Kind::Write, Status::Ok) => {
            counters.writes.add(1);
            counters.written_bytes.add(moved);
        }
        (Kind::Flush, Status::Ok) => counters.flushes.add(1),
        (Kind::Discard | Kind::WriteZeroes, Status::Ok) => counters.clears.add(1),
        // A failure was counted when the host reported it, and the serial number is nobody's load.
        _ => {}
    }
}
