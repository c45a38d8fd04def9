//! What a vCPU thread is asked to do: run a machine, wait, leave it; and, while the guest rests, other work.
//!
//! The thread looks at the gate between two runs of the guest, which costs one load. It does not know why it
//! is to wait, and a thread that waits costs nothing.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the thread is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Run the guest.
    Run,
    /// Bring the guest to a safe point and wait there.
    Wait,
    /// Leave the machine. Nothing else is wished for until there is another one.
    Leave,
}

/// Something to be done on the thread while the guest rests.
pub type Work = Box<dyn FnOnce() + Send>;

/// The gate of a thread that is lent machines of type `M`.
pub(super) struct Gate<M> {
    wish: AtomicU8,
    state: Mutex<State<M>>,
    changed: Condvar,
}

struct State<M> {
    /// The thread waits here.
    is_parked: bool,
    /// A machine that the thread has not taken yet.
    given: Option<M>,
    /// One that it has left.
    left: Option<M>,
    work: Option<Work>,
}

impl<M> Gate<M> {
    /// A gate of a thread without a machine.
    pub(super) fn new() -> Self {
        let state = State { is_parked: false, given: None, left: None, work: None };
        let wish = AtomicU8::new(Wish::Leave as u8);
        Self { wish, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wished for at this moment.
    pub(super) fn wish(&self) -> Wish {
        match self.wish.load(Ordering::Acquire) {
            wish if wish == Wish::Run as u8 => Wish::Run,
            wish if wish == Wish::Wait as u8 => Wish::Wait,
            _ => Wish::Leave,
        }
    }

    /// Wishes for something else. Once the machine is to be left, that stands.
    pub(super) fn ask(&self, wish: Wish) {
        // Under the lock, so that a thread about to wait does not miss it.
        let _state = self.lock();
        if self.wish() != Wish::Leave {
            self.wish.store(wish as u8, Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// Lends the thread a machine, to be run or to wait with.
    pub(super) fn give(&self, machine: M, wish: Wish) {
        let mut state = self.lock();
        (state.given, state.left) = (Some(machine), None);
        self.wish.store(wish as u8, Ordering::Release);
        // Whoever wakes up finds it unlocked.
        drop(state);
        self.changed.notify_all();
    }

    /// Has `work` done by the thread, as soon as it waits.
    pub(super) fn hand(&self, work: Work) {
        self.lock().work = Some(work);
        self.changed.notify_all();
    }

    /// Whether the thread waits at the gate, with a machine or without one.
    pub(super) fn is_parked(&self) -> bool {
        let state = self.lock();
        state.is_parked && state.given.is_none()
    }

    /// Whether the thread has left its machine.
    pub(super) fn has_left(&self) -> bool {
        self.lock().left.is_some()
    }

    /// The machine that the thread has left.
    pub(super) fn take_back(&self) -> Option<M> {
        self.lock().left.take()
    }

    /// On the thread: leaves a machine.
    pub(super) fn leave(&self, machine: M) {
        self.lock().left = Some(machine);
    }

    /// On the thread: waits for a machine.
    pub(super) fn next(&self) -> M {
        let mut state = self.lock();
        loop {
            if let Some(machine) = state.given.take() {
                state.is_parked = false;
                return machine;
            }
            state = self.rest(state);
        }
    }

    /// On the thread: waits for as long as that is wished for; `arrived` is called once it waits.
    pub(super) fn park(&self, arrived: impl FnOnce()) {
        let mut state = self.lock();
        state.is_parked = true;
        drop(state);
        arrived();
        state = self.lock();
        while self.wish() == Wish::Wait {
            state = self.rest(state);
        }
        state.is_parked = false;
    }

    /// Does what work there is, or waits until something changes.
    fn rest<'a>(&'a self, mut state: MutexGuard<'a, State<M>>) -> MutexGuard<'a, State<M>> {
        state.is_parked = true;
        let Some(work) = state.work.take() else {
            return self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        work();
        self.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;

    fn gate() -> Arc<Gate<u8>> {
        let gate = Arc::new(Gate::new());
        gate.give(7, Wish::Run);
        gate
    }

    #[test]
    fn a_thread_waits_until_it_may_run_and_says_when_it_has_arrived() {
        let gate = gate();
        let (arrived, arrivals) = channel();
        gate.ask(Wish::Wait);
        let waiting = {
            let gate = gate.clone();
            thread::spawn(move || {
                assert_eq!(gate.next(), 7);
                gate.park(|| arrived.send(()).unwrap());
                gate.wish()
            })
        };
        arrivals.recv().unwrap();
        assert!(gate.is_parked());
        gate.ask(Wish::Run);
        assert_eq!(waiting.join().unwrap(), Wish::Run);
        assert!(!gate.is_parked());
    }

    #[test]
    fn leaving_frees_a_waiting_thread_and_stands_until_there_is_another_machine() {
        let gate = gate();
        gate.ask(Wish::Wait);
        let waiting = {
            let gate = gate.clone();
            thread::spawn(move || {
                let machine = gate.next();
                gate.park(|| {});
                gate.leave(machine);
                gate.next()
            })
        };
        gate.ask(Wish::Leave);
        for wish in [Wish::Run, Wish::Wait] {
            gate.ask(wish);
            assert_eq!(gate.wish(), Wish::Leave);
        }
        while !gate.has_left() {
            thread::yield_now();
        }
        assert_eq!(gate.take_back(), Some(7));
        gate.give(8, Wish::Run);
        assert_eq!(waiting.join().unwrap(), 8);
        assert_eq!(gate.wish(), Wish::Run);
    }

    #[test]
    fn work_is_done_by_a_thread_that_waits_with_a_machine_or_without_one() {
        let gate = Arc::new(Gate::new());
        let (done, news) = channel();
        let hand = |gate: &Gate<u8>| {
            let done = done.clone();
            gate.hand(Box::new(move || done.send(thread::current().id()).unwrap()));
        };
        let thread = {
            let gate = gate.clone();
            thread::spawn(move || {
                let _ = gate.next();
                gate.park(|| {});
            })
        };
        hand(&gate);
        assert_eq!(news.recv().unwrap(), thread.thread().id());
        // Not to be run first: the thread might be through before there is work.
        gate.give(1, Wish::Wait);
        hand(&gate);
        assert_eq!(news.recv().unwrap(), thread.thread().id());
        gate.ask(Wish::Run);
        thread.join().unwrap();
    }
}
