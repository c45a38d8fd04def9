//! What happens to a machine, as a stream of JSON lines: `--events`, `GET /events`.
//!
//! One stream per process, like the log; while nobody wants it, an event costs one load. The last lines are kept, so
//! that a reader who comes late, or is slow, misses nothing that matters. A sink that does not take a line at once
//! gets it with a later one, and a sink that never reads loses the oldest: nothing here waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::end::EndReason;

/// Lines that are kept for readers.
const KEPT: usize = 256;
/// Time between two events about one throttled device.
const THROTTLED_EVERY: Duration = Duration::from_secs(1);
/// Bytes that wait for a sink.
const SINK_MAX: usize = 64 << 10;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first instruction of the guest is about to run.
    Started,
    /// The same of a machine that goes on from a snapshot.
    Restored,
    /// A snapshot is on disk.
    Snapshotted {
        /// The file of its state.
        path: String,
        /// For how long the guest stood still, in microseconds; 0 when it was paused before.
        pause_us: u64,
    },
    /// The guest is ready; told once after each start.
    Ready {
        /// How it was noticed.
        by: ReadySign,
    },
    /// The machine is at rest.
    Paused,
    /// It goes on.
    Resumed,
    /// Somebody pressed the power button.
    PowerButton,
    /// The machine is built again, because somebody asked for it.
    Reset,
    /// The same, because the guest asked for it.
    Reboot,
    /// The guest's kernel panicked.
    Panic {
        /// The last lines of its consoles.
        console: String,
    },
    /// A device has used up what its limits allow, and stands still for a while.
    Throttled {
        /// The device.
        device: String,
        /// How often since the last event of this kind; there is one in a second at most.
        count: u64,
    },
    /// A driver broke the protocol of its device, which waits for a reset.
    DeviceFailed {
        /// The device.
        device: String,
    },
    /// The machine has ended. Nothing comes after this.
    Exit(Exit),
}

/// What tells that a guest is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadySign {
    /// A write to the boot timer.
    BootTimer,
    /// `READY=1` on a port of the socket device.
    Vsock,
    /// A text on a console.
    Console,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// Why, as a word.
    pub reason: &'static str,
    /// The exit status of the process.
    pub code: u8,
    /// Why, as a sentence.
    pub detail: String,
}

impl Exit {
    /// The end that `reason` is; `detail` is the last line that the user reads.
    #[must_use]
    pub fn new(reason: &EndReason, detail: String) -> Self {
        Self { reason: reason.word(), code: reason.exit_code().code(), detail }
    }
}

/// Makes few events of the many times that a device is throttled.
pub struct Throttling {
    device: String,
    state: Mutex<Throttled>,
}

#[derive(Default)]
struct Throttled {
    told_at: Option<Instant>,
    /// How often since then.
    count: u64,
}

impl Throttling {
    /// Of the device called `device`, which was not throttled yet.
    #[must_use]
    pub fn of(device: &str) -> Self {
        Self { device: device.to_owned(), state: Mutex::default() }
    }

    /// It was, once more.
    pub fn happened(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = state.add(Instant::now()) {
            drop(state);
            emit(Event::Throttled { device: self.device.clone(), count });
        }
    }
}

impl Throttled {
    /// One more at `now`; `Some` when it is to be told, with how often it happened.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        let is_due = self.told_at.is_none_or(|at| now.duration_since(at) >= THROTTLED_EVERY);
        is_due.then(|| {
            self.told_at = Some(now);
            std::mem::take(&mut self.count)
        })
    }
}

static STREAM: OnceLock<Stream> = OnceLock::new();

/// Turns the stream on for the machine called `id`. A second call has no effect.
pub fn enable(id: &str, sink: Option<File>) {
    let _ = STREAM.set(Stream::new(id, sink));
}

/// `event` happened.
pub fn emit(event: Event) {
    if let Some(stream) = STREAM.get() {
        stream.emit(event, SystemTime::now());
    }
}

/// Whether anybody wants events.
#[must_use]
pub fn is_on() -> bool {
    STREAM.get().is_some()
}

/// What has told that the guest is ready; `None` while nothing has, or while nobody wants events.
#[must_use]
pub fn ready() -> Option<ReadySign> {
    STREAM.get().and_then(|stream| stream.lock().ready)
}

