//! What a vsock device counts. Numbers only; who reads them, and when, is not decided here.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread raises and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds `n`. With a single writer this needs no locked instruction.
    pub(super) fn add(&self, n: usize) {
        self.0.store(self.get().wrapping_add(n as u64), Ordering::Relaxed);
    }
}

/// The counters of one device. "Received" and "sent" are the guest's view; bytes do not include headers.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets given to the guest.
    pub rx_packets: Counter,
    /// Their bytes of data.
    pub rx_bytes: Counter,
    /// Packets taken from the guest.
    pub tx_packets: Counter,
    /// Their bytes of data.
    pub tx_bytes: Counter,
    /// Packets that the driver should not have sent: cut off, for nobody, out of order, beyond its credit.
    pub tx_rejected: Counter,
    /// Connections that came to be, whoever asked.
    pub connected: Counter,
    /// Connections that were refused: nobody there, or too many.
    pub refused: Counter,
    /// Connections that were reset because of a mistake of the guest or a failure on the host.
    pub broken: Counter,
}
