//! Host side of devices.

pub mod net;
