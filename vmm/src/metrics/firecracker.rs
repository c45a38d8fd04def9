//! Firecracker's metrics: one JSON object for each time that they are told, of groups of numbers.
//!
//! Names and grouping are Firecracker's (`docs/metrics.md` and the structures named there). Counts are those since the
//! last line, times and sizes are as they are. What this monitor does not have is there and zero, because readers look
//! for it: latencies of vCPU exits, snapshots, signals, what can only go wrong inside of Firecracker.

use std::fmt::Write;

use super::{Snapshot, Subject, cut};

/// Every group: its name, the kind of subjects that its numbers are of, and its numbers. A name alone is zero.
/// `=` leads to a count, of another kind of subjects if that stands before a dot, and of those only whose labels end in
/// what stands behind `@`; `~` to a time, told in microseconds; `*` to times, told by their ends and their sum.
const GROUPS: &str = "\
api_server startup process_startup_time_us~startup.wall_ns process_startup_time_cpu_us~startup.processor_ns
balloon inflation activate_fails cfg_fails inflate_count=inflations stats_updates_count=statistics stats_update_fails deflate_count=deflations event_fails free_page_report_count=reports free_page_report_freed=reported free_page_report_fails free_page_hint_count=hints free_page_hint_freed=hinted free_page_hint_fails
block disk activate_fails cfg_fails no_avail_buffer event_fails execute_fails=failed invalid_reqs_count=refused flush_count=flushes queue_event_count=kicks rate_limiter_event_count=limiter.closures@both update_count update_fails read_bytes=read_bytes write_bytes=written_bytes read_count=reads write_count=writes read_agg*read write_agg*write rate_limiter_throttled_events=limiter.closures@both io_engine_throttled_events remaining_reqs_count
deprecated_api api deprecated_http_api_calls=deprecated
entropy rng activate_fails entropy_event_fails entropy_event_count=requests entropy_bytes=bytes host_rng_fails=failed entropy_rate_limiter_throttled rate_limiter_event_count
get_api_requests api instance_info_count=requests@GET/ machine_cfg_count=requests@GET/machine-config mmds_count=requests@GET/mmds vmm_version_count=requests@GET/version hotplug_memory_count
i8042 - error_count missed_read_count missed_write_count read_count reset_count write_count
latencies_us - full_create_snapshot diff_create_snapshot load_snapshot pause_vm~pause.took_ns resume_vm~resume.took_ns vmm_full_create_snapshot vmm_diff_create_snapshot vmm_load_snapshot vmm_pause_vm~pause.took_ns vmm_resume_vm~resume.took_ns
logger process missed_metrics_count=metrics_missed metrics_fails=metrics_missed missed_log_count=log_lines_lost
mmds - rx_accepted rx_accepted_err rx_accepted_unusual rx_bad_eth rx_invalid_token rx_no_token rx_count tx_bytes tx_count tx_errors tx_frames connections_created connections_destroyed
net net activate_fails cfg_fails mac_address_updates no_rx_avail_buffer=rx_no_buffer no_tx_avail_buffer event_fails rx_queue_event_count=rx_kicks rx_event_rate_limiter_count=limiter.closures@rx rx_partial_writes rx_rate_limiter_throttled=limiter.closures@rx rx_tap_event_count=rx_events rx_bytes_count=rx_bytes rx_packets_count=rx_frames rx_fails=rx_errors rx_count=rx_frames tap_read_fails=rx_errors tap_write_fails=tx_errors tx_bytes_count=tx_bytes tx_malformed_frames=tx_rejected tx_fails=tx_no_room tx_count=tx_frames tx_packets_count=tx_frames tx_partial_reads tx_queue_event_count=tx_kicks tx_rate_limiter_event_count=limiter.closures@tx tx_rate_limiter_throttled=limiter.closures@tx tx_spoofed_mac_count tx_remaining_reqs_count tap_write_agg*
patch_api_requests api drive_count=requests@PATCH/drives drive_fails=failures@PATCH/drives network_count=requests@PATCH/network-interfaces network_fails=failures@PATCH/network-interfaces machine_cfg_count=requests@PATCH/machine-config machine_cfg_fails=failures@PATCH/machine-config mmds_count=requests@PATCH/mmds mmds_fails=failures@PATCH/mmds hotplug_memory_count hotplug_memory_fails
put_api_requests api actions_count=requests@PUT/actions actions_fails=failures@PUT/actions boot_source_count=requests@PUT/boot-source boot_source_fails=failures@PUT/boot-source drive_count=requests@PUT/drives drive_fails=failures@PUT/drives logger_count=requests@PUT/logger logger_fails=failures@PUT/logger machine_cfg_count=requests@PUT/machine-config machine_cfg_fails=failures@PUT/machine-config cpu_cfg_count=requests@PUT/cpu-config cpu_cfg_fails=failures@PUT/cpu-config metrics_count=requests@PUT/metrics metrics_fails=failures@PUT/metrics network_count=requests@PUT/network-interfaces network_fails=failures@PUT/network-interfaces mmds_count=requests@PUT/mmds mmds_fails=failures@PUT/mmds vsock_count=requests@PUT/vsock vsock_fails=failures@PUT/vsock pmem_count pmem_fails serial_count=requests@PUT/serial serial_fails=failures@PUT/serial hotplug_memory_count hotplug_memory_fails
seccomp - num_faults
vcpu vcpu exit_io_in=io_in exit_io_out=io_out exit_mmio_read=mmio_read exit_mmio_write=mmio_write failures=failed kvmclock_ctrl_fails exit_io_in_agg* exit_io_out_agg* exit_mmio_read_agg* exit_mmio_write_agg*
vmm loop device_events=events panic_count
uart serial error_count=errors flush_count missed_read_count=missed_reads missed_write_count=missed_writes read_count=received write_count=sent
signals - sigbus sigsegv sigxfsz sigxcpu sigpipe sighup sigill
vsock vsock activate_fails cfg_fails rx_queue_event_fails tx_queue_event_fails ev_queue_event_fails muxer_event_fails conn_event_fails rx_queue_event_count tx_queue_event_count rx_bytes_count=rx_bytes tx_bytes_count=tx_bytes rx_packets_count=rx_packets tx_packets_count=tx_packets conns_added=connected conns_killed=broken conns_removed killq_resync tx_flush_fails tx_write_fails rx_read_fails
";

