//! The file of an overlay, format 1. Pure: bytes in, facts out.
//!
//! ```text
//!      0  header, 4096 bytes: magic, version, cluster bits (32 bits each), size of the disk in bytes, fingerprint of the
//!         base, CRC-64 of what was before (64 bits each), the snapshot that it is a part of (128 bits); the rest is zero
//!   4096  table: 32 bits for each cluster of the disk
//!         0: as in the base, 1: all zeroes, n: data cluster n - 2
//!      .  data clusters, from the next multiple of a cluster on
//! ```
//!
//! Numbers are little-endian. A cluster has 64 KiB, or more on disks so large that the table would have more than 2^24
//! entries.

use crc::{CRC_64_XZ, Crc};

use super::OverlayError;

/// Tells whether bytes are those that were written.
static CRC: Crc<u64> = Crc::<u64>::new(&CRC_64_XZ);

/// Bytes of the header, and of a piece of the table that is read and written at once.
pub(super) const PAGE: u64 = 4096;
/// Entries of such a piece.
pub(super) const PAGE_ENTRIES: u64 = PAGE / 4;

/// An entry of a cluster that is as in the base.
pub(super) const AS_BASE: u32 = 0;
/// An entry of a cluster of zeroes.
pub(super) const ZEROES: u32 = 1;
/// The entry of data cluster 0.
const FIRST_DATA: u32 = 2;

const MAGIC: [u8; 8] = *b"vmm-ovl\n";
const VERSION: u32 = 1;
/// Where the checksum is.
const CHECKSUM: usize = 32;
/// Where the snapshot's id is; zero in an overlay of nobody's.
pub(super) const SNAPSHOT: u64 = 40;
const SMALLEST_BITS: u32 = 16;
const LARGEST_BITS: u32 = 24;
const MOST_CLUSTERS: u64 = 1 << 24;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    cluster_bits: u32,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// Tells the base from others: [`checksum`] of its ends.
    pub(super) base: u64,
}

impl Header {
    /// The header of a new overlay for a disk of `size` bytes.
    pub(super) fn new(size: u64, base: u64) -> Result<Self, OverlayError> {
        let fits = |bits: &u32| size.div_ceil(1 << bits) <= MOST_CLUSTERS;
        let cluster_bits = (SMALLEST_BITS..=LARGEST_BITS).find(fits);
        let cluster_bits = cluster_bits.ok_or(OverlayError::TooLarge { size })?;
        Ok(Self { cluster_bits, size, base })
    }

    /// Reads a header.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, OverlayError> {
        let mut rest = bytes;
        let mut take = |len: usize| {
            let (taken, behind) = rest.split_at_checked(len).unwrap_or_default();
            rest = behind;
            taken.iter().rev().fold(0, |all: u64, byte| all << 8 | u64::from(*byte))
        };
        if take(8) != u64::from_le_bytes(MAGIC) {
            return Err(OverlayError::NotOne);
        }
        let (version, cluster_bits) = (take(4), take(4));
        let (size, base, sum) = (take(8), take(8), take(8));
        if version != u64::from(VERSION) {
            return Err(OverlayError::Version { found: version });
        }
        if sum != checksum(bytes.get(..CHECKSUM).unwrap_or_default()) {
            return Err(OverlayError::Damaged);
        }
        let header = Self::new(size, base)?;
        if u64::from(header.cluster_bits) != cluster_bits {
            return Err(OverlayError::Damaged);
        }
        Ok(header)
    }

    /// The header as it is in the file, but for the zeroes behind it.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.cluster_bits.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.base.to_le_bytes());
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }

    /// Bytes of a cluster: a power of two.
    pub(super) fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters of the disk, the last of which it may not fill.
    pub(super) fn clusters(self) -> u64 {
        self.size.div_ceil(self.cluster())
    }

    /// Where piece `page` of the table is.
    pub(super) fn table_page(page: u64) -> u64 {
        PAGE + PAGE * page
    }

    /// Where data cluster `number` is.
    pub(super) fn data(self, number: u64) -> u64 {
        let table = self.clusters().div_ceil(PAGE_ENTRIES) * PAGE;
        (PAGE + table).next_multiple_of(self.cluster()) + number * self.cluster()
    }
}

/// The data cluster that `entry` names.
pub(super) fn data_cluster(entry: u32) -> Option<u64> {
    entry.checked_sub(FIRST_DATA).map(u64::from)
}

/// The entry that names data cluster `number`.
pub(super) fn data_entry(number: u64) -> Option<u32> {
    u32::try_from(number).ok()?.checked_add(FIRST_DATA)
}

/// CRC-64 of `bytes`, the one of xz: finds accidents, not attacks.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    CRC.checksum(bytes)
}
