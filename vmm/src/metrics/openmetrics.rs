//! OpenMetrics text (version 1.0.0), which Prometheus reads.
//!
//! Names say what is counted, labels of what; a family that a machine cannot have (a disk's without a disk) is left
//! out. Counters begin again when a machine is built again, which readers expect.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use devices::metrics::{TIME_BOUNDS, TimeCounts};
use devices::virtio::block::QueueCounts;

use super::host::Host;
use super::{Balloon, Disk, Net, Snapshot};
use crate::life_cycle::Phase;

/// The bounds of [`TimeCounts`] in seconds, as the format wants them written.
const BOUNDS: [&str; TIME_BOUNDS] = [
    "1e-06", "2e-06", "4e-06", "8e-06", "1.6e-05", "3.2e-05", "6.4e-05", "0.000128", "0.000256",
    "0.000512", "0.001024", "0.002048", "0.004096", "0.008192", "0.016384", "0.032768", "0.065536",
    "0.131072", "0.262144", "0.524288", "1.048576", "2.097152", "4.194304", "8.388608",
];

/// A page of a balloon (virtio 1.3, 5.5.6), as a shift.
const PAGE_SHIFT: u32 = 12;

/// The whole text.
#[must_use]
pub fn render(snapshot: &Snapshot, host: &Host) -> String {
    let mut text = Text { out: String::with_capacity(16 << 10), name: "", kind: Kind::Gauge };
    life(&mut text, snapshot);
    threads(&mut text, snapshot, host);
    memory(&mut text, snapshot, host);
    if !snapshot.disks.is_empty() {
        disks(&mut text, &snapshot.disks);
    }
    if !snapshot.nets.is_empty() {
        nets(&mut text, &snapshot.nets);
    }
    throttling(&mut text, snapshot);
    others(&mut text, snapshot);
    if let Some(balloon) = &snapshot.balloon {
        inflation(&mut text, balloon);
    }
    consoles(&mut text, snapshot);
    program(&mut text, snapshot);
    text.out.push_str("# EOF\n");
    text.out
}

fn life(text: &mut Text, snapshot: &Snapshot) {
    text.family(Kind::Info, "vmm", "", "The machine and the program that runs it.");
    let version = env!("CARGO_PKG_VERSION");
    text.sample(&[("id", &snapshot.id), ("version", version)], 1.into());
    text.family(Kind::StateSet, "vmm_state", "", "Where the machine is in its life.");
    for (word, phase) in
        [("not_started", Phase::NotStarted), ("running", Phase::Running), ("paused", Phase::Paused)]
    {
        text.sample(&[("vmm_state", word)], u64::from(phase == snapshot.phase).into());
    }
    let since_1970 = snapshot.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let begun = since_1970.saturating_sub(snapshot.uptime);
    let gauges = [
        ("vmm_start_time_seconds", "When the process began, since 1970.", Some(begun)),
        ("vmm_uptime_seconds", "How long the process has run.", Some(snapshot.uptime)),
        (
            "vmm_guest_boot_seconds",
            "How long the guest took from its start to its userspace.",
            snapshot.guest_boot,
        ),
        ("vmm_pause_seconds", "How long the last pause took to begin.", snapshot.pause),
        ("vmm_resume_seconds", "How long the last pause took to end.", snapshot.resume),
    ];
    for (name, help, time) in gauges {
        if let Some(time) = time {
            text.family(Kind::Gauge, name, "seconds", help);
            text.sample(&[], time.into());
        }
    }
}

