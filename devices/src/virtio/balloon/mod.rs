//! Memory balloon (virtio 1.3, 5.5): RAM that the guest does without goes back to the host.
//!
//! There are three ways. The host sets a *target*, and the driver hands over pages until the balloon has that
//! size ([`pages`]). Or the driver *reports* pages whenever they become free, without being asked; or it *hints*
//! at all its free pages when the host wants to know ([`free`]). In each, the contents of the pages are dropped,
//! and a page comes back when the guest touches it.
//!
//! What happens to the host's memory is [`MemoryReclaim`]'s; whoever wants another target or the guest's
//! statistics holds a [`BalloonControl`]. Not offered: `MUST_TELL_HOST` (pages that are used again without
//! notice do no harm here) and `PAGE_POISON` (a guest that poisons its free memory does not report it).

mod control;
mod free;
mod pages;
mod release;
mod statistics;

use std::sync::Arc;
use std::time::Duration;

use super::DeviceType;
use super::device::{ActivateError, Activation, QueueHandler, VirtioDevice, read_config_bytes};
use super::queue::Queue;
use crate::backend::reclaim::MemoryReclaim;
use crate::state::{State, StateError};

pub use control::{BalloonControl, BalloonCounters, BalloonError, HintingStatus};
pub use statistics::Statistics;

use control::{Limits, Session, Shared};
use release::Releaser;

/// There is a queue for the guest's statistics.
pub const F_STATS_VQ: u64 = 1 << 1;
/// The driver takes pages back when the guest runs out of memory.
pub const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// The driver can be asked for all its free pages.
pub const F_FREE_PAGE_HINT: u64 = 1 << 3;
/// The driver reports pages that have become free.
pub const F_PAGE_REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// Linux reports pages only through a queue of at least 32.
const QUEUE_SIZES: [u16; 5] = [128; 5];

/// Offset of `actual` in the configuration space, after `num_pages` (virtio 1.3, 5.5.4).
const ACTUAL: u64 = 4;

/// What a balloon is made of.
pub struct BalloonOptions {
    /// What the user calls it, for messages.
    pub id: String,
    /// What to take from the guest at first, in MiB.
    pub target_mib: u32,
    /// All RAM of the guest in MiB, which no target exceeds.
    pub memory_mib: u64,
    /// Whether the guest may take memory back rather than kill processes.
    pub deflate_on_oom: bool,
    /// How often the guest is asked for statistics; without a time it never is, and offers none.
    pub statistics: Option<Duration>,
    /// Whether the guest reports pages as they become free.
    pub reporting: bool,
    /// Whether the guest can be asked for all its free pages.
    pub hinting: bool,
    /// Where pages go.
    pub reclaim: Arc<dyn MemoryReclaim>,
}

/// The balloon device.
pub struct Balloon {
    features: u64,
    reclaim: Arc<dyn MemoryReclaim>,
    shared: Arc<Shared>,
}

impl Balloon {
    /// A balloon as `options` say.
    ///
    /// # Errors
    /// [`BalloonError::TooMuch`] when the target exceeds the guest's memory; [`BalloonError::Host`] when the host
    /// has no timer for the statistics.
    pub fn new(options: BalloonOptions) -> Result<Self, BalloonError> {
        let BalloonOptions { id, target_mib, memory_mib, statistics, .. } = options;
        let mut features = 0;
        for (is_wanted, feature) in [
            (statistics.is_some(), F_STATS_VQ),
            (options.deflate_on_oom, F_DEFLATE_ON_OOM),
            (options.hinting, F_FREE_PAGE_HINT),
            (options.reporting, F_PAGE_REPORTING),
        ] {
            if is_wanted {
                features |= feature;
            }
        }
        let limits = Limits { memory_mib, hinting: options.hinting };
        let shared = Shared::new(id, limits, statistics)?;
        let balloon = Self { features, reclaim: options.reclaim, shared };
        balloon.control().set_target(target_mib)?;
        Ok(balloon)
    }

    /// A hand on the balloon, for whoever manages the machine.
    #[must_use]
    pub fn control(&self) -> BalloonControl {
        BalloonControl::new(self.shared.clone())
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::BALLOON
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [a, b, c, d] = self.shared.target_pages().to_le_bytes();
        let [e, f, g, h] = self.shared.actual_pages().to_le_bytes();
        let [i, j, k, l] = self.shared.hint_command().to_le_bytes();
        read_config_bytes(&[a, b, c, d, e, f, g, h, i, j, k, l], offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut actual = self.shared.actual_pages().to_le_bytes();
        for (place, byte) in (ACTUAL..).zip(&mut actual) {
            let from = place.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
            if let Some(new) = from.and_then(|at| data.get(at)) {
                *byte = *new;
            }
        }
        self.shared.set_actual_pages(u32::from_le_bytes(actual));
    }

    fn activate(
        &mut self,
        mut activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError> {
        let inflate = activation.take_queue(INFLATE)?;
        let deflate = activation.take_queue(DEFLATE)?;
        let mut more = MoreQueues::new(&mut activation);
        let mut take = |feature| more.take(feature);
        let (statistics, hints, reports) =
            (take(F_STATS_VQ)?, take(F_FREE_PAGE_HINT)?, take(F_PAGE_REPORTING)?);

        let shared = &self.shared;
        let session = Session::begin(shared.clone(), activation.interrupt, statistics.is_some());
        let releaser = || Releaser::new(self.reclaim.clone(), shared.clone());
        let mut handlers: Vec<Box<dyn QueueHandler>> = vec![
            Box::new(pages::Inflate::new(inflate, releaser(), session)),
            Box::new(pages::Deflate::new(deflate, shared.clone())),
        ];
        if let Some(queue) = statistics {
            handlers.push(Box::new(statistics::Collector::new(queue, shared.clone())));
        }
        if let Some(queue) = hints {
            handlers.push(Box::new(free::Hints::new(queue, releaser())));
        }
        if let Some(queue) = reports {
            handlers.push(Box::new(free::Reports::new(queue, releaser())));
        }
        Ok(handlers)
    }

    fn save(&self) -> State {
        self.shared.save()
    }

    fn restore(&mut self, state: &State, is_active: bool) -> Result<(), StateError> {
        self.shared.restore(state, is_active)
    }
}

/// The queues that come with features.
///
/// The specification gives each a fixed number (virtio 1.3, 5.5.2); Linux numbers those that it uses in a row.
/// Both have them in the same order, so it is the order that counts here.
struct MoreQueues {
    acked: u64,
    queues: std::vec::IntoIter<Option<Queue>>,
    index: usize,
}

impl MoreQueues {
    /// Those behind the first two, which have been taken.
    fn new(activation: &mut Activation) -> Self {
        let queues = std::mem::take(&mut activation.queues).into_iter();
        Self { acked: activation.features, queues, index: 0 }
    }

    /// The next one, if the driver accepted `feature`.
    fn take(&mut self, feature: u64) -> Result<Option<Queue>, ActivateError> {
        if self.acked & feature == 0 {
            return Ok(None);
        }
        for queue in self.queues.by_ref() {
            self.index += 1;
            if queue.is_some() {
                return Ok(queue);
            }
        }
        Err(ActivateError::QueueMissing { index: self.index.min(QUEUE_SIZES.len() - 1) })
    }
}

#[cfg(test)]
mod tests;
