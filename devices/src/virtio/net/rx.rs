//! Receiving: from the host's network into the driver's buffers.
//!
//! The descriptor of the network is edge-triggered, because it cannot be drained while the driver offers
//! no buffers; [`Receiver`] remembers that there may be frames, and the driver's next kick resumes. So a
//! flood meets a stalled guest with a full queue on the host's side, and costs neither memory nor time
//! here.
//!
//! A tap cuts off what a read has no room for. Each read therefore ends in a spill buffer of our own, as
//! large as the largest frame: a frame that does not fit the buffers posted so far is *held*, part in
//! guest memory and part in the spill, until enough buffers are posted, and only then shown to the driver.

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

/// Most frames delivered before other devices get their turn.
const MAX_BATCH: usize = 64;
/// How many times news of further frames may come while one is held and the driver posts nothing. By
/// then a tap's queue of 1000 frames is full and the host drops frames too; losing the held one lets
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
    spill: Vec<u8>,
    held: Option<Held>,
    used: Vec<(u16, u32)>,
    may_have_frames: bool,
    gate: Gate,
    expects_kicks: bool,
    failures: u32,
    /// Frames to go until large ones are no longer expected.
    large_streak: u32,
}

/// A frame that is larger than the buffers were when it was read.
#[derive(Clone, Copy)]
struct Held {
    /// Length with the header.
    len: usize,
    /// How much of it is in the posted buffers; the rest is in the spill.
    in_place: usize,
    /// How often news of frames came since the last buffer.
    news: u32,
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
            spill: vec![0; header::MAX_FRAME + 1],
            held: None,
            used: Vec::new(),
            may_have_frames: true,
            expects_kicks: true,
            failures: 0,
            large_streak: 0,
        }
    }

    fn step(&mut self) -> Result<Step, QueueError> {
        let wanted = self.held.map_or_else(|| self.expected_len(), |held| held.len);
        self.gather(wanted)?;
        if let Some(held) = self.held {
            return self.go_on_with(held);
        }
        if !self.may_have_frames || self.gate.is_closed() {
            return Ok(Step::Wait);
        }
        if self.posted.is_empty() {
            return self.wait_for_buffers();
        }
        self.read()
    }

    /// How much room to give the next read. Room for the largest frame is dozens of buffers, which cost a
    /// small frame more than its own work; a large one that comes unexpected costs one copy.
    fn expected_len(&self) -> usize {
        if self.large_streak > 0 { self.shape.largest_len } else { self.shape.ordinary_len }
    }

    /// Takes buffers off the ring, and asks the driver not to kick while there are some.
    fn gather(&mut self, wanted: usize) -> Result<(), QueueError> {
        let Self { posted, queue, .. } = self;
        if posted.gather(queue, wanted, self.shape.max_chains)? {
            if let Some(held) = &mut self.held {
                held.news = 0;
            }
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

    fn read(&mut self) -> Result<Step, QueueError> {
        let to = self.posted.buffers(self.queue.memory(), self.expected_len());
        let backend = &self.port.shared.backend;
        let counters = &self.port.shared.counters;
        let result = backend.read_frame(self.port.pair, &mut self.iovecs, &to, &mut self.spill);
        match result {
            Ok(len) if len < header::LEN => {
                let short = std::io::Error::other("a frame without a header");
                return Ok(self.read_failed(&short));
            }
            Ok(len) if len <= to.len() => self.deliver(len)?,
            Ok(len) if len >= to.len() + self.spill.len() => {
                counters.rx_no_buffer.increment();
            }
            Ok(len) => {
                self.held = Some(Held { len, in_place: to.len(), news: 0 });
            }
            Err(error) => return Ok(self.read_failed(&error)),
        }
        self.failures = 0;
        Ok(Step::Done)
    }

    fn read_failed(&mut self, error: &std::io::Error) -> Step {
        if error.kind() == std::io::ErrorKind::WouldBlock {
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

    fn go_on_with(&mut self, held: Held) -> Result<Step, QueueError> {
        if self.posted.len() >= held.len {
            self.held = None;
            let rest = self.spill.get(..held.len - held.in_place).unwrap_or_default();
            let to = self.posted.buffers(self.queue.memory(), held.len);
            to.write_at(held.in_place, rest).map_err(|e| self.queue.fault(Fault::Memory(e)))?;
            self.deliver(held.len)?;
            return Ok(Step::Done);
        }
        let is_hopeless = self.posted.is_full(&self.queue, self.shape.max_chains);
        if is_hopeless || held.news >= PATIENCE {
            self.drop_held();
            return Ok(Step::Done);
        }
        self.wait_for_buffers()
    }

    /// Shows the driver the frame of `len` bytes that is in the posted buffers.
    fn deliver(&mut self, len: usize) -> Result<(), QueueError> {
        self.posted.spread(len, &mut self.used);
        self.finish_header().map_err(|e| self.queue.fault(Fault::Memory(e)))?;
        self.posted.forget(self.used.len());
        self.queue.push_all(&self.used)?;
        self.large_streak = if len > self.shape.ordinary_len {
            LARGE_STREAK
        } else {
            self.large_streak.saturating_sub(1)
        };
        self.gate.charge((len - header::LEN) as u64);
        let counters = &self.port.shared.counters;
        counters.rx_frames.increment();
        counters.rx_bytes.add(len - header::LEN);
        Ok(())
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

    fn drop_held(&mut self) {
        if self.held.take().is_some() {
            self.port.shared.counters.rx_no_buffer.increment();
        }
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
            if let Some(held) = &mut self.held {
                held.news = held.news.saturating_add(1);
            }
        }
        if !self.port.is_active() {
            // Whatever comes was not meant for this pair; once it is, look before the first news.
            self.may_have_frames = true;
            self.drop_held();
            return Ok(());
        }
        for _ in 0..MAX_BATCH {
            if self.step()? == Step::Wait {
                return self.queue.announce();
            }
        }
        self.queue.kick_again();
        self.queue.announce()
    }

    fn stop(mut self: Box<Self>) -> Vec<Queue> {
        self.drop_held();
        self.posted.give_back(&mut self.queue);
        vec![self.queue]
    }
}

#[cfg(test)]
mod tests;
