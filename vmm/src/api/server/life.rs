//! The thread's life: it serves, rests where the process needs to have no other thread, and ends.

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use devices::backend::socket::SocketFile;
use devices::event::chain;

use super::{Order, STACK, Server, Worker, ring_bell};
use crate::api::ApiError;
use crate::events::Exit;
use crate::seccomp::Thread;

pub(super) enum State {
    /// Clients wait.
    AtRest(Box<Worker>),
    /// They are served by this thread, which hands the work back when it is to rest.
    Serving(JoinHandle<Option<Box<Worker>>>),
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
                let thread = Builder::new()
                    .name("api".to_owned())
                    .stack_size(STACK)
                    .spawn(move || match filters.confine(Thread::Api) {
                        Ok(()) => worker.run(),
                        Err(error) => {
                            log::error!("the API is not served: {}", chain(&error));
                            None
                        }
                    })
                    .map_err(ApiError::Host)?;
                self.state = State::Serving(thread);
            }
            other => self.state = other,
        }
        Ok(())
    }

    /// Lets clients wait, without a thread, until [`Self::go_on`].
    ///
    /// # Errors
    /// [`ApiError::Host`] when the thread had ended by itself.
    pub fn rest(&mut self) -> Result<(), ApiError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Serving(thread) => {
                // Fails only when the thread is gone.
                let _ = self.to.send(Order::Rest);
                ring_bell(&self.bell);
                let worker = thread.join().ok().flatten();
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
        if let State::Serving(thread) = std::mem::replace(&mut self.state, State::Over) {
            // Fails only when the thread is gone.
            let _ = self.to.send(Order::Finish(exit, patience));
            ring_bell(&self.bell);
            // With panic = "abort" a thread cannot end by panicking.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(None, Duration::ZERO);
    }
}