/// How long ago the guest was started last; `None` before that, or while nobody wants events.
#[must_use]
pub fn uptime() -> Option<Duration> {
    STREAM.get().and_then(|stream| stream.lock().started).map(|start| start.elapsed())
}

/// Calls `wake` whenever there is a new line. It is called with the stream locked and must not wait.
pub fn on_line(wake: impl Fn() + Send + Sync + 'static) {
    if let Some(stream) = STREAM.get() {
        stream.lock().wake = Some(Box::new(wake));
    }
}

/// The lines from number `next` on, each with its line end, and the number after the last.
#[must_use]
pub fn since(next: u64) -> (Vec<Arc<str>>, u64) {
    STREAM.get().map_or((Vec::new(), next), |stream| stream.lock().since(next))
}

/// Gives a slow sink `patience` for what waits for it.
pub fn flush(patience: Duration) {
    let deadline = Instant::now() + patience;
    while let Some(stream) = STREAM.get()
        && !stream.lock().deliver()
        && Instant::now() < deadline
    {
        // Waits by the call that every thread waits by; a shorter pause does no harm.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

struct Stream {
    id: String,
    state: Mutex<State>,
}

struct State {
    /// Number of the oldest line kept.
    first: u64,
    lines: VecDeque<Arc<str>>,
    /// When the guest was started last.
    started: Option<Instant>,
    /// What told that it is ready, since then.
    ready: Option<ReadySign>,
    sink: Option<File>,
    /// What the sink has not taken yet.
    pending: VecDeque<u8>,
    wake: Option<Box<dyn Fn() + Send + Sync>>,
}

/// A line of the stream.
#[derive(Serialize)]
struct Line<'a> {
    /// Number of the event, from 0.
    seq: u64,
    /// Microseconds since 1970.
    time_us: u64,
    id: &'a str,
    #[serde(flatten)]
    event: Event,
}

impl Stream {
    fn new(id: &str, sink: Option<File>) -> Self {
        let (lines, pending) = (VecDeque::new(), VecDeque::new());
        let state =
            State { first: 0, lines, started: None, ready: None, sink, pending, wake: None };
        Self { id: id.to_owned(), state: Mutex::new(state) }
    }

    fn emit(&self, event: Event, now: SystemTime) {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_us = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        match event {
            Event::Started | Event::Restored => {
                state.started = Some(Instant::now());
                state.ready = None;
            }
            // The first sign counts.
            Event::Ready { .. } if state.ready.is_some() => return,
            Event::Ready { by } => state.ready = Some(by),
            _ => {}
        }
        let line = Line { seq: state.next(), time_us, id: &self.id, event };
        // Strings and numbers under fixed keys: the serializer has nothing to refuse.
        let line = serde_json::to_string(&line).unwrap_or_default() + "\n";
        state.add(line.into());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn add(&mut self, line: Arc<str>) {
        if self.sink.is_some() {
            self.pending.extend(line.bytes());
            self.make_room();
        }
        self.lines.push_back(line);
        if self.lines.len() > KEPT {
            self.lines.pop_front();
            self.first += 1;
        }
        self.deliver();
        if let Some(wake) = &self.wake {
            wake();
        }
    }

    fn since(&self, next: u64) -> (Vec<Arc<str>>, u64) {
        let skip = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (self.lines.iter().skip(skip).cloned().collect(), self.next())
    }

    /// Writes what the sink takes; `true` when nothing waits any more.
    fn deliver(&mut self) -> bool {
        while let (Some(mut sink), (front, _)) = (self.sink.as_ref(), self.pending.as_slices())
            && !front.is_empty()
        {
            match sink.write(front) {
                Ok(count) if count > 0 => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Ok(_) | Err(_) => {
                    log::warn!("events are not written any more: their reader is gone");
                    self.sink = None;
                    self.pending.clear();
                }
            }
        }
        true
    }

    /// Drops the oldest whole lines that wait when they have become too many. The first one may be written in
    /// part; it goes out whole.
    fn make_room(&mut self) {
        while self.pending.len() > SINK_MAX {
            let mut ends = self.pending.iter().enumerate().filter(|(_, b)| **b == b'\n');
            let (Some((first, _)), Some((second, _))) = (ends.next(), ends.next()) else { break };
            self.pending.drain(first + 1..=second);
        }
    }
}

#[cfg(test)]
mod tests;
