//! A host whose programs do what the test says.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::backend::vsock::{Backend, Event, Readiness, Stream, StreamId};
use crate::memory::Buffers;

/// News of something to read.
pub(crate) const READABLE: Readiness =
    Readiness { readable: true, writable: false, hung_up: false };
/// News of room.
pub(crate) const WRITABLE: Readiness =
    Readiness { readable: false, writable: true, hung_up: false };
/// News of a program that has closed the connection.
pub(crate) const HUNG_UP: Readiness = Readiness { readable: true, writable: true, hung_up: true };

/// One end of a connection, as its program has it.
#[derive(Default)]
pub(crate) struct Program {
    /// What it has sent and the guest has not got.
    pub(crate) sent: VecDeque<u8>,
    /// It will not send any more.
    pub(crate) has_ended: bool,
    /// What it has got.
    pub(crate) got: Vec<u8>,
    /// How much more it takes.
    pub(crate) room: usize,
    /// It has closed: writing fails.
    pub(crate) is_deaf: bool,
    /// Reading from it fails.
    pub(crate) is_broken: bool,
    /// The port it was told that it has.
    pub(crate) accepted: Option<u32>,
    pub(crate) watches_room: bool,
    /// It has nothing to say.
    pub(crate) only_listens: bool,
    pub(crate) shut_down: Vec<Shutdown>,
    /// The device has let go of the connection.
    pub(crate) is_closed: bool,
}

/// The programs of the host. Clones are the same host.
#[derive(Clone)]
pub(crate) struct FakeHost(Arc<Mutex<State>>);

struct State {
    listening: Vec<u32>,
    programs: BTreeMap<u64, Program>,
    news: VecDeque<Event>,
    bell: EventFd,
}

impl FakeHost {
    /// Programs listen on `listening`.
    pub(crate) fn new(listening: &[u32]) -> Self {
        let bell = EventFd::new(EFD_NONBLOCK).unwrap();
        let listening = listening.to_vec();
        let (programs, news) = (BTreeMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(State { listening, programs, news, bell })))
    }

    pub(crate) fn backend(&self) -> Box<dyn Backend> {
        Box::new(self.clone())
    }

    /// A program asks for `port` of the guest.
    pub(crate) fn ask(&self, port: u32) -> StreamId {
        let (id, stream) = self.add();
        self.tell(Event::Incoming { id, port, stream });
        id
    }

    /// The device will hear of `readiness`.
    pub(crate) fn ready(&self, id: StreamId, readiness: Readiness) {
        self.tell(Event::Ready(id, readiness));
    }

    /// A program sends `bytes`, and the device will hear of it.
    pub(crate) fn send(&self, id: StreamId, bytes: &[u8]) {
        self.with(id, |program| program.sent.extend(bytes));
        self.ready(id, READABLE);
    }

    /// Looks at or changes a program.
    pub(crate) fn with<T>(&self, id: StreamId, look: impl FnOnce(&mut Program) -> T) -> T {
        look(self.lock().programs.get_mut(&id.0).unwrap())
    }

    /// The program that was connected last.
    pub(crate) fn last(&self) -> StreamId {
        StreamId(*self.lock().programs.last_key_value().unwrap().0)
    }

    /// How many connections the device has let go of, and how many there were.
    pub(crate) fn closed(&self) -> (usize, usize) {
        let state = self.lock();
        (state.programs.values().filter(|program| program.is_closed).count(), state.programs.len())
    }

    fn add(&self) -> (StreamId, Box<dyn Stream>) {
        let mut state = self.lock();
        let id = StreamId(state.programs.len() as u64 + 1);
        state.programs.insert(id.0, Program { room: usize::MAX, ..Program::default() });
        (id, Box::new(FakeStream { host: self.clone(), id }))
    }

    fn tell(&self, event: Event) {
        let mut state = self.lock();
        state.news.push_back(event);
        state.bell.write(1).unwrap();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Backend for FakeHost {
    fn fd(&self) -> RawFd {
        self.lock().bell.as_raw_fd()
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        let mut state = self.lock();
        let _ = state.bell.read();
        events.extend(state.news.drain(..));
    }

    fn connect(&mut self, port: u32) -> io::Result<(StreamId, Box<dyn Stream>)> {
        if !self.lock().listening.contains(&port) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.add())
    }
}

struct FakeStream {
    host: FakeHost,
    id: StreamId,
}

impl FakeStream {
    fn with<T>(&self, look: impl FnOnce(&mut Program) -> T) -> T {
        self.host.with(self.id, look)
    }
}

impl Stream for FakeStream {
    fn read(&mut self, to: &Buffers<'_>) -> io::Result<usize> {
        assert!(!to.is_empty(), "a read without room looks like the end");
        self.with(|program| {
            if program.is_broken {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let count = to.len().min(program.sent.len());
            if count == 0 && !program.has_ended {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let bytes: Vec<u8> = program.sent.drain(..count).collect();
            Ok(to.write_at(0, &bytes).unwrap())
        })
    }

    fn write(&mut self, from: &Buffers<'_>, start: usize, len: usize) -> io::Result<usize> {
        let mut bytes = vec![0; len];
        let count = from.read_at(start, &mut bytes).unwrap();
        assert_eq!(count, len, "all the data is there");
        self.write_bytes(&bytes)
    }

    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize> {
        self.with(|program| {
            if program.is_deaf {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let count = from.len().min(program.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            program.room -= count;
            program.got.extend(&from[..count]);
            Ok(count)
        })
    }

    fn watch_room(&mut self, on: bool) {
        self.with(|program| program.watches_room = on);
    }

    fn shut_down(&mut self, direction: Shutdown) {
        self.with(|program| program.shut_down.push(direction));
    }

    fn only_listens(&self) -> bool {
        self.with(|program| program.only_listens)
    }

    fn accepted(&mut self, port: u32) -> io::Result<()> {
        self.with(|program| {
            program.accepted = Some(port);
            if program.is_deaf { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        })
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        self.with(|program| program.is_closed = true);
    }
}
