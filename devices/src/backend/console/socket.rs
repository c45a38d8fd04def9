//! A console behind a Unix socket: clients connect, see what was said last, and type.
//!
//! The listening end only; what clients send and get is the business of the host side they join.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::ConsoleError;
use super::descriptor::Descriptor;
use crate::backend::socket::{self, SocketFile};

/// Clients that may wait to be accepted.
const QUEUE: libc::c_int = 8;

/// A listening socket, whose file is removed with it.
#[derive(Debug)]
pub(super) struct Listener {
    /// Somebody may be waiting.
    pub(super) is_ready: bool,
    socket: UnixListener,
    file: SocketFile,
}

/// A client, in and out.
pub(super) struct Client {
    /// What it types.
    pub(super) input: Descriptor,
    /// What it sees.
    pub(super) output: Descriptor,
}

impl Listener {
    /// Listens at `path`. A socket that a dead process left there is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, ConsoleError> {
        let (socket, file) = socket::listen(path, QUEUE).map_err(ConsoleError::Socket)?;
        Ok(Self { is_ready: true, socket, file })
    }

    /// The next client; `None` until there is another one.
    pub(super) fn accept(&mut self) -> Option<Client> {
        if !self.is_ready {
            return None;
        }
        match self.socket.accept().and_then(|(stream, _)| split(stream)) {
            Ok(client) => Some(client),
            Err(error) => {
                // Out of descriptors, say: the client waits until the next one knocks.
                if error.kind() != io::ErrorKind::WouldBlock {
                    log::warn!("console {}: no client: {error}", self.file.path().display());
                }
                self.is_ready = false;
                None
            }
        }
    }

    /// The socket's file.
    pub(super) fn file(&self) -> &SocketFile {
        &self.file
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Two descriptors for one socket: in and out are watched apart.
///
/// # Errors
/// When the host has no descriptors left.
pub(super) fn split(stream: UnixStream) -> io::Result<Client> {
    stream.set_nonblocking(true)?;
    let output = stream.try_clone()?;
    Ok(Client {
        input: Descriptor::non_blocking(OwnedFd::from(stream)),
        output: Descriptor::non_blocking(OwnedFd::from(output)),
    })
}

#[cfg(test)]
mod tests;