/// Groups of which there is one for each device besides that for all.
const PER_DEVICE: [&str; 2] = ["block", "net"];

/// What counts were, in the order of the groups and their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

/// The line for `snapshot`, without an end, when counts were `before` the last time; and what they are now. Which
/// devices there are must be the same both times, or `before` empty.
#[must_use]
pub fn line(snapshot: &Snapshot, properties: &str, before: &Counts) -> (String, Counts) {
    let mut line = Line { text: String::with_capacity(8 << 10), before, now: Counts::default() };
    let _ = write!(line.text, "{{\"utc_timestamp_ms\":{}{properties}", snapshot.at.as_millis());
    let mut groups = GROUPS;
    while !groups.is_empty() {
        let mut numbers = cut(&mut groups, '\n');
        let (name, kind) = (cut(&mut numbers, ' '), cut(&mut numbers, ' '));
        line.group(name, snapshot, kind, None, numbers);
        if PER_DEVICE.contains(&name) {
            let mut last = None;
            for subject in snapshot.of(kind) {
                // Of a device with several queues there are several.
                let id = subject.labels.first().map(|(_, id)| id.as_str());
                if id != last {
                    line.group(
                        &format!("{name}_{}", id.unwrap_or_default()),
                        snapshot,
                        kind,
                        id,
                        numbers,
                    );
                }
                last = id;
            }
        }
    }
    line.text.push('}');
    (line.text, line.now)
}

