//! Guest memory as devices see it: ranges that are checked once, then copied from and to.
//!
//! Nothing here maps memory, and no reference to guest memory ever leaves this module: the guest may
//! change every byte at any time, so all access is by volatile copies or by the kernel through iovecs
//! ([`crate::guest_io`]).

use vm_memory::{
    Bytes, GuestAddress, GuestMemory as _, GuestMemoryError, Permissions, VolatileSlice,
};

/// All RAM of the guest. Clones are cheap and share the mapping.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// One piece of a buffer: `len` bytes from guest-physical `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical start.
    pub address: GuestAddress,
    /// Length in bytes.
    pub len: u32,
}

/// A buffer scattered over guest memory: the readable or the writable part of a descriptor chain.
///
/// Every segment was found to lie in RAM when the chain was taken off the ring.
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    memory: &'a GuestMemory,
    segments: &'a [Segment],
    len: usize,
}

impl<'a> Buffers<'a> {
    /// The buffer made of `segments`, in order.
    #[must_use]
    pub fn new(memory: &'a GuestMemory, segments: &'a [Segment]) -> Self {
        let len = segments.iter().map(|s| s.len as usize).sum();
        Self { memory, segments, len }
    }

    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is not a single byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments, in order.
    #[must_use]
    pub fn segments(&self) -> &'a [Segment] {
        self.segments
    }

    /// Copies bytes from `offset` on into `to`; returns how many there were (fewer only at the end).
    ///
    /// # Errors
    /// [`GuestMemoryError`] when a segment is not RAM.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        self.visit(offset, to.len(), |slice| {
            let n = slice.len();
            if let Some(part) = to.get_mut(done..done + n) {
                slice.copy_to(part);
            }
            done += n;
        })?;
        Ok(done)
    }

    /// Copies `from` to the bytes from `offset` on; returns how many fitted.
    ///
    /// # Errors
    /// [`GuestMemoryError`] when a segment is not RAM.
    pub fn write_at(&self, offset: usize, from: &[u8]) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        self.visit(offset, from.len(), |slice| {
            let n = slice.len();
            if let Some(part) = from.get(done..done + n) {
                slice.copy_from(part);
            }
            done += n;
        })?;
        Ok(done)
    }

    /// Calls `f` with the contiguous host slices of `len` bytes from `offset` on, clipped to the end.
    ///
    /// # Errors
    /// [`GuestMemoryError`] when a segment is not RAM.
    pub fn visit(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(VolatileSlice<'a, ()>),
    ) -> Result<(), GuestMemoryError> {
        let mut skip = offset;
        let mut left = len;
        for segment in self.segments {
            let size = segment.len as usize;
            if left == 0 {
                break;
            }
            if skip >= size {
                skip -= size;
                continue;
            }
            let take = (size - skip).min(left);
            let start = segment
                .address
                .0
                .checked_add(skip as u64)
                .ok_or(GuestMemoryError::InvalidGuestAddress(segment.address))?;
            if let Some(slice) = one_slice(self.memory, GuestAddress(start), take) {
                f(slice);
            } else {
                for slice in
                    self.memory.get_slices(GuestAddress(start), take, Permissions::ReadWrite)?
                {
                    f(slice?);
                }
            }
            left -= take;
            skip = 0;
        }
        Ok(())
    }
}

/// Reads one little-endian structure from guest memory.
///
/// # Errors
/// [`GuestMemoryError`] when the range is not RAM.
pub fn read<T: vm_memory::ByteValued>(
    memory: &GuestMemory,
    address: GuestAddress,
) -> Result<T, GuestMemoryError> {
    match one_slice(memory, address, size_of::<T>()) {
        Some(slice) => slice.read_obj(0).map_err(Into::into),
        None => memory.read_obj(address),
    }
}

/// Whether `address..address + len` is RAM throughout.
#[must_use]
pub fn is_ram(memory: &GuestMemory, address: GuestAddress, len: usize) -> bool {
    one_slice(memory, address, len).is_some()
        || memory.check_range(address, len, Permissions::ReadWrite)
}

/// The range, if one region holds all of it, as it nearly always does: an answer at a fraction of what
/// the general one costs.
fn one_slice(
    memory: &GuestMemory,
    address: GuestAddress,
    len: usize,
) -> Option<VolatileSlice<'_, ()>> {
    vm_memory::GuestMemoryBackend::get_slice(memory, address, len).ok()
}
