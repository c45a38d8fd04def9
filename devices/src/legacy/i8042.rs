//! The keyboard controller, for the one thing that kernels still use it for: `reboot=k` pulses the reset
//! line. There is no keyboard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_superio::{I8042Device, Trigger};

use crate::bus::{BusDevice, Effect};

/// Where a reset request is remembered until the write that made it returns.
#[derive(Clone, Default)]
struct ResetLine(Arc<AtomicBool>);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The controller at ports 0x60 (offset 0) to 0x64 (offset 4).
pub struct I8042 {
    chip: I8042Device<ResetLine>,
    reset: ResetLine,
}

impl Default for I8042 {
    fn default() -> Self {
        let reset = ResetLine::default();
        Self { chip: I8042Device::new(reset.clone()), reset }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (data, u8::try_from(offset)) {
            ([byte], Ok(offset @ (0 | 4))) => *byte = self.chip.read(offset),
            (data, _) => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            let Ok(()) = self.chip.write(offset, *byte);
        }
        self.reset.0.swap(false, Ordering::Relaxed).then_some(Effect::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let mut controller = I8042::default();
        assert_eq!(controller.write(4, &[0xfe]), Some(Effect::Reset));
        for (offset, data) in
            [(4, vec![0xd1]), (0, vec![0xfe]), (4, vec![0xfe, 0xfe]), (1, vec![0xfe])]
        {
            assert_eq!(controller.write(offset, &data), None, "{offset} {data:x?}");
        }
    }

    #[test]
    fn an_idle_controller_has_nothing_to_say() {
        let mut controller = I8042::default();
        let mut status = [0xff];
        controller.read(4, &mut status);
        assert_eq!(status, [0]);
        let mut wide = [0; 2];
        controller.read(0, &mut wide);
        assert_eq!(wide, [0xff; 2]);
    }
}