impl Counts {
    /// Those of a machine that is in the place of another one. What the other had counted by `old` and was not told
    /// before is not forgotten: it will be told with what this one, at `new`, counts from now on.
    #[must_use]
    pub fn moved(&self, old: &Snapshot, new: &Snapshot) -> Self {
        let (old, new) = (line(old, "", self).1, line(new, "", self).1);
        let before = |index| self.0.get(index).copied().unwrap_or(0);
        let moved = old.0.iter().zip(&new.0).enumerate();
        Self(moved.map(|(i, (old, new))| new.wrapping_sub(old.wrapping_sub(before(i)))).collect())
    }
}

/// A line in the making. Writing to it cannot fail.
struct Line<'a> {
    text: String,
    before: &'a Counts,
    now: Counts,
}

impl Line<'_> {
    /// A group of the subjects of a kind, or of the device among them that is called `id`.
    fn group(
        &mut self,
        name: &str,
        snapshot: &Snapshot,
        kind: &str,
        id: Option<&str>,
        numbers: &str,
    ) {
        let _ = write!(self.text, ",\"{name}\":{{");
        let mut rest = numbers;
        let mut comma = "";
        while !rest.is_empty() {
            let number = cut(&mut rest, ' ');
            let end = number.find(['=', '~', '*']).unwrap_or(number.len());
            let (name, source) = number.split_at(end);
            let _ = write!(self.text, "{comma}\"{name}\":");
            comma = ",";
            let from = Source::new(source.get(1..).unwrap_or_default(), kind, id);
            match source.get(..1) {
                Some("=") => {
                    let count = self.since(from.sum(snapshot));
                    let _ = write!(self.text, "{count}");
                }
                Some("~") => {
                    let _ = write!(self.text, "{}", from.sum(snapshot) / 1000);
                }
                Some(_) => self.times(snapshot, &from),
                None => self.text.push('0'),
            }
        }
        self.text.push('}');
    }

    /// The ends and the sum of times. Of several devices only the sum means something.
    fn times(&mut self, snapshot: &Snapshot, from: &Source<'_>) {
        let (mut shortest, mut longest, mut sum) = (u128::MAX, 0, 0);
        for subject in from.subjects(snapshot) {
            let times = subject.times.iter().filter(|(word, _)| *word == from.number);
            for (_, times) in times.filter(|(_, times)| times.count() > 0) {
                shortest = shortest.min(times.shortest.as_micros());
                longest = longest.max(times.longest.as_micros());
                sum += times.sum.as_micros();
            }
        }
        if from.id.is_none() || shortest > longest {
            (shortest, longest) = (0, 0);
        }
        let sum = self.since(u64::try_from(sum).unwrap_or(u64::MAX));
        let _ =
            write!(self.text, "{{\"min_us\":{shortest},\"max_us\":{longest},\"sum_us\":{sum}}}");
    }

    /// How much more a count is than it was.
    fn since(&mut self, now: u64) -> u64 {
        let before = self.before.0.get(self.now.0.len()).copied().unwrap_or(0);
        self.now.0.push(now);
        now.wrapping_sub(before)
    }
}

/// Where a number comes from.
struct Source<'a> {
    kind: &'a str,
    id: Option<&'a str>,
    number: &'a str,
    /// What the labels end in.
    end: &'a str,
}

impl<'a> Source<'a> {
    /// Reads `[KIND.]NUMBER[@END]`.
    fn new(text: &'a str, kind: &'a str, id: Option<&'a str>) -> Self {
        let (text, end) = text.split_once('@').unwrap_or((text, ""));
        let (kind, number) = text.split_once('.').unwrap_or((kind, text));
        Self { kind, id, number, end }
    }

    fn subjects(&self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Subject> {
        snapshot.of(self.kind).filter(|subject| {
            let labels = || subject.labels.iter().map(|(_, text)| text.as_str());
            self.id.is_none_or(|id| labels().next() == Some(id))
                && labels().collect::<String>().ends_with(self.end)
        })
    }

    fn sum(&self, snapshot: &Snapshot) -> u64 {
        self.subjects(snapshot)
            .filter_map(|it| it.numbers.get(self.number))
            .fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests;
