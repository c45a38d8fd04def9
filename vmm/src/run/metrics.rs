//! What is counted, taken together and told.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::event::{Interest, chain};
use devices::metrics::Numbers;
use vmm_sys_util::timerfd::TimerFd;

use super::Session;
use crate::boot_timer::{self, BootTime};
use crate::config::{EventSinkError, ID_DEFAULT, MetricsConfig};
use crate::event_loop::{LoopSource, Next, SourceId};
use crate::logger;
use crate::metrics::api::ApiCounters;
use crate::metrics::cgroup::Accounts;
use crate::metrics::host::Files;
use crate::metrics::sink::Sink;
use crate::metrics::{Snapshot, elapsed, nanoseconds};
use crate::requests::{Answer, Code, Message, Outbox, Outcome, Refusal};

/// Time between two lines of metrics (Firecracker's).
const INTERVAL: Duration = Duration::from_secs(60);

/// What is known of the process besides the machine's own counts, and who wants to know.
pub(super) struct Watched {
    begun: Instant,
    /// What the host can be asked, by who asks for all metrics.
    pub(super) host: Option<Arc<Files>>,
    /// Of the machine's cgroup, until they are among those.
    pub(super) accounts: Accounts,
    /// Requests to the API, which its thread counts.
    pub(super) api: Arc<ApiCounters>,
    /// Somebody can ask for metrics.
    pub(super) has_api: bool,
    outbox: Outbox,
    /// Where metrics are written.
    sink: Option<Sink>,
    /// What says when.
    timer: Option<SourceId>,
    /// How long it took until the API was there, from what a launcher says.
    pub(super) startup: Option<BootTime>,
    /// How long the last pause took to begin.
    pub(super) pause_took: Option<Duration>,
    /// How long it took to end.
    pub(super) resume_took: Option<Duration>,
}

impl Watched {
    /// Of a process that began at `begun`, and writes metrics as `config` says.
    pub(super) fn new(
        begun: Instant,
        config: Option<&MetricsConfig>,
        outbox: Outbox,
    ) -> Result<Self, EventSinkError> {
        Ok(Self {
            begun,
            host: None,
            accounts: Accounts::default(),
            api: Arc::default(),
            has_api: false,
            outbox,
            sink: config.map(Sink::open).transpose()?,
            timer: None,
            startup: None,
            pause_took: None,
            resume_took: None,
        })
    }

    /// Whether somebody will want to know how long things take.
    pub(super) fn is_asked_for(&self) -> bool {
        self.has_api || self.sink.is_some()
    }

    /// Whether metrics are written.
    pub(super) fn is_written(&self) -> bool {
        self.sink.is_some()
    }
}

impl Session {
    /// Metrics go where `config` says from now on.
    pub(super) fn open_sink(&mut self, config: Option<&MetricsConfig>) -> Result<(), Refusal> {
        if self.watched.sink.is_some() {
            // The words are Firecracker's.
            let message = "Reinitialization of metrics not allowed.";
            return Err(Refusal::new(Code::BadConfiguration, message));
        }
        let failed = |error| Refusal::new(Code::BadConfiguration, chain(&error));
        self.watched.sink = config.map(Sink::open).transpose().map_err(failed)?;
        Ok(())
    }

    /// A machine was started: writes the first metrics, and has the next ones written in time.
    pub(super) fn begin_metrics(&mut self) {
        if self.watched.sink.is_none() || self.watched.timer.is_some() {
            return;
        }
        let clock = Clock::new(self.watched.outbox.clone());
        match clock.and_then(|clock| self.event_loop.add(Box::new(clock))) {
            Ok(timer) => self.watched.timer = Some(timer),
            Err(error) => log::error!("metrics are written when asked for only: {error}"),
        }
        // A line that is missed is counted.
        let _ = self.write_metrics();
    }

    /// Writes metrics, if they are to be written.
    pub(super) fn write_metrics(&mut self) -> io::Result<()> {
        let Some(mut sink) = self.watched.sink.take() else { return Ok(()) };
        let told = sink.tell(&self.snapshot_with(sink.missed()));
        self.watched.sink = Some(sink);
        told
    }

    /// The same because somebody asked for it.
    pub(super) fn flush_metrics(&mut self) -> Outcome {
        self.write_metrics().map(|()| Answer::Done).map_err(|error| {
            Refusal::new(Code::HostFailure, format!("Failed to write metrics: {error}"))
        })
    }

    /// The machine of `old` was built again.
    pub(super) fn move_metrics(&mut self, old: Option<&Snapshot>) {
        if let (Some(old), Some(mut sink)) = (old, self.watched.sink.take()) {
            sink.move_on(old, &self.snapshot_with(sink.missed()));
            self.watched.sink = Some(sink);
        }
    }

    /// Everything that is counted, now.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot_with(self.watched.sink.as_ref().map_or(0, Sink::missed))
    }

    fn snapshot_with(&self, metrics_missed: u64) -> Snapshot {
        let planned = self.life.as_ref().map(|life| life.plan.id.as_str());
        let id = planned.or(self.config.id.as_deref()).unwrap_or(ID_DEFAULT);
        let mut snapshot = Snapshot::new(id, self.phase);
        let uptime = elapsed(self.watched.begun);
        let begun = nanoseconds(snapshot.at).saturating_sub(uptime);
        let process = Numbers::new(
            "start_ns uptime_ns log_lines_lost metrics_missed",
            &[begun, uptime, logger::lost(), metrics_missed],
        );
        snapshot.add("process", process);
        for (kind, took) in [("startup", self.watched.startup), ("boot", boot_timer::took())] {
            if let Some(took) = took {
                let times = [took.wall, took.processor].map(nanoseconds);
                snapshot.add(kind, Numbers::new("wall_ns processor_ns", &times));
            }
        }
        for (kind, took) in
            [("pause", self.watched.pause_took), ("resume", self.watched.resume_took)]
        {
            if let Some(took) = took {
                snapshot.add(kind, Numbers::new("took_ns", &[nanoseconds(took)]));
            }
        }
        self.watched.api.count_into(&mut snapshot);
        snapshot.host = self.watched.host.clone();
        snapshot.push("loop", &[("loop", "main")], self.event_loop.handle().counts(), Vec::new());
        if let Some(life) = &self.life {
            life.machine.count_into(&mut snapshot);
            life.surroundings.consoles.count_into(&mut snapshot);
        }
        snapshot
    }
}

/// Says when metrics are due.
struct Clock {
    timer: TimerFd,
    outbox: Outbox,
}

impl Clock {
    fn new(outbox: Outbox) -> io::Result<Self> {
        let mut timer = TimerFd::new()?;
        timer.reset(INTERVAL, Some(INTERVAL))?;
        Ok(Self { timer, outbox })
    }
}

impl LoopSource for Clock {
    fn interests(&self) -> Vec<Interest> {
        // Edge-triggered, so that it need not be read.
        vec![Interest::readable_edge(self.timer.as_raw_fd(), 0)]
    }

    fn handle(&mut self, _token: u16) -> Next {
        self.outbox.send(Message::MetricsDue);
        Next::Keep
    }
}
