//! The life of a machine from start to end: configure, build, start, obey, and build again when it is to.
//!
//! One [`Session`] per process, on the main thread. It alone acts on the machine; others ask by
//! [`crate::requests`]. Which request makes sense when is in [`crate::life_cycle`].

mod balloon;
mod build;
mod change;
mod check;
mod console;
mod jail;
mod metadata;
mod metrics;
mod record;
mod rest;
mod snapshot;
mod writers;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::backend::console::ConsoleError;
use devices::backend::socket::SocketError;
use devices::backend::vsock::UnixEndpoint;
use devices::event::chain;
use devices::metadata::{MetadataStore, Service};
use serde_json::{Value, json};

use crate::api::{Api, ApiError, Server};
use crate::boot_timer::{self, LauncherTimes};
use crate::builder::BuildError;
use crate::clock;
use crate::config::{
    Change, ConfigError, EventSinkError, ID_DEFAULT, LogPlan, OnReboot, Plan, Section, VmConfig,
};
use crate::consoles::Consoles;
use crate::end::{EndReason, Ending};
use crate::event_loop::{EventLoop, SourceId};
use crate::events::{self, Event, Exit};
use crate::exit_code::ExitCode;
use crate::jail::{Jail, JailError};
use crate::kvm::Flavour;
use crate::life_cycle::Phase;
use crate::logger::{self, LogError};
use crate::memory::mapped;
use crate::metadata::{MetadataError, load};
use crate::provisions::Provisions;
use crate::requests::{Answer, Code, Command, Inbox, Message, Outbox, Outcome, Refusal};
use crate::seccomp::{Filters, SeccompError};
use crate::signals::{self, Signal, Signals};
use crate::snapshot::Source;
use crate::snapshot::working_set::Recording;
use crate::supervisor::{self, PowerSwitch};
use crate::threads::Threads;
use crate::vcpu::install_kick_handler;
use crate::vm::RunningVm;

use self::jail::AtTheDoor;
use self::metrics::Watched;
use self::snapshot::Base;
use self::writers::Writing;

/// How long clients get for their last replies and events when the machine has ended.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why a machine could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A console could not be opened.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The socket device's socket could not be made.
    #[error("vsock: socket")]
    Vsock(#[from] SocketError),
    /// The metadata of the guest.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Metrics cannot be written.
    #[error("metrics")]
    Metrics(#[from] EventSinkError),
    /// The API cannot be served.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// There is no jail.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// The threads cannot be confined.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The host is out of something.
    #[error("cannot {what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

impl RunError {
    /// The status of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Build(error) => error.exit_code(),
            Self::Jail(error) => error.exit_code(),
            Self::Console(_)
            | Self::Vsock(_)
            | Self::Metadata(_)
            | Self::Metrics(_)
            | Self::Api(_) => ExitCode::BadConfiguration,
            Self::Seccomp(_) | Self::Host { .. } => ExitCode::HostFailure,
        }
    }
}

/// What to run.
pub struct Launch {
    /// What was said so far.
    pub config: VmConfig,
    /// The plan to start at once; without one, the API says what to start and when.
    pub plan: Option<Plan>,
    /// What the machine goes on from, if it does not boot.
    pub source: Option<Box<Source>>,
    /// Where the API is served.
    pub api: Option<Api>,
    /// Where the machine is to run, if not like any program.
    pub jail: Option<Jail>,
    /// When the process began.
    pub begun: Instant,
    /// What its launcher says of the time before.
    pub launcher: Option<LauncherTimes>,
    /// What its threads may ask of the kernel.
    pub filters: Filters,
}

/// A machine that has come to its end. Its vCPUs were told to stop; closing it takes the kernel
/// milliseconds, so its owner reports the reason first.
pub struct Ended {
    /// Why it ended.
    pub reason: EndReason,
    /// The rest of it, if it was ever started.
    pub machine: Option<RunningVm>,
}

/// Memory in bytes of a machine that the API describes, when nothing is said: Firecracker's default.
const API_MEMORY_DEFAULT: u64 = 128 << 20;

