//! Programs of the host behind Unix sockets, by Firecracker's convention.
//!
//! ```text
//!  program ── connect(PATH), "CONNECT 52\n" ──▶ port 52 of the guest, "OK 1073741824\n" when it accepts
//!  guest connects to port 52 of the host ─────▶ connect(PATH_52)
//! ```
//!
//! All descriptors are in one epoll set, whose own descriptor the event loop watches: streams edge-triggered,
//! the listening socket level-triggered. There are no timers: a program that connects and says nothing is
//! dropped when too many of its kind have come after it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::handshake::{Line, Peek, Progress};
use super::service::{Service, SessionStream};
use super::{Backend, Event, Readiness, Stream, StreamId};
use crate::backend::socket::{self, ByteStream, SocketError, SocketFile};
use crate::guest_io::IoVecs;
use crate::memory::Buffers;

/// Programs that may wait to be accepted.
const QUEUE: i32 = 128;
/// Programs that may be at their first line at the same time; one more, and the oldest of them is dropped.
const MAX_GREETING: usize = 64;
/// Most programs accepted, and most streams looked at, before other devices get their turn.
const MAX_ACCEPTS: usize = 16;
const MAX_EVENTS: usize = 64;
/// Digits of the largest port, and the mark before them.
const SUFFIX: usize = "_4294967295".len();

/// Descriptors for all the connections that a device may have, and for the rest of the process.
const DESCRIPTORS: u64 = 2048;
const LISTENER: u64 = 0;

/// A listening socket for one device, kept while the device comes and goes. Dropped, its file is removed.
pub struct UnixEndpoint {
    shared: Arc<Shared>,
    file: SocketFile,
}

/// What an endpoint and its backends share.
struct Shared {
    listener: UnixListener,
    /// Made once: a thread that serves devices needs no right to make another.
    epoll: Epoll,
    /// The number of the newest stream. It goes on with the next backend, so that no news of the one before is taken for
    /// its own.
    last_id: AtomicU64,
    connector: Box<dyn Connector>,
    services: BTreeMap<u32, Arc<dyn Service>>,
}

/// The way to the programs of the host that serve ports.
pub trait Connector: Send + Sync {
    /// Connects to the program that serves `port`; the stream is non-blocking.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when there is none, `WouldBlock` when it is overrun.
    fn connect(&self, port: u32) -> io::Result<UnixStream>;
}

/// Programs that listen at a path with `_PORT` added.
pub struct Beside(pub PathBuf);

impl Connector for Beside {
    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.0.clone().into_os_string();
        path.push(format!("_{port}"));
        socket::connect_now(Path::new(&path))
    }
}

/// Opens the backends of one endpoint.
#[derive(Clone)]
pub struct UnixBackends(Arc<Shared>);

impl UnixEndpoint {
    /// Listens at `path` (mode 0600). `services` take the guest's connections to their ports.
    ///
    /// # Errors
    /// [`SocketError`]: in use, not a socket, too long, or refused by the host.
    pub fn bind(
        path: &Path,
        services: BTreeMap<u32, Arc<dyn Service>>,
    ) -> Result<Self, SocketError> {
        let (listener, file) = socket::listen(path, QUEUE)?;
        if path.as_os_str().len() + SUFFIX > socket::MAX_PATH {
            let (path, max) = (path.display(), socket::MAX_PATH);
            log::warn!("vsock: {path}_PORT is beyond {max} bytes for high ports of the host");
        }
        socket::allow_descriptors(DESCRIPTORS);
        let connector = Box::new(Beside(path.to_owned()));
        let watched = Epoll::new().and_then(|epoll| {
            let events = EpollEvent::new(EventSet::IN, LISTENER);
            epoll.ctl(ControlOperation::Add, listener.as_raw_fd(), events).map(|()| epoll)
        });
        let epoll =
            watched.map_err(|source| SocketError::Host { path: path.to_owned(), source })?;
        let last_id = AtomicU64::new(LISTENER);
        let shared = Shared { listener, epoll, last_id, connector, services };
        Ok(Self { shared: Arc::new(shared), file })
    }

    /// Reaches programs of the host by `connector` from now on; call it before there are backends.
    pub fn connect_by(&mut self, connector: Box<dyn Connector>) {
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => shared.connector = connector,
            None => log::error!("vsock: the way to programs of the host stays as it was"),
        }
    }

    /// The socket's file.
    #[must_use]
    pub fn file(&self) -> &SocketFile {
        &self.file
    }

    /// What a device needs to speak through this endpoint.
    #[must_use]
    pub fn backends(&self) -> UnixBackends {
        UnixBackends(self.shared.clone())
    }
}

impl UnixBackends {
    /// A backend without any connection. There should be one at a time.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn open(&self) -> io::Result<Box<dyn Backend>> {
        Ok(Box::new(Unix {
            shared: self.0.clone(),
            greeting: BTreeMap::new(),
            spare: Some(self.0.listener.try_clone()?),
        }))
    }
}

/// The connections of an active device.
struct Unix {
    shared: Arc<Shared>,
    /// Programs at their first line, the oldest first.
    greeting: BTreeMap<u64, Greeting>,
    /// A descriptor to give up when there is no other: a program that cannot be accepted would be news for
    /// ever.
    spare: Option<UnixListener>,
}

struct Greeting {
    stream: ByteStream,
    line: Line,
}

impl Unix {
    fn accept(&mut self, events: &mut Vec<Event>) {
        for _ in 0..MAX_ACCEPTS {
            match self.shared.listener.accept() {
                Ok((stream, _)) => self.greet(stream, events),
                Err(error) if is_out_of_descriptors(&error) => {
                    log::warn!("vsock: a program is sent away: {error}");
                    self.spare = None;
                    drop(self.shared.listener.accept());
                    self.spare = self.shared.listener.try_clone().ok();
                    return;
                }
                // Nobody waits any more.
                Err(_) => return,
            }
        }
    }

