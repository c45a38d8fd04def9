//! What a block device offers: features, limits and configuration space (virtio 1.3, 5.2.3 and 5.2.4).
//!
//! Pure functions of the disk and the number of queues.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use crate::backend::disk::{Disk, SECTOR};

/// Entries of each queue: what Linux keeps in flight per queue by default, and one indirect chain each.
pub(super) const QUEUE_SIZE: u16 = 256;
/// A chain is at most as long as the queue; two descriptors of it are the header and the status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Most sectors of one discarded range: 64 MiB, so that freeing it takes a file system milliseconds.
pub(super) const MAX_DISCARD_SECTORS: u32 = (64 << 20) / 512;
/// Most ranges of one discard. Trimming a file system yields many small holes; this many cost about as
/// much as the kick that brings them.
pub(super) const MAX_DISCARD_RANGES: u32 = 16;
/// Most sectors zeroed at once: 16 MiB, because a host without a better way writes them like data.
pub(super) const MAX_ZERO_SECTORS: u32 = (16 << 20) / 512;
/// Most ranges of one write-zeroes request; Linux sends no more.
pub(super) const MAX_ZERO_RANGES: u32 = 1;

/// Length of the configuration space, up to and including the write-zeroes fields.
const CONFIG_LEN: usize = 60;

/// One feature bit.
pub(super) const fn bit(feature: u32) -> u64 {
    1 << feature
}

/// The features of a device with `queues` queues on `disk`.
///
/// FLUSH is always on offer: a driver that declines it gets every write made durable before it
/// completes. CONFIG_WCE is not, so that cannot change later.
pub(super) fn features(disk: &Disk, queues: u16) -> u64 {
    let mut features = bit(VIRTIO_BLK_F_SEG_MAX)
        | bit(VIRTIO_BLK_F_BLK_SIZE)
        | bit(VIRTIO_BLK_F_TOPOLOGY)
        | bit(VIRTIO_BLK_F_FLUSH);
    features |= if disk.is_read_only() {
        bit(VIRTIO_BLK_F_RO)
    } else {
        bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES)
    };
    if queues > 1 {
        features |= bit(VIRTIO_BLK_F_MQ);
    }
    features
}

/// The configuration space. Fields of features that are not on offer read as zero.
pub(super) fn space(disk: &Disk, queues: u16) -> [u8; CONFIG_LEN] {
    let mut space = [0; CONFIG_LEN];
    let mut put = |offset: usize, bytes: &[u8]| {
        for (to, &from) in space.iter_mut().skip(offset).zip(bytes) {
            *to = from;
        }
    };
    let (logical, physical) = (disk.logical_block(), disk.physical_block());
    let blocks_per_physical = physical / logical;
    put(0, &disk.sectors().to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &logical.to_le_bytes());
    // Topology: log2 of logical blocks per physical one, no offset, and the best size in logical blocks.
    put(24, &[u8::try_from(blocks_per_physical.ilog2()).unwrap_or(0), 0]);
    put(26, &u16::try_from(blocks_per_physical).unwrap_or(1).to_le_bytes());
    put(34, &queues.to_le_bytes());
    if !disk.is_read_only() {
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &MAX_DISCARD_RANGES.to_le_bytes());
        // Smaller holes than this free nothing.
        put(44, &(u64::from(physical) / SECTOR).to_le_bytes()[..4]);
        put(48, &MAX_ZERO_SECTORS.to_le_bytes());
        put(52, &MAX_ZERO_RANGES.to_le_bytes());
        put(56, &[1]);
    }
    space
}
