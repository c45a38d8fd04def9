//! The plain description of a machine that the boot tables are made from.
//!
//! Nothing here decides: addresses are chosen by `layout` and the caller, and checked where they
//! are turned into tables.

use crate::Topology;

/// A stretch of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Range {
    /// The address after the last one, or `None` if that is beyond 64 bits.
    pub fn end(&self) -> Option<u64> {
        self.start.checked_add(self.len)
    }

    /// Whether the two ranges share an address. An empty range shares none.
    pub fn overlaps(&self, other: &Range) -> bool {
        let end = |range: &Range| range.start.saturating_add(range.len);
        self.start.max(other.start) < end(self).min(end(other))
    }

    /// Whether all of `other` lies inside; false if either range wraps around.
    pub fn contains(&self, other: &Range) -> bool {
        match (self.end(), other.end()) {
            (Some(end), Some(other_end)) => self.start <= other.start && other_end <= end,
            _ => false,
        }
    }
}

/// All that the boot tables tell a guest about its machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Number and grouping of the virtual CPUs.
    pub topology: Topology,
    /// RAM, ascending and disjoint; the first range starts at address 0.
    pub memory: Vec<Range>,
    /// Where the initial RAM disk was loaded, if there is one.
    pub initrd: Option<Range>,
    /// Where the kernel command line was put; the length includes the terminating NUL.
    pub cmdline: Range,
    /// Register windows of the virtio-mmio devices, in probing order.
    pub virtio: Vec<MmioDevice>,
    /// 16550 serial ports, in naming order.
    pub serial_ports: Vec<SerialPort>,
    /// Whether there is an i8042 keyboard controller at `layout::I8042_DATA_PORT`.
    pub i8042: bool,
    /// Port of the pvpanic device, if there is one.
    pub pvpanic_port: Option<u16>,
    /// Ports by which the guest powers off or resets the machine.
    pub power: PowerPorts,
    /// Edge-triggered interrupt that means "the power button was pressed".
    pub power_button_gsi: u32,
    /// Which machine this is: its guest finds it at `layout::GENERATION_ID`, and learns that it is a copy when another
    /// one is there and `layout::GENERATION_GSI` is raised.
    pub generation_id: [u8; 16],
}

/// A device with one window of memory-mapped registers and one edge-triggered interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Guest physical address of the window.
    pub base: u64,
    /// Length of the window in bytes.
    pub len: u64,
    /// Global system interrupt.
    pub gsi: u32,
}

/// A 16550 UART behind eight consecutive I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// First port.
    pub port: u16,
    /// Global system interrupt, edge-triggered.
    pub gsi: u32,
}

/// The ports of a hardware-reduced ACPI machine's power management (ACPI 6.5, 4.8.3.6 and 4.8.3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerPorts {
    /// SLEEP_CONTROL_REG, one byte: the guest writes the sleep type and the enable bit.
    pub sleep_control: u16,
    /// SLEEP_STATUS_REG, one byte: written to clear the wake bit before a sleep.
    pub sleep_status: u16,
    /// RESET_REG, one byte.
    pub reset: u16,
    /// The value that resets the machine when written to `reset`.
    pub reset_value: u8,
}

#[cfg(test)]
mod tests;
