//! Changing the limits of a network card while its machine runs.

use std::sync::Arc;

use super::Shared;
use crate::metrics::Numbers;
use crate::rate_limiter::{Limiter, Limits};

/// What a network card is limited by, all queue pairs together: bytes of frames, and frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetLimits {
    /// Towards the guest.
    pub rx: Limits,
    /// From the guest.
    pub tx: Limits,
}

/// Changes a network card from outside: from any thread, whatever state the device is in. Nothing here waits
/// for the guest or for the device's queues.
#[derive(Clone)]
pub struct NetControl {
    shared: Arc<Shared>,
}

impl NetControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> NetLimits {
        NetLimits { rx: self.shared.rx_limiter.limits(), tx: self.shared.tx_limiter.limits() }
    }

    /// What the card has counted since it was made.
    #[must_use]
    pub fn counts(&self) -> Numbers {
        self.shared.counters.read()
    }

    /// What frames towards the guest are limited by.
    #[must_use]
    pub fn rx_limiter(&self) -> &Arc<Limiter> {
        &self.shared.rx_limiter
    }

    /// What frames from the guest are limited by.
    #[must_use]
    pub fn tx_limiter(&self) -> &Arc<Limiter> {
        &self.shared.tx_limiter
    }

    /// Sets other limits; frames that wait are measured by them.
    pub fn set_limits(&self, limits: NetLimits) {
        self.shared.rx_limiter.set_limits(limits.rx);
        self.shared.tx_limiter.set_limits(limits.tx);
        self.shared.sessions.wake();
    }
}

#[cfg(test)]
mod tests;
