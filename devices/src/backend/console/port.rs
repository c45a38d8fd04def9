//! A guest device's end of a console.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::{Shared, Size, Stage};
use crate::event::Interest;

/// See the module. Clones are the same port, so that a device can be reset and started again.
#[derive(Clone)]
pub struct ConsolePort {
    shared: Arc<Shared>,
    stage: Stage,
    doorbell: Arc<EventFd>,
}

impl ConsolePort {
    pub(super) fn new(shared: Arc<Shared>, stage: Stage) -> io::Result<Self> {
        let doorbell = shared.hub.doorbell(stage)?;
        Ok(Self { shared, stage, doorbell })
    }

    /// Takes guest output; the event loop delivers it. For vCPU threads: copies and never waits.
    pub fn write(&self, bytes: &[u8]) {
        self.shared.hub.write(self.stage, bytes, true);
    }

    /// Takes guest output and delivers at once what its readers take. For the event loop's thread only.
    pub fn write_through(&self, bytes: &[u8]) {
        self.shared.hub.write(self.stage, bytes, false);
        self.shared.lock_host().flush(&self.shared.hub);
    }

    /// Shows guest output even while another device is in front, without coming to the front. Never
    /// waits.
    pub fn write_emergency(&self, bytes: &[u8]) {
        self.shared.hub.write_emergency(bytes);
    }

    /// Moves waiting input to `to`; returns how much. Never waits; makes room for more.
    pub fn read(&self, to: &mut [u8]) -> usize {
        self.shared.hub.read(self.stage, to)
    }

    /// Whether input is waiting for this device.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.shared.hub.has_input(self.stage)
    }

    /// The device was reset: it gives the console back until it writes again.
    pub fn release(&self) {
        self.shared.hub.release(self.stage);
    }

    /// Whether the device has spoken, so that it is shown and gets the input.
    #[must_use]
    pub fn is_in_front(&self) -> bool {
        self.shared.hub.is_speaking(self.stage)
    }

    /// As if the device had spoken: another one, whose place it takes, has.
    pub fn come_to_the_front(&self) {
        self.shared.hub.speak(self.stage);
    }

    /// The size of the terminal; `None` when the console is none.
    #[must_use]
    pub fn size(&self) -> Option<Size> {
        self.shared.hub.size()
    }

    /// As if the terminal had this size.
    #[cfg(test)]
    pub(crate) fn set_size(&self, size: Size) {
        self.shared.hub.set_size(size);
    }

    /// The newest output of this device that was not shown because the other one was in front, for a
    /// report when the machine ends badly.
    #[must_use]
    pub fn hidden(&self) -> Vec<u8> {
        self.shared.hub.hidden(self.stage)
    }

    /// Becomes ready when there is input, or another size.
    #[must_use]
    pub fn doorbell(&self, token: u16) -> Interest {
        Interest::readable(self.doorbell.as_raw_fd(), token)
    }

    /// Takes note of the doorbell, so that it is quiet until the next ring.
    pub fn take_doorbell(&self) {
        // Fails only when it did not ring, which is as good.
        let _ = self.doorbell.read();
    }
}
