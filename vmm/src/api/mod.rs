//! The HTTP API on a Unix socket: Firecracker's endpoints, and a few of our own.
//!
//! ```text
//!  client ── connection: bytes ── http: requests ── routes: commands ──▶ Outbox ──▶ main thread
//!            (one thread for all of them, non-blocking)            ◀── replies, events
//! ```
//!
//! The thread exists only when there is a socket. It never acts on the machine and never waits for one client, so
//! a slow, broken or hostile one costs the others nothing and a vCPU less. What is bounded: ten connections, one
//! request in flight on each, 8 KiB of head, the body limit, 64 KiB of events that wait for a reader, ten seconds for
//! the rest of a request. `resources/openapi.yaml` is the description.

pub mod connection;
pub mod http;
pub mod routes;
mod server;

use std::convert::Infallible;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;

use devices::backend::socket::{self, SocketError, SocketFile};

use crate::inherited::duplicate;

pub use server::Server;

/// Bytes of a body when nothing is said (Firecracker's number).
pub const BODY_LIMIT: usize = 51200;
/// Clients that wait to be accepted; beyond that they wait in connect(2).
const QUEUE: i32 = 128;
/// Which Firecracker's API this is.
pub const FIRECRACKER_VERSION: &str = "1.16.1";

/// Where and how the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// The socket.
    pub socket: ApiSocket,
    /// Bytes of a body.
    pub body_limit: usize,
}

/// The API's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiSocket {
    /// A new one at this path.
    Path(PathBuf),
    /// One that listens already, left open by the parent process.
    Fd(RawFd),
}

impl ApiSocket {
    /// Listens on it. The file goes away with what comes back.
    fn listen(&self) -> Result<(UnixListener, Option<SocketFile>), ApiError> {
        match self {
            Self::Path(path) => {
                let (listener, file) = socket::listen(path, QUEUE)?;
                Ok((listener, Some(file)))
            }
            Self::Fd(fd) => {
                let refused = |source| ApiError::Fd { fd: *fd, source };
                let listener = duplicate(*fd).and_then(socket::adopt).map_err(refused)?;
                Ok((listener, None))
            }
        }
    }
}

/// Reads `PATH` or `fd=N`.
impl FromStr for ApiSocket {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let number = text.strip_prefix("fd=").and_then(|number| number.parse::<u16>().ok());
        Ok(number.map_or_else(|| Self::Path(text.into()), |number| Self::Fd(number.into())))
    }
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nothing can listen at the path.
    #[error("API socket")]
    Socket(#[from] SocketError),
    /// The descriptor is not a socket that listens.
    #[error("API socket: descriptor {fd} is not a listening Unix socket")]
    Fd {
        /// The descriptor.
        fd: RawFd,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The host is out of something.
    #[error("the API cannot be served")]
    Host(#[source] io::Error),
}
