//! A serial port in any state goes on elsewhere.

use super::*;
use crate::test_util::Random;
use crate::test_util::life::{Life, is_never_noticed};

struct Terminal {
    setup: Setup,
    /// What was read from registers, shown, typed, and received of that.
    read: Vec<u8>,
    shown: Vec<u8>,
    typed: Vec<u8>,
    /// What the chip had received when it was made.
    received_before: usize,
}

impl Terminal {
    fn begin() -> Self {
        let setup = Setup::new();
        let (read, shown, typed) = (Vec::new(), Vec::new(), Vec::new());
        Self { setup, read, shown, typed, received_before: 0 }
    }

    fn received(&self) -> usize {
        let here = lock(&self.setup.serial).counters.received.get();
        self.received_before + usize::try_from(here).unwrap()
    }
}

impl Life for Terminal {
    type Outcome = (Vec<u8>, Vec<u8>);

    fn step(&mut self, random: &mut Random) {
        let (offset, value) = (random.below(8_u8), random.below(255_u8));
        match random.below(4_u32) {
            0 => {
                self.typed.push(value);
                self.setup.type_keys(&[value]);
            }
            1 => {
                self.setup.write(offset, value);
                self.setup.turn();
            }
            _ => self.read.push(self.setup.read(offset)),
        }
        self.shown.extend(drain(&self.setup.person));
    }

    fn copy(&mut self) -> Self {
        let state = lock(&self.setup.serial).save().unwrap();
        let state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        let setup = Setup::new();
        lock(&setup.serial).restore(&state).unwrap();
        let [read, shown, typed] = [&self.read, &self.shown, &self.typed].map(Clone::clone);
        let mut copy = Self { setup, read, shown, typed, received_before: self.received() };
        // What the chip has not taken stays with the parent.
        let waiting = copy.typed[copy.received()..].to_vec();
        copy.setup.type_keys(&waiting);
        copy
    }

    fn end(self) -> Self::Outcome {
        (self.read, self.shown)
    }
}

#[test]
fn registers_are_those_of_the_parent_wherever_the_port_is_saved() {
    is_never_noticed(1..6, Terminal::begin);
}

#[test]
fn an_interrupt_that_is_due_is_raised_in_the_copy() {
    let mut parent = Setup::new();
    parent.write(INTERRUPT_ENABLE, ENABLE_RECEIVED);
    parent.type_keys(b"k");
    let state = lock(&parent.serial).save().unwrap();
    let copy = Setup::new();
    lock(&copy.serial).restore(&state).unwrap();
    assert_eq!(copy.line.edges(), 1);
    assert_eq!(copy.receive(), b"k");
    copy.write(DATA, b'!');
    assert_eq!(parent.receive(), b"k");
}

#[test]
fn what_is_no_state_of_a_port_is_refused() {
    for (field, value) in [("line_control", 256_u64), ("received", 65), ("received.0", 256)] {
        let mut state = lock(&Setup::new().serial).save().unwrap();
        state.set("received", 1_u64);
        state.set(field, value);
        let error = lock(&Setup::new().serial).restore(&state).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field} is {value}, which is not")), "{error}");
    }
}
