//! Receiving: from the host's network into the driver's buffers.
//!
//! The descriptor of the network is edge-triggered, because it cannot be drained while the driver offers
//! no buffers; [`Receiver`] remembers that there may be frames, and the driver's next kick resumes. So a
//! flood meets a stalled guest with a full queue on the host's side, and costs neither memory nor time
//! here.
//!
//! A tap cuts off what a read has no room for. Each read therefore ends in a slot of our own, as large as the
//! largest frame: small frames are read there wholly, many at once; of a large one the slot takes what does not fit
//! the buffers posted so far. What has arrived waits until enough buffers are posted, and only then is it shown to
//! the driver.

use std::collections::VecDeque;
use std::io;

use crate::backend::net::Slots;
use crate::event::Interest;
use crate::guest_io::IoVecs;
use crate::rate_limiter::Gate;
use crate::virtio::device::QueueHandler;
use crate::virtio::queue::{Fault, Queue, QueueError};

use super::posted::Posted;
use super::{Mtu, Port, features, header, is_gone};

const KICK: u16 = 0;
const FRAME: u16 = 1;
const GATE: u16 = 2;

/// Most frames read at once. Those for which there are no buffers then wait here.
const MAX_AT_ONCE: usize = 16;
/// Most frames delivered before other devices get their turn.
const MAX_BATCH: usize = 64;
/// Most frames that are there and not yet shown to the driver.
const MAX_UNSEEN: u32 = 16;
/// How many times news of further frames may come while one waits and the driver posts nothing. By
/// then a tap's queue of 1000 frames is full and the host drops frames too; losing the one that waits lets
/// smaller ones through to a driver that never posts more.
const PATIENCE: u32 = 1000;
/// Failed reads in a row before waiting for news. A failed read usually consumes the frame, so that the
/// next one is worth trying at once.
const MAX_FAILURES: u32 = 8;
/// For how many frames after a large one another large one is expected.
const LARGE_STREAK: u32 = 64;
/// The MTU of a card that does not say one.
const DEFAULT_MTU: u16 = 1500;

/// How the driver wants its frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Most buffers that one frame may be spread over.
    max_chains: usize,
    /// Length of a frame that fills the MTU.
    ordinary_len: usize,
    /// Length of the largest frame to expect.
    largest_len: usize,
    /// Whether `flags` of the header may be set.
    has_flags: bool,
}

impl Shape {
    /// What `acked` features and the card's `mtu` make of it.
    pub(super) fn new(acked: u64, mtu: Option<Mtu>) -> Self {
        let is_mergeable = acked & features::MRG_RXBUF != 0;
        let packet = mtu.map_or(DEFAULT_MTU, Mtu::get);
        let ordinary_len = header::LEN + header::ETHERNET + header::VLAN + usize::from(packet);
        let largest_len = if features::offloads(acked).is_segmenting() {
            header::SEGMENTING_BUFFER
        } else {
            ordinary_len
        };
        Self {
            max_chains: if is_mergeable { usize::MAX } else { 1 },
            ordinary_len,
            largest_len,
            // Without GUEST_CSUM flags must be 0 (virtio 1.3, 5.1.6.4.1), but a tap may say that it
            // checked a checksum.
            has_flags: acked & features::GUEST_CSUM != 0,
        }
    }
}

/// Serves one receive queue.
pub(super) struct Receiver {
    port: Port,
    queue: Queue,
    shape: Shape,
    posted: Posted,
    iovecs: IoVecs,
    /// What was read and is not in the driver's buffers.
    slots: Slots,
    /// Frames that were read and not delivered yet; one with a part in the posted buffers is alone.
    arrived: VecDeque<Arrived>,
    /// How often news of frames came since the driver's last buffer, while frames wait for one.
    news: u32,
    used: Vec<(u16, u32)>,
    /// What became of the attempts to read.
    results: Vec<io::Result<usize>>,
    may_have_frames: bool,
    /// Reads in a row that found all they asked for.
    fruitful: u32,
    gate: Gate,
    expects_kicks: bool,
    failures: u32,
    /// Frames on the used ring that the driver does not see yet.
    unseen: u32,
    /// Frames to go until large ones are no longer expected.
    large_streak: u32,
}

/// A frame that was read.
#[derive(Clone, Copy)]
struct Arrived {
    /// Length with the header.
    len: usize,
    /// How much of it is in the posted buffers; the rest is in the slot.
    in_place: usize,
    slot: usize,
}

#[derive(PartialEq, Eq)]
enum Step {
    /// There may be more to do.
    Done,
    /// Nothing to do until the next event.
    Wait,
}

impl Receiver {
    pub(super) fn new(port: Port, queue: Queue, shape: Shape) -> Self {
        Self {
            gate: Gate::new(port.shared.rx_limiter.clone()),
            port,
            queue,
            shape,
            posted: Posted::default(),
            iovecs: IoVecs::new(),
            // One byte more than any frame: a read that fills it was cut off.
            slots: Slots::new(MAX_AT_ONCE, header::MAX_FRAME + 1),
            arrived: VecDeque::new(),
            news: 0,
            used: Vec::new(),
            results: Vec::new(),
            may_have_frames: true,
            fruitful: 0,
            expects_kicks: true,
            failures: 0,
            unseen: 0,
            large_streak: 0,
        }
    }

