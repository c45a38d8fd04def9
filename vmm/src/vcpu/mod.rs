//! Virtual CPUs: registers set once, then a thread each that runs the guest and serves its exits.
//!
//! A vCPU thread decodes register accesses and nothing more: devices do their work on an event loop.

mod exit;
mod gate;
mod registers;
mod thread;

pub use exit::{EmulationFailure, Exits, VmExit};
pub use gate::Work;
pub use registers::{BootState, VcpuError};
pub use thread::{VcpuSetup, VcpuThread, install_kick_handler};

use devices::bus::Bus;

/// The two address spaces that an exit can touch.
#[derive(Clone, Default)]
pub struct Buses {
    /// I/O ports.
    pub pio: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}