/// Runs `launch` until the machine ends.
///
/// # Errors
/// [`RunError`] when it cannot be started (or started again).
pub fn run(launch: Launch) -> Result<Ended, RunError> {
    let Launch { mut config, plan, source, api, jail, begun, launcher, filters } = launch;
    if plan.is_none() {
        // Whoever tells a machine by the API what to be expects Firecracker's.
        config.memory_bytes.get_or_insert(API_MEMORY_DEFAULT);
    }
    let said = plan.as_ref().and_then(|plan| plan.metadata.as_ref());
    let (path, limit) = match said {
        Some(said) => (said.path.clone(), Some(said.size_limit)),
        // It is read here and now, and need not have a way to the guest yet.
        None => (config.metadata.path.take(), config.metadata.size_limit),
    };
    let metadata = load(path.as_deref(), limit)?;
    // Later nobody may ask.
    let _ = crate::process::id();
    filters.prepare()?;
    let signals = Signals::watch().map_err(host("watch signals"))?;
    install_kick_handler().map_err(host("install the vCPU signal"))?;
    let ending = Ending::new().map_err(host("make an event descriptor"))?;
    let power = PowerSwitch::new().map_err(host("make an event descriptor"))?;
    let mut event_loop = EventLoop::new().map_err(host("make an event loop"))?;
    let (outbox, inbox) = Outbox::new(event_loop.handle());
    let signals = supervisor::watch(&mut event_loop, signals, outbox.clone(), &ending)
        .map_err(host("watch signals"))?;
    let metrics = plan.as_ref().map_or(&config.metrics, |plan| &plan.metrics);
    let mut watched = Watched::new(begun, metrics.as_ref(), outbox.clone())?;
    watched.has_api = api.is_some();
    if watched.has_api {
        filters.note_threads();
        signals::expect_children();
    }
    let bind = |api: Api| Server::bind(&api, outbox.clone(), watched.api.clone(), filters.clone());
    let server = api.map(bind).transpose()?;
    watched.startup = launcher.map(LauncherTimes::until_now);

    let mut session = Session {
        has_jail: jail.is_some(),
        jail: jail.map(|jail| AtTheDoor { jail, signals, outbox: outbox.clone() }),
        server,
        config,
        metadata,
        event_loop,
        ending,
        power,
        phase: Phase::NotStarted,
        patience: None,
        life: None,
        recording: None,
        watched,
        threads: None,
        filters,
        writing: Vec::new(),
    };
    // In a jail its thread begins inside.
    if session.jail.is_none() || plan.is_none() {
        session.serve_api()?;
    }
    if let Some(plan) = plan {
        boot_timer::begin(begun, Duration::ZERO);
        session.start(plan, source)?;
    }
    let reason = session.serve(&inbox)?;
    session.finish(reason)
}

struct Session {
    /// The jail, until it is entered.
    jail: Option<AtTheDoor>,
    has_jail: bool,
    server: Option<Server>,
    config: VmConfig,
    /// What the guest is told, if it has a way to ask.
    metadata: MetadataStore,
    event_loop: EventLoop,
    ending: Ending,
    power: PowerSwitch,
    phase: Phase,
    /// Ends the run when the guest takes too long to be ready.
    patience: Option<SourceId>,
    /// The machine, from its start on.
    life: Option<Life>,
    /// Where it is written down which pages the machine has touched.
    recording: Option<Recording>,
    watched: Watched,
    /// What it runs on, from its first start on.
    threads: Option<Rc<Threads>>,
    filters: Filters,
    /// Snapshots whose memory other processes write.
    writing: Vec<Writing>,
}

/// What exists only while a machine runs.
struct Life {
    plan: Plan,
    surroundings: Surroundings,
    machine: RunningVm,
    /// The files that its memory is mapped from.
    base: Option<Base>,
}

/// The host's side of a machine, which stays when the machine is built again.
struct Surroundings {
    consoles: Consoles,
    vsock: Option<UnixEndpoint>,
    metadata: Option<Arc<Service>>,
    provisions: Provisions,
}

impl Session {
    fn serve_api(&mut self) -> Result<(), RunError> {
        self.server.as_mut().map_or(Ok(()), Server::go_on).map_err(RunError::from)
    }

