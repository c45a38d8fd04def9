//! Guest memory as devices see it: ranges that are checked once, then copied from and to.
//!
//! Nothing here maps memory, and no reference to guest memory ever leaves this module: the guest may
//! change every byte at any time, so all access is by volatile copies or by the kernel through iovecs
//! ([`crate::guest_io`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{
    AtomicAccess, ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError,
    GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress, VolatileMemory, VolatileSlice,
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
                for slice in self.memory.get_slices(GuestAddress(start), take) {
                    f(slice?);
                }
            }
            left -= take;
            skip = 0;
        }
        Ok(())
    }
}

/// A range of RAM that was looked up once: for what every request touches. Every access is still checked
/// against its end.
pub struct Area {
    region: Arc<GuestRegionMmap<()>>,
    start: MemoryRegionAddress,
    len: usize,
}

impl Area {
    /// `len` bytes from `address`; `None` when they are not RAM, or not in one region of it.
    #[must_use]
    pub fn find(memory: &GuestMemory, address: GuestAddress, len: usize) -> Option<Self> {
        one_slice(memory, address, len)?;
        let (region, start) = region_of(memory, address)?;
        // This is the way to a share of a region; `memory` itself stays as it is.
        let (_, region) = memory.remove_region(region.start_addr(), region.len()).ok()?;
        Some(Self { region, start, len })
    }

    /// The whole area.
    ///
    /// # Errors
    /// None in practice: the area was there when it was looked up, and the mapping is shared.
    pub fn slice(&self) -> Result<VolatileSlice<'_, ()>, GuestMemoryError> {
        self.region.get_slice(self.start, self.len)
    }

    /// Reads an integer at `offset` in one piece.
    ///
    /// # Errors
    /// When it does not lie in the area or is not aligned.
    pub fn load<T: AtomicAccess>(
        &self,
        offset: usize,
        order: Ordering,
    ) -> Result<T, GuestMemoryError> {
        Ok(self.slice()?.load(offset, order)?)
    }

    /// Writes an integer at `offset` in one piece.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn store<T: AtomicAccess>(
        &self,
        value: T,
        offset: usize,
        order: Ordering,
    ) -> Result<(), GuestMemoryError> {
        Ok(self.slice()?.store(value, offset, order)?)
    }

    /// Writes a structure at `offset`, in as many pieces as it takes.
    ///
    /// # Errors
    /// When it does not lie in the area.
    pub fn write<T: ByteValued>(&self, value: T, offset: usize) -> Result<(), GuestMemoryError> {
        self.slice()?.get_ref(offset)?.store(value);
        Ok(())
    }
}

/// Whether `address..address + len` is RAM throughout.
#[must_use]
pub fn is_ram(memory: &GuestMemory, address: GuestAddress, len: usize) -> bool {
    one_slice(memory, address, len).is_some() || memory.check_range(address, len)
}

/// The range, if one region holds all of it, as it nearly always does: an answer at a fraction of what
/// the general one costs.
pub(crate) fn one_slice(
    memory: &GuestMemory,
    address: GuestAddress,
    len: usize,
) -> Option<VolatileSlice<'_, ()>> {
    let (region, start) = region_of(memory, address)?;
    region.get_slice(start, len).ok()
}

/// The region that `address` lies in, and where. A machine has one or two, so that looking at each is the
/// fastest search.
fn region_of(
    memory: &GuestMemory,
    address: GuestAddress,
) -> Option<(&GuestRegionMmap<()>, MemoryRegionAddress)> {
    memory.iter().find_map(|region| {
        let start = address.0.checked_sub(region.start_addr().0)?;
        (start < region.len()).then_some((region, MemoryRegionAddress(start)))
    })
}
