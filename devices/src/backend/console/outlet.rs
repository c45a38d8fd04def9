//! One reader of a console on the host: a descriptor that takes the output, and how far it has got.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use super::backlog::Cursor;
use super::descriptor::{Descriptor, PIECE};
use super::hub::Hub;
use super::{Size, sys};

/// Most pieces written to one outlet before the event loop sees to something else.
const MAX_PIECES: usize = 64;
/// After the host refused output (a full disk), how much more must come before it is asked again.
const RETRY_AFTER: u64 = 4 << 10;

/// What an outlet waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    /// More output.
    Output,
    /// Its turn: there was more to write than one turn allows.
    Turn,
    /// Its descriptor to take more.
    Room,
    /// The stream to be this long before it tries again.
    Length(u64),
    /// Nothing any more: nobody reads.
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outlet {
    /// Which peer this is; a client's source has the same number.
    pub(super) id: u32,
    /// Whether the loop knows the descriptor already.
    pub(super) is_watched: bool,
    /// Whether it comes and goes: once it is gone, it is forgotten.
    pub(super) is_visitor: bool,
    to: Descriptor,
    cursor: Cursor,
    pending: Pending,
}

impl Outlet {
    /// An outlet that begins with the oldest output kept.
    pub(super) fn new(id: u32, to: Descriptor, hub: &Hub) -> Self {
        let cursor = hub.with_screen(|screen| Cursor::at_start_of(screen));
        Self { id, is_watched: false, is_visitor: false, to, cursor, pending: Pending::Output }
    }

    /// An outlet for somebody who comes and goes, and begins at `cursor`.
    pub(super) fn visitor(id: u32, to: Descriptor, cursor: Cursor) -> Self {
        Self { id, is_watched: false, is_visitor: true, to, cursor, pending: Pending::Output }
    }

    /// What it waits for.
    pub(super) fn pending(&self) -> Pending {
        self.pending
    }

    /// Its descriptor takes more.
    pub(super) fn has_room(&mut self) {
        if self.pending == Pending::Room {
            self.pending = Pending::Turn;
        }
    }

    /// Tries once more whatever was refused.
    pub(super) fn retry(&mut self) {
        if matches!(self.pending, Pending::Length(_)) {
            self.pending = Pending::Turn;
        }
    }

    /// Says something of the monitor's own.
    pub(super) fn say(&mut self, words: &str) {
        self.cursor.say(words);
    }

    /// Position of the oldest byte it still needs.
    pub(super) fn position(&self) -> u64 {
        self.cursor.position()
    }

    /// Bytes it will never get.
    pub(super) fn lost(&self, hub: &Hub) -> u64 {
        hub.with_screen(|screen| self.cursor.lost(screen))
    }

    /// The same if it gets nothing more from now on.
    pub(super) fn lost_at_end(&self, hub: &Hub) -> u64 {
        let unread = hub
            .with_screen(|screen| screen.end().saturating_sub(screen.start().max(self.position())));
        self.lost(hub) + unread
    }

    /// The size of the terminal that it is, if any.
    pub(super) fn window_size(&self) -> Option<Size> {
        sys::window_size(self.to.as_fd())
    }

    /// Whether the other side is gone.
    pub(super) fn is_hung_up(&self) -> bool {
        self.to.is_hung_up()
    }

    /// Writes what there is until there is no more, no room, or its turn is over. The hub is locked for
    /// the copy only, never during the write. `true` when it has just run out of room: the descriptor is
    /// to be watched.
    pub(super) fn flush(&mut self, hub: &Hub) -> bool {
        match self.pending {
            Pending::Room | Pending::Gone => return false,
            Pending::Length(length) if hub.with_screen(|screen| screen.end()) < length => {
                return false;
            }
            _ => {}
        }
        if hub.with_screen(|screen| self.cursor.is_at_end(screen)) {
            self.pending = Pending::Output;
            return false;
        }
        let mut piece = [0; PIECE];
        for _ in 0..MAX_PIECES {
            let count = hub.with_screen(|screen| self.cursor.fill(screen, &mut piece));
            let bytes = piece.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                self.pending = Pending::Output;
                return false;
            }
            match self.to.write(bytes) {
                Ok(written) => {
                    self.cursor.advance(written);
                    self.pending = Pending::Turn;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pending = Pending::Room;
                    return true;
                }
                Err(error) => {
                    self.refuse(hub, &error);
                    return false;
                }
            }
        }
        self.pending = Pending::Turn;
        false
    }

    /// The host does not take it. A reader that left does not come back; a disk may have room again.
    fn refuse(&mut self, hub: &Hub, error: &io::Error) {
        if is_gone(error) {
            log::info!("console: nobody reads the output any more: {error}");
            self.pending = Pending::Gone;
            return;
        }
        // Once per streak: a retry that fails has come from `Length`.
        if !matches!(self.pending, Pending::Length(_)) {
            log::warn!("console: output is refused, will be tried again: {error}");
        }
        self.pending = Pending::Length(hub.with_screen(|screen| screen.end()) + RETRY_AFTER);
    }
}

impl AsRawFd for Outlet {
    fn as_raw_fd(&self) -> RawFd {
        self.to.as_raw_fd()
    }
}

/// Whether there is no point in trying again.
fn is_gone(error: &io::Error) -> bool {
    const GONE: [libc::c_int; 4] = [libc::EPIPE, libc::ECONNRESET, libc::ENOTCONN, libc::EBADF];
    error.raw_os_error().is_some_and(|code| GONE.contains(&code))
}
