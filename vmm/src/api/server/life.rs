//! The thread's life: it serves, and rests: for the time in which the process forks, or for good.

use std::io;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use devices::backend::socket::SocketFile;
use devices::event::chain;

use super::{Order, STACK, Server, Worker, ring_bell};
use crate::api::ApiError;
use crate::events::Exit;
use crate::seccomp::Thread;
use crate::threads::{Handover, rest_for_good};

pub(super) enum State {
    /// Clients wait.
    AtRest(Box<Worker>),
    /// They are served by a thread, which hands the work back when it is to rest.
    Serving(Arc<Handover<Option<Box<Worker>>>>),
    Over,
}

impl Server {
    /// Serves clients, on a thread.
    ///
    /// # Errors
    /// [`ApiError::Host`] without a thread.
    pub fn go_on(&mut self) -> Result<(), ApiError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::AtRest(worker) => {
                let filters = self.filters.clone();
                filters.announce();
                let served = Arc::new(Handover::default());
                let back = served.clone();
                let serve = move || {
                    let worker = match filters.confine(Thread::Api) {
                        Ok(()) => worker.run(),
                        Err(error) => {
                            log::error!("the API is not served: {}", chain(&error));
                            None
                        }
                    };
                    back.give(worker);
                    rest_for_good()
                };
                Builder::new()
                    .name("api".to_owned())
                    .stack_size(STACK)
                    .spawn(serve)
                    .map_err(ApiError::Host)?;
                self.state = State::Serving(served);
            }
            other => self.state = other,
        }
        Ok(())
    }

    /// Lets clients wait until [`Self::go_on`]. The thread holds nothing and does nothing any more.
    ///
    /// # Errors
    /// [`ApiError::Host`] when the thread had ended by itself.
    pub fn rest(&mut self) -> Result<(), ApiError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Serving(served) => {
                // Fails only when the thread is gone.
                let _ = self.to.send(Order::Rest);
                ring_bell(&self.bell);
                let worker = served.take();
                let gone = || ApiError::Host(io::ErrorKind::BrokenPipe.into());
                self.state = State::AtRest(worker.ok_or_else(gone)?);
            }
            other => self.state = other,
        }
        Ok(())
    }

    /// The file of its socket, unless that was inherited.
    #[must_use]
    pub fn file(&self) -> Option<&SocketFile> {
        self.file.as_ref()
    }

    /// Tells clients how the machine ended, and gives them `patience` to read it.
    pub fn finish(mut self, exit: Exit, patience: Duration) {
        self.end(Some(exit), patience);
    }

    fn end(&mut self, exit: Option<Exit>, patience: Duration) {
        if let State::Serving(served) = std::mem::replace(&mut self.state, State::Over) {
            // Fails only when the thread is gone.
            let _ = self.to.send(Order::Finish(exit, patience));
            ring_bell(&self.bell);
            // With panic = "abort" a thread cannot end by panicking.
            drop(served.take());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(None, Duration::ZERO);
    }
}
