//! The socket device, with programs of the host that do whatever programs do.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::backend::vsock::{Backend, Event, Readiness, Stream, StreamId};
use devices::memory::Buffers;
use devices::virtio::device::VirtioDevice;
use devices::virtio::vsock::Vsock;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bytes::Bytes;
use crate::rig::{Rig, Subject, drive};

const GUEST: u64 = 3;
const HOST: u64 = 2;
const HEADER: usize = 44;
/// Operations of packets (virtio 1.3, 5.10.6).
const REQUEST: u16 = 1;
const RESET: u16 = 3;
/// Connections at a time that programs ask for.
const PROGRAMS: u64 = 64;

/// See the module.
pub fn run(input: &[u8]) {
    drive(&mut *subject(), input);
}

/// The socket device.
pub fn subject() -> Box<dyn Subject> {
    let bell = EventFd::new(EFD_NONBLOCK).expect("a descriptor");
    let world = World { bell, state: Mutex::default() };
    Box::new(Sockets(Arc::new(world)))
}

/// The host's side, as the input makes it.
struct World {
    bell: EventFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: VecDeque<(u64, Option<u32>, Readiness)>,
    streams: u64,
    /// What a read of any stream has: bytes, the end (0), nothing now, or an error.
    reads: u8,
    /// How much a write takes, in the same way.
    writes: u8,
    refuses: bool,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: (u64, Option<u32>, Readiness)) {
        self.lock().events.push_back(event);
        let _ = self.bell.write(1);
    }
}

/// The device's view of it.
struct View(Arc<World>);

impl Backend for View {
    fn fd(&self) -> RawFd {
        self.0.bell.as_raw_fd()
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        let _ = self.0.bell.read();
        for (id, port, readiness) in self.0.lock().events.drain(..) {
            events.push(match port {
                Some(port) => {
                    let stream = Box::new(Program(self.0.clone()));
                    Event::Incoming { id: StreamId(id), port, stream }
                }
                None => Event::Ready(StreamId(id), readiness),
            });
        }
    }

    fn connect(&mut self, _port: u32) -> io::Result<(StreamId, Box<dyn Stream>)> {
        let mut state = self.0.lock();
        if state.refuses {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        state.streams += 1;
        Ok((StreamId(state.streams), Box::new(Program(self.0.clone()))))
    }
}

struct Program(Arc<World>);

/// What a mood makes of a transfer of up to `len` bytes.
fn moved(mood: u8, len: usize) -> io::Result<usize> {
    match mood {
        0 => Err(ErrorKind::WouldBlock.into()),
        1 => Ok(0),
        2 => Err(ErrorKind::ConnectionReset.into()),
        few => Ok(len.min(usize::from(few) * 16)),
    }
}

impl Stream for Program {
    fn read(&mut self, to: &Buffers<'_>) -> io::Result<usize> {
        let mut state = self.0.lock();
        let len = moved(state.reads, to.len())?;
        // A program pauses for breath.
        state.reads = 0;
        to.write_at(0, &vec![0x5a; len]).map_err(io::Error::other)
    }

    fn write(&mut self, from: &Buffers<'_>, start: usize, len: usize) -> io::Result<usize> {
        assert!(start + len <= from.len(), "{start} and {len} of {}", from.len());
        moved(self.0.lock().writes, len)
    }

    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize> {
        moved(self.0.lock().writes, from.len())
    }

    fn watch_room(&mut self, _on: bool) {}

    fn shut_down(&mut self, _direction: Shutdown) {}

    fn accepted(&mut self, _port: u32) -> io::Result<()> {
        moved(self.0.lock().writes, 1).map(drop)
    }
}

struct Sockets(Arc<World>);

impl Sockets {
    fn packet(op: u16, ports: (u32, u32), data: &[u8], credit: (u32, u32)) -> Vec<u8> {
        let words = [
            GUEST as u32,
            0,
            HOST as u32,
            0,
            ports.0,
            ports.1,
            data.len() as u32,
            1 | u32::from(op) << 16,
            0,
            credit.0,
            credit.1,
        ];
        let mut packet: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        packet.extend(data);
        packet
    }
}

impl Subject for Sockets {
    fn device(&mut self, _input: &mut Bytes<'_>) -> Box<dyn VirtioDevice> {
        let world = self.0.clone();
        let open = move || -> io::Result<Box<dyn Backend>> { Ok(Box::new(View(world.clone()))) };
        Box::new(Vsock::new(GUEST as u32, Box::new(open)))
    }

    fn request(&mut self, rig: &mut Rig, input: &mut Bytes<'_>) {
        if input.one_in(3) {
            let len = if input.one_in(2) { 4096 } else { u32::from(input.u8()) };
            let room = rig.room(len);
            return rig.offer(0, &[room], input);
        }
        let op = u16::from(input.u8() % 9);
        let ports = (1000 + u32::from(input.u8() & 3), 52 + u32::from(input.u8() & 3));
        let credit = (input.of(&[1 << 20, 300, 0, u32::MAX]), u32::from(input.u16()));
        let mut packet = Self::packet(op, ports, input.some(), credit);
        packet[32] = input.u8() & 3;
        if input.one_in(8) {
            packet[usize::from(input.u8()) % HEADER] = input.u8();
        }
        let cut = if input.one_in(4) { usize::from(input.u8()) } else { HEADER };
        let (first, rest) = packet.split_at(cut.min(packet.len()));
        let mut buffers = vec![rig.sent(first)];
        if !rest.is_empty() {
            buffers.push(rig.sent(rest));
        }
        rig.offer(1, &buffers, input);
    }

    fn host(&mut self, input: &mut Bytes<'_>) {
        let kind = input.u8();
        let id = u64::from(input.u8() & 7);
        match kind & 7 {
            0 => {
                let mut state = self.0.lock();
                state.streams += 1;
                let id = state.streams;
                if id < PROGRAMS {
                    drop(state);
                    self.0.tell((id, Some(1000 + u32::from(input.u8() & 3)), Readiness::default()));
                }
            }
            1 => self.0.lock().writes = input.u8(),
            2 => self.0.lock().refuses = input.one_in(2),
            bits => {
                self.0.lock().reads = input.u8();
                let (readable, writable, hung_up) =
                    (bits & 1 != 0, bits & 2 != 0, kind & 0x80 != 0);
                self.0.tell((id, None, Readiness { readable, writable, hung_up }));
            }
        }
    }

    fn calm(&mut self) {
        let mut state = self.0.lock();
        *state = State { streams: state.streams, writes: 255, ..State::default() };
    }

    fn good(&mut self, rig: &mut Rig) {
        let room = rig.room(4096);
        let from = rig.sent(&Self::packet(REQUEST, (1, 2), &[], (1 << 20, 0)));
        assert_eq!(rig.must_answer(1, &[from]), 0);
        assert_eq!(rig.must_answer(0, &[room]) as usize, HEADER);
        let answer: [u8; HEADER] = rig.read(room.0);
        assert_eq!(answer[30..32], [2, 0], "no response");
        let from = rig.sent(&Self::packet(RESET, (1, 2), &[], (1 << 20, 0)));
        assert_eq!(rig.must_answer(1, &[from]), 0);
    }
}
