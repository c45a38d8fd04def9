//! The guest's memory as the driver sees it: the same bytes as the device's, without its checks at every access.

#![expect(unsafe_code, reason = "a driver writes to memory that a device reads")]

use devices::memory::GuestMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// RAM as in a large machine: some below 4 GiB, some above.
pub const LOW: u64 = 0xc000;
/// Where the rest of it starts.
pub const HIGH_START: u64 = 1 << 32;
/// How much that is.
pub const HIGH: u64 = 0x4000;
/// All of it.
pub const ALL: [(u64, u64); 2] = [(0, LOW), (HIGH_START, HIGH)];

thread_local! {
    static RAM: Ram = Ram::new();
}

/// See the module. Clones are the same memory.
#[derive(Clone)]
pub struct Ram {
    memory: GuestMemory,
    hosts: [*mut u8; 2],
}

impl Ram {
    /// The memory of this thread's guests.
    pub fn of_thread() -> Self {
        RAM.with(Clone::clone)
    }

    fn new() -> Self {
        let ranges = ALL.map(|(start, len)| (GuestAddress(start), len as usize));
        let memory = GuestMemory::from_ranges(&ranges).expect("some memory");
        let host = |(start, _)| memory.get_host_address(GuestAddress(start)).expect("it is mapped");
        Self { hosts: ALL.map(host), memory }
    }

    /// The same for devices.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Whether all of it is RAM.
    pub fn has(&self, address: u64, len: u64) -> bool {
        self.find(address, len).is_some()
    }

    /// Fills `to`; `false` when not all of it is RAM.
    pub fn read(&self, address: u64, to: &mut [u8]) -> bool {
        let Some(from) = self.find(address, to.len() as u64) else { return false };
        // SAFETY: `find` has checked that so many bytes from there on are mapped, which `memory` keeps so. They are
        // shared with devices of this thread only, none of which runs now.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        true
    }

    /// Writes `from`; `false` when not all of it is RAM.
    pub fn write(&self, address: u64, from: &[u8]) -> bool {
        let Some(to) = self.find(address, from.len() as u64) else { return false };
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        true
    }

    /// The number at an address in RAM.
    pub fn u16(&self, address: u64) -> Option<u16> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes).then(|| u16::from_le_bytes(bytes))
    }

    /// The bytes from an address in RAM on.
    pub fn array<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes).then_some(bytes)
    }

    fn find(&self, address: u64, len: u64) -> Option<*mut u8> {
        ALL.into_iter().zip(self.hosts).find_map(|((start, size), host)| {
            let offset = address.checked_sub(start)?;
            let is_inside = offset.checked_add(len)? <= size;
            // SAFETY: so far into a mapping of `size` bytes.
            is_inside.then(|| unsafe { host.add(offset as usize) })
        })
    }
}
