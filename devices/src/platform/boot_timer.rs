//! The boot timer: a guest's first program writes one value, and the host knows that it got that far.
//!
//! Address and value are those of Firecracker's guest tools. Keeps no time; that is the caller's.

use crate::bus::{BusDevice, Effect};

/// What a guest writes when its userspace runs.
const BOOTED: u8 = 123;

/// One byte at offset 0.
#[derive(Default)]
pub struct BootTimer;

impl BusDevice for BootTimer {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// Wider writes count by their lowest byte.
    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        match (offset, data) {
            (0, [BOOTED, ..]) => Some(Effect::Booted),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_at_its_place_counts() {
        assert_eq!(BootTimer.write(0, &[BOOTED]), Some(Effect::Booted));
        assert_eq!(BootTimer.write(0, &[BOOTED, 0, 0, 0]), Some(Effect::Booted));
        assert_eq!(BootTimer.write(1, &[BOOTED]), None);
        assert_eq!(BootTimer.write(0, &[0]), None);
    }
}
