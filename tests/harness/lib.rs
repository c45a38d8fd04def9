//! Runs the `vmm` binary as its users do, and looks at it from outside: command line in, exit code, output,
//! sockets, taps and files out.
//!
//! Start with [`Vmm`], which builds a command line; [`Vmm::run`] waits for the end, [`Vmm::spawn`] gives a
//! [`Machine`] to talk to. [`Puppet`] is a guest that obeys the test; [`virtio`] drives devices through it.
//! The harness knows nothing of the inside of `vmm` and links none of its crates.

pub mod artifacts;
pub mod confine;
pub mod leaks;
pub mod machine;
pub mod need;
pub mod network;
pub mod puppet;
pub mod scratch;
pub mod terminal;
pub mod transcript;
pub mod virtio;
pub mod vmm;

pub use machine::{Ending, Machine};
pub use need::Need;
pub use puppet::Puppet;
pub use scratch::Scratch;
pub use vmm::Vmm;

use std::time::Duration;

/// How long a test waits for something that must happen. It is no measure of speed: waiting ends as soon
/// as the thing happens, and only a test that fails waits that long. `VMM_TEST_PATIENCE` (seconds) changes it for
/// slow machines.
#[must_use]
pub fn patience() -> Duration {
    const DEFAULT: Duration = Duration::from_secs(30);
    let seconds = std::env::var("VMM_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    seconds.map_or(DEFAULT, Duration::from_secs)
}