    fn start(&mut self, mut plan: Plan, mut source: Option<Box<Source>>) -> Result<(), RunError> {
        let is_provided = source.as_ref().is_some_and(|source| source.order.provider.is_some());
        if self.has_jail && is_provided {
            return Err(JailError::Provider.into());
        }
        let recording = self.begin_recording(source.as_deref_mut())?;
        self.join_network()?;
        let consoles = Consoles::open(&plan, &mut self.event_loop, &self.ending)?;
        let saved = source.as_ref().map(|source| source.overlays.clone());
        let provisions = Provisions::beginning_with(saved.unwrap_or_default());
        let mut surroundings = Surroundings { consoles, vsock: None, metadata: None, provisions };
        match self.build_in(&mut plan, &mut surroundings, source.as_deref()) {
            Ok(machine) => {
                let is_paused = source.as_ref().is_some_and(|source| source.order.paused);
                let base = source.and_then(|source| Base::of(*source, &plan));
                self.life = Some(Life { plan, surroundings, machine, base });
                self.recording = recording;
                self.phase = if is_paused { Phase::Paused } else { Phase::Running };
                self.begin_metrics();
                Ok(())
            }
            Err(error) => {
                surroundings.consoles.close(&mut self.event_loop);
                Err(error)
            }
        }
    }

    /// Obeys until the machine ends.
    fn serve(&mut self, inbox: &Inbox) -> Result<EndReason, RunError> {
        loop {
            if let Some(reason) = self.ending.reason() {
                match &self.life {
                    Some(Life { plan, .. })
                        if reason == EndReason::Reboot && plan.on_reboot == OnReboot::Restart =>
                    {
                        log::info!("guest reboots");
                        self.rebuild(Event::Reboot)?;
                    }
                    _ => return Ok(reason),
                }
            }
            if mapped::is_asked() && self.writers_are_gone() {
                self.keep_kernel()?;
            }
            while let Ok(message) = inbox.try_recv() {
                match message {
                    Message::Signal(signal) => self.obey_signal(signal)?,
                    Message::Metrics(reply) => {
                        reply(Ok(Answer::Metrics(Box::new(self.snapshot()))));
                    }
                    // A line that is missed is counted.
                    Message::MetricsDue => drop(self.write_metrics()),
                    Message::Visit(visit, reply) => reply(self.let_in(visit)),
                    Message::Command(command, reply) => {
                        let outcome = match self.ending.reason() {
                            Some(_) => Phase::Ended.permits(command.when()).map_err(Refusal::from),
                            None => Ok(()),
                        };
                        let outcome = match outcome {
                            Ok(()) => self.obey(*command)?,
                            Err(refusal) => Err(refusal),
                        };
                        self.answer(reply, outcome);
                    }
                }
            }
            if self.ending.reason().is_none() {
                self.event_loop.run_once().map_err(host("wait for events"))?;
            }
        }
    }

    fn obey_signal(&mut self, signal: Signal) -> Result<(), RunError> {
        match signal {
            Signal::Interrupt => self.ending.report(EndReason::Quit),
            Signal::Terminate => self.stop(None)?,
            // The watcher of signals has asked for it by itself.
            Signal::Lease | Signal::Passed => {}
            Signal::Child => self.hear_of_writers(),
            Signal::Terminal => {
                if let Some(life) = &self.life {
                    life.surroundings.consoles.on_terminal_change();
                }
            }
        }
        Ok(())
    }

