//! Where the ports of the guest's devices and the host's side of a console meet.
//!
//! Holds bytes and says who is to look at them; moves nothing to or from a descriptor other than its
//! wake-up eventfds. Every lock here is held for a copy of a few KiB at most, so that vCPU threads can
//! take it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::backlog::{Backlog, Cursor};
use super::{Overhear, Size, Stage};

/// Most input that waits for the guest. A paste beyond it stays with whoever sends it, since its source
/// is not read before the guest took half of this: a guest that never reads costs no memory.
pub(super) const INPUT_LIMIT: usize = 4 << 10;
/// Most output kept of a device that is not shown at present.
const HIDDEN_LIMIT: usize = 64 << 10;

/// See the module.
pub(super) struct Hub {
    state: Mutex<State>,
    wake: EventFd,
}

struct State {
    screen: Backlog,
    /// The newest of what was shown, delivered or not; keeps nothing unless somebody wants it.
    tail: Backlog,
    early: Option<Port>,
    late: Option<Port>,
    input: VecDeque<u8>,
    /// A source has more, but there was no room for it.
    starved: bool,
    /// The wake-up was sent and not yet taken.
    woken: bool,
    /// The host wants to hear of output when the stream is this long.
    wake_at: u64,
    size: Option<Size>,
    received: u64,
    listener: Option<Box<dyn Overhear>>,
}

struct Port {
    hidden: Backlog,
    speaking: bool,
    doorbell: Arc<EventFd>,
}