    fn deliver_batch(&mut self) -> Result<(), QueueError> {
        for _ in 0..MAX_BATCH {
            if self.step()? == Step::Wait {
                return Ok(());
            }
        }
        self.queue.kick_again();
        Ok(())
    }

    /// Delivers the next frame; reads some when there is none.
    fn step(&mut self) -> Result<Step, QueueError> {
        if self.arrived.is_empty() && self.read()? == Step::Wait {
            return Ok(Step::Wait);
        }
        let Some(&frame) = self.arrived.front() else { return Ok(Step::Done) };
        self.gather(frame.len)?;
        self.go_on_with(frame)
    }

    fn read(&mut self) -> Result<Step, QueueError> {
        let at_once = if self.expects_large() { 1 } else { at_once(self.fruitful) };
        self.gather(self.expected_len() * at_once)?;
        if !self.may_have_frames || self.gate.is_closed() {
            return Ok(Step::Wait);
        }
        if self.posted.is_empty() {
            return self.wait_for_buffers();
        }
        Ok(if self.expects_large() { self.read_in_place() } else { self.read_ahead() })
    }

    fn expects_large(&self) -> bool {
        self.large_streak > 0
    }

    /// How much room to give the next frame. Room for the largest is dozens of buffers, which cost a
    /// small frame more than its own work; a large one that comes unexpected costs one copy.
    fn expected_len(&self) -> usize {
        if self.expects_large() { self.shape.largest_len } else { self.shape.ordinary_len }
    }

    /// Takes buffers off the ring, and asks the driver not to kick while there are some.
    fn gather(&mut self, wanted: usize) -> Result<(), QueueError> {
        let Self { posted, queue, .. } = self;
        if posted.gather(queue, wanted, self.shape.max_chains)? {
            self.news = 0;
            if std::mem::take(&mut self.expects_kicks) {
                self.queue.silence_kicks()?;
            }
        }
        Ok(())
    }

    fn wait_for_buffers(&mut self) -> Result<Step, QueueError> {
        self.expects_kicks = true;
        let came_meanwhile = self.queue.expect_kicks()?;
        Ok(if came_meanwhile { Step::Done } else { Step::Wait })
    }

    /// Has the kernel put a frame into the driver's buffers: it is expected to be worth the way there.
    fn read_in_place(&mut self) -> Step {
        let to = self.posted.buffers(self.queue.memory(), self.expected_len());
        let backend = &self.port.shared.backend;
        let spill = self.slots.get_mut(0);
        let most = to.len() + spill.len();
        let result = backend.read_frame(self.port.pair, &mut self.iovecs, &to, spill);
        self.came(result, to.len(), 0, most)
    }

    /// Reads frames into memory of our own, to be copied from there. That costs less than having the kernel copy
    /// them one by one to where it is cold.
    fn read_ahead(&mut self) -> Step {
        self.slots.want(at_once(self.fruitful).min(self.posted.chains()));
        let mut results = std::mem::take(&mut self.results);
        let (pair, memory) = (self.port.pair, self.queue.memory());
        let backend = &self.port.shared.backend;
        let mut came = |result| results.push(result);
        backend.read_frames(pair, &mut self.iovecs, memory, &mut self.slots, &mut came);
        let mut step = Step::Done;
        for (slot, result) in results.drain(..).enumerate() {
            step = self.came(result, 0, slot, header::MAX_FRAME + 1);
        }
        self.results = results;
        self.fruitful = if step == Step::Wait { 0 } else { self.fruitful.saturating_add(1) };
        if self.arrived.is_empty() { step } else { Step::Done }
    }

    /// Takes note of how an attempt to read ended: the first `in_place` bytes, or all, are in the posted buffers,
    /// the rest in `slot`. There was room for `most` bytes, which no whole frame fills.
    fn came(
        &mut self,
        result: io::Result<usize>,
        in_place: usize,
        slot: usize,
        most: usize,
    ) -> Step {
        match result {
            Ok(len) if len < header::LEN => {
                return self.read_failed(&io::Error::other("a frame without a header"));
            }
            Ok(len) if len >= most => {
                self.port.shared.counters.rx_no_buffer.increment();
            }
            Ok(len) => {
                if self.arrived.is_empty() {
                    self.news = 0;
                }
                self.arrived.push_back(Arrived { len, in_place: in_place.min(len), slot });
            }
            Err(error) => return self.read_failed(&error),
        }
        self.failures = 0;
        self.may_have_frames = true;
        Step::Done
    }

