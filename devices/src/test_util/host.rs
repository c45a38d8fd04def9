//! A host without KVM and without an event loop: the test itself delivers events.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

use super::{DriverQueue, FakeLine, copy_of, fake_interrupt};
use crate::event::Interest;
use crate::memory::GuestMemory;
use crate::virtio::device::{DeviceHost, VirtioDevice, Worker};
use crate::virtio::feature;
use crate::virtio::transport::{Transport, status};

/// Keeps the worker where the test can reach it.
#[derive(Clone, Default)]
pub struct FakeHost {
    served: Arc<Mutex<Option<Served>>>,
    refuse: bool,
}

/// A worker, and what watches each of its descriptors: one by one, so that events come in the order of the
/// worker's interests.
struct Served {
    worker: Worker,
    watches: Vec<(u32, Epoll)>,
}

impl FakeHost {
    /// A host that refuses to start anything.
    #[must_use]
    pub fn refusing() -> Self {
        Self { refuse: true, ..Self::default() }
    }

    /// Whether a worker is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lock().is_some()
    }

    /// Delivers every event that is ready, once, without waiting; `false` when the device failed.
    pub fn run(&self) -> bool {
        self.lock().as_mut().is_some_and(Served::deliver_ready)
    }

    /// How many descriptors are watched.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.lock().as_ref().map_or(0, |served| served.worker.interests().len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceHost for FakeHost {
    fn start(&self, worker: Worker) -> io::Result<()> {
        if self.refuse {
            return Err(io::Error::other("refused by the test"));
        }
        *self.lock() = Some(Served { worker, watches: Vec::new() });
        Ok(())
    }

    fn stop(&self) -> Option<Worker> {
        self.lock().take().map(|served| served.worker)
    }
}

#[expect(clippy::expect_used, reason = "test helper")]
impl Served {
    fn deliver_ready(&mut self) -> bool {
        let mut alive = true;
        for (data, interest) in self.worker.interests() {
            let mut event = [EpollEvent::default()];
            // An interest that is new is watched from now on.
            let epoll = match self.watches.iter().find(|(known, _)| *known == data) {
                Some((_, epoll)) => epoll,
                None => {
                    self.watches.push((data, watch(interest).expect("an epoll descriptor")));
                    let (_, epoll) = self.watches.last().expect("just added");
                    epoll
                }
            };
            if epoll.wait(0, &mut event).is_ok_and(|ready| ready == 1) {
                alive = self.worker.handle(data);
            }
        }
        alive
    }
}

fn watch(interest: Interest) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    epoll.ctl(ControlOperation::Add, interest.fd, EpollEvent::new(interest.events, 0))?;
    Ok(epoll)
}

/// A device that was driven up to `DRIVER_OK` through its transport, as a driver would.
pub struct Running {
    /// The device's registers.
    pub transport: Transport,
    /// Delivers its events.
    pub host: FakeHost,
    /// Counts its interrupts.
    pub line: FakeLine,
    /// The driver's side of each queue, 256 KiB apart from the address given.
    pub queues: Vec<DriverQueue>,
    /// All memory of its machine.
    pub memory: GuestMemory,
}

impl Running {
    /// Brings `device` up with `features` (VERSION_1 is added) and queues of 16 entries from `base` on.
    #[must_use]
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: &GuestMemory,
        features: u64,
        base: u64,
    ) -> Self {
        let host = FakeHost::default();
        let (interrupt, line) = fake_interrupt();
        let count = device.queue_sizes().len();
        let queues: Vec<_> =
            (0..count).map(|i| DriverQueue::new(memory, base + 0x40000 * (i as u64), 16)).collect();
        let transport = Transport::new(
            "test".to_owned(),
            device,
            Box::new(host.clone()),
            memory.clone(),
            interrupt,
        );
        let mut running = Self { transport, host, line, queues, memory: memory.clone() };
        running.bring_up(features);
        running
    }

    /// Another machine that goes on from here, with `device` and a copy of all memory. This one
    /// is paused meanwhile, and goes on as well.
    ///
    /// # Panics
    /// When the device cannot be saved, or `device` does not take that.
    pub fn copy(&mut self, device: Box<dyn VirtioDevice>) -> Self {
        self.copy_at(device, None)
    }

    /// The same, as if `index` chains had gone through each of the queues, which are empty.
    ///
    /// # Panics
    /// As [`Self::copy`].
    #[must_use]
    pub fn wound_to(mut self, index: u16, device: Box<dyn VirtioDevice>) -> Self {
        self.copy_at(device, Some(index))
    }

    #[expect(clippy::expect_used, reason = "test helper")]
    fn copy_at(&mut self, device: Box<dyn VirtioDevice>, index: Option<u16>) -> Self {
        self.transport.pause();
        let mut state = self.transport.save().expect("a device at rest");
        let memory = copy_of(&self.memory);
        self.transport.resume();

        let host = FakeHost::default();
        let (interrupt, line) = fake_interrupt();
        let mut queues: Vec<_> = self.queues.iter().map(|queue| queue.in_copy(&memory)).collect();
        for (number, queue) in queues.iter_mut().enumerate() {
            if let Some(index) = index {
                queue.wind_to(index);
                state.set(&format!("queue.{number}.next_used"), index);
            }
        }
        let state = serde_json::to_string(&state).expect("text");
        let state = serde_json::from_str(&state).expect("the same text");
        let (name, served) = ("copy".to_owned(), Box::new(host.clone()));
        let mut transport = Transport::new(name, device, served, memory.clone(), interrupt);
        transport.restore(&state).expect("a state of such a device");
        transport.resume();
        Self { transport, host, line, queues, memory }
    }

    /// Negotiates, configures every queue and says `DRIVER_OK`.
    pub fn bring_up(&mut self, features: u64) {
        let transport = &mut self.transport;
        let features = features | feature::VERSION_1;
        transport.write_status(status::ACKNOWLEDGE);
        transport.write_status(status::ACKNOWLEDGE | status::DRIVER);
        transport.accept_features(0, u32::try_from(features & 0xffff_ffff).unwrap_or(0));
        transport.accept_features(1, u32::try_from(features >> 32).unwrap_or(0));
        let before = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        transport.write_status(before);
        for (index, queue) in (0..).zip(&self.queues) {
            transport.configure_queue(index, |q| *q = queue.config());
        }
        transport.write_status(before | status::DRIVER_OK);
    }

    /// Kicks queue `index` if the device wants to hear of the `added` chains offered last, as a driver does.
    pub fn kick_if_wanted(&mut self, index: usize, added: u16, has_event_idx: bool) {
        let is_wanted =
            self.queues.get(index).is_some_and(|q| q.is_kick_wanted(added, has_event_idx));
        if is_wanted {
            self.transport.kick(u32::try_from(index).unwrap_or(u32::MAX));
        }
    }

    /// Kicks queue `index` and delivers what is ready; `false` when the device failed.
    pub fn kick(&mut self, index: u32) -> bool {
        self.transport.kick(index);
        self.host.run()
    }
}
