//! The header before each frame (`virtio_net_hdr`, virtio 1.3, 5.1.6) and the lengths that follow from it.
//!
//! ```text
//! 0      1         2        4         6           8            10            12
//! flags  gso_type  hdr_len  gso_size  csum_start  csum_offset  num_buffers   frame ...
//! ```
//!
//! The device writes two fields, both in received frames. The rest is between driver and host.

/// Length of the header.
pub(super) const LEN: usize = 12;
/// Offset of `flags`, one byte.
pub(super) const FLAGS: usize = 0;
/// Offset of `num_buffers`, over how many buffers a received frame is spread.
pub(super) const NUM_BUFFERS: usize = 10;

/// Destination, source and type.
pub(super) const ETHERNET: usize = 14;
/// One VLAN tag.
pub(super) const VLAN: usize = 4;

/// Header and longest frame there is: the largest IP packet, behind two VLAN tags.
pub(super) const MAX_FRAME: usize = LEN + ETHERNET + 2 * VLAN + 65535;

/// The buffer that a driver must offer for unsegmented frames (virtio 1.3, 5.1.6.3.1).
pub(super) const SEGMENTING_BUFFER: usize = 65562;
