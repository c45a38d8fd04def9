//! Host side of a network card: where a guest's frames go and come from.
//!
//! Knows nothing of queues, features or drivers. A frame here always starts with the 12-byte virtio-net
//! header (virtio 1.3, 5.1.6), which the host interprets: checksums and segmentation are its work.

mod frames;
mod ring;
pub mod tap;
#[cfg(test)]
pub(crate) mod test_network;

use std::io;
use std::os::fd::BorrowedFd;

use crate::guest_io::IoVecs;
use crate::memory::{Buffers, GuestMemory};

pub use frames::{Frames, Slots};

/// What a frame handed to the guest may leave for the guest to finish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// The checksum may be missing. Without it none of the others may be set.
    pub checksum: bool,
    /// TCP over IPv4 may come unsegmented, up to 64 KiB.
    pub tso4: bool,
    /// TCP over IPv6 may.
    pub tso6: bool,
    /// Unsegmented TCP may carry congestion marks.
    pub ecn: bool,
    /// UDP over either IP may come unsegmented.
    pub uso: bool,
}

impl Offloads {
    /// Whether frames may be larger than the MTU.
    #[must_use]
    pub fn is_segmenting(self) -> bool {
        self.tso4 || self.tso6 || self.uso
    }
}

/// A network of the host, shared by all queue handlers of one device.
///
/// Queue indices count from 0 and each stands for one transmit and one receive queue. All calls return
/// at once: a queue without a frame, or without room for one, is `WouldBlock`.
pub trait NetBackend: Send + Sync {
    /// What the host calls it, for messages.
    fn name(&self) -> &str;

    /// The number of queues, at least 1.
    fn queues(&self) -> u16;

    /// Whether unsegmented UDP is understood, in both directions.
    fn has_uso(&self) -> bool;

    /// The descriptor that becomes readable when queue `queue` has a frame for the guest.
    fn fd(&self, queue: u16) -> Option<BorrowedFd<'_>>;

    /// Takes one frame off `queue` into `to` and, where that is too small, on into `spill`. A result
    /// larger than `to.len()` tells how much is in `spill`.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `EBADFD` when the network is gone for good.
    fn read_frame(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        to: &Buffers<'_>,
        spill: &mut [u8],
    ) -> io::Result<usize> {
        let fd = self.fd(queue).ok_or_else(no_queue)?;
        iovecs.read_and_spill(fd, to, spill)
    }

    /// Takes frames off `queue` into memory of the caller's own, one into each of the wanted `slots`, and tells `came`
    /// in order what became of each attempt, as [`Self::read_frame`] would. A network may make fewer.
    fn read_frames(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        memory: &GuestMemory,
        slots: &mut Slots,
        came: &mut dyn FnMut(io::Result<usize>),
    ) {
        read_first(self, queue, iovecs, memory, slots, came);
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; `EINVAL` when the host finds the frame or its header
    /// malformed; `EIO` when the interface is down; `EBADFD` when the network is gone for good.
    fn write_frame(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        from: &Buffers<'_>,
    ) -> io::Result<usize> {
        let fd = self.fd(queue).ok_or_else(no_queue)?;
        iovecs.write(fd, from)
    }

    /// Sends `frames`, whose bytes are in `memory`, one after the other, and tells `sent` in their order how long
    /// each is and what became of it, as [`Self::write_frame`] would.
    fn write_frames(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        memory: &GuestMemory,
        frames: &Frames,
        sent: &mut dyn FnMut(usize, io::Result<usize>),
    ) {
        write_each(self, queue, iovecs, memory, frames, sent);
    }

    /// Sets what frames for the guest may leave undone. Frames that wait, shaped by other settings, are
    /// dropped.
    ///
    /// # Errors
    /// The host's refusal.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// Spreads frames for the guest over the first `count` queues (at least 1) and no others.
    ///
    /// # Errors
    /// The host's refusal.
    fn set_active_queues(&self, count: u16) -> io::Result<()>;

    /// Tells the host the largest packet, in bytes without the Ethernet header, that may be sent.
    ///
    /// # Errors
    /// The host's refusal, `PermissionDenied` among them.
    fn set_mtu(&self, mtu: u16) -> io::Result<()>;
}

/// [`NetBackend::read_frames`] of a network that gives one frame at a time.
pub(crate) fn read_first(
    net: &(impl NetBackend + ?Sized),
    queue: u16,
    iovecs: &mut IoVecs,
    memory: &GuestMemory,
    slots: &mut Slots,
    came: &mut dyn FnMut(io::Result<usize>),
) {
    let nowhere_else = Buffers::new(memory, &[]);
    for slot in slots.iter_mut().take(1) {
        came(net.read_frame(queue, iovecs, &nowhere_else, slot));
    }
}

/// [`NetBackend::write_frames`] of a network that takes one frame at a time.
pub(crate) fn write_each(
    net: &(impl NetBackend + ?Sized),
    queue: u16,
    iovecs: &mut IoVecs,
    memory: &GuestMemory,
    frames: &Frames,
    sent: &mut dyn FnMut(usize, io::Result<usize>),
) {
    for frame in frames.iter(memory) {
        sent(frame.len(), net.write_frame(queue, iovecs, &frame));
    }
}

fn no_queue() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}
