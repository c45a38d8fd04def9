//! A pseudo-terminal, seen from the side of the person who types.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// A terminal of 24 lines and 80 columns.
pub struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

/// The part of a terminal's settings that a raw mode changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    characters: [u8; 32],
}

impl Settings {
    /// Whether typed characters are echoed.
    #[must_use]
    pub fn echoes(&self) -> bool {
        self.local & libc::ECHO != 0
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Terminal {
    /// Opens a new pair.
    #[must_use]
    pub fn new() -> Self {
        let (mut master, mut slave) = (-1, -1);
        let size = winsize(24, 80);
        // SAFETY: the first two arguments point to integers, the last one to a winsize; the name and the
        // settings are not wanted.
        let result = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                ptr::null_mut(),
                ptr::null(),
                &raw const size,
            )
        };
        assert_eq!(result, 0, "openpty: {}", std::io::Error::last_os_error());
        // SAFETY: openpty made this descriptor for us.
        let master = unsafe { OwnedFd::from_raw_fd(master) };
        // SAFETY: likewise.
        let slave = unsafe { OwnedFd::from_raw_fd(slave) };
        for fd in [&master, &slave] {
            // SAFETY: setting a flag of a descriptor that we own.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        Self { master, slave }
    }

    /// The terminal as one that nobody uses any more, when its user is gone.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer(self.master.try_clone().unwrap())
    }

    /// The side that a program uses.
    #[must_use]
    pub fn slave(&self) -> OwnedFd {
        self.slave.try_clone().unwrap()
    }

    /// The side where keys are pressed and text is seen.
    #[must_use]
    pub fn master(&self) -> File {
        self.master.try_clone().unwrap().into()
    }

    /// Changes the window; the programs in front get SIGWINCH.
    pub fn resize(&self, lines: u16, columns: u16) {
        let size = winsize(lines, columns);
        // SAFETY: the request reads a winsize.
        let result =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0, "TIOCSWINSZ: {}", std::io::Error::last_os_error());
    }

    /// How the terminal is set.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.observer().settings()
    }
}

/// Looks at a terminal without keeping it open for its programs.
pub struct Observer(OwnedFd);

impl Observer {
    /// How the terminal is set.
    #[must_use]
    pub fn settings(&self) -> Settings {
        // SAFETY: a termios of zeros is valid, if meaningless.
        let mut now: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `now` is a termios to be filled.
        let result = unsafe { libc::tcgetattr(self.0.as_raw_fd(), &raw mut now) };
        assert_eq!(result, 0, "tcgetattr: {}", std::io::Error::last_os_error());
        Settings {
            input: now.c_iflag,
            output: now.c_oflag,
            control: now.c_cflag,
            local: now.c_lflag,
            characters: now.c_cc,
        }
    }
}

fn winsize(lines: u16, columns: u16) -> libc::winsize {
    libc::winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_terminal_echoes_and_has_a_size() {
        let terminal = Terminal::new();
        assert!(terminal.settings().echoes());
        terminal.resize(50, 132);
        let mut size = winsize(0, 0);
        let slave = terminal.slave();
        // SAFETY: the request fills a winsize.
        unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
        assert_eq!((size.ws_row, size.ws_col), (50, 132));
    }
}
