//! A card's backend with the service in front of it.
//!
//! Frames of the guest for the service's address go to the stack, all others to the host's network untouched.
//! The stack's answers come to the guest before what the network has. All of it happens within the calls of the
//! card's handlers, on their thread; there is a timer only while a connection has something to repeat.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::Service;
use super::stack::{MAX_RECEIVED, Stack};
use super::sys::AnyOf;
use crate::backend::net::{Frames, NetBackend, Offloads, Slots, read_first, write_each};
use crate::guest_io::IoVecs;
use crate::memory::{Buffers, GuestMemory};

/// Length of the virtio-net header before each frame.
const HEADER: usize = 12;
/// As much of a frame as tells whom it is for: Ethernet and an ARP packet.
const HEAD: usize = HEADER + 14 + 28;
/// The queue by which the service's frames come; every card has it.
const QUEUE: u16 = 0;

/// Shortest wait for the timer; a time of zero would stop it.
const SOON: Duration = Duration::from_micros(1);

/// A network of the host, and the service.
pub struct MetadataNet {
    inner: Arc<dyn NetBackend>,
    address: Ipv4Addr,
    state: Mutex<State>,
    /// Whether the stack has frames, so that most reads need not ask it.
    has_frames: AtomicBool,
    /// Readable when it has.
    doorbell: EventFd,
    any_of: AnyOf,
    start: Instant,
}

struct State {
    stack: Stack,
    timer: TimerFd,
    /// When the stack wants to be called, if nothing comes before; counted from the start.
    deadline: Option<Duration>,
}

impl MetadataNet {
    /// `inner` with `service` at `address`, which must be unicast.
    ///
    /// # Errors
    /// The host's refusal of a descriptor or of randomness.
    pub fn new(
        inner: Arc<dyn NetBackend>,
        service: Arc<Service>,
        address: Ipv4Addr,
    ) -> io::Result<Self> {
        let seed = u64::from_ne_bytes(service.random()?);
        let timer = TimerFd::new()?;
        let doorbell = EventFd::new(EFD_NONBLOCK)?;
        let mut fds = vec![doorbell.as_raw_fd(), timer.as_raw_fd()];
        fds.extend(inner.fd(QUEUE).map(|fd| fd.as_raw_fd()));
        Ok(Self {
            any_of: AnyOf::new(&fds)?,
            inner,
            address,
            state: Mutex::new(State {
                stack: Stack::new(address, service, seed),
                timer,
                deadline: None,
            }),
            has_frames: AtomicBool::new(false),
            doorbell,
            start: Instant::now(),
        })
    }

    /// Whether a frame is the service's: ARP about its address, or IP to it.
    fn is_ours(&self, frame: &Buffers<'_>) -> bool {
        let mut head = [0; HEAD];
        let Ok(len) = frame.read_at(0, &mut head) else { return false };
        let frame = head.get(HEADER..len).unwrap_or_default();
        let at = |start: usize, len: usize| frame.get(start..start + len);
        let address = self.address.octets();
        match at(12, 2) {
            Some([0x08, 0x06]) => at(14 + 24, 4) == Some(&address),
            Some([0x08, 0x00]) => at(14 + 16, 4) == Some(&address),
            _ => false,
        }
    }

    /// Gives a frame to the stack. One that is longer than any to it is lost.
    fn divert(&self, frame: &Buffers<'_>) -> io::Result<()> {
        let len = frame.len() - HEADER;
        if len > MAX_RECEIVED {
            return Ok(());
        }
        let mut copy = vec![0; len];
        frame.read_at(HEADER, &mut copy).map_err(io::Error::other)?;
        let now = self.start.elapsed();
        let mut state = self.lock();
        state.stack.receive(copy, self.address, now);
        self.arrange(&mut state, now);
        Ok(())
    }

