//! A balloon with its driver, and a host that only takes notes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use super::super::*;
use crate::backend::reclaim::ReclaimError;
use crate::memory::GuestMemory;
use crate::test_util::{Running, guest_memory};
use crate::virtio::queue::QueueConfig;

/// All features of a balloon.
pub(super) const ALL: u64 = F_STATS_VQ | F_DEFLATE_ON_OOM | F_FREE_PAGE_HINT | F_PAGE_REPORTING;
pub(super) const MEMORY_MIB: u32 = 32;
/// Where requests lie.
pub(super) const BUFFER: u64 = 0x20_0000;
/// Pages to do without, up to the end of memory.
pub(super) const PAGES: u64 = 0x40_0000;
/// Beyond the guest's memory.
pub(super) const END: u64 = (MEMORY_MIB as u64) << 20;

/// Takes notes of what it is given.
pub(super) struct FakeReclaim {
    page_size: u64,
    taken: Mutex<Vec<(u64, u64)>>,
    pub(super) refuses: AtomicBool,
}

impl FakeReclaim {
    /// The ranges since the last call: start and length.
    pub(super) fn taken(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

impl MemoryReclaim for FakeReclaim {
    fn page_size(&self) -> u64 {
        self.page_size
    }

    fn reclaim(
        &self,
        memory: &GuestMemory,
        start: GuestAddress,
        len: u64,
    ) -> Result<(), ReclaimError> {
        let len_in_memory = usize::try_from(len).unwrap();
        assert!(crate::memory::is_ram(memory, start, len_in_memory), "{start:?}+{len:#x}");
        assert!(start.0.is_multiple_of(self.page_size) && len.is_multiple_of(self.page_size));
        if self.refuses.load(Ordering::Relaxed) {
            let source = std::io::Error::from_raw_os_error(libc::EINVAL);
            return Err(ReclaimError::Refused { address: start.0, len, source });
        }
        self.taken.lock().unwrap().push((start.0, len));
        Ok(())
    }
}

/// What a test wants of its balloon.
pub(super) struct Setup {
    pub(super) target_mib: u32,
    pub(super) deflate_on_oom: bool,
    pub(super) statistics: Option<Duration>,
    pub(super) reporting: bool,
    pub(super) hinting: bool,
    pub(super) page_size: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            target_mib: 0,
            deflate_on_oom: true,
            statistics: Some(Duration::ZERO),
            reporting: true,
            hinting: true,
            page_size: 4096,
        }
    }
}

impl Setup {
    pub(super) fn balloon(self) -> Balloon {
        let reclaim = self.reclaim();
        self.balloon_on(reclaim)
    }

    fn reclaim(&self) -> Arc<FakeReclaim> {
        let (taken, refuses) = (Mutex::default(), AtomicBool::default());
        Arc::new(FakeReclaim { page_size: self.page_size, taken, refuses })
    }

    fn balloon_on(self, reclaim: Arc<FakeReclaim>) -> Balloon {
        Balloon::new(BalloonOptions {
            id: "balloon".to_owned(),
            target_mib: self.target_mib,
            memory_mib: MEMORY_MIB.into(),
            deflate_on_oom: self.deflate_on_oom,
            statistics: self.statistics,
            reporting: self.reporting,
            hinting: self.hinting,
            reclaim,
        })
        .unwrap()
    }
}

pub(super) struct Rig {
    pub(super) memory: GuestMemory,
    pub(super) running: Running,
    pub(super) control: BalloonControl,
    pub(super) reclaim: Arc<FakeReclaim>,
}

impl Rig {
    /// A balloon whose driver accepted `features` and set up all queues.
    pub(super) fn new(setup: Setup, features: u64) -> Self {
        let memory = guest_memory((MEMORY_MIB as usize) << 20);
        let reclaim = setup.reclaim();
        let balloon = setup.balloon_on(reclaim.clone());
        let control = balloon.control();
        let running = Running::new(Box::new(balloon), &memory, features, 0);
        Self { memory, running, control, reclaim }
    }

    /// The same with some of the queues only.
    pub(super) fn with_queues(setup: Setup, features: u64, enabled: [bool; 5]) -> Self {
        let mut rig = Self::new(setup, features);
        let transport = &mut rig.running.transport;
        transport.write_status(0);
        let before = status::ACKNOWLEDGE | status::DRIVER;
        transport.write_status(status::ACKNOWLEDGE);
        transport.write_status(before);
        let features = features | crate::virtio::feature::VERSION_1;
        transport.accept_features(0, u32::try_from(features & 0xffff_ffff).unwrap());
        transport.accept_features(1, u32::try_from(features >> 32).unwrap());
        transport.write_status(before | status::FEATURES_OK);
        for ((index, queue), enabled) in (0..).zip(&rig.running.queues).zip(enabled) {
            let config = if enabled { queue.config() } else { QueueConfig::default() };
            transport.configure_queue(index, |q| *q = config);
        }
        transport.write_status(before | status::FEATURES_OK | status::DRIVER_OK);
        rig
    }

    /// The balloon in another machine, whose host has taken note of the same.
    pub(super) fn copy(&mut self, setup: Setup) -> Self {
        let reclaim = setup.reclaim();
        *reclaim.taken.lock().unwrap() = self.reclaim.taken.lock().unwrap().clone();
        let balloon = setup.balloon_on(reclaim.clone());
        let control = balloon.control();
        let running = self.running.copy(Box::new(balloon));
        Self { memory: running.memory.clone(), running, control, reclaim }
    }

    /// Sends `bytes` by a queue; `false` when the device failed.
    pub(super) fn send(&mut self, queue: u32, bytes: &[u8]) -> bool {
        self.memory.write_slice(bytes, GuestAddress(BUFFER)).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        self.running.queues[queue as usize].add(&[(BUFFER, len, false)]);
        self.running.kick(queue)
    }

    /// Sends page numbers.
    pub(super) fn send_pages(&mut self, queue: u32, pages: &[u32]) -> bool {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.send(queue, &bytes)
    }

    pub(super) fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        self.running.queues[queue].take_used()
    }
}

/// A field of the configuration space.
pub(super) fn config(rig: &Rig, offset: u64) -> u32 {
    let mut bytes = [0xaa; 4];
    rig.running.transport.read_config(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

use crate::virtio::transport::status;