fn threads(text: &mut Text, snapshot: &Snapshot, host: &Host) {
    text.family(Kind::Counter, "vmm_vcpu_exits", "", "How often a vCPU left the guest, and why.");
    for (vcpu, exits) in snapshot.vcpus.iter().enumerate() {
        let vcpu = vcpu.to_string();
        for (reason, count) in [
            ("io_in", exits.io_in),
            ("io_out", exits.io_out),
            ("mmio_read", exits.mmio_read),
            ("mmio_write", exits.mmio_write),
            ("interrupted", exits.interrupted),
            ("ended", exits.ended),
            ("failed", exits.failed),
        ] {
            text.sample(&[("vcpu", &vcpu), ("reason", reason)], count.into());
        }
    }
    text.family(Kind::Counter, "vmm_thread_cpu_seconds", "seconds", "How long a thread ran.");
    for thread in &host.threads {
        text.sample(&[("thread", &thread.name)], thread.ran.into());
    }
    let help =
        "How long a thread was ready and had no processor; of a vCPU, time that the host stole.";
    text.family(Kind::Counter, "vmm_thread_steal_seconds", "seconds", help);
    for thread in &host.threads {
        text.sample(&[("thread", &thread.name)], thread.waited.into());
    }
    text.family(Kind::Counter, "vmm_loop_wakeups", "", "How often an event loop woke up.");
    for (name, counts) in &snapshot.loops {
        text.sample(&[("loop", name)], counts.wakeups.into());
    }
    text.family(Kind::Counter, "vmm_loop_events", "", "What an event loop found ready and served.");
    for (name, counts) in &snapshot.loops {
        text.sample(&[("loop", name)], counts.events.into());
    }
}

fn memory(text: &mut Text, snapshot: &Snapshot, host: &Host) {
    let size: usize = snapshot.memory.iter().map(ExactSizeIterator::len).sum();
    text.family(Kind::Gauge, "vmm_guest_memory_bytes", "bytes", "How much memory the guest has.");
    text.sample(&[], (size as u64).into());
    if let Some(resident) = host.resident {
        let help = "Memory in use: the guest's, and the program's own with what it shares.";
        text.family(Kind::Gauge, "vmm_resident_bytes", "bytes", help);
        text.sample(&[("of", "guest")], resident.guest.into());
        text.sample(&[("of", "vmm")], resident.own.into());
    }
}

/// Takes something from the counts of a queue.
type Of<T> = fn(&QueueCounts) -> T;

fn disks(text: &mut Text, disks: &[Disk]) {
    text.family(Kind::Counter, "vmm_block_requests", "", "Requests that succeeded.");
    let parts: [(&str, Of<u64>); 4] = [
        ("read", |it| it.reads),
        ("write", |it| it.writes),
        ("flush", |it| it.flushes),
        ("clear", |it| it.clears),
    ];
    parts_of_queues(text, disks, "operation", &parts);
    text.family(Kind::Counter, "vmm_block_bytes", "bytes", "Data that they moved.");
    let parts: [(&str, Of<u64>); 2] =
        [("read", |it| it.read_bytes), ("write", |it| it.written_bytes)];
    parts_of_queues(text, disks, "operation", &parts);
    let help =
        "Requests that the guest should not have made, and those that the host's disk failed.";
    text.family(Kind::Counter, "vmm_block_errors", "", help);
    let parts: [(&str, Of<u64>); 2] = [("refused", |it| it.refused), ("host", |it| it.failed)];
    parts_of_queues(text, disks, "reason", &parts);
    text.family(Kind::Counter, "vmm_block_kicks", "", "How often the guest called a queue.");
    of_queues(disks, |disk, queue, counts| {
        text.sample(&[("disk", disk), ("queue", queue)], counts.kicks.into());
    });
    let help = "How long requests took, from when they were found until the guest was told.";
    text.family(Kind::Histogram, "vmm_block_request_seconds", "seconds", help);
    let parts: [(&str, Of<TimeCounts>); 3] = [
        ("read", |it| it.read_times),
        ("write", |it| it.write_times),
        ("flush", |it| it.flush_times),
    ];
    of_queues(disks, |disk, queue, counts| {
        for (word, of) in parts {
            text.histogram([("disk", disk), ("queue", queue), ("operation", word)], &of(counts));
        }
    });
}

/// Samples of each queue of each disk, told apart by a label.
fn parts_of_queues(text: &mut Text, disks: &[Disk], label: &str, parts: &[(&str, Of<u64>)]) {
    of_queues(disks, |disk, queue, counts| {
        for (word, of) in parts {
            text.sample(&[("disk", disk), ("queue", queue), (label, word)], of(counts).into());
        }
    });
}

/// Calls `tell` with each queue of each disk.
fn of_queues(disks: &[Disk], mut tell: impl FnMut(&str, &str, &QueueCounts)) {
    for disk in disks {
        for (queue, counts) in disk.queues.iter().enumerate() {
            tell(&disk.id, &queue.to_string(), counts);
        }
    }
}