    fn read_failed(&mut self, error: &io::Error) -> Step {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.failures = 0;
            self.may_have_frames = false;
            return Step::Wait;
        }
        self.failures += 1;
        if is_gone(error) {
            self.port.lose_link();
        } else {
            let counter = &self.port.shared.counters.rx_errors;
            self.port.host_failed(counter, "reading from", error);
            if self.failures < MAX_FAILURES {
                return Step::Done;
            }
        }
        self.failures = 0;
        self.may_have_frames = false;
        Step::Wait
    }

    /// Delivers the frame that arrived first, if there is room for it and its turn has come.
    fn go_on_with(&mut self, frame: Arrived) -> Result<Step, QueueError> {
        if self.posted.len() >= frame.len {
            if self.gate.is_closed() {
                return Ok(Step::Wait);
            }
            let rest = self.slots.get(frame.slot).get(..frame.len - frame.in_place);
            if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                let to = self.posted.buffers(self.queue.memory(), frame.len);
                let written = to.write_at(frame.in_place, rest);
                written.map_err(|e| self.queue.fault(Fault::Memory(e)))?;
            }
            self.arrived.pop_front();
            self.deliver(frame.len)?;
            return Ok(Step::Done);
        }
        let is_hopeless = self.posted.is_full(&self.queue, self.shape.max_chains);
        if is_hopeless || self.news >= PATIENCE {
            self.arrived.pop_front();
            self.port.shared.counters.rx_no_buffer.increment();
            return Ok(Step::Done);
        }
        self.wait_for_buffers()
    }

    /// Shows the driver the frame of `len` bytes that is in the posted buffers.
    fn deliver(&mut self, len: usize) -> Result<(), QueueError> {
        self.posted.spread(len, &mut self.used);
        self.finish_header().map_err(|e| self.queue.fault(Fault::Memory(e)))?;
        self.posted.forget(self.used.len());
        self.queue.put(&self.used)?;
        self.unseen += 1;
        if self.unseen == MAX_UNSEEN {
            self.publish()?;
        }
        self.large_streak = if len > self.shape.ordinary_len {
            LARGE_STREAK
        } else {
            self.large_streak.saturating_sub(1)
        };
        self.gate.charge((len - header::LEN) as u64);
        let counters = &self.port.shared.counters;
        counters.rx_frames.increment();
        counters.rx_bytes.add((len - header::LEN) as u64);
        Ok(())
    }

    fn publish(&mut self) -> Result<(), QueueError> {
        self.unseen = 0;
        self.queue.publish()
    }

    fn finish_header(&self) -> Result<(), vm_memory::GuestMemoryError> {
        let to = self.posted.buffers(self.queue.memory(), header::LEN);
        let buffers = u16::try_from(self.used.len()).unwrap_or(u16::MAX);
        to.write_at(header::NUM_BUFFERS, &buffers.to_le_bytes())?;
        if !self.shape.has_flags {
            to.write_at(header::FLAGS, &[0])?;
        }
        Ok(())
    }

    fn drop_arrived(&mut self) {
        for _ in self.arrived.drain(..) {
            self.port.shared.counters.rx_no_buffer.increment();
        }
    }
}

/// How many frames to read after so many reads that found all they asked for. To look for one more than there are is
/// cheap; to look for many costs more than the system calls that it may save.
fn at_once(fruitful: u32) -> usize {
    match fruitful {
        0 | 1 => 1,
        2 => MAX_AT_ONCE / 4,
        3 => MAX_AT_ONCE / 2,
        _ => MAX_AT_ONCE,
    }
}

impl QueueHandler for Receiver {
    fn interests(&self) -> Vec<Interest> {
        use std::os::fd::AsRawFd;

        let fd = self.port.shared.backend.fd(self.port.pair);
        let frames = fd.map(|fd| Interest::readable_edge(fd.as_raw_fd(), FRAME));
        let gate = self.gate.interest(GATE);
        std::iter::once(self.queue.kick_interest(KICK)).chain(frames).chain(gate).collect()
    }

    fn late_interest(&mut self) -> Option<Interest> {
        self.gate.late_interest(GATE)
    }

    fn handle(&mut self, token: u16) -> Result<(), QueueError> {
        match token {
            KICK => self.port.shared.counters.rx_kicks.add(1),
            FRAME => self.port.shared.counters.rx_events.add(1),
            _ => {}
        }
        if token == FRAME {
            self.may_have_frames = true;
            self.news = self.news.saturating_add(1);
        }
        if !self.port.is_active() {
            // Whatever comes was not meant for this pair; once it is, look before the first news.
            self.may_have_frames = true;
            self.drop_arrived();
            return Ok(());
        }
        let batch = self.deliver_batch();
        self.unseen = 0;
        // What was delivered before a driver's mistake is delivered.
        let announced = self.queue.announce();
        batch.and(announced)
    }

    fn queues(&self) -> Vec<&Queue> {
        vec![&self.queue]
    }

    fn stop(mut self: Box<Self>) -> Vec<Queue> {
        self.drop_arrived();
        self.posted.give_back(&mut self.queue);
        vec![self.queue]
    }
}

#[cfg(test)]
mod tests;
