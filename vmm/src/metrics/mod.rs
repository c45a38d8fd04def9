//! What a machine counts, told in two forms: Firecracker's JSON lines, and OpenMetrics text.
//!
//! ```text
//!  devices, vCPUs, loops, API: counters ──▶ Snapshot ──┬──▶ firecracker: a line each minute ──▶ sink: file or FIFO
//!                (relaxed loads, no locks)             └──▶ openmetrics, with what the host tells of the process
//! ```
//!
//! A [`Snapshot`] is taken on the main thread, which owns the machine; it costs as many loads as there are numbers.
//! Nothing here counts anything, and while nobody asks, nothing here runs.

pub mod api;
pub mod host;
pub mod openmetrics;

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use devices::backend::console::ConsoleCounters;
use devices::legacy::serial::SerialCounts;
use devices::virtio::balloon::BalloonCounters;
use devices::virtio::block::QueueCounts;
use devices::virtio::{net, rng, vsock};

use crate::event_loop::LoopCounts;
use crate::life_cycle::Phase;
use crate::vcpu::ExitCounts;
use api::RequestCounts;

/// Everything that is counted, at one moment. Counts begin with the process or, for what belongs to the machine, when
/// that was built.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The machine's name.
    pub id: String,
    /// When this was taken.
    pub at: SystemTime,
    /// How long the process had run by then.
    pub uptime: Duration,
    /// Where the machine is in its life.
    pub phase: Phase,
    /// How long the guest took from its start to its userspace, once it got there.
    pub guest_boot: Option<Duration>,
    /// How long the last pause took to begin.
    pub pause: Option<Duration>,
    /// How long the last one took to end.
    pub resume: Option<Duration>,
    /// Requests to the API.
    pub requests: Vec<RequestCounts>,
    /// Log lines that were left out or not taken.
    pub log_lines_lost: u64,
    /// Each vCPU's, in order.
    pub vcpus: Vec<ExitCounts>,
    /// The event loops, the main thread's first, by name.
    pub loops: Vec<(String, LoopCounts)>,
    /// The disks.
    pub disks: Vec<Disk>,
    /// The network cards.
    pub nets: Vec<Net>,
    /// The socket device.
    pub vsock: Option<vsock::Counts>,
    /// The entropy device.
    pub rng: Option<rng::Counts>,
    /// The balloon.
    pub balloon: Option<Balloon>,
    /// The serial port.
    pub serial: Option<SerialCounts>,
    /// The consoles, by name.
    pub consoles: Vec<(&'static str, ConsoleCounters)>,
    /// Where the guest's memory lies in this process.
    pub memory: Vec<Range<usize>>,
}

impl Snapshot {
    /// Nothing counted yet; taken now, by a process that began at `begun`.
    #[must_use]
    pub fn new(id: &str, phase: Phase, begun: Instant) -> Self {
        Self {
            id: id.to_owned(),
            at: SystemTime::now(),
            uptime: begun.elapsed(),
            phase,
            guest_boot: None,
            pause: None,
            resume: None,
            requests: Vec::new(),
            log_lines_lost: 0,
            vcpus: Vec::new(),
            loops: Vec::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            vsock: None,
            rng: None,
            balloon: None,
            serial: None,
            consoles: Vec::new(),
            memory: Vec::new(),
        }
    }
}

/// A disk's counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Disk {
    /// The device.
    pub id: String,
    /// How often its limits were reached.
    pub throttled: u64,
    /// Each queue's, in order.
    pub queues: Vec<QueueCounts>,
}

/// A network card's counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Net {
    /// The device.
    pub id: String,
    /// How often the limits towards the guest were reached.
    pub rx_throttled: u64,
    /// How often those from the guest were.
    pub tx_throttled: u64,
    /// The rest.
    pub counts: net::Counts,
}

/// A balloon's counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Balloon {
    /// How many pages of 4 KiB it should have.
    pub target_pages: u32,
    /// How many it has.
    pub actual_pages: u32,
    /// The rest.
    pub counts: BalloonCounters,
}
