mod saved;

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::*;
use crate::backend::console::tests::{connected, drain, settle};
use crate::backend::console::{Console, Stage};
use crate::test_util::FakeLine;

const SCRATCH: u64 = 7;
/// Transmitter empty.
const THR_EMPTY: u8 = 0x20;

/// A port with a person at the other end.
struct Setup {
    serial: Arc<Mutex<Serial>>,
    input: SerialInput,
    console: Console,
    person: UnixStream,
    line: FakeLine,
}

impl Setup {
    fn new() -> Self {
        let (console, person) = connected();
        let line = FakeLine::default();
        let port = console.port(Stage::Early).unwrap();
        let serial = Arc::new(Mutex::new(Serial::new(Box::new(line.clone()), port)));
        Self { input: SerialInput::new(serial.clone()), serial, console, person, line }
    }

    fn read(&self, offset: u8) -> u8 {
        let mut byte = [0];
        lock(&self.serial).read(u64::from(offset), &mut byte);
        byte[0]
    }

    fn write(&self, offset: u8, value: u8) {
        assert_eq!(lock(&self.serial).write(u64::from(offset), &[value]), None);
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.person.write_all(keys).unwrap();
        self.turn();
    }

    /// What the event loop does.
    fn turn(&mut self) {
        settle(&mut self.console);
        settle(&mut self.input);
    }

    fn has_data(&self) -> bool {
        self.read(LINE_STATUS) & DATA_READY != 0
    }

    /// Reads what is in the chip, as a driver's interrupt handler does.
    fn receive(&self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.has_data() {
            all.push(self.read(DATA));
        }
        all
    }
}

#[test]
fn what_the_guest_transmits_is_shown() {
    let mut setup = Setup::new();
    assert_eq!(setup.read(LINE_STATUS) & THR_EMPTY, THR_EMPTY);
    for byte in *b"hello\r\n" {
        setup.write(DATA, byte);
        assert_eq!(setup.read(LINE_STATUS) & THR_EMPTY, THR_EMPTY);
    }
    setup.turn();
    assert_eq!(drain(&setup.person), b"hello\r\n");
}

#[test]
fn only_byte_accesses_within_the_port_mean_anything() {
    let mut setup = Setup::new();
    setup.write(7, 0x5a);
    let mut wide = [0; 2];
    lock(&setup.serial).read(SCRATCH, &mut wide);
    assert_eq!(wide, [0xff; 2]);
    lock(&setup.serial).write(SCRATCH, &[1, 2, 3, 4]);
    lock(&setup.serial).write(0, b"no");
    for offset in [8, 0x100, u64::MAX] {
        let mut byte = [0];
        lock(&setup.serial).read(offset, &mut byte);
        assert_eq!(byte, [0xff], "{offset:#x}");
        lock(&setup.serial).write(offset, &[0]);
    }
    assert_eq!(setup.read(7), 0x5a);
    setup.turn();
    assert!(drain(&setup.person).is_empty());
}

#[test]
fn keys_raise_the_line_once_and_stay_reported_until_all_are_read() {
    let mut setup = Setup::new();
    setup.write(INTERRUPT_ENABLE, ENABLE_RECEIVED);
    setup.type_keys(b"abc");
    assert_eq!(setup.line.edges(), 1);
    for key in *b"abc" {
        assert_eq!(setup.read(INTERRUPT_ID) & 0x0f, ID_RECEIVED);
        assert_eq!(setup.read(DATA), key);
    }
    assert_eq!(setup.read(INTERRUPT_ID) & 0x0f, ID_NONE);
    assert!(!setup.has_data());
}

#[test]
fn keys_that_came_before_the_driver_are_reported_when_it_asks() {
    let mut setup = Setup::new();
    setup.type_keys(b"early");
    assert_eq!(setup.line.edges(), 0);
    assert_eq!(setup.read(INTERRUPT_ID) & 0x0f, ID_NONE, "not enabled");
    setup.write(INTERRUPT_ENABLE, ENABLE_RECEIVED);
    assert_eq!(setup.line.edges(), 1);
    assert_eq!(setup.receive(), b"early");
}

#[test]
fn nothing_is_reported_while_the_divisor_is_set() {
    let mut setup = Setup::new();
    setup.write(INTERRUPT_ENABLE, ENABLE_RECEIVED);
    setup.type_keys(b"k");
    setup.read(INTERRUPT_ID);
    setup.write(LINE_CONTROL, DIVISOR_LATCH);
    setup.write(INTERRUPT_ENABLE, 0x01);
    assert_eq!(setup.read(INTERRUPT_ID) & 0x0f, ID_NONE);
    setup.write(LINE_CONTROL, 0x03);
    assert_eq!(setup.read(INTERRUPT_ID) & 0x0f, ID_RECEIVED);
    assert_eq!(setup.receive(), b"k");
}

