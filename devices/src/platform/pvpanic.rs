//! The paravirtual panic device (Linux `pvpanic-mmio`, QEMU `docs/specs/pvpanic`): one byte by which a
//! kernel says that it panicked, before it tries anything else.

use crate::bus::{BusDevice, Effect};

/// The guest panicked and leaves the consequences to the host.
const PANICKED: u8 = 1;
/// The guest panicked and loads a crash kernel, which goes on; the machine must not end.
const CRASH_LOADED: u8 = 2;

/// The device; its register reads as the events it understands.
#[derive(Default)]
pub struct PvPanic;

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(low) = data.first_mut() {
            *low = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) -> Option<Effect> {
        match data {
            [events] if events & PANICKED != 0 => Some(Effect::Panic),
            [events] if events & CRASH_LOADED != 0 => {
                log::warn!("the guest kernel panicked and starts its crash kernel");
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_from_a_crash_kernel_and_from_noise() {
        assert_eq!(PvPanic.write(0, &[PANICKED]), Some(Effect::Panic));
        assert_eq!(PvPanic.write(0, &[CRASH_LOADED]), None);
        assert_eq!(PvPanic.write(0, &[0]), None);
        assert_eq!(PvPanic.write(0, &[1, 0]), None);
    }

    #[test]
    fn the_register_names_the_events() {
        let mut byte = [0];
        PvPanic.read(0, &mut byte);
        assert_eq!(byte, [3]);
    }
}
