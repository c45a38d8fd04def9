//! Watches over a running machine: its end, signals, time limits, the power button.
//!
//! Everything here runs on the event loop of the main thread. It reports ends and presses the power
//! button; it does not stop anything itself.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use devices::event::Interest;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::end::{EndReason, Ending};
use crate::event_loop::{EventLoop, LoopSource, Next, SourceId};
use crate::events;
use crate::memory::mapped;
use crate::requests::{Message, Outbox};
use crate::signals::{Signal, Signals};

const READY: u16 = 0;

/// Adds the watchers of a process to `event_loop`: an end in `ending` wakes the loop, and signals go to `outbox`.
/// Returns the latter one.
///
/// # Errors
/// When the host cannot watch one of them.
pub fn watch(
    event_loop: &mut EventLoop,
    signals: Signals,
    outbox: Outbox,
    ending: &Ending,
) -> io::Result<SourceId> {
    event_loop.add(Box::new(EndWatch(ending.clone())))?;
    watch_signals(event_loop, signals, outbox)
}

/// Sends `signals` to `outbox`.
///
/// # Errors
/// When the host cannot watch for them.
pub fn watch_signals(
    event_loop: &mut EventLoop,
    signals: Signals,
    outbox: Outbox,
) -> io::Result<SourceId> {
    event_loop.add(Box::new(SignalWatch { signals, outbox }))
}

/// Reports `reason` to `ending` when `time` has passed.
///
/// # Errors
/// When the host has no descriptors left.
pub fn end_after(
    event_loop: &mut EventLoop,
    time: Duration,
    reason: EndReason,
    ending: &Ending,
) -> io::Result<()> {
    deadline(event_loop, time, reason, ending, || false).map(drop)
}

/// The same, unless the guest is ready by then. The source can be removed when the guest starts anew.
///
/// # Errors
/// As [`end_after`].
pub fn end_unless_ready(
    event_loop: &mut EventLoop,
    time: Duration,
    ending: &Ending,
) -> io::Result<SourceId> {
    let is_ready = || events::ready().is_some();
    deadline(event_loop, time, EndReason::NotReady(time), ending, is_ready)
}

fn deadline(
    event_loop: &mut EventLoop,
    time: Duration,
    reason: EndReason,
    ending: &Ending,
    is_moot: fn() -> bool,
) -> io::Result<SourceId> {
    let mut timer = TimerFd::new()?;
    timer.reset(time, None)?;
    event_loop.add(Box::new(Deadline { timer, reason, ending: ending.clone(), is_moot }))
}

/// Wakes the loop when an end is reported; the loop's owner looks at the reason.
struct EndWatch(Ending);

impl LoopSource for EndWatch {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest::readable_edge(self.0.as_raw_fd(), READY)]
    }

    fn handle(&mut self, _token: u16) -> Next {
        Next::Keep
    }
}

/// Passes signals on: what one means depends on where the machine is in its life.
struct SignalWatch {
    signals: Signals,
    outbox: Outbox,
}

impl LoopSource for SignalWatch {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest::readable(self.signals.as_raw_fd(), READY)]
    }

    fn handle(&mut self, _token: u16) -> Next {
        while let Some(signal) = self.signals.take() {
            match signal {
                Signal::Lease => mapped::ask(),
                Signal::Passed => {}
                other => self.outbox.send(Message::Signal(other)),
            }
        }
        Next::Keep
    }
}

struct Deadline {
    timer: TimerFd,
    reason: EndReason,
    ending: Ending,
    /// Whether there is no need for it any more.
    is_moot: fn() -> bool,
}

impl LoopSource for Deadline {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest::readable_edge(self.timer.as_raw_fd(), READY)]
    }

    fn handle(&mut self, _token: u16) -> Next {
        if !(self.is_moot)() {
            self.ending.report(self.reason.clone());
        }
        Next::Remove
    }
}

/// The guest's power button, and the patience of those who press it.
pub struct PowerSwitch {
    button: EventFd,
    /// The end was asked for already.
    asked: bool,
}

impl PowerSwitch {
    /// A button that is connected to nothing yet.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { button: EventFd::new(EFD_NONBLOCK)?, asked: false })
    }

    /// The line that a press raises.
    #[must_use]
    pub fn line(&self) -> &EventFd {
        &self.button
    }

    /// Presses the button; what the guest makes of it is its business.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn press(&self) -> io::Result<()> {
        self.button.write(1)
    }

    /// Asks for the end of the machine: the first time by the button, with `grace` until it is ordered. Without
    /// a grace, or the second time, it is ordered at once.
    pub fn end(&mut self, grace: Duration, event_loop: &mut EventLoop, ending: &Ending) {
        if std::mem::replace(&mut self.asked, true) || grace.is_zero() {
            return ending.report(EndReason::Terminated);
        }
        log::info!("terminating: power button pressed, {grace:?} until the end");
        let pressed = self.press();
        let armed = end_after(event_loop, grace, EndReason::Terminated, ending);
        for error in [pressed, armed].into_iter().filter_map(Result::err) {
            log::error!("the guest cannot be asked to power off: {error}");
            ending.report(EndReason::Terminated);
        }
    }
}
