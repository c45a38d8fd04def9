//! What of a balloon goes into a saved state.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{HINT_DONE, HintingStatus, MIB_TO_PAGES, Shared, lock};
use crate::state::{State, StateError};

impl Shared {
    /// See [`VirtioDevice::save`](crate::virtio::device::VirtioDevice::save).
    pub(in super::super) fn save(&self) -> State {
        let mut state = State::new();
        state.set("target_pages", self.target_pages());
        state.set("actual_pages", self.actual_pages());
        let hinting = lock(&self.hinting);
        state.set("hint.host", hinting.status.host_command);
        if let Some(command) = hinting.status.guest_command {
            state.set("hint.guest", command);
        }
        state.set("hint.last", hinting.last_id);
        state.set("hint.done_at_end", hinting.done_at_end);
        if let Some(poll) = &self.poll {
            let interval = lock(poll).interval.as_millis();
            state.set("statistics_ms", u64::try_from(interval).unwrap_or(u64::MAX));
        }
        state
    }

    /// See [`VirtioDevice::restore`](crate::virtio::device::VirtioDevice::restore).
    pub(in super::super) fn restore(
        &self,
        state: &State,
        is_active: bool,
    ) -> Result<(), StateError> {
        let most = self.limits.memory_mib << MIB_TO_PAGES;
        let target = state.checked(
            "target_pages",
            self.target_pages(),
            "a part of the memory",
            |pages| u64::from(*pages) <= most,
        )?;
        self.target_pages.store(target, Ordering::Release);
        if let Some(poll) = &self.poll {
            let mut poll = lock(poll);
            let interval = u64::try_from(poll.interval.as_millis()).unwrap_or(u64::MAX);
            poll.interval = Duration::from_millis(state.number("statistics_ms", interval)?);
        }
        let mut hinting = lock(&self.hinting);
        hinting.last_id = state.number("hint.last", HINT_DONE)?;
        if !is_active {
            return Ok(());
        }
        // What follows is what the driver said, or was told, and is over with it.
        self.set_actual_pages(state.number("actual_pages", 0)?);
        hinting.done_at_end = state.flag("hint.done_at_end", true)?;
        let guest_command = state.optional("hint.guest")?;
        let host_command = state.number("hint.host", 0)?;
        hinting.status = HintingStatus { host_command, guest_command };
        Ok(())
    }
}
