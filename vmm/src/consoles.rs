//! The consoles of a machine: opened once, kept over reboots, closed at the end.
//!
//! What a console does is `devices::backend::console`'s; here is who shares one, and what leads where.

use std::time::Duration;

use devices::backend::console::{
    Console, ConsoleCounters, ConsoleError, ConsoleEvent, ConsolePort, ConsoleSource, Stage,
};
use devices::backend::socket::SocketFile;
use devices::event::Interest;
use devices::metrics::Numbers;

use crate::config::{ConsoleTarget, Plan};
use crate::end::{EndReason, Ending};
use crate::event_loop::{EventLoop, LoopSource, Next, SourceId};
use crate::events;
use crate::metrics::Snapshot;
use crate::readiness::Patterns;
use crate::requests::ConsoleDevice;

/// How long slow readers get for the rest of the output when the machine has ended.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of output that a report of a panic has.
const LAST_WORDS: usize = 4 << 10;

/// Both consoles of a machine. Dropped, they are closed and the terminal is as it was.
pub struct Consoles {
    open: Vec<Console>,
    sources: Vec<SourceId>,
    serial: Option<ConsolePort>,
    virtio: Option<ConsolePort>,
}

impl Consoles {
    /// Opens what `plan` says and serves it on `event_loop`. The path of a pseudo-terminal is printed on
    /// stderr.
    ///
    /// # Errors
    /// [`ConsoleError`].
    pub fn open(
        plan: &Plan,
        event_loop: &mut EventLoop,
        ending: &Ending,
    ) -> Result<Self, ConsoleError> {
        let mut consoles =
            Self { open: Vec::with_capacity(2), sources: Vec::new(), serial: None, virtio: None };
        if let Some(console) = open("serial", &plan.serial)? {
            consoles.serial = Some(console.port(Stage::Early)?);
            consoles.open.push(console);
        }
        // A terminal can serve both: the serial port until the virtio console speaks.
        let shares = plan.serial == ConsoleTarget::Stdio && plan.console == ConsoleTarget::Stdio;
        if shares {
            let terminal = consoles.open.first();
            consoles.virtio = terminal.map(|console| console.port(Stage::Late)).transpose()?;
        } else if let Some(console) = open("console", &plan.console)? {
            consoles.virtio = Some(console.port(Stage::Late)?);
            consoles.open.push(console);
        }
        for console in &consoles.open {
            if events::is_on() {
                console.keep_tail(LAST_WORDS);
            }
            if let Some(text) = &plan.ready.pattern {
                console.overhear(Box::new(Patterns::new(text)));
            }
            match event_loop.add(Box::new(OnLoop::new(console.clone(), ending))) {
                Ok(source) => consoles.sources.push(source),
                Err(error) => {
                    consoles.close(event_loop);
                    return Err(ConsoleError::Descriptors(error));
                }
            }
        }
        Ok(consoles)
    }

    /// Closes the consoles of a machine that did not come to life.
    pub fn close(mut self, event_loop: &mut EventLoop) {
        self.sources.drain(..).for_each(|source| event_loop.remove(source));
    }

    /// The files of the sockets that they listen on.
    pub fn socket_files(&self) -> impl Iterator<Item = SocketFile> {
        self.open.iter().filter_map(Console::socket_file)
    }

    /// The newest output of each console, as text, while anybody wants events.
    #[must_use]
    pub fn last_words(&self) -> String {
        let all: Vec<_> = self.open.iter().flat_map(Console::tail).collect();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Writes down what went through each, by the name of the device or, where both share one, of the terminal.
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        let names: &[_] = match (&self.serial, &self.virtio, self.open.len()) {
            (Some(_), Some(_), 1) => &["terminal"],
            (Some(_), _, _) => &["serial", "console"],
            _ => &["console"],
        };
        for (name, console) in names.iter().zip(&self.open) {
            let ConsoleCounters { output, lost, input } = console.counters();
            let numbers = Numbers::new("output lost input", &[output, lost, input]);
            snapshot.push("console", &[("console", name)], numbers, Vec::new());
        }
    }

    /// The console that a client means: the one behind that device, or the one that people use.
    #[must_use]
    pub fn find(&self, device: Option<ConsoleDevice>) -> Option<&Console> {
        // The serial port's was opened first; a terminal that both share is both.
        match device {
            Some(ConsoleDevice::Serial) => self.serial.as_ref().and_then(|_| self.open.first()),
            Some(ConsoleDevice::Virtio) => self.virtio.as_ref().and_then(|_| self.open.last()),
            None => self.open.last(),
        }
    }

    /// Where the serial port leads to.
    #[must_use]
    pub fn serial(&self) -> Option<&ConsolePort> {
        self.serial.as_ref()
    }

    /// Where the virtio console leads to.
    #[must_use]
    pub fn virtio(&self) -> Option<&ConsolePort> {
        self.virtio.as_ref()
    }

    /// The terminal has changed its size, or was given back to this process.
    pub fn on_terminal_change(&self) {
        self.open.iter().for_each(Console::resumed);
    }
}

impl Drop for Consoles {
    fn drop(&mut self) {
        for console in &self.open {
            console.close(PATIENCE);
        }
    }
}

fn open(name: &str, target: &ConsoleTarget) -> Result<Option<Console>, ConsoleError> {
    let console = match target {
        ConsoleTarget::Off => return Ok(None),
        ConsoleTarget::Stdio => Console::stdio()?,
        ConsoleTarget::Pty => Console::pty()?,
        ConsoleTarget::File(path) => Console::file(path)?,
        ConsoleTarget::Socket(path) => Console::socket(path)?,
    };
    if let Some(path) = console.pty_path() {
        eprintln!("vmm: {name} is at {}", path.display());
    }
    Ok(Some(console))
}

/// Serves a source of `devices` on our loop.
pub struct OnLoop<S> {
    source: S,
    ending: Ending,
}

impl<S: ConsoleSource> OnLoop<S> {
    /// Serves `source`; a person who wants to quit is reported to `ending`.
    #[must_use]
    pub fn new(source: S, ending: &Ending) -> Self {
        Self { source, ending: ending.clone() }
    }
}

impl<S: ConsoleSource> LoopSource for OnLoop<S> {
    fn interests(&self) -> Vec<Interest> {
        self.source.interests()
    }

    fn handle(&mut self, token: u16) -> Next {
        match self.source.handle(token) {
            Some(ConsoleEvent::Quit) => self.ending.report(EndReason::Quit),
            None => {}
        }
        Next::Keep
    }
}