impl Hub {
    /// A hub that keeps the last `backlog` bytes of what is shown.
    pub(super) fn new(backlog: usize) -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State {
                screen: Backlog::new(backlog),
                tail: Backlog::new(0),
                early: None,
                late: None,
                input: VecDeque::new(),
                starved: false,
                woken: false,
                wake_at: u64::MAX,
                size: None,
                received: 0,
                listener: None,
            }),
            wake: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// The doorbell of the port at `stage`; asked twice it is the same one.
    pub(super) fn doorbell(&self, stage: Stage) -> io::Result<Arc<EventFd>> {
        let mut state = self.state();
        if let Some(port) = state.port(stage) {
            return Ok(port.doorbell.clone());
        }
        let doorbell = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let port = Port {
            hidden: Backlog::new(HIDDEN_LIMIT),
            speaking: false,
            doorbell: doorbell.clone(),
        };
        match stage {
            Stage::Early => state.early = Some(port),
            Stage::Late => state.late = Some(port),
        }
        state.ring_reader();
        Ok(doorbell)
    }

    /// Takes output of the device at `stage`. `wakes`: the host is to hear of it.
    pub(super) fn write(&self, stage: Stage, bytes: &[u8], wakes: bool) {
        let mut state = self.state();
        if let Some(listener) = &mut state.listener {
            listener.hear(stage, bytes);
        }
        if state.port(stage).is_none() {
            return;
        }
        if !bytes.is_empty() {
            state.set_speaking(stage, true);
        }
        if state.active() == stage {
            self.show(state, bytes, wakes);
        } else if let Some(port) = state.port(stage) {
            port.hidden.append(bytes);
        }
    }

    /// Shows output whatever device is in front, and does not bring its own to the front.
    pub(super) fn write_emergency(&self, bytes: &[u8]) {
        self.show(self.state(), bytes, true);
    }

    /// The device at `stage` has nothing more to say for now: the other one comes to the front.
    pub(super) fn release(&self, stage: Stage) {
        self.state().set_speaking(stage, false);
    }

    /// The device at `stage` is one that has said something.
    pub(super) fn speak(&self, stage: Stage) {
        self.state().set_speaking(stage, true);
    }

    /// Whether it is.
    pub(super) fn is_speaking(&self, stage: Stage) -> bool {
        self.state().port(stage).is_some_and(|port| port.speaking)
    }

    /// Takes input for the device at `stage`; returns how much.
    pub(super) fn read(&self, stage: Stage, to: &mut [u8]) -> usize {
        let mut state = self.state();
        if state.active() != stage {
            return 0;
        }
        let count = to.len().min(state.input.len());
        for (to, from) in to.iter_mut().zip(state.input.drain(..count)) {
            *to = from;
        }
        if state.starved && state.input.len() <= INPUT_LIMIT / 2 {
            state.starved = false;
            self.wake(&mut state);
        }
        count
    }

    /// Whether there is input for the device at `stage`.
    pub(super) fn has_input(&self, stage: Stage) -> bool {
        let state = self.state();
        state.active() == stage && !state.input.is_empty()
    }

    /// What the device at `stage` wrote while another one was shown, the newest of it.
    pub(super) fn hidden(&self, stage: Stage) -> Vec<u8> {
        let mut state = self.state();
        state.port(stage).map(|port| port.hidden.to_vec()).unwrap_or_default()
    }

    /// The size of the terminal, if there is one.
    pub(super) fn size(&self) -> Option<Size> {
        self.state().size
    }

    /// The terminal has this size now; rings both devices when that is news.
    pub(super) fn set_size(&self, size: Size) {
        let mut state = self.state();
        if state.size != Some(size) {
            state.size = Some(size);
            for port in [&state.early, &state.late].into_iter().flatten() {
                ring(&port.doorbell);
            }
        }
    }

    /// Guest output shown and input received since the beginning, in bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        let state = self.state();
        (state.screen.end(), state.received)
    }

    /// Becomes readable when the host has something to do.
    pub(super) fn wake_fd(&self) -> RawFd {
        use std::os::fd::AsRawFd;
        self.wake.as_raw_fd()
    }

    /// The host begins a round: whatever comes from now on wakes it again.
    pub(super) fn take_wake(&self) {
        // Fails only when nobody woke us, which is as good.
        let _ = self.wake.read();
        self.state().woken = false;
    }

    /// Output is no news to the host before the stream is `wake_at` long.
    pub(super) fn sleep_until(&self, wake_at: u64) {
        self.state().wake_at = wake_at;
    }

    /// The host has not finished: it wants another round soon.
    pub(super) fn wake_again(&self) {
        self.wake(&mut self.state());
    }

    /// How much input fits; when none does, the host is woken as soon as the guest has made room.
    pub(super) fn input_room(&self) -> usize {
        let mut state = self.state();
        let room = INPUT_LIMIT.saturating_sub(state.input.len());
        state.starved = room == 0;
        room
    }

    /// Hands input to the device in front; the caller has asked for room.
    pub(super) fn feed(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state();
        state.input.extend(bytes);
        state.received += bytes.len() as u64;
        state.ring_reader();
    }

    /// Looks at, or trims, what is shown.
    pub(super) fn with_screen<T>(&self, f: impl FnOnce(&mut Backlog) -> T) -> T {
        f(&mut self.state().screen)
    }

    /// Keeps the last `len` bytes shown from now on, whoever has read them.
    pub(super) fn keep_tail(&self, len: usize) {
        self.state().tail = Backlog::new(len);
    }

    /// Where somebody begins to read who is told `words` first, then what was said last.
    pub(super) fn newcomer(&self, words: &[u8], replays: bool) -> Cursor {
        let state = self.state();
        if replays {
            return Cursor::at_start_of(&state.screen).after(words.to_vec());
        }
        let words = [words, &state.tail.to_vec()].concat();
        Cursor::at_end_of(&state.screen, words)
    }

    /// Lets `listener` hear what devices write from now on.
    pub(super) fn overhear(&self, listener: Box<dyn Overhear>) {
        self.state().listener = Some(listener);
    }

    /// What was kept.
    pub(super) fn tail(&self) -> Vec<u8> {
        self.state().tail.to_vec()
    }

    fn show(&self, mut state: MutexGuard<'_, State>, bytes: &[u8], wakes: bool) {
        state.screen.append(bytes);
        state.tail.append(bytes);
        if wakes && !bytes.is_empty() && state.screen.end() >= state.wake_at {
            self.wake(&mut state);
        }
    }

    fn wake(&self, state: &mut State) {
        if !std::mem::replace(&mut state.woken, true) {
            ring(&self.wake);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The device that is shown and gets the input.
    fn active(&self) -> Stage {
        match (&self.early, &self.late) {
            (_, Some(late)) if late.speaking => Stage::Late,
            (None, Some(_)) => Stage::Late,
            _ => Stage::Early,
        }
    }

    fn port(&mut self, stage: Stage) -> Option<&mut Port> {
        match stage {
            Stage::Early => self.early.as_mut(),
            Stage::Late => self.late.as_mut(),
        }
    }

    fn set_speaking(&mut self, stage: Stage, speaking: bool) {
        let reader = self.active();
        if let Some(port) = self.port(stage) {
            port.speaking = speaking;
        }
        if self.active() != reader {
            self.ring_reader();
        }
    }

    /// Tells the device in front that there is input for it.
    fn ring_reader(&mut self) {
        if self.input.is_empty() {
            return;
        }
        let active = self.active();
        if let Some(port) = self.port(active) {
            ring(&port.doorbell);
        }
    }
}

/// Makes an eventfd readable. It fails only at 2^64 - 1 rings nobody took: readable all the same.
fn ring(bell: &EventFd) {
    let _ = bell.write(1);
}

#[cfg(test)]
mod tests;
