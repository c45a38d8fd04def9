//! Consoles: everything between a guest's serial port or virtio console and a person or a program.
//!
//! ```text
//!  guest device ── ConsolePort ──▶ hub: backlog ──▶ outlets: terminal, pipe, file, pty, clients
//!  (vCPU thread or event loop)     hub: input  ◀── sources: the same, escape keys taken out
//!                     ▲ doorbell        │ room, wake-up
//!                     └─────────────────┘          (event loop: Console::handle)
//! ```
//!
//! Output: a device writes to its [`ConsolePort`], which copies to memory and wakes the event loop; the
//! loop writes to the outlets as they take it. A reader that is too slow loses the oldest bytes, is told
//! so by a marker in the text, and delays nobody. Input: the loop reads a source while the guest has room
//! for it, rings the port's doorbell, and the device takes the bytes. No lock is held across a system
//! call that could wait, and no memory grows beyond the limits named here.
//!
//! A console does not know what devices are behind its ports, and not how the loop waits.

mod backlog;
mod descriptor;
mod escape;
mod host;
mod hub;
mod open;
mod outlet;
mod port;
mod socket;
mod source;
mod sys;
mod terminal;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use port::ConsolePort;
pub use terminal::{Terminal, has_terminal, restore_now, terminal_fd};

use super::socket::{SocketError, SocketFile};
use crate::event::Interest;
use host::Host;
use hub::Hub;

/// Something of a console that the event loop drives: the host side of a [`Console`], or a device that
/// takes input.
pub trait ConsoleSource: Send {
    /// What to watch, asked once; it does not change later.
    fn interests(&self) -> Vec<Interest>;

    /// `token` of [`Self::interests`] is ready. Bounded work; never waits.
    fn handle(&mut self, token: u16) -> Option<ConsoleEvent>;
}

/// What a console asks of the machine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// The person at the terminal ends the virtual machine (Ctrl-A x).
    Quit,
}

/// Which of a guest's two console devices a port belongs to, when both share one console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The serial port: works from the first instruction on, and is shown until the other one speaks.
    Early,
    /// The virtio console: needs a driver. From its first byte until it is reset, it alone is shown and
    /// gets the input.
    Late,
}

/// The size of a terminal in characters; neither is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters per line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Somebody who hears what the guest's devices say, shown or not.
pub trait Overhear: Send {
    /// The device of `stage` has said `bytes`. May be called on a vCPU thread; must not wait.
    fn hear(&mut self, stage: Stage, bytes: &[u8]);
}

/// How much went through a console, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsoleCounters {
    /// Guest output that was to be shown.
    pub output: u64,
    /// Guest output that some reader never got, each on its own account.
    pub lost: u64,
    /// Input accepted for the guest.
    pub input: u64,
}

/// Why a console cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The file cannot be opened for writing.
    #[error("console file {path:?} cannot be opened")]
    File {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be listened on.
    #[error("console socket")]
    Socket(#[source] SocketError),
    /// No pseudo-terminal.
    #[error("no pseudo-terminal for the console")]
    Pty(#[source] io::Error),
    /// Standard input or output cannot be used.
    #[error("standard input and output cannot serve as a console")]
    Stdio(#[source] io::Error),
    /// The host has no descriptor left.
    #[error("no descriptors for a console")]
    Descriptors(#[source] io::Error),
}

/// A console. Clones are the same console: one goes to the event loop as a [`ConsoleSource`], the others
/// stay with whoever ends, resizes or inspects it.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
    pty: Option<Arc<Path>>,
}

/// What a console and its ports share. Lock order: `host` before the hub's.
struct Shared {
    hub: Hub,
    /// Locked by the event loop's thread, and by whoever closes; never by a vCPU thread.
    host: Mutex<Host>,
}

impl Console {
    /// The port for the guest's device of `stage`; asked twice, it is the same port.
    ///
    /// # Errors
    /// [`ConsoleError::Descriptors`].
    pub fn port(&self, stage: Stage) -> Result<ConsolePort, ConsoleError> {
        ConsolePort::new(self.shared.clone(), stage).map_err(ConsoleError::Descriptors)
    }

    /// Where to attach, when this is a pseudo-terminal.
    #[must_use]
    pub fn pty_path(&self) -> Option<&Path> {
        self.pty.as_deref()
    }

    /// The terminal may have another size (SIGWINCH): the guest's console device is told.
    pub fn resized(&self) {
        if let Some(size) = self.lock_host().window_size() {
            self.shared.hub.set_size(size);
        }
    }

    /// The process goes on after a stop (SIGCONT): the terminal is made raw again if it is ours.
    pub fn resumed(&self) {
        self.lock_host().resume(&self.shared.hub);
        self.resized();
    }

    /// The file of the socket that it listens on, if it does.
    #[must_use]
    pub fn socket_file(&self) -> Option<SocketFile> {
        self.lock_host().socket_file().cloned()
    }

    /// How much went through.
    #[must_use]
    pub fn counters(&self) -> ConsoleCounters {
        let lost = self.lock_host().lost(&self.shared.hub);
        let (output, input) = self.shared.hub.totals();
        ConsoleCounters { output, lost, input }
    }

    /// Keeps the last `len` bytes of output from now on, whoever has read them, for [`Self::tail`].
    pub fn keep_tail(&self, len: usize) {
        self.shared.hub.keep_tail(len);
    }

    /// The newest output, as much of it as [`Self::keep_tail`] says.
    #[must_use]
    pub fn tail(&self) -> Vec<u8> {
        self.shared.hub.tail()
    }

    /// Lets a client in as one of those of a socket, wherever else the console leads: it sees the output, which others see
    /// as well, and types. It is told `words`, then the newest output that is kept.
    ///
    /// # Errors
    /// `QuotaExceeded` when there are as many clients as there may be; otherwise the host's answer.
    pub fn attach(&self, client: UnixStream, words: &[u8]) -> io::Result<()> {
        let client = socket::split(client)?;
        self.lock_host().attach(client, words, &self.shared.hub)
    }

    /// Lets `listener` hear what devices write from now on.
    pub fn overhear(&self, listener: Box<dyn Overhear>) {
        self.shared.hub.overhear(listener);
    }

    /// Ends the console: delivers what readers take within `patience`, puts the terminal back, closes
    /// clients and removes the socket's file. What devices write afterwards is not shown. Not for vCPU
    /// threads.
    pub fn close(&self, patience: Duration) {
        let hub = &self.shared.hub;
        let deadline = Instant::now() + patience;
        let mut host = self.lock_host();
        host.retry(hub);
        while host.is_behind() {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: the last fraction must not become a busy loop.
            let left_ms = i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
            if left.is_zero() {
                break;
            }
            // Keys pressed this late, quitting included, mean nothing any more.
            let _ = host.handle(hub, left_ms);
        }
        host.shut(hub);
    }

    fn lock_host(&self) -> MutexGuard<'_, Host> {
        self.shared.lock_host()
    }
}

impl ConsoleSource for Console {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest::readable(self.lock_host().fd(), 0)]
    }

    fn handle(&mut self, _token: u16) -> Option<ConsoleEvent> {
        self.lock_host().handle(&self.shared.hub, 0)
    }
}

impl Shared {
    fn lock_host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
