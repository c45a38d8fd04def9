//! The serial port: a 16550A at eight ports, of which vm-superio emulates the chip.
//!
//! Output goes to a [`ConsolePort`] byte by byte and leaves on the event loop. Input waits in the port and
//! moves into the chip's FIFO of 64 bytes whenever there is room: when the event loop rings
//! ([`SerialInput`]), and when the guest has read. There is no line speed, no parity and no break.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::{NoEvents, SerialState};

use crate::backend::console::{ConsoleEvent, ConsolePort, ConsoleSource};
use crate::bus::{BusDevice, Effect};
use crate::counters;
use crate::event::Interest;
use crate::interrupt::InterruptLine;
use crate::state::{State, StateError};

/// Receiver buffer or, written, transmitter.
const DATA: u8 = 0;
/// Which interrupts the driver wants.
const INTERRUPT_ENABLE: u8 = 1;
/// Why the line was raised.
const INTERRUPT_ID: u8 = 2;
/// Among others, whether offset 0 and 1 are the divisor at present.
const LINE_CONTROL: u8 = 3;
/// Modem control.
const MODEM_CONTROL: u8 = 4;
/// Line status.
const LINE_STATUS: u8 = 5;

/// Enables the interrupt for received data.
const ENABLE_RECEIVED: u8 = 0x01;
/// The line is not raised by this port.
const ID_NONE: u8 = 0x01;
/// Received data.
const ID_RECEIVED: u8 = 0x04;
/// The divisor is at offset 0 and 1.
const DIVISOR_LATCH: u8 = 0x80;
/// What is transmitted comes back as received.
const LOOPBACK: u8 = 0x10;
/// There is received data.
const DATA_READY: u8 = 0x01;

/// The chip's receive FIFO.
const FIFO: usize = 64;

counters! {
    /// What a serial port counts. It is locked while it does.
    pub struct SerialCounters {
        /// Bytes that the guest sent.
        sent,
        /// Bytes that came for the guest.
        received,
        /// Reads that are none of a 16550: too wide.
        missed_reads,
        /// Writes that are none.
        missed_writes,
        /// Interrupts that could not be raised.
        errors,
    }
}

/// The serial port.
pub struct Serial {
    chip: vm_superio::Serial<Trigger, NoEvents, Output>,
    port: ConsolePort,
    counters: Arc<SerialCounters>,
}

impl Serial {
    /// A port as after power-on, behind `port`, that raises `line`.
    #[must_use]
    pub fn new(line: Box<dyn InterruptLine>, port: ConsolePort) -> Self {
        let counters: Arc<SerialCounters> = Arc::default();
        let output = Output { port: port.clone(), counters: counters.clone() };
        Self { chip: vm_superio::Serial::new(Trigger(line.into()), output), port, counters }
    }

    /// What the port counts, from its creation on.
    #[must_use]
    pub fn counters(&self) -> Arc<SerialCounters> {
        self.counters.clone()
    }

    /// Moves waiting input into the FIFO, as much as fits.
    fn feed(&mut self) {
        // In loopback the chip takes nothing from outside; the input waits.
        if self.chip.read(MODEM_CONTROL) & LOOPBACK != 0 {
            return;
        }
        let mut bytes = [0; FIFO];
        let room = self.chip.fifo_capacity();
        let count = self.port.read(bytes.get_mut(..room).unwrap_or_default());
        let input = bytes.get(..count).unwrap_or_default();
        self.counters.received.add(count as u64);
        // The room was there, so what can fail is the interrupt.
        if let Err(error) = self.chip.enqueue_raw_bytes(input) {
            self.counters.errors.add(1);
            log::error!("serial port: interrupt could not be raised: {error}");
        }
    }

    fn read_register(&mut self, offset: u8) -> u8 {
        match offset {
            INTERRUPT_ID => {
                let id = self.chip.read(INTERRUPT_ID);
                // The chip forgets a received-data interrupt once it was reported, or one byte was read.
                // On a real one it stands until the FIFO is empty, and drivers that stop half-way count
                // on being called again.
                if id & ID_NONE != 0 && self.is_received_pending() {
                    return id & !ID_NONE | ID_RECEIVED;
                }
                id
            }
            DATA => {
                let byte = self.chip.read(DATA);
                if self.chip.fifo_capacity() == FIFO {
                    self.feed();
                }
                byte
            }
            _ => self.chip.read(offset),
        }
    }

