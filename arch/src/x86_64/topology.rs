//! APIC identifiers: the place of a CPU in its machine, written as bit fields.
//!
//! How CPUs are grouped is decided by [`Topology`]; this module only numbers them.

use crate::Topology;

/// The bit fields of an APIC identifier: `socket | core | thread`, the thread lowest.
///
/// Guests find siblings by shifting (SDM volume 3, 10.9.3 "Hierarchical mapping of CPUID extended
/// topology leaf"), so each field is as wide as the next power of two, and identifiers have gaps
/// where a group's size is not one. The caller must create each virtual CPU under its identifier.
#[derive(Clone, Copy, Debug)]
pub struct ApicIds {
    topology: Topology,
    core_shift: u32,
    package_shift: u32,
}

impl ApicIds {
    /// The numbering of this topology's CPUs.
    pub fn new(topology: &Topology) -> Self {
        let core_shift = bits(topology.threads_per_core());
        let package_shift = core_shift + bits(topology.cores_per_socket());
        Self { topology: *topology, core_shift, package_shift }
    }

    /// Identifier of CPU `index`; identifiers ascend with the index, and CPU 0 has 0.
    pub fn id(&self, index: u16) -> u32 {
        let Place { socket, core, thread } = self.place(index);
        (u32::from(socket) << self.package_shift)
            | (u32::from(core) << self.core_shift)
            | u32::from(thread)
    }

    /// Identifiers of all CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.topology.cpus()).map(|index| self.id(index))
    }

    /// How far to shift an identifier right to drop the thread.
    pub(crate) fn core_shift(&self) -> u32 {
        self.core_shift
    }

    /// How far to shift an identifier right to drop the core as well.
    pub(crate) fn package_shift(&self) -> u32 {
        self.package_shift
    }

    /// Where CPU `index` sits: threads of a core are neighbours, then cores of a socket.
    pub(crate) fn place(&self, index: u16) -> Place {
        // A `Topology` has no part of size zero, so these divisions have a divisor.
        let threads = self.topology.threads_per_core().max(1);
        let cores = self.topology.cores_per_socket().max(1);
        let (core, thread) = (index / threads, index % threads);
        Place { socket: core / cores, core: core % cores, thread }
    }
}

/// The coordinates of one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Socket in the machine.
    pub(crate) socket: u16,
    /// Core in the socket.
    pub(crate) core: u16,
    /// Thread in the core.
    pub(crate) thread: u16,
}

/// Bits needed to number `count` things from zero.
fn bits(count: u16) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests;
