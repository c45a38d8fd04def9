//! How somebody outside reaches the queues of a device while they are served.
//!
//! What is to be changed lies in shared state; this only calls the handlers to look at it, and tells the
//! driver that the configuration space is another.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use vmm_sys_util::eventfd::EventFd;

use super::queue::Queue;
use crate::interrupt::Interrupt;

/// One activation of a device, from `DRIVER_OK` to the reset: each of its handlers keeps it.
pub(super) struct Session {
    kicks: Vec<Arc<EventFd>>,
    interrupt: Interrupt,
}

/// A device's present session, if there is one.
#[derive(Default)]
pub(super) struct Sessions(Mutex<State>);

#[derive(Default)]
struct State {
    present: Weak<Session>,
    /// The configuration changed between two sessions, when the driver may already have read it.
    is_config_news: bool,
}

impl Sessions {
    /// Begins a session on `queues`; it ends with the last copy of what is returned.
    pub(super) fn begin<'q>(
        &self,
        queues: impl Iterator<Item = &'q Queue>,
        interrupt: Interrupt,
    ) -> Arc<Session> {
        let kicks = queues.map(Queue::kick_handle).collect();
        let session = Arc::new(Session { kicks, interrupt });
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.present = Arc::downgrade(&session);
        if std::mem::take(&mut state.is_config_news) {
            session.interrupt.config_changed();
        }
        session
    }

    /// Whether a driver works with the device.
    pub(super) fn is_present(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).present.strong_count() > 0
    }

    /// Has every handler of the device called.
    pub(super) fn wake(&self) {
        let present = self.0.lock().unwrap_or_else(PoisonError::into_inner).present.upgrade();
        for kick in present.iter().flat_map(|session| &session.kicks) {
            if let Err(error) = kick.write(1) {
                log::error!("a queue cannot be told of a change: {error}");
            }
        }
    }

    /// Tells the driver, at once or when there is one, that the configuration space changed.
    pub(super) fn config_changed(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.present.upgrade() {
            Some(session) => session.interrupt.config_changed(),
            None => state.is_config_news = true,
        }
    }
}
