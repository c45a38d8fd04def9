//! Runs the `vmm` binary as its users do, and looks at it from outside: command line in, exit code, output,
//! sockets, taps and files out.
//!
//! Start with [`Vmm`], which builds a command line; [`Vmm::run`] waits for the end, [`Vmm::spawn`] gives a
//! [`Machine`] to talk to. [`Puppet`] is a guest that obeys the test; [`virtio`] drives devices through it.
//! The harness knows nothing of the inside of `vmm` and links none of its crates.

pub mod api;
pub mod artifacts;
pub mod confine;
pub mod count;
pub mod leaks;
pub mod machine;
pub mod need;
pub mod network;
pub mod openapi;
pub mod openmetrics;
pub mod pages;
pub mod puppet;
pub mod random;
pub mod samples;
pub mod scratch;
pub mod state;
pub mod terminal;
pub mod trace;
pub mod transcript;
pub mod virtio;
pub mod vmm;
pub mod vsock;

pub use machine::{Ending, Machine};
pub use need::Need;
pub use puppet::Puppet;
pub use random::Random;
pub use scratch::Scratch;
pub use vmm::Vmm;

use std::time::Duration;

/// Bytes as text for a kernel command line (RFC 4648, 4).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*group.get(at).unwrap_or(&0)));
        for digit in 0..4 {
            let is_data = digit <= group.len();
            text.push(if is_data {
                char::from(ALPHABET[bits >> (18 - 6 * digit) & 63])
            } else {
                '='
            });
        }
    }
    text
}

/// How long a test waits for something that must happen. It is no measure of speed: waiting ends as soon
/// as the thing happens, and only a test that fails waits that long. `VMM_TEST_PATIENCE` (seconds) changes it for
/// slow machines.
#[must_use]
pub fn patience() -> Duration {
    const DEFAULT: Duration = Duration::from_secs(30);
    let seconds = std::env::var("VMM_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    seconds.map_or(DEFAULT, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_of_every_remainder() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
