//! A device at work without KVM: its driver is prebuilt rings and an index, its event loop one epoll.
//!
//! The loop and the interrupt are the real thing as far as system calls go: an epoll_wait per turn and a
//! write per interrupt. A kick, which KVM makes in the kernel, is a write of the driver's that is known by
//! number ([`Rig::kicks`]) and not the device's.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use devices::interrupt::Interrupt;
use devices::memory::GuestMemory;
use devices::test_util::guest_memory;
use devices::virtio::device::{DeviceHost, VirtioDevice, Worker};
use devices::virtio::feature;
use devices::virtio::queue::QueueConfig;
use devices::virtio::transport::{Transport, status};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const RAM: usize = 64 << 20;
/// Where queue `i` lies: `QUEUES + i * QUEUE_SPACE`.
const QUEUES: u64 = 0x1_0000;
const QUEUE_SPACE: u64 = 0x1_0000;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0xa000;
/// From here on, memory is free for buffers.
pub(crate) const BUFFERS: u64 = 0x10_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// One buffer of a chain: address, length, whether the device may write.
pub(crate) type Buffer = (u64, u32, bool);

/// The driver's side of one queue.
pub(crate) struct Ring {
    memory: GuestMemory,
    base: u64,
    size: u16,
    descriptors: u16,
    heads: Vec<u16>,
    offered: u16,
}

impl Ring {
    fn new(memory: &GuestMemory, index: u64, size: u16) -> Self {
        let base = QUEUES + index * QUEUE_SPACE;
        Self { memory: memory.clone(), base, size, descriptors: 0, heads: Vec::new(), offered: 0 }
    }

    fn config(&self) -> QueueConfig {
        let (driver, device) = (self.base + AVAIL, self.base + USED);
        QueueConfig { size: self.size, ready: true, descriptors: self.base, driver, device }
    }

    /// Writes a chain, the next that will be offered.
    pub(crate) fn add(&mut self, buffers: &[Buffer]) {
        self.heads.push(self.descriptors);
        for (position, &(address, len, write)) in (1..).zip(buffers) {
            let index = self.descriptors;
            let more = if position < buffers.len() { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            let words =
                [address, u64::from(len) | u64::from(flags) << 32 | u64::from(index + 1) << 48];
            let at = self.base + 16 * u64::from(index);
            self.memory.write_obj(words, GuestAddress(at)).unwrap();
            self.descriptors += 1;
        }
        assert!(self.descriptors <= self.size, "the chains do not fit the queue");
    }

    /// Fills the available ring: the chains in order, round and round. Their number divides its size.
    pub(crate) fn publish(&self) {
        assert_eq!(usize::from(self.size) % self.heads.len(), 0);
        for (slot, head) in (0..self.size).zip(self.heads.iter().cycle()) {
            let at = self.base + AVAIL + 4 + 2 * u64::from(slot);
            self.memory.write_obj(*head, GuestAddress(at)).unwrap();
        }
    }

    /// Offers the next `count` chains, and wants one interrupt for them. Returns whether the device wants a
    /// kick (virtio 1.3, 2.7.10).
    pub(crate) fn offer(&mut self, count: u16) -> bool {
        let used_event = self.base + AVAIL + 4 + 2 * u64::from(self.size);
        let wanted = self.used();
        self.memory.store(wanted, GuestAddress(used_event), Ordering::Relaxed).unwrap();
        let before = self.offered;
        self.offered = before.wrapping_add(count);
        let index = self.base + AVAIL + 2;
        self.memory.store(self.offered, GuestAddress(index), Ordering::SeqCst).unwrap();
        let avail_event = self.base + USED + 4 + 8 * u64::from(self.size);
        let event: u16 = self.memory.load(GuestAddress(avail_event), Ordering::SeqCst).unwrap();
        self.offered.wrapping_sub(event).wrapping_sub(1) < self.offered.wrapping_sub(before)
    }

    /// How many chains the device has not handed back yet.
    pub(crate) fn pending(&self) -> u16 {
        self.offered.wrapping_sub(self.used())
    }

    fn used(&self) -> u16 {
        self.memory.load(GuestAddress(self.base + USED + 2), Ordering::Acquire).unwrap()
    }
}

/// A device, its driver and its event loop.
pub(crate) struct Rig {
    pub(crate) memory: GuestMemory,
    pub(crate) rings: Vec<Ring>,
    /// How often the driver has kicked.
    pub(crate) kicks: u64,
    transport: Transport,
    host: Host,
    events: Vec<EpollEvent>,
}

#[derive(Clone)]
struct Host {
    worker: Arc<Mutex<Option<Worker>>>,
    epoll: Arc<Epoll>,
}

impl DeviceHost for Host {
    fn start(&self, worker: Worker) -> std::io::Result<()> {
        for (data, interest) in worker.interests() {
            let event = EpollEvent::new(interest.events, u64::from(data));
            self.epoll.ctl(ControlOperation::Add, interest.fd, event)?;
        }
        *self.worker.lock().unwrap() = Some(worker);
        Ok(())
    }

