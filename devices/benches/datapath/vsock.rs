//! The socket device with one connection to a program that takes everything and never runs dry: /dev/null and
//! /dev/zero.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use devices::backend::vsock::{Backend, Event, Readiness, Stream, StreamId};
use devices::guest_io::IoVecs;
use devices::memory::Buffers;
use devices::virtio::vsock::Vsock;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::rig::{BUFFERS, Rig};
use crate::{Case, Subject};

const CID: u32 = 3;
const HEADER: u32 = 44;
/// Operations of packets (virtio 1.3, 5.10.6).
const REQUEST: u16 = 1;
const READ_WRITE: u16 = 5;
const CREDIT_UPDATE: u16 = 6;

/// Chains of each queue, a buffer as Linux posts it, and the largest packet that it sends.
const CHAINS: u64 = 64;
const ROOM: u32 = 4096;
const PACKET: u32 = 64 << 10;
const HEADERS: u64 = BUFFERS + 0x10_0000;
const DATA: u64 = BUFFERS + 0x20_0000;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let send = |len, depth| {
        let name = format!("vsock send {len} B, depth {depth}");
        Case::new(name, depth, 1.0, move || Box::new(Connection::new(Some(len), depth)))
    };
    // One read fills up to sixteen buffers.
    let name = "vsock receive 4 KiB, depth 64".to_owned();
    let receive = Case::new(name, 64, 0.25, || Box::new(Connection::new(None, 64)));
    vec![send(64, 1), send(64, 32), send(PACKET, 8), receive]
}

/// A connection on which the guest sends packets of a length, or receives.
struct Connection {
    rig: Rig,
    sends: bool,
    depth: u16,
    got: u32,
}

impl Connection {
    fn new(sends: Option<u32>, depth: u16) -> Self {
        let device = Vsock::new(CID, Box::new(|| Ok(Box::new(Host::new()?))));
        let len = sends.unwrap_or(0);
        let rig = Rig::new(Box::new(device), 0, 256, |_, rings| {
            for i in 0..CHAINS {
                rings[0].add(&[(BUFFERS + i * u64::from(ROOM), ROOM, true)]);
                let header = (HEADERS + i * u64::from(HEADER), HEADER, false);
                let half = len / 2;
                let pieces = [header, (DATA, half, false), (DATA + u64::from(half), half, false)];
                rings[1].add(&pieces[..if half > 0 { 3 } else { 1 }]);
            }
            rings[0].publish();
            rings[1].publish();
        });
        let mut new = Self { rig, sends: sends.is_some(), depth, got: 0 };
        new.write_headers(REQUEST, 0);
        new.rig.offer(0, 1);
        new.rig.round(1, 1);
        while new.rig.rings[0].pending() > 0 {
            new.rig.turn();
        }
        new.write_headers(if new.sends { READ_WRITE } else { CREDIT_UPDATE }, len);
        new
    }

    /// Writes the same header everywhere; it tells of a guest that has read everything.
    fn write_headers(&self, op: u16, len: u32) {
        let words = [CID, 0, 2, 0, 1000, 52, len, 1 | u32::from(op) << 16, 0, 1 << 30, self.got];
        for i in 0..CHAINS {
            let at = HEADERS + i * u64::from(HEADER);
            self.rig.memory.write_obj(words, GuestAddress(at)).unwrap();
        }
    }
}

impl Subject for Connection {
    fn round(&mut self) {
        if self.sends {
            return self.rig.round(1, self.depth);
        }
        self.write_headers(CREDIT_UPDATE, 0);
        self.rig.offer(1, 1);
        self.rig.round(0, self.depth);
        while self.rig.rings[1].pending() > 0 {
            self.rig.turn();
        }
        self.got = self.got.wrapping_add(u32::from(self.depth) * (ROOM - HEADER));
    }

    fn driver_calls(&self) -> u64 {
        self.rig.kicks
    }
}

/// A host on which every port has a program.
struct Host {
    bell: EventFd,
    connected: Option<StreamId>,
}

impl Host {
    fn new() -> io::Result<Self> {
        Ok(Self { bell: EventFd::new(EFD_NONBLOCK)?, connected: None })
    }
}

impl Backend for Host {
    fn fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        let _ = self.bell.read();
        let news = Readiness { readable: true, ..Readiness::default() };
        events.extend(self.connected.take().map(|id| Event::Ready(id, news)));
    }

    fn connect(&mut self, _port: u32) -> io::Result<(StreamId, Box<dyn Stream>)> {
        let id = StreamId(1);
        self.connected = Some(id);
        self.bell.write(1)?;
        let (source, sink) = (File::open("/dev/zero")?, File::create("/dev/null")?);
        Ok((id, Box::new(Program { source, sink, iovecs: IoVecs::new() })))
    }
}

struct Program {
    source: File,
    sink: File,
    iovecs: IoVecs,
}

impl Stream for Program {
    fn read(&mut self, to: &Buffers<'_>) -> io::Result<usize> {
        self.iovecs.read_part(self.source.as_fd(), to, 0, to.len())
    }

    fn write(&mut self, from: &Buffers<'_>, start: usize, len: usize) -> io::Result<usize> {
        self.iovecs.write_part(self.sink.as_fd(), from, start, len)
    }

    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(from.len())
    }

    fn watch_room(&mut self, _on: bool) {}

    fn shut_down(&mut self, _direction: Shutdown) {}

    fn accepted(&mut self, _port: u32) -> io::Result<()> {
        Ok(())
    }
}
