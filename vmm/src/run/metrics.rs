//! What is counted, taken together and told.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::Session;
use crate::boot_timer;
use crate::config::ID_DEFAULT;
use crate::logger;
use crate::metrics::host::Host;
use crate::metrics::{Snapshot, openmetrics};
use crate::requests::{Answer, Code, Outcome, Refusal, ReplyTo};

/// The text is on the heap.
const STACK: usize = 256 << 10;

impl Session {
    /// Tells all metrics in a moment. To ask the host takes a while, so a thread of its own does that.
    pub(super) fn tell_metrics(&self, reply: ReplyTo) {
        let snapshot = self.snapshot();
        let reply = Arc::new(Mutex::new(Some(reply)));
        let way = reply.clone();
        let tell = move || {
            let host = Host::ask(&snapshot.memory);
            give(&way, Ok(Answer::Metrics(openmetrics::render(&snapshot, &host))));
        };
        let thread = thread::Builder::new().name("metrics".to_owned()).stack_size(STACK);
        if let Err(error) = thread.spawn(tell) {
            let message = format!("there is no thread to collect metrics on: {error}");
            give(&reply, Err(Refusal::new(Code::HostFailure, message)));
        }
    }

    /// Everything that is counted, now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let planned = self.life.as_ref().map(|life| life.plan.id.as_str());
        let id = planned.or(self.config.id.as_deref()).unwrap_or(ID_DEFAULT);
        let mut snapshot = Snapshot::new(id, self.phase, self.begun);
        snapshot.guest_boot = boot_timer::took().map(|took| took.wall);
        (snapshot.pause, snapshot.resume) = (self.pause_took, self.resume_took);
        snapshot.requests = self.api_counters.read();
        snapshot.log_lines_lost = logger::lost();
        snapshot.loops = vec![("main".to_owned(), self.event_loop.handle().counts())];
        if let Some(life) = &self.life {
            life.machine.count_into(&mut snapshot);
            snapshot.consoles = life.surroundings.consoles.counts();
        }
        snapshot
    }
}

fn give(reply: &Mutex<Option<ReplyTo>>, outcome: Outcome) {
    if let Some(reply) = reply.lock().unwrap_or_else(PoisonError::into_inner).take() {
        reply(outcome);
    }
}
