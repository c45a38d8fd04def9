//! What a vsock device counts. Numbers only; who reads them, and when, is not decided here.

use crate::counters;

counters! {
    /// The counters of one device. "Received" and "sent" are the guest's view; bytes do not include headers.
    pub struct Counters {
        /// Packets given to the guest.
        rx_packets,
        /// Their bytes of data.
        rx_bytes,
        /// Packets taken from the guest.
        tx_packets,
        /// Their bytes of data.
        tx_bytes,
        /// Packets that the driver should not have sent: cut off, for nobody, out of order, beyond its credit.
        tx_rejected,
        /// Connections that came to be, whoever asked.
        connected,
        /// Connections that were refused: nobody there, or too many.
        refused,
        /// Connections that were reset because of a mistake of the guest or a failure on the host.
        broken,
    }
}
