//! A console behind a Unix socket: clients connect, see what was said last, and type.
//!
//! The listening end only; what clients send and get is the business of the host side they join.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::descriptor::Descriptor;
use super::{ConsoleError, sys};

/// Longest path of a Unix socket, in bytes (`sun_path` less its terminator).
const MAX_PATH: usize = 107;
/// Clients that may wait to be accepted.
const QUEUE: libc::c_int = 8;

/// A listening socket, whose file is removed with it.
#[derive(Debug)]
pub(super) struct Listener {
    /// Somebody may be waiting.
    pub(super) is_ready: bool,
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the file: what is removed must be ours.
    identity: (u64, u64),
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
        let failed = |source| ConsoleError::Socket { path: path.to_owned(), source };
        let length = path.as_os_str().len();
        if length == 0 || length > MAX_PATH {
            return Err(ConsoleError::SocketPath { path: path.to_owned(), max: MAX_PATH });
        }
        let bound = match sys::listen(path, QUEUE) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                sys::listen(path, QUEUE)
            }
            other => other,
        };
        let socket = UnixListener::from(bound.map_err(failed)?);
        Ok(Self {
            is_ready: true,
            socket,
            path: path.to_owned(),
            identity: identity(path).map_err(failed)?,
        })
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
                    log::warn!("console {}: no client: {error}", self.path.display());
                }
                self.is_ready = false;
                None
            }
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("console socket {} stays: {error}", self.path.display());
        }
    }
}

/// Two descriptors for one socket: in and out are watched apart.
fn split(stream: UnixStream) -> io::Result<Client> {
    stream.set_nonblocking(true)?;
    let output = stream.try_clone()?;
    Ok(Client {
        input: Descriptor::non_blocking(OwnedFd::from(stream)),
        output: Descriptor::non_blocking(OwnedFd::from(output)),
    })
}

/// Removes the socket at `path` if nobody listens there; anything else is not ours to remove.
fn remove_stale(path: &Path) -> Result<(), ConsoleError> {
    let failed = |source| ConsoleError::Socket { path: path.to_owned(), source };
    let in_use = || ConsoleError::InUse { path: path.to_owned() };
    let found = std::fs::symlink_metadata(path).map_err(failed)?;
    if !found.file_type().is_socket() {
        return Err(in_use());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Ok(_) => Err(in_use()),
        Err(error) => Err(failed(error)),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests;
