//! What a vsock device counts. Numbers only; who reads them, and when, is not decided here.

use crate::counters;
use crate::metrics::Counter;

counters! {
    /// The counters of one device. "Received" and "sent" are the guest's view; bytes do not include headers.
    pub struct Counters => Counts {
        /// Packets given to the guest.
        rx_packets: Counter,
        /// Their bytes of data.
        rx_bytes: Counter,
        /// Packets taken from the guest.
        tx_packets: Counter,
        /// Their bytes of data.
        tx_bytes: Counter,
        /// Packets that the driver should not have sent: cut off, for nobody, out of order, beyond its credit.
        tx_rejected: Counter,
        /// Connections that came to be, whoever asked.
        connected: Counter,
        /// Connections that were refused: nobody there, or too many.
        refused: Counter,
        /// Connections that were reset because of a mistake of the guest or a failure on the host.
        broken: Counter,
    }
}
