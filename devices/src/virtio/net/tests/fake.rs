//! A network in memory that behaves like a tap, and a card on it with its driver.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::super::{Counters, MacAddress, Mtu, Net, NetControl, NetOptions};
use crate::backend::net::{NetBackend, Offloads};
use crate::guest_io::IoVecs;
use crate::memory::{Buffers, GuestMemory};
use crate::rate_limiter::{Limiter, Limits};
use crate::test_util::{Buffer, DriverQueue, Running, guest_memory};

/// Where the driver's buffers start, beyond all queues.
pub(crate) const BUFFERS: u64 = 0x40_0000;
const QUEUES: u64 = 0x10_0000;
const MEMORY: usize = 0x200_0000;

/// What the backend was told, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Offloads(Offloads),
    Active(u16),
    Mtu(u16),
}

pub(crate) struct FakeNet {
    wires: Vec<Wire>,
    has_uso: bool,
    pub(crate) told: Mutex<Vec<Told>>,
    /// Errno of each following call that configures.
    pub(crate) refuse_with: Mutex<Option<i32>>,
}

/// One queue's two directions.
struct Wire {
    /// Holds a byte while a frame may wait: `(device, network)`.
    ready: (UnixStream, UnixStream),
    to_guest: Mutex<VecDeque<Result<Vec<u8>, i32>>>,
    from_guest: Mutex<Vec<Vec<u8>>>,
    /// How much room the last read had, without the spill.
    room: Mutex<usize>,
    send_errors: Mutex<VecDeque<i32>>,
}

impl FakeNet {
    pub(crate) fn new(queues: u16, has_uso: bool) -> Arc<Self> {
        let ready = || {
            let pair = UnixStream::pair().unwrap();
            pair.0.set_nonblocking(true).unwrap();
            pair
        };
        let wire = || Wire {
            ready: ready(),
            to_guest: Mutex::default(),
            from_guest: Mutex::default(),
            room: Mutex::default(),
            send_errors: Mutex::default(),
        };
        Arc::new(Self {
            wires: (0..queues).map(|_| wire()).collect(),
            has_uso,
            told: Mutex::default(),
            refuse_with: Mutex::default(),
        })
    }

    /// Queues a frame (with its header) for the guest, or an errno that a read answers instead.
    pub(crate) fn arrive(&self, queue: usize, frame: Result<Vec<u8>, i32>) {
        let wire = &self.wires[queue];
        let mut waiting = wire.to_guest.lock().unwrap();
        if waiting.is_empty() {
            (&wire.ready.1).write_all(&[1]).unwrap();
        }
        waiting.push_back(frame);
    }

    /// Makes the descriptor ready once more, as a tap's is with each frame.
    pub(crate) fn news(&self, queue: usize) {
        let (reader, writer) = &self.wires[queue].ready;
        let _ = (&*reader).read(&mut [0; 16]);
        (&*writer).write_all(&[1]).unwrap();
    }

    /// How many frames the guest has not taken yet.
    pub(crate) fn waiting(&self, queue: usize) -> usize {
        self.wires[queue].to_guest.lock().unwrap().len()
    }

    /// Makes the descriptor of `queue` unready, as an edge-triggered one is after the news of it.
    pub(crate) fn quiet(&self, queue: usize) {
        let _ = (&self.wires[queue].ready.0).read(&mut [0; 16]);
    }

    /// How much room the last read from `queue` had in the guest's buffers.
    pub(crate) fn last_room(&self, queue: usize) -> usize {
        *self.wires[queue].room.lock().unwrap()
    }

    /// The frames that the guest sent since the last call.
    pub(crate) fn sent(&self, queue: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.wires[queue].from_guest.lock().unwrap())
    }

    /// The next frame that the guest sends fails with `errno`.
    pub(crate) fn fail_send(&self, queue: usize, errno: i32) {
        self.wires[queue].send_errors.lock().unwrap().push_back(errno);
    }

    fn tell(&self, told: Told) -> io::Result<()> {
        self.told.lock().unwrap().push(told);
        match *self.refuse_with.lock().unwrap() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

impl NetBackend for FakeNet {
    fn name(&self) -> &str {
        "fake0"
    }

    fn queues(&self) -> u16 {
        u16::try_from(self.wires.len()).unwrap()
    }

    fn has_uso(&self) -> bool {
        self.has_uso
    }

    fn fd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        let wire = self.wires.get(usize::from(queue))?;
        Some(wire.ready.0.as_fd())
    }

    fn read_frame(
        &self,
        queue: u16,
        _iovecs: &mut IoVecs,
        to: &Buffers<'_>,
        spill: &mut [u8],
    ) -> io::Result<usize> {
        let wire = &self.wires[usize::from(queue)];
        *wire.room.lock().unwrap() = to.len();
        let mut waiting = wire.to_guest.lock().unwrap();
        let Some(frame) = waiting.pop_front() else {
            let _ = (&wire.ready.0).read(&mut [0; 16]);
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let frame = frame.map_err(io::Error::from_raw_os_error)?;
        let in_place = to.write_at(0, &frame).unwrap();
        let rest = (frame.len() - in_place).min(spill.len());
        spill[..rest].copy_from_slice(&frame[in_place..in_place + rest]);
        Ok(in_place + rest)
    }

    fn write_frame(&self, queue: u16, _: &mut IoVecs, from: &Buffers<'_>) -> io::Result<usize> {
        let wire = &self.wires[usize::from(queue)];
        if let Some(errno) = wire.send_errors.lock().unwrap().pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let mut frame = vec![0; from.len()];
        from.read_at(0, &mut frame).unwrap();
        wire.from_guest.lock().unwrap().push(frame);
        Ok(from.len())
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.tell(Told::Offloads(offloads))
    }

    fn set_active_queues(&self, count: u16) -> io::Result<()> {
        self.tell(Told::Active(count))
    }

    fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.tell(Told::Mtu(mtu))
    }
}

