//! What can be asked of a machine from outside, and the way to its owner.
//!
//! Whoever asks (the API's thread, a signal) puts a [`Message`] into the [`Outbox`]; the main thread takes it from
//! its [`Inbox`] between two rounds of its event loop and acts on the machine there. Nothing here knows HTTP, and
//! nothing here acts.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use devices::event::chain;
use serde_json::{Map, Value};

use crate::config::{Change, FileError, RateLimiter, RestoreConfig, VmConfig};
use crate::event_loop::LoopHandle;
use crate::exit_code::ExitCode;
use crate::life_cycle::{PhaseError, When};
use crate::memory::file::Which;
use crate::memory::file::writer::Writer;
use crate::metrics::Snapshot;
use crate::signals::Signal;
use crate::snapshot::clones::{CloneOrder, ClonePlan};
use crate::snapshot::{Draft, Place, SnapshotError};

/// Something to do with a machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Say something else in the configuration.
    Configure(Box<Change>),
    /// Say something else about processors and memory; what is left out stays.
    ConfigureMachine(Map<String, Value>),
    /// Build and start the machine.
    Start,
    /// Bring it to rest.
    Pause,
    /// Let it go on.
    Resume,
    /// Change a disk while the machine runs.
    ChangeDisk {
        /// The device.
        id: String,
        /// Another image; the same path again makes a changed size known.
        path: Option<PathBuf>,
        /// Other limits.
        limiter: RateLimiter,
    },
    /// Change the limits of a network card while the machine runs.
    ChangeNet {
        /// The card.
        id: String,
        /// Limits of what the guest receives.
        rx: RateLimiter,
        /// Limits of what it sends.
        tx: RateLimiter,
    },
    /// Something about the balloon of a running machine.
    Balloon(BalloonCommand),
    /// Something about what the guest is told.
    Metadata(MetadataCommand),
    /// Press its power button.
    PowerButton,
    /// Press its power button, and end it if that has no effect in time.
    Stop {
        /// How long the guest may take; the configuration's `grace` when nothing is said.
        grace: Option<Duration>,
    },
    /// Make files of it, from which others go on.
    Snapshot(SnapshotOrder),
    /// Go on from a snapshot.
    Restore(Box<RestoreOrder>),
    /// Write down what is counted, now.
    FlushMetrics,
    /// Build it again and start it, as after a reboot.
    Reset,
    /// Tell its state.
    Describe,
    /// Tell its state and more.
    ShowState,
    /// Tell its configuration.
    ShowConfig,
    /// Tell its processors and memory.
    ShowMachine,
    /// Tell its balloon.
    ShowBalloon,
}

/// A device of the guest that has a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleDevice {
    /// The serial port.
    Serial,
    /// The virtio console.
    Virtio,
}

/// A client that wants to be at a console.
#[derive(Debug)]
pub struct Visit {
    /// Which one; the one that people use when it is not said.
    pub device: Option<ConsoleDevice>,
    /// The client, which must not block.
    pub client: UnixStream,
    /// What it is told first when it is let in.
    pub words: &'static str,
}

/// A snapshot that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotOrder {
    /// Where.
    pub place: Place,
    /// Of which pages.
    pub which: Which,
    /// The machine may run; it comes to rest for the time that it takes.
    pub may_run: bool,
    /// Copies that are to go on from it, and are planned.
    pub clones: Option<CloneOrder>,
    /// Its files. Whoever passes the order on makes them when the machine's owner says of which disks: it may not itself.
    pub draft: Option<Arc<Draft>>,
}

/// A machine that is to go on from a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoreOrder {
    /// From what, and how.
    pub from: RestoreConfig,
    /// What is other on the host's side.
    pub over: VmConfig,
}

/// A snapshot whose state is known, and whose memory is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Its files.
    pub draft: Arc<Draft>,
    /// The contents of the file of state.
    pub state: Vec<u8>,
    /// For how long the guest stood still for it.
    pub pause: Duration,
    /// The copies that were to be planned.
    pub clones: Option<Vec<ClonePlan>>,
    /// Who still writes its memory. The machine's owner waits for that before it answers.
    pub writer: Option<Writer>,
}

