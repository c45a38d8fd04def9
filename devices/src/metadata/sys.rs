//! One descriptor that is ready whenever one of several is: an epoll within the event loop's.

#![expect(unsafe_code, reason = "the epoll wrapper lends its descriptor as a number only")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Ready for input whenever one of its descriptors becomes so.
pub(super) struct AnyOf {
    epoll: Epoll,
}

impl AnyOf {
    /// Watches `fds`, which their owners keep open for as long as this is in use.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn new(fds: &[RawFd]) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        for &fd in fds {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
        }
        Ok(Self { epoll })
    }
}

impl AsFd for AnyOf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the epoll's, which is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) }
    }
}