    /// Most programs say what they want at once.
    fn greet(&mut self, stream: UnixStream, events: &mut Vec<Event>) {
        let id = self.next_id();
        if let Err(error) = stream.set_nonblocking(true).and_then(|()| self.watch(&stream, id)) {
            log::warn!("vsock: a program is sent away: {error}");
            return;
        }
        if self.greeting.len() >= MAX_GREETING {
            self.greeting.pop_first();
        }
        self.greeting.insert(id.0, Greeting { stream: stream.into(), line: Line::default() });
        self.listen_to(id, Readiness::default(), events);
    }

    /// Reads more of a first line, of which there was news.
    fn listen_to(&mut self, id: StreamId, news: Readiness, events: &mut Vec<Event>) {
        let Some(greeting) = self.greeting.get_mut(&id.0) else { return };
        // A line in two pieces may have arrived as one event.
        let progress = loop {
            let before = greeting.line.len();
            let progress = greeting.line.advance(&mut greeting.stream);
            if progress != Progress::Waiting || greeting.line.len() == before {
                break progress;
            }
        };
        if progress == Progress::Waiting {
            return;
        }
        let Some(Greeting { stream, .. }) = self.greeting.remove(&id.0) else { return };
        if let Progress::Port(port) = progress {
            events.push(Event::Incoming { id, port, stream: self.stream(stream, id) });
            // The news of the line may have been news of what follows it, too.
            events.push(Event::Ready(id, news));
        }
    }

    fn watch(&self, stream: &UnixStream, id: StreamId) -> io::Result<()> {
        let events = EpollEvent::new(QUIET, id.0);
        self.shared.epoll.ctl(ControlOperation::Add, stream.as_raw_fd(), events)
    }

    fn stream(&self, stream: ByteStream, id: StreamId) -> Box<dyn Stream> {
        let shared = self.shared.clone();
        Box::new(UnixSocket { stream, id, shared, iovecs: IoVecs::new(), watches_room: false })
    }

    fn next_id(&mut self) -> StreamId {
        StreamId(self.shared.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Backend for Unix {
    fn fd(&self) -> RawFd {
        self.shared.epoll.as_raw_fd()
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        let mut ready = [EpollEvent::default(); MAX_EVENTS];
        let count = self.shared.epoll.wait(0, &mut ready).unwrap_or_else(|error| {
            log::error!("vsock: no news from the host: {error}");
            0
        });
        for event in ready.iter().take(count) {
            let id = StreamId(event.data());
            if event.data() == LISTENER {
                self.accept(events);
            } else if self.greeting.contains_key(&id.0) {
                self.listen_to(id, readiness(event.event_set()), events);
            } else {
                events.push(Event::Ready(id, readiness(event.event_set())));
            }
        }
    }

    fn connect(&mut self, port: u32) -> io::Result<(StreamId, Box<dyn Stream>)> {
        let id = self.next_id();
        if let Some(service) = self.shared.services.get(&port) {
            return Ok((id, Box::new(SessionStream(service.connect()))));
        }
        let stream = self.shared.connector.connect(port)?;
        self.watch(&stream, id)?;
        Ok((id, self.stream(stream.into(), id)))
    }
}

/// One connection. Closing its descriptor takes it out of the epoll set.
struct UnixSocket {
    stream: ByteStream,
    id: StreamId,
    shared: Arc<Shared>,
    iovecs: IoVecs,
    watches_room: bool,
}

/// What is watched always: news of room would come with every read of the program.
const QUIET: EventSet = EventSet::from_bits_truncate(
    EventSet::IN.bits() | EventSet::READ_HANG_UP.bits() | EventSet::EDGE_TRIGGERED.bits(),
);

impl Stream for UnixSocket {
    fn read(&mut self, to: &Buffers<'_>) -> io::Result<usize> {
        self.iovecs.read_part(self.stream.as_fd(), to, 0, to.len())
    }

    fn write(&mut self, from: &Buffers<'_>, start: usize, len: usize) -> io::Result<usize> {
        self.iovecs.write_part(self.stream.as_fd(), from, start, len)
    }

    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.write(from)
    }

    fn watch_room(&mut self, on: bool) {
        if std::mem::replace(&mut self.watches_room, on) == on {
            return;
        }
        let events = if on { QUIET | EventSet::OUT } else { QUIET };
        let event = EpollEvent::new(events, self.id.0);
        // A change also tells of room that is there already.
        let fd = self.stream.as_raw_fd();
        if let Err(error) = self.shared.epoll.ctl(ControlOperation::Modify, fd, event) {
            log::error!("vsock: a connection cannot be watched: {error}");
        }
    }

    fn shut_down(&mut self, direction: Shutdown) {
        // Fails when the program has gone, which there is other news of.
        let _ = self.stream.shutdown(direction);
    }

    fn accepted(&mut self, port: u32) -> io::Result<()> {
        // A fresh socket has room for one line.
        self.stream.write_all(format!("OK {port}\n").as_bytes())
    }
}

impl Peek for ByteStream {
    fn peek(&mut self, to: &mut [u8]) -> io::Result<usize> {
        socket::peek(self, to)
    }

    fn take(&mut self, count: usize) -> io::Result<()> {
        let mut bytes = vec![0; count];
        io::Read::read_exact(self, &mut bytes)
    }
}

fn readiness(events: EventSet) -> Readiness {
    let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
    Readiness {
        readable: hung_up || events.intersects(EventSet::IN | EventSet::READ_HANG_UP),
        writable: hung_up || events.contains(EventSet::OUT),
        hung_up,
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests;
