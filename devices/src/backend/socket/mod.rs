//! Unix sockets with a path: listening with care for what is there already, and connecting without waiting.
//!
//! What is said over a connection is the business of those who have it.

mod stream;
mod sys;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

pub use stream::ByteStream;

/// Longest path of a Unix socket, in bytes (`sun_path` less its terminator).
pub const MAX_PATH: usize = 107;

/// Why nothing can listen at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into a socket address.
    #[error("path {path:?} is not between 1 and {MAX_PATH} bytes long")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// There is something at the path that is not a dead socket.
    #[error("{path:?} is in use, or is not a socket")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("{path:?} cannot be made")]
    Host {
        /// The path.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

/// The file of a listening socket, removed when this is dropped, unless it is another one by then, or gone. A clone
/// is for another process, which may have to remove it as well.
#[derive(Debug, Clone)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file: what is removed must be ours.
    identity: (u64, u64),
}

/// A listening socket that somebody else made, non-blocking from now on. Who has connected to it already is served
/// like any other.
///
/// # Errors
/// The host's answer; `EINVAL` when it is a socket that does not listen.
pub fn adopt(socket: OwnedFd) -> io::Result<UnixListener> {
    let listener = UnixListener::from(socket);
    // Any other kind of socket has no such address.
    listener.local_addr()?;
    if !sys::listens(&listener)? {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Listens at `path`, non-blocking, for this user only (mode 0600); up to `queue` clients wait to be
/// accepted. A socket that a dead process left there is replaced.
///
/// # Errors
/// [`SocketError`]; nothing is left at the path then.
pub fn listen(path: &Path, queue: i32) -> Result<(UnixListener, SocketFile), SocketError> {
    let failed = |source| SocketError::Host { path: path.to_owned(), source };
    let length = path.as_os_str().len();
    if length == 0 || length > MAX_PATH {
        return Err(SocketError::Path { path: path.to_owned() });
    }
    let bound = match sys::listen(path, queue) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            sys::listen(path, queue)
        }
        other => other,
    };
    let socket = bound.map_err(failed)?;
    match identity(path) {
        Ok(identity) => Ok((socket, SocketFile { path: path.to_owned(), identity })),
        Err(error) => {
            // Nobody else can have put anything there since.
            let _ = std::fs::remove_file(path);
            Err(failed(error))
        }
    }
}

/// Connects to the socket at `path`; the stream is non-blocking.
///
/// # Errors
/// The errno of connect(2); `WouldBlock` when as many clients as may wait for the listener do.
pub fn connect_now(path: &Path) -> io::Result<UnixStream> {
    sys::connect(path)
}

/// Copies what `stream` has into `to` without taking it; 0 is the end. Never waits.
///
/// # Errors
/// The errno of recvmsg(2), `WouldBlock` among them.
pub fn peek(stream: &UnixStream, to: &mut [u8]) -> io::Result<usize> {
    sys::peek(stream, to)
}

/// Lets this process have `count` descriptors, if it may; without that, connections beyond its limit fail.
pub fn allow_descriptors(count: u64) {
    if let Err(error) = sys::raise_descriptor_limit(count) {
        log::warn!("the limit of open files stays below {count}: {error}");
    }
}

impl SocketFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("socket {} stays: {error}", self.path.display());
        }
    }
}

/// Removes the socket at `path` if nobody listens there; anything else is not ours to remove.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Host { path: path.to_owned(), source };
    let in_use = || SocketError::InUse { path: path.to_owned() };
    let found = std::fs::symlink_metadata(path).map_err(failed)?;
    if !found.file_type().is_socket() {
        return Err(in_use());
    }
    match sys::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        // A listener whose queue is full is alive.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use()),
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
