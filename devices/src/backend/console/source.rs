//! Where a console's input comes from: a descriptor, read only as fast as the guest takes.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::descriptor::{Descriptor, PIECE};
use super::escape::{Command, EscapeDecoder};
use super::hub::Hub;
use super::sys;

/// Most reads from one source before the event loop sees to something else.
const MAX_READS: usize = 16;

/// See the module.
pub(super) struct Source {
    /// Which peer this is; a client's outlet has the same number.
    pub(super) id: u32,
    /// There may be something to read.
    pub(super) ready: bool,
    /// It has said all it will.
    pub(super) ended: bool,
    /// The loop watches it; a regular file cannot be watched and is always ready.
    pub(super) is_watched: bool,
    from: Descriptor,
    /// A person types here: the escape key is taken out.
    keys: Option<EscapeDecoder>,
}

impl Source {
    /// A source that may have something already.
    pub(super) fn new(
        id: u32,
        from: Descriptor,
        keys: Option<EscapeDecoder>,
        is_watched: bool,
    ) -> Self {
        Self { id, ready: true, ended: false, is_watched, from, keys }
    }

    /// Whether it is a terminal, which may be used only while it is ours.
    pub(super) fn is_keyboard(&self) -> bool {
        self.keys.is_some()
    }

    /// There is something to read.
    pub(super) fn has_input(&mut self) {
        self.ready = !self.ended;
    }

    /// Whether the other side is gone.
    pub(super) fn is_hung_up(&self) -> bool {
        self.from.is_hung_up()
    }

    /// Reads as much as the guest has room for, within bounds. Returns the last command among the keys.
    pub(super) fn read(&mut self, hub: &Hub) -> Option<Command> {
        let mut piece = [0; PIECE];
        let mut decoded = Vec::new();
        let mut command = None;
        for _ in 0..MAX_READS {
            let room = hub.input_room().min(PIECE);
            if room == 0 {
                return command;
            }
            match self.from.read(piece.get_mut(..room).unwrap_or_default()) {
                Ok(0) => {
                    self.end();
                    return command;
                }
                Ok(count) => {
                    let bytes = piece.get(..count).unwrap_or_default();
                    let Some(keys) = &mut self.keys else {
                        hub.feed(bytes);
                        continue;
                    };
                    decoded.clear();
                    command = keys.decode(bytes, &mut decoded).or(command);
                    hub.feed(&decoded);
                    if command == Some(Command::Quit) {
                        return command;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.pause_or_end(&error);
                    return command;
                }
            }
        }
        hub.wake_again();
        command
    }

    fn pause_or_end(&mut self, error: &io::Error) {
        // A terminal that another job has taken since we asked fails like one that is gone.
        let is_taken = self.is_keyboard() && !sys::is_foreground(self.as_raw_fd());
        if error.kind() == io::ErrorKind::WouldBlock || is_taken {
            self.ready = false;
        } else {
            log::info!("console: no more input: {error}");
            self.end();
        }
    }

    fn end(&mut self) {
        self.ready = false;
        self.ended = true;
    }
}

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.from.as_raw_fd()
    }
}