/// Something about the balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalloonCommand {
    /// Change how much memory it takes, in MiB.
    Resize(u32),
    /// Tell what the guest says of its memory.
    ShowStatistics,
    /// Ask the guest for that at other intervals; zero means never.
    Poll(Duration),
    /// Have the guest name its free pages, and let it use them again at the end or when that is told.
    StartHinting {
        /// At the end.
        acknowledge: bool,
    },
    /// Let the guest use all its pages again.
    StopHinting,
    /// Tell how far that has come.
    ShowHinting,
}

/// Something about the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataCommand {
    /// Tell all.
    Show,
    /// Replace all.
    Put(Value),
    /// Merge this in.
    Patch(Value),
}

impl Command {
    /// When it makes sense.
    #[must_use]
    pub fn when(&self) -> When {
        match self {
            Self::Configure(_) | Self::ConfigureMachine(_) | Self::Restore(_) | Self::Start => {
                When::BeforeStart
            }
            Self::Pause
            | Self::Resume
            | Self::ChangeDisk { .. }
            | Self::ChangeNet { .. }
            | Self::Balloon(_)
            | Self::PowerButton
            | Self::Snapshot(_)
            | Self::FlushMetrics
            | Self::Stop { .. }
            | Self::Reset => When::AfterStart,
            Self::Describe
            | Self::ShowState
            | Self::ShowConfig
            | Self::ShowMachine
            | Self::ShowBalloon
            | Self::Metadata(_) => When::Any,
        }
    }
}

/// What comes of a command.
pub type Outcome = Result<Answer, Refusal>;

/// A command was obeyed.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// There is nothing more to say.
    Done,
    /// This was asked for.
    Value(Value),
    /// Everything that is counted.
    Metrics(Box<Snapshot>),
    /// It can be obeyed when there are files, also for the overlays of these disks.
    NeedsFiles(SnapshotOrder, Vec<String>),
    /// A snapshot that has to be finished by whoever gets this.
    Saved(Saved),
}

/// A command was not obeyed, and nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people: one line.
    pub message: String,
}

impl Refusal {
    /// A refusal. What a message quotes of a request may contain anything, a line end too.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.contains(char::is_control) {
            message = message.replace(char::is_control, "?");
        }
        Self { code, message }
    }
}

impl From<PhaseError> for Refusal {
    fn from(error: PhaseError) -> Self {
        let code = match error {
            PhaseError::BeforeStart => Code::BeforeStart,
            PhaseError::AfterStart => Code::AfterStart,
            PhaseError::Ended => Code::Ended,
        };
        Self::new(code, error.to_string())
    }
}

impl From<&FileError> for Refusal {
    fn from(error: &FileError) -> Self {
        let code = match error {
            FileError::Unsupported { .. } => Code::Unsupported,
            FileError::Value { .. } => Code::BadValue,
            _ => Code::MalformedBody,
        };
        Self::new(code, chain(error))
    }
}

impl From<&SnapshotError> for Refusal {
    fn from(error: &SnapshotError) -> Self {
        let code = match error {
            SnapshotError::Place { .. } => Code::BadValue,
            SnapshotError::Override { .. } => Code::BadConfiguration,
            error if error.exit_code() == ExitCode::HostFailure => Code::HostFailure,
            _ => Code::BadSnapshot,
        };
        Self::new(code, chain(error))
    }
}

