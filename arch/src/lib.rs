//! What a guest finds when it starts: addresses, tables, CPUID, MSRs and first register values.
//!
//! Facts about a machine go in as plain data ([`Machine`], [`Topology`], [`cpuid::CpuFacts`]);
//! bytes for guest memory and register values come out. This crate makes no ioctl, opens no file,
//! starts no thread and owns no guest memory: its caller writes what it returns.
//!
//! Every architecture provides, under the same names:
//!
//! - `layout`: each address, port, interrupt and limit, with its reason;
//! - `boot_tables`: what has to be in guest memory before the first instruction;
//! - `registers`: the first register values of the boot CPU;
//! - the policy for CPU features (`cpuid` and `msr` on x86-64).
#![forbid(unsafe_code)]

mod machine;
mod topology;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use machine::{Machine, MmioDevice, PowerPorts, Range, SerialPort};
pub use topology::{MAX_CPUS, Topology, TopologyError};
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