#[test]
fn an_emptied_transmitter_is_reported() {
    let setup = Setup::new();
    setup.write(INTERRUPT_ENABLE, 0x02);
    assert_eq!(setup.line.edges(), 1);
    assert_eq!(setup.read(INTERRUPT_ID) & 0x0f, 0x02);
    assert_eq!(setup.read(INTERRUPT_ID) & 0x0f, ID_NONE);
    setup.write(DATA, b'x');
    assert_eq!(setup.line.edges(), 2);
}

#[test]
fn a_full_fifo_drops_nothing() {
    let mut setup = Setup::new();
    let keys: Vec<u8> = (0..200).collect();
    setup.type_keys(&keys);
    assert_eq!(lock(&setup.serial).chip.fifo_capacity(), 0);
    setup.turn();
    assert_eq!(setup.receive(), keys);
}

#[test]
fn a_long_paste_arrives_complete_however_slowly_the_guest_reads() {
    let mut setup = Setup::new();
    setup.write(INTERRUPT_ENABLE, ENABLE_RECEIVED);
    let paste: Vec<u8> = (0..10_240_u32).map(|i| (i % 253) as u8).collect();
    setup.type_keys(&paste);
    let mut got = Vec::new();
    let mut seen_edges = 0;
    while got.len() < paste.len() {
        // A driver comes when the line was raised, takes a limited number, and leaves.
        let edges = setup.line.edges();
        assert!(edges > seen_edges, "stuck after {} bytes", got.len());
        seen_edges = edges;
        while setup.read(INTERRUPT_ID) & ID_NONE == 0 {
            for _ in 0..100 {
                if setup.has_data() {
                    got.push(setup.read(DATA));
                }
            }
        }
        setup.turn();
    }
    assert_eq!(got, paste);
}

#[test]
fn an_interrupt_handler_that_stops_half_way_is_called_again() {
    let mut setup = Setup::new();
    setup.write(INTERRUPT_ENABLE, ENABLE_RECEIVED);
    setup.type_keys(&[b'k'; 1000]);
    let mut got = 0;
    let mut served = 0;
    // One edge, one pass of at most 256 bytes: what Linux does.
    while served < setup.line.edges() {
        served += 1;
        if setup.read(INTERRUPT_ID) & ID_NONE != 0 {
            continue;
        }
        for _ in 0..256 {
            if setup.has_data() {
                setup.read(DATA);
                got += 1;
            }
        }
    }
    assert_eq!(got, 1000);
}

#[test]
fn loopback_comes_back_is_not_shown_and_keeps_keys_waiting() {
    let mut setup = Setup::new();
    setup.write(MODEM_CONTROL, LOOPBACK);
    setup.write(DATA, b'L');
    setup.type_keys(b"keys");
    assert_eq!(setup.receive(), b"L");
    setup.turn();
    assert!(drain(&setup.person).is_empty());
    setup.write(MODEM_CONTROL, 0x08);
    assert_eq!(setup.receive(), b"keys");
}

#[test]
fn registers_survive_a_storm_of_accesses() {
    let mut setup = Setup::new();
    let mut seed = 0x2545_f491_u32;
    for round in 0..100_000_u32 {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        let [offset, value, what, _] = seed.to_le_bytes();
        match what % 3 {
            0 => drop(setup.read(offset % 8)),
            _ => setup.write(offset % 8, value),
        }
        if round % 1000 == 0 {
            setup.type_keys(b"k");
            drain(&setup.person);
        }
    }
    setup.write(LINE_CONTROL, 0x03);
    setup.write(MODEM_CONTROL, 0x08);
    setup.turn();
    drain(&setup.person);
    setup.write(DATA, b'!');
    setup.turn();
    assert_eq!(drain(&setup.person), b"!");
}

/// A line whose host is gone.
struct DeadLine;

impl InterruptLine for DeadLine {
    fn trigger(&self) -> io::Result<()> {
        Err(io::Error::other("gone"))
    }
}

#[test]
fn a_line_that_cannot_be_raised_loses_no_byte() {
    let (mut console, mut person) = connected();
    let port = console.port(Stage::Early).unwrap();
    let serial = Arc::new(Mutex::new(Serial::new(Box::new(DeadLine), port)));
    let mut input = SerialInput::new(serial.clone());
    lock(&serial).write(1, &[0x03]);
    lock(&serial).write(0, b"x");
    person.write_all(b"k").unwrap();
    settle(&mut console);
    settle(&mut input);
    assert_eq!(drain(&person), b"x");
    let mut byte = [0];
    lock(&serial).read(0, &mut byte);
    assert_eq!(byte, *b"k");
}
