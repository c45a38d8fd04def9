//! Changing a block device while its machine runs: its limits, and the disk behind it.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::config;
use super::counters::{QueueCounters, QueueCounts, QueueTimes};
use crate::backend::disk::{Disk, DiskError};
use crate::rate_limiter::{Limiter, Limits};
use crate::virtio::session::Sessions;

/// What device, queue handlers and [`BlockControl`] have in common.
pub(super) struct Shared {
    disk: Mutex<Arc<Disk>>,
    /// How often the disk was replaced.
    changes: AtomicU32,
    /// Those of each queue, in order, where somebody wants to know how long requests take.
    times: OnceLock<Vec<Arc<QueueTimes>>>,
    /// Those of each queue, in order.
    pub(super) counters: Vec<Arc<QueueCounters>>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) sessions: Sessions,
}

impl Shared {
    pub(super) fn new(disk: Arc<Disk>, limiter: Arc<Limiter>, queues: usize) -> Arc<Self> {
        Arc::new(Self {
            disk: Mutex::new(disk),
            changes: AtomicU32::new(0),
            times: OnceLock::new(),
            counters: (0..queues).map(|_| Arc::default()).collect(),
            limiter,
            sessions: Sessions::default(),
        })
    }

    /// The disk at present.
    pub(super) fn disk(&self) -> Arc<Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those of queue `index`, where they are measured.
    pub(super) fn times(&self, index: usize) -> Option<&Arc<QueueTimes>> {
        self.times.get()?.get(index)
    }

    /// How often the disk was replaced. Whoever asks first, and then for the disk, does not miss one.
    pub(super) fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }
}

/// Changes a block device from outside: from any thread, whatever state the device is in. Nothing here waits
/// for the guest or for the device's queues.
#[derive(Clone)]
pub struct BlockControl {
    shared: Arc<Shared>,
}

impl BlockControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The limits in force, for all queues together.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.limiter.limits()
    }

    /// Sets other limits; requests that wait are measured by them.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.limiter.set_limits(limits);
        self.shared.sessions.wake();
    }

    /// Has the time that requests take measured from the next activation of the device on.
    pub fn measure_times(&self) {
        let queues = self.shared.counters.len();
        self.shared.times.get_or_init(|| (0..queues).map(|_| Arc::default()).collect());
    }

    /// What each queue has counted since the device was made.
    #[must_use]
    pub fn counts(&self) -> Vec<QueueCounts> {
        let read = |(index, counters): (usize, &Arc<QueueCounters>)| {
            QueueCounts::read(counters, self.shared.times(index).map(|times| &**times))
        };
        self.shared.counters.iter().enumerate().map(read).collect()
    }

    /// What its queues are limited by.
    #[must_use]
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.shared.limiter
    }

    /// The disk at present.
    #[must_use]
    pub fn disk(&self) -> Arc<Disk> {
        self.shared.disk()
    }

    /// Puts the disk at `path` in the place of the present one, opened in the same way (read-only, direct).
    /// The same path again makes a changed size known. Requests under way end on the old disk; the driver
    /// hears of another capacity.
    ///
    /// Opening may wait for the host's disk.
    ///
    /// # Errors
    /// [`DiskError`]; the device goes on with the disk it has.
    pub fn set_disk(&self, path: &Path) -> Result<(), DiskError> {
        let old = self.disk();
        self.replace(&old, old.open_successor(path)?);
        Ok(())
    }

    /// Makes a changed size known, as [`Self::set_disk`] with the same path does, and opens nothing.
    ///
    /// # Errors
    /// [`DiskError`]; the device goes on with the disk as it was.
    pub fn look_again(&self) -> Result<(), DiskError> {
        let old = self.disk();
        self.replace(&old, old.look_again()?);
        Ok(())
    }

    fn replace(&self, old: &Disk, new: Disk) {
        let new = Arc::new(new);
        let is_config_other = config::space(old, 1) != config::space(&new, 1);
        *self.shared.disk.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.shared.changes.fetch_add(1, Ordering::Release);
        self.shared.sessions.wake();
        if is_config_other {
            self.shared.sessions.config_changed();
        }
    }
}
