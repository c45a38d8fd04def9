//! What a network card counts. Numbers only; who reads them, and when, is not decided here.

use crate::counters;

counters! {
    /// The counters of one card. "Received" and "sent" are the guest's view; bytes do not include the
    /// virtio-net header.
    pub struct Counters {
        /// News of frames from the host.
        rx_events,
        /// Kicks of queues of buffers.
        rx_kicks,
        /// Kicks of queues of frames.
        tx_kicks,
        /// Frames given to the guest.
        rx_frames,
        /// Their bytes.
        rx_bytes,
        /// Frames dropped because the driver's buffers did not hold them.
        rx_no_buffer,
        /// Frames that the host could not deliver.
        rx_errors,
        /// Frames taken from the guest and sent.
        tx_frames,
        /// Their bytes.
        tx_bytes,
        /// Frames dropped because the driver should not have sent them: too short, too long, malformed in
        /// the kernel's eyes, or on a queue pair that it did not enable.
        tx_rejected,
        /// Frames dropped because the host had no room for them.
        tx_no_room,
        /// Frames dropped because the host failed otherwise: interface down or gone.
        tx_errors,
        /// Commands answered with an error.
        control_refused,
    }
}
