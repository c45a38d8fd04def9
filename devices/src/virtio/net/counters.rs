//! What a network card counts. Numbers only; who reads them, and when, is not decided here.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters;
use crate::metrics::Live;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds `n`.
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Adds one and returns the new number.
    pub(super) fn increment(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

impl Live for Counter {
    type Value = u64;

    fn read(&self) -> u64 {
        self.get()
    }
}

counters! {
    /// The counters of one card. "Received" and "sent" are the guest's view; bytes do not include the
    /// virtio-net header.
    pub struct Counters => Counts {
        /// News of frames from the host.
        rx_events: Counter,
        /// Kicks of queues of buffers.
        rx_kicks: Counter,
        /// Kicks of queues of frames.
        tx_kicks: Counter,
        /// Frames given to the guest.
        rx_frames: Counter,
        /// Their bytes.
        rx_bytes: Counter,
        /// Frames dropped because the driver's buffers did not hold them.
        rx_no_buffer: Counter,
        /// Frames that the host could not deliver.
        rx_errors: Counter,
        /// Frames taken from the guest and sent.
        tx_frames: Counter,
        /// Their bytes.
        tx_bytes: Counter,
        /// Frames dropped because the driver should not have sent them: too short, too long, malformed in
        /// the kernel's eyes, or on a queue pair that it did not enable.
        tx_rejected: Counter,
        /// Frames dropped because the host had no room for them.
        tx_no_room: Counter,
        /// Frames dropped because the host failed otherwise: interface down or gone.
        tx_errors: Counter,
        /// Commands answered with an error.
        control_refused: Counter,
    }
}
