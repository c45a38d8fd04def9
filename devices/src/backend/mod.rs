//! Host side of devices.

pub mod console;
pub mod disk;
pub mod net;
pub mod reclaim;
pub mod socket;
mod uring;
pub mod vsock;