    fn stop(&self) -> Option<Worker> {
        self.worker.lock().unwrap().take()
    }
}

impl Rig {
    /// `device` with its queues empty and of `size` entries (or its own maximum, if that is less); `fill`
    /// writes the chains before the device starts.
    pub(crate) fn new(
        device: Box<dyn VirtioDevice>,
        features: u64,
        size: u16,
        fill: impl FnOnce(&GuestMemory, &mut [Ring]),
    ) -> Self {
        let memory = guest_memory(RAM);
        let host = Host { worker: Arc::default(), epoll: Arc::new(Epoll::new().unwrap()) };
        let sizes = device.queue_sizes().to_vec();
        let mut rings: Vec<_> =
            (0..).zip(&sizes).map(|(i, &most)| Ring::new(&memory, i, size.min(most))).collect();
        fill(&memory, &mut rings);
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut transport = Transport::new(
            "bench".to_owned(),
            device,
            Box::new(host.clone()),
            memory.clone(),
            Interrupt::new(Box::new(line)),
        );
        let features = features | feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC;
        let before = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        transport.write_status(status::ACKNOWLEDGE);
        transport.write_status(status::ACKNOWLEDGE | status::DRIVER);
        transport.accept_features(0, (features & 0xffff_ffff) as u32);
        transport.accept_features(1, (features >> 32) as u32);
        transport.write_status(before);
        for (index, ring) in (0..).zip(&rings) {
            transport.configure_queue(index, |queue| *queue = ring.config());
        }
        transport.write_status(before | status::DRIVER_OK);
        assert_eq!(transport.status(), before | status::DRIVER_OK, "the device does not start");
        let events = vec![EpollEvent::default(); 16];
        Self { memory, rings, kicks: 0, transport, host, events }
    }

    /// Offers `count` chains of queue `index` and serves the device until it has handed them all back.
    pub(crate) fn round(&mut self, index: u32, count: u16) {
        let ring = index as usize;
        self.offer(index, count);
        while self.rings[ring].pending() > 0 {
            self.turn();
        }
    }

    /// Offers `count` chains of queue `index`, and kicks if the device wants it.
    pub(crate) fn offer(&mut self, index: u32, count: u16) {
        if self.rings[index as usize].offer(count) {
            self.transport.kick(index);
            self.kicks += 1;
        }
    }

    /// Waits for events and serves them: one turn of the loop.
    pub(crate) fn turn(&mut self) {
        let count = match self.host.epoll.wait(10_000, &mut self.events) {
            // The kernel has completed something in this thread's name.
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            other => other.unwrap(),
        };
        assert!(count > 0, "the device does nothing");
        let mut worker = self.host.worker.lock().unwrap();
        let worker = worker.as_mut().unwrap();
        for event in &self.events[..count] {
            assert!(worker.handle(event.data() as u32), "the device failed");
        }
    }
}