/// Limiters that limit nothing.
pub(crate) fn unlimited() -> (Arc<Limiter>, Arc<Limiter>) {
    (Limiter::new(Limits::NONE), Limiter::new(Limits::NONE))
}

/// A card on any network, with its driver.
pub(crate) struct Card<N> {
    pub(crate) net: Arc<N>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) control: NetControl,
    pub(crate) memory: GuestMemory,
    pub(crate) running: Running,
}

/// A card on a [`FakeNet`].
pub(crate) type FakeCard = Card<FakeNet>;

impl FakeCard {
    /// A card with one queue pair, whose driver accepted `features`.
    pub(crate) fn new(features: u64) -> Self {
        Self::on(FakeNet::new(1, true), features)
    }
}

impl<N: NetBackend + 'static> Card<N> {
    /// A card on `net`, up to `DRIVER_OK` with queues of 16.
    pub(crate) fn on(net: Arc<N>, features: u64) -> Self {
        Self::with_mtu(net, 1500, features)
    }

    /// The same with another MTU.
    pub(crate) fn with_mtu(net: Arc<N>, mtu: u16, features: u64) -> Self {
        Self::with_limiters(net, mtu, features, unlimited())
    }

    /// The same with limits: towards the guest, and from it.
    pub(crate) fn with_limiters(
        net: Arc<N>,
        mtu: u16,
        features: u64,
        (rx_limiter, tx_limiter): (Arc<Limiter>, Arc<Limiter>),
    ) -> Self {
        let memory = guest_memory(MEMORY);
        let device = Net::new(NetOptions {
            id: "net0".to_owned(),
            mac: Some(MacAddress::new([2, 0, 0, 0, 0, 1]).unwrap()),
            mtu: Some(Mtu::new(mtu).unwrap()),
            backend: net.clone(),
            rx_limiter,
            tx_limiter,
        });
        let (counters, control) = (device.counters(), device.control());
        let running = Running::new(Box::new(device), &memory, features, QUEUES);
        Self { net, counters, control, memory, running }
    }

    /// Resets the card and brings it up again with queues of `size`.
    pub(crate) fn restart(&mut self, features: u64, size: u16) {
        self.running.transport.write_status(0);
        for (i, queue) in (0..).zip(&mut self.running.queues) {
            *queue = DriverQueue::new(&self.memory, QUEUES + 0x40000 * i, size);
            queue.set_avail_index(0);
            // The used ring's flags and index.
            let used = queue.config().device;
            self.memory.write_obj(0_u32, GuestAddress(used)).unwrap();
        }
        self.running.bring_up(features);
    }

    /// Delivers events `times` times; `false` when the card failed.
    pub(crate) fn run(&self, times: usize) -> bool {
        (0..times).all(|_| self.running.host.run())
    }

    /// Makes `buffers` available on queue `index`, kicks, and delivers what is ready.
    pub(crate) fn give(&mut self, index: usize, buffers: &[Buffer]) -> bool {
        self.running.queues[index].add(buffers);
        self.running.kick(u32::try_from(index).unwrap())
    }

    /// What came back on queue `index`.
    pub(crate) fn used(&mut self, index: usize) -> Vec<(u32, u32)> {
        self.running.queues[index].take_used()
    }

    pub(crate) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }
}

/// A frame of `len` bytes behind an empty header; its content depends on `seed`.
pub(crate) fn frame(len: usize, seed: usize) -> Vec<u8> {
    let content = (0..len).map(|i| (i * 7 + i / 251 + seed).to_le_bytes()[0]);
    [0; 12].into_iter().chain(content).collect()
}
