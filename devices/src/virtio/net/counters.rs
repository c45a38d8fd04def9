//! What a network card counts. Numbers only; who reads them, and when, is not decided here.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// The counters of one card. "Received" and "sent" are the guest's view; bytes do not include the
/// virtio-net header.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames given to the guest.
    pub rx_frames: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames dropped because the driver's buffers did not hold them.
    pub rx_no_buffer: Counter,
    /// Frames that the host could not deliver.
    pub rx_errors: Counter,
    /// Frames taken from the guest and sent.
    pub tx_frames: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames dropped because the driver should not have sent them: too short, too long, malformed in
    /// the kernel's eyes, or on a queue pair that it did not enable.
    pub tx_rejected: Counter,
    /// Frames dropped because the host had no room for them.
    pub tx_no_room: Counter,
    /// Frames dropped because the host failed otherwise: interface down or gone.
    pub tx_errors: Counter,
    /// Commands answered with an error.
    pub control_refused: Counter,
}
