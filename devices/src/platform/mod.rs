//! Devices of the machine itself: how a guest ends it, and how it says that it failed.
//!
//! Each is a register or two; what the write means for the machine is an [`Effect`] for the caller.

mod boot_timer;
mod debug_exit;
mod power;
mod pvpanic;

pub use boot_timer::BootTimer;
pub use debug_exit::DebugExit;
pub use power::{POWER_PORTS, Power};
pub use pvpanic::PvPanic;

#[cfg(doc)]
use crate::bus::Effect;