    /// Puts a frame of the stack into the guest's buffers, if there is one by now.
    fn give(&self, to: &Buffers<'_>, spill: &mut [u8]) -> io::Result<Option<usize>> {
        let now = self.start.elapsed();
        let mut state = self.lock();
        if state.deadline.is_some_and(|deadline| deadline <= now) {
            state.stack.poll(now);
        }
        let frame = state.stack.take(now);
        self.arrange(&mut state, now);
        drop(state);
        let Some(frame) = frame else { return Ok(None) };
        // No offloads: the checksums are complete.
        let frame = [&[0; HEADER], &frame[..]].concat();
        let written = to.write_at(0, &frame).map_err(io::Error::other)?;
        let rest = frame.get(written..).unwrap_or_default();
        for (to, from) in spill.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(Some(written + rest.len().min(spill.len())))
    }

    /// Sees to it that the card is called again: at once when there is a frame, else when something is due.
    fn arrange(&self, state: &mut State, now: Duration) {
        let has_frames = state.stack.has_frames();
        if self.has_frames.swap(has_frames, Ordering::AcqRel) != has_frames {
            // Reading fails only when nobody rang, which is as good.
            let rung =
                if has_frames { self.doorbell.write(1) } else { self.doorbell.read().map(drop) };
            if let (true, Err(error)) = (has_frames, rung) {
                log::error!("metadata: the card cannot be called: {error}");
            }
        }
        let deadline = state.stack.rest(now).map(|rest| now.saturating_add(rest.max(SOON)));
        if deadline == state.deadline {
            return;
        }
        state.deadline = deadline;
        let set = match deadline {
            // The timer is set or stopped, never read: that could wait.
            Some(deadline) => state.timer.reset(deadline.saturating_sub(now), None),
            None => state.timer.clear(),
        };
        if let Err(error) = set {
            log::error!("metadata: the timer cannot be set: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NetBackend for MetadataNet {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn queues(&self) -> u16 {
        self.inner.queues()
    }

    fn has_uso(&self) -> bool {
        self.inner.has_uso()
    }

    fn fd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        if queue == QUEUE { Some(self.any_of.as_fd()) } else { self.inner.fd(queue) }
    }

    fn read_frame(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        to: &Buffers<'_>,
        spill: &mut [u8],
    ) -> io::Result<usize> {
        if queue != QUEUE {
            return self.inner.read_frame(queue, iovecs, to, spill);
        }
        if self.has_frames.load(Ordering::Acquire)
            && let Some(len) = self.give(to, spill)?
        {
            return Ok(len);
        }
        match self.inner.read_frame(queue, iovecs, to, spill) {
            // Nothing from the network; perhaps it was the timer that called.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.give(to, spill)?.ok_or(error)
            }
            result => result,
        }
    }

    fn write_frame(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        from: &Buffers<'_>,
    ) -> io::Result<usize> {
        if self.is_ours(from) {
            self.divert(from)?;
            return Ok(from.len());
        }
        self.inner.write_frame(queue, iovecs, from)
    }

    fn read_frames(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        memory: &GuestMemory,
        slots: &mut Slots,
        came: &mut dyn FnMut(io::Result<usize>),
    ) {
        if slots.wanted() > 1 && (queue != QUEUE || !self.has_frames.load(Ordering::Acquire)) {
            return self.inner.read_frames(queue, iovecs, memory, slots, came);
        }
        read_first(self, queue, iovecs, memory, slots, came);
    }

    fn write_frames(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        memory: &GuestMemory,
        frames: &Frames,
        sent: &mut dyn FnMut(usize, io::Result<usize>),
    ) {
        if !frames.iter(memory).any(|frame| self.is_ours(&frame)) {
            return self.inner.write_frames(queue, iovecs, memory, frames, sent);
        }
        write_each(self, queue, iovecs, memory, frames, sent);
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.inner.set_offloads(offloads)?;
        let now = self.start.elapsed();
        let mut state = self.lock();
        state.stack.drop_frames();
        self.arrange(&mut state, now);
        Ok(())
    }

    fn set_active_queues(&self, count: u16) -> io::Result<()> {
        self.inner.set_active_queues(count)
    }

    fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.inner.set_mtu(mtu)
    }
}

#[cfg(test)]
mod tests;
