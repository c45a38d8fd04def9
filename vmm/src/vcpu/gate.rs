//! What a vCPU thread is asked to do: run, wait, or end.
//!
//! The thread looks at the gate between two runs of the guest, which costs one load. It does not know why it
//! is to wait, and a thread that waits costs nothing.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// What the thread is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Run the guest.
    Run,
    /// Bring the guest to a safe point and wait there.
    Wait,
    /// End. Nothing else is wished for after that.
    End,
}

/// See the module.
pub(super) struct Gate {
    wish: AtomicU8,
    parked: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    /// An open gate.
    pub(super) fn new() -> Self {
        let wish = AtomicU8::new(Wish::Run as u8);
        Self { wish, parked: Mutex::new(false), changed: Condvar::new() }
    }

    /// What is wished for at this moment.
    pub(super) fn wish(&self) -> Wish {
        match self.wish.load(Ordering::Acquire) {
            wish if wish == Wish::Run as u8 => Wish::Run,
            wish if wish == Wish::Wait as u8 => Wish::Wait,
            _ => Wish::End,
        }
    }

    /// Wishes for something else. Once the end is wished for, that stands.
    pub(super) fn ask(&self, wish: Wish) {
        // Under the lock, so that a thread about to wait does not miss it.
        let _parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        if self.wish() != Wish::End {
            self.wish.store(wish as u8, Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// Whether the thread waits at the gate.
    pub(super) fn is_parked(&self) -> bool {
        *self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits on the vCPU's thread for as long as that is wished for; `arrived` is called once it waits.
    pub(super) fn park(&self, arrived: impl FnOnce()) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked = true;
        drop(parked);
        arrived();
        parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        while self.wish() == Wish::Wait {
            parked = self.changed.wait(parked).unwrap_or_else(PoisonError::into_inner);
        }
        *parked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn a_thread_waits_until_it_may_run_and_says_when_it_has_arrived() {
        let gate = Arc::new(Gate::new());
        let (arrived, arrivals) = channel();
        gate.ask(Wish::Wait);
        let waiting = {
            let gate = gate.clone();
            thread::spawn(move || {
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
    fn the_end_frees_a_waiting_thread_and_is_final() {
        let gate = Arc::new(Gate::new());
        gate.ask(Wish::Wait);
        let waiting = {
            let gate = gate.clone();
            thread::spawn(move || gate.park(|| {}))
        };
        gate.ask(Wish::End);
        waiting.join().unwrap();
        for wish in [Wish::Run, Wish::Wait] {
            gate.ask(wish);
            assert_eq!(gate.wish(), Wish::End);
        }
    }
}
