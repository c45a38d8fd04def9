//! The event loop: one thread that serves every device's queues and everything that is not a vCPU.
//!
//! A thin layer over `event-manager`. It knows two kinds of [`LoopSource`]: device workers, which vCPU
//! threads add and remove while the loop runs ([`LoopHandle`]), and the machine's own sources (signals,
//! timers, consoles), which its owner adds before it runs. Nothing that runs on the loop may lock a
//! device's registers: a vCPU thread holds that lock while it waits for the loop to take a worker.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::counters;
use devices::event::{EventSet, Interest};
use devices::metrics::Numbers;
use devices::virtio::device::Worker;
use event_manager::{
    EventManager, EventOps, Events, MutEventSubscriber, RemoteEndpoint, SubscriberOps,
};

use crate::events::{self, Event};

/// Names a source on its loop.
pub type SourceId = event_manager::SubscriberId;

/// Something the loop serves that is not a virtio device.
pub trait LoopSource: Send {
    /// What to watch, asked once when the source is added.
    fn interests(&self) -> Vec<Interest>;

    /// `token` is ready. The source is taken off the loop when it answers [`Next::Remove`].
    fn handle(&mut self, token: u16) -> Next;
}

/// Whether a source has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Watch on.
    Keep,
    /// Never call again; its descriptors are forgotten.
    Remove,
}

counters! {
    /// What a loop counts.
    pub struct LoopCounters {
        /// How often it stopped waiting.
        wakeups,
        /// Descriptors that were ready and served.
        events,
    }
}

/// A loop, owned by the thread that runs it.
pub struct EventLoop {
    manager: EventManager<Subscriber>,
    counters: Arc<LoopCounters>,
}

impl EventLoop {
    /// An empty loop.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let manager = EventManager::new_with_capacity(64).map_err(io::Error::other)?;
        Ok(Self { manager, counters: Arc::default() })
    }

    /// For other threads to add and remove workers.
    #[must_use]
    pub fn handle(&self) -> LoopHandle {
        LoopHandle { endpoint: self.manager.remote_endpoint(), counters: self.counters.clone() }
    }

    /// Watches `source` from now on.
    ///
    /// # Errors
    /// When the host cannot watch one of its descriptors; the source is gone then.
    pub fn add(&mut self, source: Box<dyn LoopSource>) -> io::Result<SourceId> {
        let source = Subscriber::Source { source, done: false, refused: None };
        add(&mut self.manager, source).map_err(io::Error::other)
    }

    /// Forgets a source that [`Self::add`] was given.
    pub fn remove(&mut self, id: SourceId) {
        if let Err(error) = self.manager.remove_subscriber(id) {
            log::error!("a source cannot be taken off its loop: {error}");
        }
    }

    /// Waits for events and serves them once.
    ///
    /// # Errors
    /// When waiting itself fails, which only a broken host does.
    pub fn run_once(&mut self) -> io::Result<()> {
        self.run_for(-1)
    }

    /// The same, but waits at most `milliseconds`; -1 means without limit.
    ///
    /// # Errors
    /// As [`Self::run_once`].
    pub fn run_for(&mut self, milliseconds: i32) -> io::Result<()> {
        let served = self.manager.run_with_timeout(milliseconds);
        self.counters.wakeups.add(1);
        match served {
            Ok(events) => {
                self.counters.events.add(events as u64);
                Ok(())
            }
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => Ok(()),
            Err(e) => Err(io::Error::other(e)),
        }
    }
}

/// Another thread's access to a loop. Calls wait until the loop has served them, so they must not be made
/// on the loop's own thread.
#[derive(Clone)]
pub struct LoopHandle {
    endpoint: RemoteEndpoint<Subscriber>,
    counters: Arc<LoopCounters>,
}

impl LoopHandle {
    /// What the loop has counted.
    #[must_use]
    pub fn counts(&self) -> Numbers {
        self.counters.read()
    }

    /// Makes the loop's current or next wait return. May be called on any thread.
    pub fn wake(&self) {
        if let Err(error) = self.endpoint.kick() {
            log::error!("the event loop cannot be woken: {error}");
        }
    }

