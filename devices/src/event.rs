//! The little vocabulary between things that own file descriptors and the loop that watches them.
//!
//! The loop itself lives in the `vmm` crate; nothing here waits or dispatches.

use std::os::fd::RawFd;

pub use vmm_sys_util::epoll::EventSet;

/// One file descriptor to watch, and the token that names it to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// The descriptor; its owner keeps it open for as long as the interest is registered.
    pub fd: RawFd,
    /// Handed back when the descriptor is ready; unique within its owner.
    pub token: u16,
    /// What to watch for. A descriptor whose owner cannot always drain it (a tap without receive
    /// buffers) must be edge-triggered, or the loop would spin.
    pub events: EventSet,
}

impl Interest {
    /// Watches `fd` for input, level-triggered: for descriptors that are always drained.
    #[must_use]
    pub fn readable(fd: RawFd, token: u16) -> Self {
        Self { fd, token, events: EventSet::IN }
    }

    /// Watches `fd` for new input, edge-triggered.
    #[must_use]
    pub fn readable_edge(fd: RawFd, token: u16) -> Self {
        Self { fd, token, events: EventSet::IN | EventSet::EDGE_TRIGGERED }
    }
}

/// An error and its causes on one line, for the log.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
