//! Host side of devices.