    /// Has `work` done on the loop's thread, between two rounds, and waits for that.
    ///
    /// # Errors
    /// The error of `work`, or the loop has ended.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Workers<'_>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let place = Arc::new(Mutex::new(None));
        let result = place.clone();
        self.run(Box::new(move |workers| *lock(&place) = Some(work(workers))))?;
        lock(&result).take().unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Once for all kinds of work: the way there and back is much code.
    fn run(&self, work: Box<dyn FnOnce(&mut Workers<'_>) + Send>) -> io::Result<()> {
        let call = move |ops: &mut dyn SubscriberOps<Subscriber = Subscriber>| {
            work(&mut Workers(ops));
            Ok(())
        };
        self.endpoint.call_blocking::<_, (), event_manager::Error>(call).map_err(io::Error::other)
    }
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device workers of a loop, for who is on its thread.
pub struct Workers<'a>(&'a mut dyn SubscriberOps<Subscriber = Subscriber>);

impl Workers<'_> {
    /// Serves `worker` from now on.
    ///
    /// # Errors
    /// When the loop cannot watch the worker's descriptors.
    pub fn add(&mut self, worker: Worker) -> io::Result<SourceId> {
        add(self.0, Subscriber::Worker { worker, refused: None }).map_err(io::Error::other)
    }

    /// Takes a worker back; `None` when there is none of that name.
    pub fn remove(&mut self, id: SourceId) -> Option<Worker> {
        match self.0.remove_subscriber(id) {
            Ok(Subscriber::Worker { worker, .. }) => Some(worker),
            Ok(Subscriber::Source { .. }) => None,
            Err(error) => {
                log::error!("device cannot be taken off its loop: {error}");
                None
            }
        }
    }
}

enum Subscriber {
    Worker { worker: Worker, refused: Option<event_manager::Error> },
    Source { source: Box<dyn LoopSource>, done: bool, refused: Option<event_manager::Error> },
}

/// Adds a subscriber, with all that it wants to be watched or not at all.
fn add(
    ops: &mut dyn SubscriberOps<Subscriber = Subscriber>,
    subscriber: Subscriber,
) -> Result<SourceId, event_manager::Error> {
    let id = ops.add_subscriber(subscriber);
    // `init` has no way to fail, so it left its error behind.
    let (Subscriber::Worker { refused, .. } | Subscriber::Source { refused, .. }) =
        ops.subscriber_mut(id)?;
    match refused.take() {
        None => Ok(id),
        Some(error) => {
            ops.remove_subscriber(id)?;
            Err(error)
        }
    }
}

impl Subscriber {
    fn interests(&self) -> Vec<(u32, Interest)> {
        match self {
            Self::Worker { worker, .. } => worker.interests(),
            Self::Source { source, .. } => {
                source.interests().into_iter().map(|i| (u32::from(i.token), i)).collect()
            }
        }
    }
}

impl MutEventSubscriber for Subscriber {
    fn init(&mut self, ops: &mut EventOps) {
        for (data, interest) in self.interests() {
            let events = Events::with_data_raw(interest.fd, data, interest.events);
            if let Err(error) = ops.add(events) {
                let (Self::Worker { refused, .. } | Self::Source { refused, .. }) = self;
                *refused = Some(error);
            }
        }
    }

    fn process(&mut self, ready: Events, ops: &mut EventOps) {
        let go_on = match self {
            Self::Worker { worker, .. } => {
                worker.handle(ready.data());
                let goes_on = watch_late_interests(worker, ops);
                if !goes_on {
                    events::emit(Event::DeviceFailed { device: worker.name().to_owned() });
                }
                goes_on
            }
            Self::Source { done: true, .. } => false,
            Self::Source { source, done, .. } => {
                let token = u16::try_from(ready.data()).unwrap_or(u16::MAX);
                *done = source.handle(token) == Next::Remove;
                !*done
            }
        };
        if !go_on {
            // The descriptors stay open, but must not wake the loop any more. An event of another of
            // them may already be in this round: it is dropped by the check above.
            for (_, interest) in self.interests() {
                let _ = ops.remove(Events::with_data_raw(interest.fd, 0, EventSet::empty()));
            }
        }
    }
}

/// Watches what a worker has come to need. Returns `false` when the device has failed.
fn watch_late_interests(worker: &mut Worker, ops: &mut EventOps) -> bool {
    let added: Result<(), _> = worker
        .late_interests()
        .try_for_each(|(data, i)| ops.add(Events::with_data_raw(i.fd, data, i.events)));
    if let Err(error) = added {
        worker.cannot_watch(&error);
    }
    !worker.has_failed()
}

#[cfg(test)]
mod tests;
