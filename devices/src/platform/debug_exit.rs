//! A port that ends the machine with a status chosen by the guest, for test guests and batch jobs.

use crate::bus::{BusDevice, Effect};

/// One byte wide; the value written is the status.
#[derive(Default)]
pub struct DebugExit;

impl BusDevice for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// Wider writes count by their lowest byte, as port hardware of one byte would see them.
    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        match (offset, data) {
            (0, [code, ..]) => Some(Effect::Exit(*code)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_byte_is_the_status() {
        assert_eq!(DebugExit.write(0, &[42]), Some(Effect::Exit(42)));
        assert_eq!(DebugExit.write(0, &[7, 1, 0, 0]), Some(Effect::Exit(7)));
        assert_eq!(DebugExit.write(1, &[7]), None);
    }
}
