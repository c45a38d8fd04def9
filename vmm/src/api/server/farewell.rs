//! The end of the API: every client that waits for something is told, and gets a moment to read it.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use serde_json::json;
use vmm_sys_util::epoll::{ControlOperation, EpollEvent};

use super::{CONNECTIONS, Worker};
use crate::api::connection::InterestIn;
use crate::api::http::{Reply, Status};
use crate::api::routes::{self, For};
use crate::events::Exit;
use crate::requests::{Code, Refusal};

impl Worker {
    /// The last words: every client that waits for something gets it.
    pub(super) fn finish(mut self, exit: Option<&Exit>, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.add_events(Instant::now());
        for place in 0..CONNECTIONS {
            self.tell_ready(place, Instant::now());
        }
        for client in self.clients.iter_mut().flatten() {
            let now = Instant::now();
            if client.connection.is_streaming() {
                client.connection.end_stream(now);
            } else if client.waits_for == Some(For::End)
                && let Some(exit) = exit
            {
                client.connection.answer(&Reply::json(Status::Ok, &json!(exit)), now);
            } else if client.connection.is_waiting() {
                let refusal = Refusal::new(Code::Ended, "the machine has ended");
                client.connection.answer(&routes::reply(Err(refusal)), now);
            }
        }
        self.say_rest(deadline);
    }

    /// Waits until every client has what there is to say, or until `deadline`.
    fn say_rest(&mut self, deadline: Instant) {
        for fd in [self.listener.as_raw_fd(), self.bell.as_raw_fd()] {
            // Both are in there.
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        let mut ready = [EpollEvent::default(); CONNECTIONS];
        loop {
            for slot in &mut self.clients {
                let Some(client) = slot else { continue };
                let is_gone = !client.connection.speak(Instant::now());
                if is_gone || !client.connection.interest().output {
                    *slot = None;
                }
            }
            for client in self.clients.iter().flatten() {
                let only_output = InterestIn { input: false, output: true };
                let (fd, birth) = (client.connection.stream().as_raw_fd(), client.birth);
                // If it cannot be watched, the deadline ends the wait.
                let _ = self.watch(ControlOperation::Modify, fd, only_output, birth);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.clients.iter().all(Option::is_none) {
                return;
            }
            let left_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
            if self.epoll.wait(left_ms, &mut ready).is_err() {
                return;
            }
        }
    }
}
