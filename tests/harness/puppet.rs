//! The puppet: a bare-metal guest that reads and writes what the test tells it to.
//!
//! Its source, `guests/puppet/puppet.c`, describes the commands. Commands that ask nothing are collected and
//! sent together with the next question.

use std::cell::RefCell;
use std::fmt::Write;

use crate::machine::{Ending, Machine};
use crate::vmm::Vmm;

/// Guest memory that neither the puppet nor the boot tables use, up to the end of 32 MiB.
pub const FREE_MEMORY: u32 = 0x20_0000;

/// A machine with the puppet in it. Its methods take `&self`, so that several device drivers can share it.
pub struct Puppet {
    machine: RefCell<Machine>,
    unsent: RefCell<String>,
}

impl Puppet {
    /// Starts a puppet with its serial line on standard input and output. `vmm` adds devices.
    #[must_use]
    pub fn start(vmm: Vmm) -> Self {
        let mut machine = vmm.serial("stdio").spawn();
        machine.wait_for("puppet: ");
        machine.wait_for("\n");
        Self { machine: RefCell::new(machine), unsent: RefCell::default() }
    }

    /// A puppet that is somewhere in its life already, as `vmm` restores it.
    #[must_use]
    pub fn go_on(vmm: Vmm) -> Self {
        Self { machine: RefCell::new(vmm.spawn()), unsent: RefCell::default() }
    }

    /// A puppet without devices but the machine's own.
    #[must_use]
    pub fn alone() -> Self {
        Self::start(Vmm::puppet("").args(["--rng", "off"]))
    }

    /// Reads memory or a register; `width` is 1, 2 or 4 bytes.
    #[must_use]
    #[track_caller]
    pub fn read(&self, width: u32, address: u32) -> u32 {
        self.ask(&format!("r {width:x} {address:x}"))
    }

    /// Writes memory or a register.
    pub fn write(&self, width: u32, address: u32, value: u32) {
        self.tell(&format!("w {width:x} {address:x} {value:x}"));
    }

    /// Reads a port.
    #[must_use]
    #[track_caller]
    pub fn port_in(&self, width: u32, port: u16) -> u32 {
        self.ask(&format!("i {width:x} {port:x}"))
    }

    /// Writes a port.
    pub fn port_out(&self, width: u32, port: u16, value: u32) {
        self.tell(&format!("o {width:x} {port:x} {value:x}"));
    }

    /// `rep ins`: reads a port `count` times into memory.
    pub fn port_in_string(&self, width: u32, port: u16, count: u32, to: u32) {
        self.tell(&format!("I {width:x} {port:x} {count:x} {to:x}"));
    }

    /// `rep outs`: writes `count` items of memory to a port.
    pub fn port_out_string(&self, width: u32, port: u16, count: u32, from: u32) {
        self.tell(&format!("O {width:x} {port:x} {count:x} {from:x}"));
    }

    /// Stores bytes in memory.
    pub fn store(&self, address: u32, bytes: &[u8]) {
        // The puppet takes any length, but a short line shows better when a test fails.
        for (address, piece) in (address..).step_by(64).zip(bytes.chunks(64)) {
            let mut line = format!("m {address:x} ");
            piece.iter().for_each(|byte| write!(line, "{byte:02x}").unwrap());
            self.tell(&line);
        }
    }

    /// Reads bytes of memory.
    #[must_use]
    #[track_caller]
    pub fn load(&self, address: u32, count: u32) -> Vec<u8> {
        let digits = self.ask_text(&format!("d {address:x} {count:x}"));
        let byte = |at| u8::from_str_radix(digits.get(at..at + 2).unwrap_or_default(), 16);
        (0..digits.len())
            .step_by(2)
            .map(|at| byte(at).unwrap_or_else(|e| panic!("{digits}: {e}")))
            .collect()
    }

    /// The low 32 bits of a model-specific register.
    #[must_use]
    #[track_caller]
    pub fn msr(&self, index: u32) -> u32 {
        self.ask(&format!("M {index:x}"))
    }

    /// Lets loose `count` random accesses of registers and ports, reproducible by `seed`.
    #[track_caller]
    pub fn storm(&self, seed: u32, count: u32) {
        assert_eq!(self.ask(&format!("f {seed:x} {count:x}")), 0);
    }

    /// Sends a command that answers nothing, with the next question at the latest.
    pub fn tell(&self, command: &str) {
        let mut unsent = self.unsent.borrow_mut();
        unsent.push_str(command);
        unsent.push('\n');
    }

    /// Sends a command that answers with a number.
    #[must_use]
    #[track_caller]
    pub fn ask(&self, command: &str) -> u32 {
        let text = self.ask_text(command);
        u32::from_str_radix(&text, 16).unwrap_or_else(|e| panic!("{command}: {text:?}: {e}"))
    }

    /// Sends what was told and waits until the guest has done it.
    #[track_caller]
    pub fn sync(&self) {
        // Any question will do; this one asks for the first instruction of the puppet.
        let _ = self.read(1, 0x10_0000);
    }

    /// Sends what was told and gives the machine back, to see it end.
    #[must_use]
    #[track_caller]
    pub fn release(self) -> Machine {
        self.flush();
        self.machine.into_inner()
    }

    /// Ends the guest by a status of 0, and expects that.
    #[track_caller]
    pub fn finish(self) -> Ending {
        self.port_out(1, 0xf4, 0);
        self.release().expect_exit(0)
    }

    /// Looks at the machine while the puppet runs.
    pub fn with_machine<T>(&self, look: impl FnOnce(&mut Machine) -> T) -> T {
        look(&mut self.machine.borrow_mut())
    }

    /// Sends what was told, and waits for nothing.
    #[track_caller]
    pub fn send(&self) {
        self.flush();
    }

    /// The same with a machine that may have ended.
    pub fn send_if_it_runs(&self) {
        let text = std::mem::take(&mut *self.unsent.borrow_mut());
        let _ = self.machine.borrow_mut().try_send(text);
    }

    #[track_caller]
    fn flush(&self) {
        let text = std::mem::take(&mut *self.unsent.borrow_mut());
        self.machine.borrow_mut().send(text);
    }

    #[track_caller]
    fn ask_text(&self, question: &str) -> String {
        self.tell(question);
        self.flush();
        self.machine.borrow_mut().wait_for("\n").trim_end().to_owned()
    }
}
