//! Virtio over MMIO, version 2 (virtio 1.3, 4.2.2): registers to [`Transport`] calls and back.
//!
//! Decodes only; the state machine is the transport's. Registers answer aligned 32-bit accesses; any
//! other access below the configuration space reads as all ones and writes nothing.

use super::Transport;
use crate::bus::{BusDevice, Effect};
use crate::state::{State, StateError};

/// Bytes of address space that one device takes.
pub const WINDOW: u64 = 0x1000;
/// Offset of the register that kicks a queue.
pub const QUEUE_NOTIFY: u64 = 0x50;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "vmm", padded.
const VENDOR: u32 = 0x006d_6d76;
/// Start of the device's configuration space.
const CONFIG: u64 = 0x100;

/// What the registers are called in a saved state.
const SELECTED_FEATURES: &str = "selected.features";
const SELECTED_DRIVER_FEATURES: &str = "selected.driver_features";
const SELECTED_QUEUE: &str = "selected.queue";

/// A device's window on the MMIO bus.
pub struct MmioTransport {
    transport: Transport,
    features_half: u32,
    driver_features_half: u32,
    queue: u32,
}

impl MmioTransport {
    /// Puts registers in front of `transport`.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self { transport, features_half: 0, driver_features_half: 0, queue: 0 }
    }

    /// The state machine behind the registers.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The state machine, to stop or reset it from outside.
    #[must_use]
    pub fn transport_mut(&mut self) -> &mut Transport {
        &mut self.transport
    }

    fn read_register(&self, offset: u64) -> u32 {
        let transport = &self.transport;
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => transport.device().device_type().0,
            0x0c => VENDOR,
            0x10 => half(transport.offered_features(), self.features_half),
            0x34 => u32::from(transport.max_queue_size(self.queue)),
            0x44 => transport.queue(self.queue).map_or(0, |q| u32::from(q.ready)),
            0x60 => transport.interrupt().status(),
            0x70 => transport.status(),
            // No shared memory regions: the length of each reads as all ones.
            0xb0..=0xbc => u32::MAX,
            0xfc => transport.interrupt().generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let low = u64::from(value);
        let high = u64::from(value) << 32;
        let (queue, transport) = (self.queue, &mut self.transport);
        match offset {
            0x14 => self.features_half = value,
            0x20 => transport.accept_features(self.driver_features_half, value),
            0x24 => self.driver_features_half = value,
            0x30 => self.queue = value,
            // A size that does not fit 16 bits is as wrong as 0, and refused at activation like it.
            0x38 => {
                transport.configure_queue(queue, |q| q.size = u16::try_from(value).unwrap_or(0));
            }
            0x44 => transport.configure_queue(queue, |q| q.ready = value & 1 == 1),
            QUEUE_NOTIFY => transport.kick(value),
            0x64 => transport.interrupt().acknowledge(value),
            0x70 => {
                transport.write_status(value);
                if value == 0 {
                    (self.features_half, self.driver_features_half, self.queue) = (0, 0, 0);
                }
            }
            0x80 => transport.configure_queue(queue, |q| set_low(&mut q.descriptors, low)),
            0x84 => transport.configure_queue(queue, |q| set_high(&mut q.descriptors, high)),
            0x90 => transport.configure_queue(queue, |q| set_low(&mut q.driver, low)),
            0x94 => transport.configure_queue(queue, |q| set_high(&mut q.driver, high)),
            0xa0 => transport.configure_queue(queue, |q| set_low(&mut q.device, low)),
            0xa4 => transport.configure_queue(queue, |q| set_high(&mut q.device, high)),
            _ => {}
        }
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            return self.transport.read_config(offset, data);
        }
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) if offset.is_multiple_of(4) => {
                *word = self.read_register(offset).to_le_bytes();
            }
            _ => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.transport.write_config(offset, data);
        } else if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        }
        None
    }

    fn save(&self) -> Result<State, StateError> {
        let mut state = self.transport.save()?;
        state.set(SELECTED_FEATURES, self.features_half);
        state.set(SELECTED_DRIVER_FEATURES, self.driver_features_half);
        state.set(SELECTED_QUEUE, self.queue);
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<(), StateError> {
        self.features_half = state.number(SELECTED_FEATURES, 0)?;
        self.driver_features_half = state.number(SELECTED_DRIVER_FEATURES, 0)?;
        self.queue = state.number(SELECTED_QUEUE, 0)?;
        self.transport.restore(state)
    }
}

fn half(features: u64, which: u32) -> u32 {
    let bits = match which {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(bits).unwrap_or(0)
}

fn set_low(address: &mut u64, low: u64) {
    *address = *address & !0xffff_ffff | low;
}

fn set_high(address: &mut u64, high: u64) {
    *address = *address & 0xffff_ffff | high;
}
