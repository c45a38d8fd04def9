//! /dev/kvm and the virtual machine behind it. This folder and [`crate::vcpu`] make every KVM ioctl.
//!
//! The order of construction is a matter of types: a [`Vm`] is made from guest memory, so the memory
//! slots are there before the interrupt controller is; kicks and interrupt lines are connected later, by
//! [`DevicePort`]. (A slot added after the interrupt controller costs milliseconds instead of
//! microseconds: the kernel waits for a grace period.)

mod cpuid;
mod host;
pub mod state;
mod vm;

pub use cpuid::set_cpuid;
pub use host::{Flavour, Kvm, KvmError};
pub use vm::{DevicePort, Vm};