    /// An error is the end of the process; what only the client did wrong is the refusal inside.
    fn obey(&mut self, command: Command) -> Result<Outcome, RunError> {
        if let Err(error) = self.phase.permits(command.when()) {
            return Ok(Err(error.into()));
        }
        Ok(match command {
            Command::Configure(change) => self.configure(*change),
            Command::ConfigureMachine(patch) => match Change::of_machine(&patch, &self.config) {
                Ok(change) => self.configure(change),
                Err(error) => Err(Refusal::from(&error)),
            },
            Command::Start => self.start_as_configured(),
            Command::Pause => self.pause()?,
            Command::Resume => self.resume()?,
            Command::ChangeDisk { id, path, limiter } => {
                self.change_disk(&id, path.as_deref(), limiter)
            }
            Command::ChangeNet { id, rx, tx } => self.change_net(&id, rx, tx),
            Command::Balloon(command) => self.obey_about_balloon(command),
            Command::Metadata(command) => metadata::obey(&self.metadata, command),
            Command::PowerButton => {
                events::emit(Event::PowerButton);
                let failed = |error: io::Error| Refusal::new(Code::HostFailure, error.to_string());
                self.power.press().map(|()| Answer::Done).map_err(failed)
            }
            Command::Stop { grace } => {
                events::emit(Event::PowerButton);
                self.stop(grace)?;
                Ok(Answer::Done)
            }
            Command::Snapshot(order) => self.take_snapshot(order)?,
            Command::Restore(order) => self.go_on_from(*order),
            Command::FlushMetrics => self.flush_metrics(),
            Command::Reset => {
                self.rebuild(Event::Reset)?;
                Ok(Answer::Done)
            }
            Command::Describe => Ok(Answer::Value(json!({
                "id": self.config.id.as_deref().unwrap_or(ID_DEFAULT),
                "state": self.phase.to_string(),
                "vmm_version": env!("CARGO_PKG_VERSION"),
                "app_name": "vmm",
            }))),
            Command::ShowState => Ok(Answer::Value(self.state())),
            Command::ShowConfig => Ok(Answer::Value(self.config.to_json())),
            Command::ShowBalloon => match self.config.balloon_to_json() {
                Some(balloon) => Ok(Answer::Value(balloon)),
                None => Err(check::no_balloon()),
            },
            Command::ShowMachine => Ok(Answer::Value(self.config.machine_to_json())),
        })
    }

    /// What there is to know about the machine beside its configuration.
    fn state(&self) -> Value {
        let uptime = self.life.as_ref().and_then(|_| events::uptime());
        json!({
            "id": self.config.id.as_deref().unwrap_or(ID_DEFAULT),
            "state": self.phase.to_string(),
            "ready": events::ready(),
            "uptime_us": uptime.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            "pid": crate::process::id(),
        })
    }

    /// Says something else, if a machine could come of it.
    fn configure(&mut self, change: Change) -> Outcome {
        check::files(change.said())?;
        let section = change.section();
        let mut config = self.config.clone();
        change.put_into(&mut config).map_err(|_| check::no_card())?;
        check::plan(&config)?;
        if section == Section::Logger {
            let failed = |error: LogError| Refusal::new(Code::BadConfiguration, chain(&error));
            logger::redirect(&LogPlan::resolve(&config)).map_err(failed)?;
        }
        if section == Section::Metrics {
            self.open_sink(config.metrics.as_ref())?;
        }
        self.config = config;
        Ok(Answer::Done)
    }

    fn start_as_configured(&mut self) -> Outcome {
        boot_timer::begin(Instant::now(), clock::process_time());
        let bad = |error: ConfigError| Refusal::new(Code::BadConfiguration, chain(&error));
        let plan = Plan::resolve(self.config.clone()).map_err(bad)?;
        self.start_or_tell(plan, None)
    }

    fn start_or_tell(&mut self, plan: Plan, source: Option<Box<Source>>) -> Outcome {
        self.start(plan, source).map(|()| Answer::Done).map_err(|error| {
            let code = match error.exit_code() {
                ExitCode::BadConfiguration => Code::BadConfiguration,
                _ => Code::HostFailure,
            };
            let said = chain(&error);
            // Files were opened once; another start would find none.
            if self.is_inside() {
                self.ending.report(EndReason::HostFailure(said.clone()));
            }
            Refusal::new(code, said)
        })
    }

    /// Tells everybody, and lets go of everything but the machine.
    fn finish(mut self, reason: EndReason) -> Result<Ended, RunError> {
        // A line that is missed is counted.
        let _ = self.write_metrics();
        self.stop_writers();
        self.finish_recording();
        let (machine, around) = match self.life {
            Some(Life { machine, surroundings, .. }) => (Some(machine), Some(surroundings)),
            None => (None, None),
        };
        if let Some(machine) = &machine {
            machine.tell_to_stop();
            machine.controls().keep_overlays();
        }
        if events::is_on() {
            if reason == EndReason::Panic {
                let console =
                    around.as_ref().map(|it| it.consoles.last_words()).unwrap_or_default();
                events::emit(Event::Panic { console });
            }
            let exit = Exit::new(&reason, reason.describe(Flavour::detect()));
            events::emit(Event::Exit(exit.clone()));
            if let Some(server) = self.server {
                server.finish(exit, PATIENCE);
            }
            events::flush(PATIENCE);
        }
        Ok(Ended { reason, machine })
    }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Host { what, source }
}
