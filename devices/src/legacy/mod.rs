//! Devices of a PC that kernels still expect: the serial port and the keyboard controller's reset line.

pub mod i8042;
pub mod serial;