fn nets(text: &mut Text, nets: &[Net]) {
    text.family(Kind::Counter, "vmm_net_frames", "", "Frames that went through.");
    for Net { id, counts, .. } in nets {
        text.sample(&[("net", id), ("direction", "rx")], counts.rx_frames.into());
        text.sample(&[("net", id), ("direction", "tx")], counts.tx_frames.into());
    }
    text.family(Kind::Counter, "vmm_net_bytes", "bytes", "Their bytes.");
    for Net { id, counts, .. } in nets {
        text.sample(&[("net", id), ("direction", "rx")], counts.rx_bytes.into());
        text.sample(&[("net", id), ("direction", "tx")], counts.tx_bytes.into());
    }
    text.family(Kind::Counter, "vmm_net_dropped_frames", "", "Frames that were lost, and why.");
    for Net { id, counts, .. } in nets {
        for (direction, reason, count) in [
            ("rx", "no_buffer", counts.rx_no_buffer),
            ("rx", "host", counts.rx_errors),
            ("tx", "refused", counts.tx_rejected),
            ("tx", "no_room", counts.tx_no_room),
            ("tx", "host", counts.tx_errors),
        ] {
            let labels = [("net", id.as_str()), ("direction", direction), ("reason", reason)];
            text.sample(&labels, count.into());
        }
    }
}

fn throttling(text: &mut Text, snapshot: &Snapshot) {
    let help = "How often a device had used up what its limits allow, and had to stand still.";
    text.family(Kind::Counter, "vmm_throttled", "", help);
    for disk in &snapshot.disks {
        text.sample(&[("device", &disk.id), ("direction", "both")], disk.throttled.into());
    }
    for net in &snapshot.nets {
        text.sample(&[("device", &net.id), ("direction", "rx")], net.rx_throttled.into());
        text.sample(&[("device", &net.id), ("direction", "tx")], net.tx_throttled.into());
    }
}

fn others(text: &mut Text, snapshot: &Snapshot) {
    if let Some(vsock) = &snapshot.vsock {
        text.family(Kind::Counter, "vmm_vsock_packets", "", "Packets of the socket device.");
        text.sample(&[("direction", "rx")], vsock.rx_packets.into());
        text.sample(&[("direction", "tx")], vsock.tx_packets.into());
        text.family(Kind::Counter, "vmm_vsock_bytes", "bytes", "Data in them.");
        text.sample(&[("direction", "rx")], vsock.rx_bytes.into());
        text.sample(&[("direction", "tx")], vsock.tx_bytes.into());
        text.family(Kind::Counter, "vmm_vsock_connections", "", "What became of connections.");
        text.sample(&[("outcome", "connected")], vsock.connected.into());
        text.sample(&[("outcome", "refused")], vsock.refused.into());
        text.sample(&[("outcome", "broken")], vsock.broken.into());
        let help = "Packets that the guest should not have sent.";
        text.family(Kind::Counter, "vmm_vsock_rejected_packets", "", help);
        text.sample(&[], vsock.tx_rejected.into());
    }
    if let Some(rng) = &snapshot.rng {
        text.family(Kind::Counter, "vmm_rng_requests", "", "Requests for entropy.");
        text.sample(&[], rng.requests.into());
        text.family(Kind::Counter, "vmm_rng_bytes", "bytes", "Entropy that the guest got.");
        text.sample(&[], rng.bytes.into());
        text.family(Kind::Counter, "vmm_rng_errors", "", "Requests that the host failed.");
        text.sample(&[], rng.failed.into());
    }
}

