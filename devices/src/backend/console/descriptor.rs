//! A descriptor that is read and written without ever waiting, whoever else holds it.
//!
//! Standard input and output are shared with the shell: `O_NONBLOCK` set on them would surprise it, as
//! the flag belongs to the open file and not to the descriptor. So a pipe or terminal is opened anew
//! through /proc, where that is allowed; a socket is told per call; and what is left is asked by poll(2)
//! before each small piece.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use super::sys;

/// Most bytes moved by one call. A pipe that polls writable has room for that much (`PIPE_BUF`).
pub(super) const PIECE: usize = 4096;

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the descriptor.
    In,
    /// To the descriptor.
    Out,
}

/// An open file and how not to wait for it.
#[derive(Debug)]
pub(super) struct Descriptor {
    file: File,
    manner: Manner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// `O_NONBLOCK` is set on an open file that is ours alone.
    NonBlocking,
    /// A socket, shared: the flag goes with each call.
    PerCall,
    /// Asked by poll(2) first, then at most this many bytes at a time.
    Polled(usize),
    /// A file on a disk: never "not ready".
    AlwaysReady,
}

impl Descriptor {
    /// A descriptor with `O_NONBLOCK` set by whoever opened it.
    pub(super) fn non_blocking(fd: OwnedFd) -> Self {
        Self { file: fd.into(), manner: Manner::NonBlocking }
    }

    /// A descriptor that others share, whose flags must stay as they are.
    ///
    /// # Errors
    /// When it cannot even be looked at.
    pub(super) fn shared(fd: OwnedFd, direction: Direction) -> io::Result<Self> {
        let file = File::from(fd);
        let kind = file.metadata()?.file_type();
        let manner = if kind.is_file() || kind.is_block_device() {
            Manner::AlwaysReady
        } else if kind.is_socket() {
            Manner::PerCall
        } else {
            let is_terminal = kind.is_char_device() && file.is_terminal();
            // A pty master would come back as another pty.
            let can_reopen = kind.is_fifo() || is_terminal && !sys::is_pty_master(file.as_fd());
            if let Some(file) = can_reopen.then(|| reopen(&file, direction)).flatten() {
                return Ok(Self { file, manner: Manner::NonBlocking });
            }
            // Writable says of a terminal only that there is room for one byte.
            Manner::Polled(if is_terminal { 1 } else { PIECE })
        };
        Ok(Self { file, manner })
    }

    /// Reads what there is. 0 is the end; `WouldBlock` means nothing now.
    ///
    /// # Errors
    /// The errno of read(2).
    pub(super) fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        match self.manner {
            Manner::PerCall => sys::receive_now(self.as_fd(), to),
            Manner::Polled(_) if sys::poll(self.as_fd(), libc::POLLIN, 0) == 0 => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            _ => (&self.file).read(to),
        }
    }

    /// Writes what fits. `WouldBlock` means nothing fits now.
    ///
    /// # Errors
    /// The errno of write(2).
    pub(super) fn write(&self, from: &[u8]) -> io::Result<usize> {
        match self.manner {
            Manner::PerCall => sys::send_now(self.as_fd(), from),
            Manner::Polled(piece) => {
                if sys::poll(self.as_fd(), libc::POLLOUT, 0) == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                (&self.file).write(from.get(..piece).unwrap_or(from))
            }
            _ => (&self.file).write(from),
        }
    }

    /// Whether the other side is gone altogether, not only done sending.
    pub(super) fn is_hung_up(&self) -> bool {
        sys::poll(self.as_fd(), 0, 0) & (libc::POLLHUP | libc::POLLERR) != 0
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The same pipe or terminal as an open file of our own.
fn reopen(file: &File, direction: Direction) -> Option<File> {
    OpenOptions::new()
        .read(direction == Direction::In)
        .write(direction == Direction::Out)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .ok()
}

#[cfg(test)]
mod tests;
