//! A transport's registers and its queues' positions as a [`State`], and back.
//!
//! A queue is saved as its registers and the number of chains that were answered: what the device has taken besides
//! was not answered, and is taken again. What is read here may come from anybody's file; whatever it says, the
//! result is a device as a driver could have made it, or an error.

use super::{Transport, status};
use crate::interrupt;
use crate::state::{State, StateError};
use crate::virtio::feature;
use crate::virtio::queue::QueueConfig;

/// Before the names of the device's own fields.
const DEVICE: &str = "device.";

impl Transport {
    /// What a fresh transport in front of a device of the same make needs to go on from here. For a transport that
    /// is [paused](Self::pause); it goes on afterwards as if nobody had asked.
    ///
    /// # Errors
    /// [`StateError::Busy`] when the device is active and not at rest.
    pub fn save(&self) -> Result<State, StateError> {
        let works = self.is_active() && !self.interrupt.is_reset_needed();
        let positions = if works {
            self.resting.as_ref().and_then(|worker| worker.positions()).ok_or(StateError::Busy)?
        } else {
            Vec::new()
        };
        let mut state = State::new();
        state.set("status", self.status);
        state.set("driver_features", self.driver_features);
        state.set("refused", self.refused);
        state.set("interrupt", self.interrupt.status());
        state.set("generation", self.interrupt.generation());
        state.set("needs_reset", self.interrupt.is_reset_needed());
        state.set("queues", self.queues.len() as u64);
        for (index, config) in (0_u16..).zip(&self.queues) {
            let mut queue = State::new();
            queue.set("size", config.size);
            queue.set("ready", config.ready);
            queue.set("descriptors", config.descriptors);
            queue.set("driver", config.driver);
            queue.set("device", config.device);
            let position = positions.iter().find(|(of, _)| *of == index);
            queue.set("next_used", position.map_or(0, |(_, position)| position.next_used));
            state.put(&format!("queue.{index}."), queue);
        }
        state.put(DEVICE, self.device().save());
        Ok(state)
    }

    /// Goes on from `state`, which was [saved](Self::save): the device is as it was, and paused. With
    /// [`Self::resume`] every queue is looked at, and the driver is told to look.
    ///
    /// # Errors
    /// [`StateError`]; the transport is reset then, and its device of no use.
    pub fn restore(&mut self, state: &State) -> Result<(), StateError> {
        if self.status != 0 || self.resting.is_some() {
            return Err(StateError::NotFresh);
        }
        let restored = self.go_on_from(state);
        if restored.is_err() {
            self.reset();
        }
        restored
    }

    fn go_on_from(&mut self, state: &State) -> Result<(), StateError> {
        let wanted = "a status that a device can have";
        let status = state.checked("status", 0, wanted, |status| is_possible(*status))?;
        let needs_reset = state.flag("needs_reset", false)?;
        let works = status & status::DRIVER_OK != 0 && !needs_reset;
        self.device().restore(&state.part(DEVICE), works)?;
        self.driver_features = state.number("driver_features", 0)?;
        if status & status::FEATURES_OK != 0 && !self.are_features_acceptable() {
            let (accepted, offered) = (self.driver_features, self.offered_features());
            let missing = accepted & !offered | feature::VERSION_1 & !accepted;
            return Err(StateError::Features { missing });
        }
        let positions = self.restore_queues(state)?;
        let pending =
            state.checked("interrupt", 0, "an interrupt status", |n| n & !interrupt::ALL_BITS == 0);
        self.interrupt.restore(pending?, state.number("generation", 0)?, needs_reset);
        self.refused = state.number("refused", 0)?;
        self.status = status;
        if works {
            // By whoever restores: there need be no loop yet.
            let worker = self.start().worker(&positions).map_err(StateError::Start)?;
            self.kicks = worker.kicks().to_vec();
            worker.kick_all();
            self.resting = Some(worker);
            self.is_restored = true;
        }
        Ok(())
    }

    /// Takes over the registers of all queues; returns how many chains of each were answered.
    fn restore_queues(&mut self, state: &State) -> Result<Vec<u16>, StateError> {
        let count = self.queues.len();
        state.checked("queues", count, "the number of queues here", |n| *n == count)?;
        let mut positions = Vec::with_capacity(count);
        for (index, config) in self.queues.iter_mut().enumerate() {
            let queue = state.part(&format!("queue.{index}."));
            *config = QueueConfig {
                size: queue.number("size", 0)?,
                ready: queue.flag("ready", false)?,
                descriptors: queue.number("descriptors", 0)?,
                driver: queue.number("driver", 0)?,
                device: queue.number("device", 0)?,
            };
            positions.push(queue.number("next_used", 0)?);
        }
        Ok(positions)
    }
}

/// Whether a driver can have written these bits, in order; giving up is possible at any time.
fn is_possible(status: u32) -> bool {
    use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
    let steps = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];
    let mut reached = 0;
    let is_next = |step| {
        reached |= step;
        status & !FAILED == reached
    };
    status & !FAILED == 0 || steps.into_iter().any(is_next)
}
