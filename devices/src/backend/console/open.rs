//! The kinds of consoles there are: one constructor each.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::descriptor::{Descriptor, Direction};
use super::host::Host;
use super::hub::Hub;
use super::socket::Listener;
use super::terminal::Terminal;
use super::{Console, ConsoleError, Shared, sys};

/// Most output that waits for one fixed reader. Longer than the pause of a pipe's reader on a busy host:
/// a fast guest writes 1 MB/s to a serial port.
const BACKLOG: usize = 256 << 10;
/// What every new client of a socket is shown first, and the most that waits for any of them.
const REPLAY: usize = 64 << 10;

impl Console {
    /// Standard input and output. A terminal becomes raw, with Ctrl-A as the escape key; it is put back
    /// by [`Console::close`], by [`super::restore_now`], and by a fatal signal. The process is not stopped
    /// for writing from the background (SIGTTOU and SIGTTIN are ignored from then on), and leaves a
    /// terminal alone that is another job's. From anything else input passes unchanged, and its end
    /// leaves the machine running.
    ///
    /// # Errors
    /// [`ConsoleError::Stdio`], [`ConsoleError::Descriptors`].
    pub fn stdio() -> Result<Self, ConsoleError> {
        let input = io::stdin().as_fd().try_clone_to_owned();
        let output = io::stdout().as_fd().try_clone_to_owned();
        Self::on(input.map_err(ConsoleError::Stdio)?, output.map_err(ConsoleError::Stdio)?)
    }

    /// A console on two open files that others may share.
    pub(crate) fn on(input: OwnedFd, output: OwnedFd) -> Result<Self, ConsoleError> {
        let console = Self::new(BACKLOG, false)?;
        let has_keyboard = input.is_terminal();
        if has_keyboard || output.is_terminal() {
            sys::ignore_job_control();
        }
        let terminal =
            if has_keyboard { Some(input.try_clone().map_err(ConsoleError::Stdio)?) } else { None };
        let mut host = console.lock_host();
        let from = Descriptor::shared(input, Direction::In).map_err(ConsoleError::Stdio)?;
        let to = Descriptor::shared(output, Direction::Out).map_err(ConsoleError::Stdio)?;
        host.add_outlet(to, &console.shared.hub);
        match terminal {
            Some(fd) => host.add_keyboard(from, Terminal::new(fd)),
            None => host.add_source(from),
        }
        .map_err(ConsoleError::Stdio)?;
        drop(host);
        console.resized();
        Ok(console)
    }

    /// Output to the end of the file at `path`, made with mode 0600 if need be; no input. A FIFO need not
    /// have a reader.
    ///
    /// # Errors
    /// [`ConsoleError::File`], [`ConsoleError::Descriptors`].
    pub fn file(path: &Path) -> Result<Self, ConsoleError> {
        let failed = |source| ConsoleError::File { path: path.to_owned(), source };
        // A FIFO without a reader can be opened only for both; then it never breaks either.
        let is_fifo = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
        let file = OpenOptions::new()
            .append(true)
            .read(is_fifo)
            .create(!is_fifo)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(failed)?;
        let console = Self::new(BACKLOG, false)?;
        let to = Descriptor::non_blocking(file.into());
        console.lock_host().add_outlet(to, &console.shared.hub);
        Ok(console)
    }

    /// A Unix socket at `path` (mode 0600), removed at the end. Up to four clients share it; each is
    /// shown the last 64 KiB first.
    ///
    /// # Errors
    /// [`ConsoleError::Socket`], [`ConsoleError::Descriptors`].
    pub fn socket(path: &Path) -> Result<Self, ConsoleError> {
        let listener = Listener::bind(path)?;
        let console = Self::new(REPLAY, true)?;
        console.lock_host().listen(listener).map_err(ConsoleError::Descriptors)?;
        Ok(console)
    }

    /// A new pseudo-terminal, raw; [`Console::pty_path`] says where. Output waits for somebody to attach,
    /// the newest of it; people may come and go.
    ///
    /// # Errors
    /// [`ConsoleError::Pty`], [`ConsoleError::Descriptors`].
    pub fn pty() -> Result<Self, ConsoleError> {
        let (master, slave, path) = sys::open_pty().map_err(ConsoleError::Pty)?;
        sys::termios(slave.as_fd())
            .and_then(|settings| sys::set_termios(slave.as_raw_fd(), &sys::raw(&settings)))
            .map_err(ConsoleError::Pty)?;
        let mut console = Self::new(BACKLOG, false)?;
        let output = master.try_clone().map_err(ConsoleError::Pty)?;
        let mut host = console.lock_host();
        host.add_outlet(Descriptor::non_blocking(output), &console.shared.hub);
        host.add_source(Descriptor::non_blocking(master)).map_err(ConsoleError::Pty)?;
        host.hold(slave);
        drop(host);
        console.pty = Some(path.into());
        Ok(console)
    }

    /// A console that nobody sees: output is dropped, and there is no input. Need not be driven.
    ///
    /// # Errors
    /// [`ConsoleError::Descriptors`].
    pub fn off() -> Result<Self, ConsoleError> {
        Self::new(0, false)
    }

    fn new(backlog: usize, replays: bool) -> Result<Self, ConsoleError> {
        let hub = Hub::new(backlog).map_err(ConsoleError::Descriptors)?;
        let host = Host::new(&hub, replays).map_err(ConsoleError::Descriptors)?;
        Ok(Self { shared: Arc::new(Shared { hub, host: Mutex::new(host) }), pty: None })
    }
}

#[cfg(test)]
mod tests;
