//! Port and memory-mapped I/O: from a guest address to the device behind it.
//!
//! A bus does not emulate anything. It finds the device for an access and hands on the offset; an access
//! that hits no device, or that straddles the end of one, reads as all ones and is otherwise ignored, as
//! on a PC.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::state::{State, StateError};

/// A device that is driven by reads and writes of the vCPU threads.
///
/// A device knows offsets only, never its own address. Both calls run on a vCPU thread with the device
/// locked: they decode registers and must not wait for anything.
pub trait BusDevice: Send {
    /// Fills `data` (1 to 8 bytes) with what the guest reads at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes the `data` (1 to 8 bytes) that the guest writes at `offset`. What concerns the whole machine
    /// comes back as an [`Effect`]: the caller acts on it, not the device.
    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect>;

    /// What a fresh device of the same make needs to go on from here. The machine is paused, and goes on
    /// afterwards as if nobody had asked.
    ///
    /// # Errors
    /// [`StateError::Busy`] when the device is not at rest.
    fn save(&self) -> Result<State, StateError> {
        Ok(State::new())
    }

    /// Goes on from `state`, which another device saved; this one is fresh, and of no use after an error. The
    /// interrupt controllers have their state by now: a device may raise its interrupt.
    ///
    /// # Errors
    /// [`StateError`] when the state is not one of such a device.
    fn restore(&mut self, _state: &State) -> Result<(), StateError> {
        Ok(())
    }
}

/// What a register write asks of the machine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The guest's userspace runs.
    Booted,
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest kernel panicked.
    Panic,
    /// The guest ends the machine with a status of its own.
    Exit(u8),
}

/// Why a device could not be put on the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The range is empty or ends beyond the address space.
    #[error("range {base:#x}+{len:#x} is not a valid bus range")]
    Range {
        /// First address asked for.
        base: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Some address of the range belongs to a device already.
    #[error("range {base:#x}+{len:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address asked for.
        base: u64,
        /// Length in bytes.
        len: u64,
        /// Base of the device that is there.
        other: u64,
    },
}

/// One address space of devices.
#[derive(Default, Clone)]
pub struct Bus {
    slots: BTreeMap<u64, Slot>,
}

#[derive(Clone)]
struct Slot {
    len: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base..base + len`.
    ///
    /// # Errors
    /// [`BusError`] when the range is empty, wraps around, or is taken.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let last = len.checked_sub(1).and_then(|n| base.checked_add(n));
        let last = last.ok_or(BusError::Range { base, len })?;
        if let Some((&other, slot)) = self.slots.range(..=last).next_back()
            && base < other.saturating_add(slot.len)
        {
            return Err(BusError::Overlap { base, len, other });
        }
        self.slots.insert(base, Slot { len, device });
        Ok(())
    }

    /// Reads `data.len()` bytes at `address`; all ones where no device answers.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// Writes `data` at `address`; ignored where no device listens.
    pub fn write(&self, address: u64, data: &[u8]) -> Option<Effect> {
        let (offset, device) = self.find(address, data.len())?;
        device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data)
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, &Mutex<dyn BusDevice>)> {
        let (base, slot) = self.slots.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= slot.len).then_some((offset, &*slot.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Recorder(Vec<(u64, usize)>);

    impl BusDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            self.0.push((offset, data.len()));
            data.fill(0x11);
        }

        fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
            self.0.push((offset, data.len()));
            Some(Effect::Exit(data[0]))
        }
    }

    fn bus_with(base: u64, len: u64) -> Bus {
        let mut bus = Bus::new();
        bus.insert(base, len, Arc::new(Mutex::new(Recorder(Vec::new())))).unwrap();
        bus
    }

    #[test]
    fn an_access_reaches_the_device_with_its_offset() {
        let device = Arc::new(Mutex::new(Recorder(Vec::new())));
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x10, device.clone()).unwrap();
        let mut byte = [0];
        bus.read(0x1004, &mut byte);
        assert_eq!(byte, [0x11]);
        assert_eq!(bus.write(0x100f, &[7]), Some(Effect::Exit(7)));
        assert_eq!(device.lock().unwrap().0, [(4, 1), (15, 1)]);
    }

    #[test]
    fn nothing_reads_as_all_ones_before_between_and_across_the_end() {
        let bus = bus_with(0x1000, 0x10);
        for (address, len) in [(0xfff, 1), (0xfff, 2), (0x100f, 2), (0x1010, 8), (u64::MAX, 8)] {
            let mut data = vec![0; len];
            bus.read(address, &mut data);
            assert!(data.iter().all(|&b| b == 0xff), "{address:#x}");
            assert_eq!(bus.write(address, &data), None, "{address:#x}");
        }
    }

    #[test]
    fn ranges_may_touch_but_not_overlap() {
        let mut bus = bus_with(0x1000, 0x10);
        let other = || Arc::new(Mutex::new(Recorder(Vec::new())));
        assert!(bus.insert(0x1010, 0x10, other()).is_ok());
        assert!(bus.insert(0xff0, 0x10, other()).is_ok());
        for (base, len) in [(0x1000, 0x10), (0x100f, 1), (0x800, 0x2000), (0xfff, 2)] {
            assert!(matches!(bus.insert(base, len, other()), Err(BusError::Overlap { .. })));
        }
        assert!(matches!(bus.insert(5, 0, other()), Err(BusError::Range { .. })));
        assert!(matches!(bus.insert(u64::MAX, 2, other()), Err(BusError::Range { .. })));
    }
}
