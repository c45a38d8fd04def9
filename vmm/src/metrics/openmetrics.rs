//! OpenMetrics text (version 1.0.0), which Prometheus reads.
//!
//! Names say what is counted, labels of what; a family of which the machine has nothing (a disk's without a disk) is
//! left out. Counters begin again when a machine is built again, which readers expect.

use std::fmt::{self, Write};

use devices::metrics::TimeCounts;

use super::{Snapshot, cut};
use crate::life_cycle::Phase;

/// Every family: its type, name and unit, the kind of subjects that have it, its samples each with labels of its own
/// and the number that it is, and its help. In the unit of seconds, numbers are nanoseconds.
const FAMILIES: &str = "\
gauge vmm_start_time_seconds seconds process {}start_ns When the process began, since 1970.
gauge vmm_uptime_seconds seconds process {}uptime_ns How long the process has run.
gauge vmm_guest_boot_seconds seconds boot {}wall_ns How long the guest took from its start to the sign that it is ready.
gauge vmm_pause_seconds seconds pause {}took_ns How long the last pause took to begin.
gauge vmm_resume_seconds seconds resume {}took_ns How long the last pause took to end.
counter vmm_vcpu_exits - vcpu {reason=\"io_in\"}io_in{reason=\"io_out\"}io_out{reason=\"mmio_read\"}mmio_read{reason=\"mmio_write\"}mmio_write{reason=\"interrupted\"}interrupted{reason=\"ended\"}ended{reason=\"failed\"}failed How often a vCPU left the guest, and why.
counter vmm_thread_cpu_seconds seconds thread {}ran_ns How long a thread ran.
counter vmm_thread_steal_seconds seconds thread {}waited_ns How long a thread was ready and had no processor; of a vCPU, time that the host stole.
counter vmm_loop_wakeups - loop {}wakeups How often an event loop woke up.
counter vmm_loop_events - loop {}events What an event loop found ready and served.
gauge vmm_guest_memory_bytes bytes memory {}size How much memory the guest has.
gauge vmm_cgroup_memory_bytes bytes cgroup_memory {of=\"now\"}now{of=\"peak\"}peak Memory that counts for the machine's cgroup, the host's caches for it included, and the most that it was.
counter vmm_cgroup_cpu_seconds seconds cgroup_cpu {}used_ns How long all of it ran.
counter vmm_cgroup_throttled_seconds seconds cgroup_cpu {}throttled_ns How long it had used up its processor time, and waited.
gauge vmm_cgroup_threads - cgroup_pids {}now How many threads it has.
gauge vmm_resident_bytes bytes resident {of=\"guest\"}guest{of=\"vmm\"}own Memory in use: the guest's, and the program's own with what it shares.
counter vmm_block_requests - disk {operation=\"read\"}reads{operation=\"write\"}writes{operation=\"flush\"}flushes{operation=\"clear\"}clears Requests that succeeded.
counter vmm_block_bytes bytes disk {operation=\"read\"}read_bytes{operation=\"write\"}written_bytes Data that they moved.
counter vmm_block_errors - disk {reason=\"refused\"}refused{reason=\"host\"}failed Requests that the guest should not have made, and those that the host's disk failed.
counter vmm_block_kicks - disk {}kicks How often the guest called a queue.
histogram vmm_block_request_seconds seconds disk operation How long requests took, from when they were found until the guest was told.
counter vmm_net_frames - net {direction=\"rx\"}rx_frames{direction=\"tx\"}tx_frames Frames that went through.
counter vmm_net_bytes bytes net {direction=\"rx\"}rx_bytes{direction=\"tx\"}tx_bytes Their bytes.
counter vmm_net_dropped_frames - net {direction=\"rx\",reason=\"no_buffer\"}rx_no_buffer{direction=\"rx\",reason=\"host\"}rx_errors{direction=\"tx\",reason=\"refused\"}tx_rejected{direction=\"tx\",reason=\"no_room\"}tx_no_room{direction=\"tx\",reason=\"host\"}tx_errors Frames that were lost, and why.
counter vmm_throttled - limiter {}closures How often a device had used up what its limits allow, and had to stand still.
counter vmm_vsock_packets - vsock {direction=\"rx\"}rx_packets{direction=\"tx\"}tx_packets Packets of the socket device.
counter vmm_vsock_bytes bytes vsock {direction=\"rx\"}rx_bytes{direction=\"tx\"}tx_bytes Data in them.
counter vmm_vsock_connections - vsock {outcome=\"connected\"}connected{outcome=\"refused\"}refused{outcome=\"broken\"}broken What became of connections.
counter vmm_vsock_rejected_packets - vsock {}tx_rejected Packets that the guest should not have sent.
counter vmm_rng_requests - rng {}requests Requests for entropy.
counter vmm_rng_bytes bytes rng {}bytes Entropy that the guest got.
counter vmm_rng_errors - rng {}failed Requests that the host failed.
gauge vmm_balloon_target_bytes bytes balloon {}target How large the balloon should be.
gauge vmm_balloon_actual_bytes bytes balloon {}actual How large the guest made it.
counter vmm_balloon_inflated_bytes bytes inflation {}inflated_bytes What the guest put in.
counter vmm_balloon_deflated_bytes bytes inflation {}deflated_bytes What it took out again.
counter vmm_balloon_released_bytes bytes inflation {by=\"any\"}released{by=\"report\"}reported{by=\"hint\"}hinted Memory that was given back to the host, by all ways, and by two of them.
counter vmm_console_bytes bytes console {direction=\"output\"}output{direction=\"input\"}input What the guest said and heard.
counter vmm_console_lost_bytes bytes console {}lost Output that a reader was too slow for.
counter vmm_api_requests - api {}requests Requests to the API.
counter vmm_api_failures - api {}failures Those that were refused.
counter vmm_log_lines_lost - process {}log_lines_lost Log lines that were not written.
";

/// The bounds of [`TimeCounts`] in seconds, as the format wants them written; the last one is that of none.
const BOUNDS: &str = "1e-06 2e-06 4e-06 8e-06 1.6e-05 3.2e-05 6.4e-05 0.000128 0.000256 0.000512 0.001024 0.002048 \
                      0.004096 0.008192 0.016384 0.032768 0.065536 0.131072 0.262144 0.524288 1.048576 2.097152 \
                      4.194304 8.388608 +Inf";

/// The whole text.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = Text(String::with_capacity(16 << 10));
    text.life(snapshot);
    let mut families = FAMILIES;
    while !families.is_empty() {
        let mut line = cut(&mut families, '\n');
        let mut next = || cut(&mut line, ' ');
        let (kind, name, unit) = (next(), next(), next());
        let (of, samples) = (next(), next());
        let mut is_new = true;
        for subject in snapshot.of(of) {
            if std::mem::take(&mut is_new) {
                text.family(kind, name, unit, line);
            }
            let own = Labels::of(&subject.labels);
            if kind == "histogram" {
                for (word, times) in &subject.times {
                    text.histogram(name, &own.and(&[samples, "=\"", word, "\""]), times);
                }
                continue;
            }
            let end = if kind == "counter" { "_total" } else { "" };
            let mut rest = samples.strip_prefix('{').unwrap_or_default();
            while !rest.is_empty() {
                let more = cut(&mut rest, '}');
                let value = subject.numbers.get(cut(&mut rest, '{'));
                let to_value = if unit == "seconds" { Value::Time } else { Value::Count };
                if let Some(value) = value {
                    text.sample(name, end, &own.and(&[more]), to_value(value));
                }
            }
        }
    }
    text.0.push_str("# EOF\n");
    text.0
}

/// A sample's value.
#[derive(Clone, Copy)]
enum Value {
    Count(u64),
    /// In nanoseconds.
    Time(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count(number) => number.fmt(f),
            Self::Time(ns) => write!(f, "{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000),
        }
    }
}

/// Labels as they stand between the braces.
struct Labels(String);

impl Labels {
    #[inline(never)]
    fn of(labels: &[(&'static str, String)]) -> Self {
        let mut all = String::new();
        for (name, text) in labels {
            if !all.is_empty() {
                all.push(',');
            }
            all.push_str(name);
            all.push_str("=\"");
            for c in text.chars() {
                if matches!(c, '\\' | '"' | '\n') {
                    all.push('\\');
                }
                all.push(if c == '\n' { 'n' } else { c });
            }
            all.push('"');
        }
        Self(all)
    }

    /// These, and one more in pieces, or none.
    #[inline(never)]
    fn and(&self, more: &[&str]) -> Self {
        let more = more.concat();
        let comma = if self.0.is_empty() || more.is_empty() { "" } else { "," };
        Self([&self.0, comma, &more].concat())
    }
}

/// The text in the making. Writing to it cannot fail.
struct Text(String);

impl Text {
    /// What is no number.
    fn life(&mut self, snapshot: &Snapshot) {
        self.family("info", "vmm", "-", "The machine and the program that runs it.");
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let labels = Labels::of(&[("id", snapshot.id.clone()), ("version", version)]);
        self.sample("vmm", "_info", &labels, Value::Count(1));
        self.family("stateset", "vmm_state", "-", "Where the machine is in its life.");
        for (word, phase) in [
            ("not_started", Phase::NotStarted),
            ("running", Phase::Running),
            ("paused", Phase::Paused),
        ] {
            let labels = Labels::of(&[("vmm_state", word.to_owned())]);
            let is_now = u64::from(phase == snapshot.phase);
            self.sample("vmm_state", "", &labels, Value::Count(is_now));
        }
    }

    /// Begins a family; its unit is the end of its name, or a dash.
    #[inline(never)]
    fn family(&mut self, kind: &str, name: &str, unit: &str, help: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if unit != "-" {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {help}");
    }

    #[inline(never)]
    fn sample(&mut self, name: &str, end: &str, labels: &Labels, value: Value) {
        let Labels(labels) = labels;
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        let _ = writeln!(self.0, "{name}{end}{open}{labels}{close} {value}");
    }

    fn histogram(&mut self, name: &str, labels: &Labels, times: &TimeCounts) {
        let mut count = 0;
        let mut bounds = BOUNDS;
        for bucket in times.buckets {
            count += bucket;
            let labels = labels.and(&["le=\"", cut(&mut bounds, ' '), "\""]);
            self.sample(name, "_bucket", &labels, Value::Count(count));
        }
        self.sample(name, "_count", labels, Value::Count(count));
        self.sample(name, "_sum", labels, Value::Time(super::nanoseconds(times.sum)));
    }
}

#[cfg(test)]
mod tests;
