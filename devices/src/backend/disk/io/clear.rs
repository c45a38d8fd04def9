//! Discarding and zeroing ranges: the ways a host may offer, from best to worst.
//!
//! Files and block devices differ, and which of the calls a file system supports shows only when it is
//! asked. What it refused once is not asked again. Nothing here carries out a way: that is the engines'.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{Disk, Kind};
use super::Op;

/// Gives the space back; reads as zeroes.
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
/// Reads as zeroes, and writing there later cannot fail for lack of space.
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// A way to clear a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// fallocate(2) with holes; on a block device, zeroing that may unmap.
    Punch,
    /// fallocate(2) with zeroes, on a block device as well.
    ZeroRange,
    /// The block device's own discard, which promises nothing about what is read later.
    DeviceDiscard,
    /// Zeroes written like data.
    Write,
    /// Nothing at all, which is good enough for a discard.
    Ignore,
}

impl Way {
    /// The mode of fallocate(2), where that is the way.
    pub(super) fn fallocate_mode(self) -> Option<i32> {
        match self {
            Self::Punch => Some(PUNCH),
            Self::ZeroRange => Some(ZERO_RANGE),
            Self::DeviceDiscard | Self::Write | Self::Ignore => None,
        }
    }
}

impl Disk {
    /// The best way for `op` that has not been refused yet.
    pub(super) fn way_to_clear(&self, op: Op) -> Way {
        let is_open = |refused: &AtomicBool| !refused.load(Ordering::Relaxed);
        match (op, self.kind) {
            (Op::Discard { .. }, Kind::Regular) if is_open(&self.no_punch) => Way::Punch,
            (Op::Discard { .. }, Kind::BlockDevice) if is_open(&self.no_discard) => {
                Way::DeviceDiscard
            }
            (Op::Discard { .. }, _) => Way::Ignore,
            (Op::Zero { unmap: true, .. }, _) if is_open(&self.no_punch) => Way::Punch,
            _ if is_open(&self.no_zero_range) => Way::ZeroRange,
            _ => Way::Write,
        }
    }

    /// What to try after `way` was answered with `error`; `None` when the error stands.
    pub(super) fn way_after(&self, op: Op, way: Way, error: &io::Error) -> Option<Way> {
        let refused = match way {
            Way::Punch => &self.no_punch,
            Way::ZeroRange => &self.no_zero_range,
            Way::DeviceDiscard => &self.no_discard,
            Way::Write | Way::Ignore => return None,
        };
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) => {
                refused.store(true, Ordering::Relaxed);
                log::info!("disk {:?}: {way:?} is not supported: {error}", self.path());
                Some(self.way_to_clear(op))
            }
            // A block device wants whole blocks: this range is not for it, others may be.
            Some(libc::EINVAL) if self.kind == Kind::BlockDevice => match op {
                Op::Discard { .. } => Some(Way::Ignore),
                _ => Some(Way::Write),
            },
            _ => None,
        }
    }
}
