//! Console device (virtio 1.3, 5.3): one port, two queues, and a terminal size.
//!
//! No `MULTIPORT`: more consoles are more devices. Where the text goes is the business of the
//! [`ConsolePort`] behind it. The device is never held up by a slow reader: a driver may spin until its
//! buffer comes back, so that waiting here would stop its processor.

mod handler;

use super::DeviceType;
use super::device::{ActivateError, Activation, QueueHandler, VirtioDevice, read_config_bytes};
use crate::backend::console::{ConsolePort, Size};
use crate::state::{State, StateError};
use handler::Handler;

/// The configuration holds the size of the console (virtio 1.3, 5.3.3).
pub const F_SIZE: u64 = 1 << 0;
/// The driver may write a character without queues.
pub const F_EMERG_WRITE: u64 = 1 << 2;

/// Index of the queue of buffers that the device fills with input.
const RECEIVE: usize = 0;
/// Index of the queue of buffers with output.
const TRANSMIT: usize = 1;
const QUEUE_SIZES: [u16; 2] = [64, 256];

/// Offset of `emerg_wr` in the configuration space: after `cols`, `rows` (16 bits each) and
/// `max_nr_ports` (32 bits; virtio 1.3, 5.3.4).
const EMERGENCY_WRITE: u64 = 8;

/// The console device.
pub struct Console {
    port: ConsolePort,
    features: u64,
    /// The size to show where the port has none, because another console of this machine had one.
    last_size: Option<Size>,
}

impl Console {
    /// A device that speaks through `port`. Whether it has a size is decided here, by whether the port
    /// is a terminal; how large it is may change.
    #[must_use]
    pub fn new(port: ConsolePort) -> Self {
        let size = if port.size().is_some() { F_SIZE } else { 0 };
        Self { port, features: size | F_EMERG_WRITE, last_size: None }
    }

    fn size(&self) -> Option<Size> {
        self.port.size().or(self.last_size)
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::CONSOLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let size = self.size();
        let [c0, c1] = size.map_or(0, |s| s.columns).to_le_bytes();
        let [r0, r1] = size.map_or(0, |s| s.rows).to_le_bytes();
        read_config_bytes(&[c0, c1, r0, r1], offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // The low byte is the character, however wide the write is.
        if let (EMERGENCY_WRITE, Some(character)) = (offset, data.first()) {
            self.port.write_emergency(&[*character]);
        }
    }

    fn activate(
        &mut self,
        mut activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError> {
        let receive = activation.take_queue(RECEIVE)?;
        let transmit = activation.take_queue(TRANSMIT)?;
        let has_size = activation.features & F_SIZE != 0;
        let interrupt = has_size.then_some(activation.interrupt);
        let handler = Handler::new(receive, transmit, self.port.clone(), interrupt);
        Ok(vec![Box::new(handler)])
    }

    fn save(&self) -> State {
        let mut state = State::new();
        state.set("has_size", self.features & F_SIZE != 0);
        let size = self.size();
        state.set("columns", size.map_or(0, |size| size.columns));
        state.set("rows", size.map_or(0, |size| size.rows));
        state.set("is_in_front", self.port.is_in_front());
        state
    }

    fn restore(&mut self, state: &State, is_active: bool) -> Result<(), StateError> {
        let (columns, rows) = (state.number("columns", 0)?, state.number("rows", 0)?);
        self.last_size = (columns > 0 && rows > 0).then_some(Size { columns, rows });
        if state.flag("has_size", false)? {
            self.features |= F_SIZE;
        }
        if is_active && state.flag("is_in_front", false)? {
            self.port.come_to_the_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