    fn is_received_pending(&mut self) -> bool {
        // While the divisor is at this offset, the driver is setting the port up and has no interrupt.
        self.chip.read(LINE_CONTROL) & DIVISOR_LATCH == 0
            && self.chip.read(INTERRUPT_ENABLE) & ENABLE_RECEIVED != 0
            && self.chip.read(LINE_STATUS) & DATA_READY != 0
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (data, u8::try_from(offset)) {
            ([byte], Ok(offset @ 0..8)) => *byte = self.read_register(offset),
            (data, _) => {
                self.counters.missed_reads.add(1);
                data.fill(0xff);
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        if let ([byte], Ok(offset @ 0..8)) = (data, u8::try_from(offset)) {
            if let Err(error) = self.chip.write(offset, *byte) {
                self.counters.errors.add(1);
                log::error!("serial port: interrupt could not be raised: {error}");
            }
            if offset == MODEM_CONTROL {
                self.feed();
            }
        } else {
            self.counters.missed_writes.add(1);
        }
        None
    }

    fn save(&self) -> Result<State, StateError> {
        Ok(save_chip(self.chip.state()))
    }

    fn restore(&mut self, state: &State) -> Result<(), StateError> {
        let chip = restore_chip(state)?;
        let (trigger, output) = (self.chip.interrupt_evt().clone(), self.chip.writer().clone());
        // An interrupt that is due is raised here.
        let chip = vm_superio::Serial::from_state(&chip, trigger, NoEvents, output);
        self.chip = chip.map_err(|error| StateError::Start(error.into()))?;
        Ok(())
    }
}

/// The registers, by the names of a state.
fn registers(chip: &mut SerialState) -> [(&'static str, &mut u8); 9] {
    [
        ("divisor_low", &mut chip.baud_divisor_low),
        ("divisor_high", &mut chip.baud_divisor_high),
        ("interrupt_enable", &mut chip.interrupt_enable),
        ("interrupt_id", &mut chip.interrupt_identification),
        ("line_control", &mut chip.line_control),
        ("line_status", &mut chip.line_status),
        ("modem_control", &mut chip.modem_control),
        ("modem_status", &mut chip.modem_status),
        ("scratch", &mut chip.scratch),
    ]
}

fn save_chip(mut chip: SerialState) -> State {
    let mut state = State::new();
    for (name, register) in registers(&mut chip) {
        state.set(name, *register);
    }
    state.set("received", chip.in_buffer.len() as u64);
    for (index, byte) in chip.in_buffer.iter().enumerate() {
        state.set(&format!("received.{index}"), *byte);
    }
    state
}

fn restore_chip(state: &State) -> Result<SerialState, StateError> {
    let mut chip = SerialState::default();
    for (name, register) in registers(&mut chip) {
        *register = state.number(name, *register)?;
    }
    let wanted = "at most as much as the FIFO holds";
    let count = state.checked("received", 0_usize, wanted, |count| *count <= FIFO)?;
    for index in 0..count {
        chip.in_buffer.push(state.number(&format!("received.{index}"), 0)?);
    }
    Ok(chip)
}

/// The event loop's part of a serial port: input that arrives is moved into the chip.
pub struct SerialInput {
    serial: Arc<Mutex<Serial>>,
    port: ConsolePort,
}

impl SerialInput {
    /// Feeds `serial`.
    #[must_use]
    pub fn new(serial: Arc<Mutex<Serial>>) -> Self {
        let port = lock(&serial).port.clone();
        Self { serial, port }
    }
}

impl ConsoleSource for SerialInput {
    fn interests(&self) -> Vec<Interest> {
        vec![self.port.doorbell(0)]
    }

    fn handle(&mut self, _token: u16) -> Option<ConsoleEvent> {
        self.port.take_doorbell();
        // A vCPU holds this lock for one register access, which waits for nothing.
        lock(&self.serial).feed();
        None
    }
}

fn lock(serial: &Mutex<Serial>) -> std::sync::MutexGuard<'_, Serial> {
    serial.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The interrupt line as the chip wants it.
#[derive(Clone)]
struct Trigger(Arc<dyn InterruptLine>);

impl vm_superio::Trigger for Trigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.trigger()
    }
}

/// The console port as the chip wants it.
#[derive(Clone)]
struct Output {
    port: ConsolePort,
    counters: Arc<SerialCounters>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.counters.sent.add(bytes.len() as u64);
        self.port.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
