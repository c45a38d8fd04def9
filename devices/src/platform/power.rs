//! Sleep and reset registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.7 and 4.8.3.6).
//!
//! The power button is not here: it is an interrupt, and the ACPI tables say what it means.

use crate::bus::{BusDevice, Effect};

/// How many ports the block takes.
pub const POWER_PORTS: u64 = 3;

/// Offset of the sleep control register.
const SLEEP_CONTROL: u64 = 0;
/// Offset of the reset register.
const RESET: u64 = 2;
/// Bit 5 of the sleep control register: enter the sleep state of bits 2 to 4.
const SLEEP_ENABLE: u8 = 1 << 5;
/// The sleep type that the tables give for S5, "soft off".
const SLEEP_TYPE_S5: u8 = 5;
/// What a guest writes to the reset register.
const RESET_VALUE: u8 = 1;

/// Sleep control at offset 0, sleep status at 1, reset at 2, each one byte.
#[derive(Default)]
pub struct Power;

impl BusDevice for Power {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        match (offset, data) {
            (SLEEP_CONTROL, [value]) => {
                let to_s5 = value >> 2 & 7 == SLEEP_TYPE_S5 && value & SLEEP_ENABLE != 0;
                to_s5.then_some(Effect::PowerOff)
            }
            (RESET, [RESET_VALUE]) => Some(Effect::Reset),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s5_with_the_enable_bit_powers_off() {
        assert_eq!(Power.write(0, &[SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE]), Some(Effect::PowerOff));
        assert_eq!(Power.write(0, &[SLEEP_TYPE_S5 << 2]), None);
        assert_eq!(Power.write(0, &[SLEEP_ENABLE]), None);
        assert_eq!(Power.write(1, &[SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE]), None);
    }

    #[test]
    fn the_reset_register_takes_its_value_only() {
        assert_eq!(Power.write(2, &[RESET_VALUE]), Some(Effect::Reset));
        assert_eq!(Power.write(2, &[0]), None);
        assert_eq!(Power.write(2, &[RESET_VALUE, 0]), None);
    }
}
