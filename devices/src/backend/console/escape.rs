//! The escape key of an interactive console: Ctrl-A, then a letter.
//!
//! Turns keys into guest input and commands; reads no terminal and carries no command out.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What the help command shows. A raw terminal needs the carriage returns.
pub(super) const HELP: &str = "\r\n[vmm: Ctrl-A x  end the virtual machine\r\n      \
     Ctrl-A a  send Ctrl-A to the guest (Ctrl-A Ctrl-A too)\r\n      \
     Ctrl-A h  this help]\r\n";

/// What the person at the terminal asks of the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// End the virtual machine.
    Quit,
    /// Show [`HELP`].
    Help,
}

/// Where in an escape sequence the keys are; they come in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct EscapeDecoder {
    escaped: bool,
}

impl EscapeDecoder {
    /// Appends to `input` what the guest gets of `keys`, and returns the last command among them. After
    /// [`Command::Quit`] the remaining keys are ignored. A letter without a meaning asks for help and
    /// does not reach the guest.
    pub(super) fn decode(&mut self, keys: &[u8], input: &mut Vec<u8>) -> Option<Command> {
        let mut command = None;
        for &key in keys {
            if !std::mem::take(&mut self.escaped) {
                if key == ESCAPE {
                    self.escaped = true;
                } else {
                    input.push(key);
                }
                continue;
            }
            match key {
                b'x' | b'X' => return Some(Command::Quit),
                b'a' | ESCAPE => input.push(ESCAPE),
                _ => command = Some(Command::Help),
            }
        }
        command
    }
}

#[cfg(test)]
mod tests;