fn inflation(text: &mut Text, balloon: &Balloon) {
    let pages = |count: u64| Number::Whole(count << PAGE_SHIFT);
    text.family(Kind::Gauge, "vmm_balloon_target_bytes", "bytes", "How large it should be.");
    text.sample(&[], pages(balloon.target_pages.into()));
    text.family(Kind::Gauge, "vmm_balloon_actual_bytes", "bytes", "How large the guest made it.");
    text.sample(&[], pages(balloon.actual_pages.into()));
    let counts = &balloon.counts;
    text.family(Kind::Counter, "vmm_balloon_inflated_bytes", "bytes", "What the guest put in.");
    text.sample(&[], pages(counts.inflated_pages));
    text.family(Kind::Counter, "vmm_balloon_deflated_bytes", "bytes", "What it took out again.");
    text.sample(&[], pages(counts.deflated_pages));
    let help = "Memory that was given back to the host, by all ways, and by two of them.";
    text.family(Kind::Counter, "vmm_balloon_released_bytes", "bytes", help);
    text.sample(&[("by", "any")], counts.released.into());
    text.sample(&[("by", "report")], counts.reported.into());
    text.sample(&[("by", "hint")], counts.hinted.into());
}

fn consoles(text: &mut Text, snapshot: &Snapshot) {
    if snapshot.consoles.is_empty() {
        return;
    }
    text.family(Kind::Counter, "vmm_console_bytes", "bytes", "What the guest said and heard.");
    for (console, counts) in &snapshot.consoles {
        text.sample(&[("console", console), ("direction", "output")], counts.output.into());
        text.sample(&[("console", console), ("direction", "input")], counts.input.into());
    }
    let help = "Output that a reader was too slow for.";
    text.family(Kind::Counter, "vmm_console_lost_bytes", "bytes", help);
    for (console, counts) in &snapshot.consoles {
        text.sample(&[("console", console)], counts.lost.into());
    }
}

fn program(text: &mut Text, snapshot: &Snapshot) {
    text.family(Kind::Counter, "vmm_api_requests", "", "Requests to the API.");
    for it in &snapshot.requests {
        let labels = [("method", it.method), ("endpoint", it.endpoint)];
        text.sample(&labels, it.requests.into());
    }
    text.family(Kind::Counter, "vmm_api_failures", "", "Those that were refused.");
    for it in &snapshot.requests {
        let labels = [("method", it.method), ("endpoint", it.endpoint)];
        text.sample(&labels, it.failures.into());
    }
    text.family(Kind::Counter, "vmm_log_lines_lost", "", "Log lines that were not written.");
    text.sample(&[], snapshot.log_lines_lost.into());
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
    StateSet,
}

impl Kind {
    /// Its word, and what the names of its samples have at their end.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Counter => ("counter", "_total"),
            Self::Gauge => ("gauge", ""),
            Self::Histogram => ("histogram", ""),
            Self::Info => ("info", "_info"),
            Self::StateSet => ("stateset", ""),
        }
    }
}

/// A sample's value.
#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    Seconds(Duration),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<Duration> for Number {
    fn from(time: Duration) -> Self {
        Self::Seconds(time)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Seconds(time) => write!(f, "{}.{:09}", time.as_secs(), time.subsec_nanos()),
        }
    }
}

/// The text in the making. Writing to it cannot fail.
struct Text {
    out: String,
    /// The family that samples belong to.
    name: &'static str,
    kind: Kind,
}

impl Text {
    /// Begins a family; `unit` is the end of its name, or empty.
    fn family(&mut self, kind: Kind, name: &'static str, unit: &str, help: &str) {
        (self.name, self.kind) = (name, kind);
        let _ = writeln!(self.out, "# TYPE {name} {}", kind.words().0);
        if !unit.is_empty() {
            let _ = writeln!(self.out, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.out, "# HELP {name} {help}");
    }

    /// A sample of the family.
    fn sample(&mut self, labels: &[(&str, &str)], value: Number) {
        self.line(self.kind.words().1, labels, value);
    }

    /// The samples of one histogram of the family.
    fn histogram(&mut self, labels: [(&str, &str); 3], times: &TimeCounts) {
        let mut count = 0;
        for (bound, bucket) in BOUNDS.into_iter().chain(["+Inf"]).zip(times.buckets) {
            count += bucket;
            let [a, b, c] = labels;
            self.line("_bucket", &[a, b, c, ("le", bound)], count.into());
        }
        self.line("_count", &labels, count.into());
        self.line("_sum", &labels, times.sum.into());
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: Number) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            self.out.push_str(label);
            self.out.push_str("=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

#[cfg(test)]
mod tests;
