//! What clients ask of the machine's owner, and the way back from there to the API's thread.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use vmm_sys_util::eventfd::EventFd;

use super::{Order, ring_bell};
use crate::api::http::SWITCHING;
use crate::requests::{ConsoleDevice, Message, Outcome, ReplyTo, Visit};

/// The way back.
#[derive(Clone)]
pub(super) struct Replies {
    pub(super) to: Sender<Order>,
    pub(super) bell: Arc<EventFd>,
}

impl Replies {
    /// Whose outcome is the answer to `client`.
    pub(super) fn answering(self, client: u64) -> ReplyTo {
        Box::new(move |outcome| self.send(Order::Answer(client, outcome)))
    }

    /// `client`, whose connection is `stream`, wants to be at a console.
    pub(super) fn visit(
        self,
        device: Option<ConsoleDevice>,
        stream: UnixStream,
        client: u64,
    ) -> Message {
        let reply = move |outcome: Outcome| {
            self.send(match outcome {
                Ok(_) => Order::Leave(client),
                refused => Order::Answer(client, refused),
            });
        };
        Message::Visit(Visit { device, client: stream, words: SWITCHING }, Box::new(reply))
    }

    fn send(&self, order: Order) {
        // Fails only when the thread is gone, and its clients with it.
        if self.to.send(order).is_ok() {
            ring_bell(&self.bell);
        }
    }
}