/// Why something was refused. The words are part of the interface: they do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The bytes are not a request of HTTP/1.1, or not one that this server takes.
    MalformedRequest,
    /// The body is longer than the limit.
    BodyTooLarge,
    /// The rest of a request did not come.
    RequestTimeout,
    /// Too many clients at once.
    TooManyConnections,
    /// There is no such endpoint, or not with this method.
    UnknownEndpoint,
    /// Something that exists elsewhere and not here.
    Unsupported,
    /// The body is not JSON of the right shape.
    MalformedBody,
    /// A value in it cannot be.
    BadValue,
    /// The names in path and body differ.
    IdMismatch,
    /// There is no device of that name.
    UnknownDevice,
    /// It needs a machine that was started.
    BeforeStart,
    /// The machine was started already.
    AfterStart,
    /// The machine has ended.
    Ended,
    /// The configuration cannot become a machine.
    BadConfiguration,
    /// The metadata would be larger than they may be.
    MetadataTooLarge,
    /// It needs a machine that is paused.
    NotPaused,
    /// The snapshot cannot be used, or not here.
    BadSnapshot,
    /// The host failed.
    HostFailure,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::MalformedRequest,
        Self::BodyTooLarge,
        Self::RequestTimeout,
        Self::TooManyConnections,
        Self::UnknownEndpoint,
        Self::Unsupported,
        Self::MalformedBody,
        Self::BadValue,
        Self::IdMismatch,
        Self::UnknownDevice,
        Self::BeforeStart,
        Self::AfterStart,
        Self::Ended,
        Self::BadConfiguration,
        Self::MetadataTooLarge,
        Self::NotPaused,
        Self::BadSnapshot,
        Self::HostFailure,
    ];

    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::MalformedRequest => "malformed_request",
            Self::BodyTooLarge => "body_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::TooManyConnections => "too_many_connections",
            Self::UnknownEndpoint => "unknown_endpoint",
            Self::Unsupported => "unsupported",
            Self::MalformedBody => "malformed_body",
            Self::BadValue => "bad_value",
            Self::IdMismatch => "id_mismatch",
            Self::UnknownDevice => "unknown_device",
            Self::BeforeStart => "before_start",
            Self::AfterStart => "after_start",
            Self::Ended => "ended",
            Self::BadConfiguration => "bad_configuration",
            Self::MetadataTooLarge => "metadata_too_large",
            Self::NotPaused => "not_paused",
            Self::BadSnapshot => "bad_snapshot",
            Self::HostFailure => "host_failure",
        }
    }
}

/// Where the outcome of a command goes. Called on any thread; must not wait.
pub type ReplyTo = Box<dyn FnOnce(Outcome) + Send>;

/// Something for the owner of the machine.
pub enum Message {
    /// A signal came.
    Signal(Signal),
    /// Somebody wants something.
    Command(Box<Command>, ReplyTo),
    /// It is time to write down what is counted.
    MetricsDue,
    /// Somebody wants to know all metrics, in whatever phase the machine is.
    Metrics(ReplyTo),
    /// Somebody wants to be at a console.
    Visit(Visit, ReplyTo),
}

/// The owner's end.
pub type Inbox = Receiver<Message>;

/// The other end; clones lead to the same inbox.
#[derive(Clone)]
pub struct Outbox {
    to: Sender<Message>,
    on: LoopHandle,
}

impl Outbox {
    /// An outbox and its inbox; the owner's loop is woken for each message.
    #[must_use]
    pub fn new(on: LoopHandle) -> (Self, Inbox) {
        let (to, inbox) = channel();
        (Self { to, on }, inbox)
    }

    /// Sends a message. When the owner is gone, it is dropped, and with it the way back.
    pub fn send(&self, message: Message) {
        if self.to.send(message).is_ok() {
            self.on.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unlike_each_other() {
        let mut words = Code::ALL.map(Code::word).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
    }

    #[test]
    fn a_message_arrives_and_one_without_an_owner_is_dropped() {
        let event_loop = crate::event_loop::EventLoop::new().unwrap();
        let (outbox, inbox) = Outbox::new(event_loop.handle());
        outbox.send(Message::Signal(Signal::Terminate));
        assert!(matches!(inbox.try_recv(), Ok(Message::Signal(Signal::Terminate))));
        drop(inbox);
        let (reply, replies) = channel();
        let to = Box::new(move |outcome| reply.send(outcome).unwrap());
        outbox.send(Message::Command(Box::new(Command::Describe), to));
        assert!(replies.recv().is_err(), "nobody can answer any more");
    }
}
