//! Watches over a running machine: its end, signals, the time limit.
//!
//! Everything here runs on the event loop of the main thread. It reports ends and presses the power
//! button; it does not stop anything itself.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use devices::event::Interest;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::end::{EndReason, Ending};
use crate::event_loop::{EventLoop, LoopSource, Next};
use crate::memory::mapped;
use crate::signals::{Signal, Signals};

const READY: u16 = 0;
const GRACE_OVER: u16 = 1;

/// What to do when somebody asks the machine to end.
pub struct Orders {
    /// Time for the guest to power off after its button was pressed.
    pub grace: Duration,
    /// Longest life of the machine.
    pub timeout: Option<Duration>,
    /// The guest's power button.
    pub power_button: Arc<EventFd>,
    /// Called when the terminal has another size, or the process goes on after a stop.
    pub on_terminal_change: Box<dyn FnMut() + Send>,
}

/// Adds the watchers to `event_loop`; they report to `ending`.
///
/// # Errors
/// When the host has no descriptors left.
pub fn watch(
    event_loop: &mut EventLoop,
    signals: Signals,
    orders: Orders,
    ending: &Ending,
) -> io::Result<()> {
    let Orders { grace, timeout, power_button, on_terminal_change } = orders;
    event_loop.add(Box::new(EndWatch(ending.clone())));
    let grace_timer = TimerFd::new()?;
    event_loop.add(Box::new(SignalWatch {
        signals,
        grace,
        grace_timer,
        asked: false,
        power_button,
        on_terminal_change,
        ending: ending.clone(),
    }));
    if let Some(limit) = timeout {
        let mut timer = TimerFd::new()?;
        timer.reset(limit, None)?;
        event_loop.add(Box::new(TimeLimit { timer, limit, ending: ending.clone() }));
    }
    Ok(())
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

struct SignalWatch {
    signals: Signals,
    grace: Duration,
    grace_timer: TimerFd,
    /// The power button was pressed already.
    asked: bool,
    power_button: Arc<EventFd>,
    on_terminal_change: Box<dyn FnMut() + Send>,
    ending: Ending,
}

impl SignalWatch {
    /// The first request is passed on to the guest, a second one is an order.
    fn terminate(&mut self) {
        if std::mem::replace(&mut self.asked, true) || self.grace.is_zero() {
            return self.ending.report(EndReason::Terminated);
        }
        log::info!("terminating: power button pressed, {:?} until the end", self.grace);
        let pressed = self.power_button.write(1);
        let armed = self.grace_timer.reset(self.grace, None).map_err(io::Error::from);
        for error in [pressed, armed].into_iter().filter_map(Result::err) {
            log::error!("the guest cannot be asked to power off: {error}");
            self.ending.report(EndReason::Terminated);
        }
    }
}

impl LoopSource for SignalWatch {
    fn interests(&self) -> Vec<Interest> {
        vec![
            Interest::readable(self.signals.as_raw_fd(), READY),
            Interest::readable_edge(self.grace_timer.as_raw_fd(), GRACE_OVER),
        ]
    }

    fn handle(&mut self, token: u16) -> Next {
        if token == GRACE_OVER {
            self.ending.report(EndReason::Terminated);
            return Next::Keep;
        }
        while let Some(signal) = self.signals.take() {
            match signal {
                Signal::Terminate => self.terminate(),
                Signal::Lease => mapped::ask(),
                Signal::Interrupt => self.ending.report(EndReason::Quit),
                Signal::Terminal => (self.on_terminal_change)(),
            }
        }
        Next::Keep
    }
}

struct TimeLimit {
    timer: TimerFd,
    limit: Duration,
    ending: Ending,
}

impl LoopSource for TimeLimit {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest::readable_edge(self.timer.as_raw_fd(), READY)]
    }

    fn handle(&mut self, _token: u16) -> Next {
        self.ending.report(EndReason::Timeout(self.limit));
        Next::Remove
    }
}
