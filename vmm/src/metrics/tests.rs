use std::time::Duration;

use devices::legacy::serial::SerialCounters;
use devices::metrics::Times;
use devices::virtio::balloon::BalloonCounters;
use devices::virtio::block::QueueCounters;
use devices::virtio::{net, rng, vsock};

use super::*;
use crate::event_loop::LoopCounters;
use crate::metrics::api::{ApiCounters, Asked};
use crate::vcpu::Exits;

/// A machine that has one of everything, and two of some. Its numbers have the names that they have in a real one.
pub(super) fn full() -> Snapshot {
    let mut all = Snapshot::new("web-1", Phase::Paused);
    all.at = Duration::from_millis(1_700_000_000_123);
    let process = "start_ns uptime_ns log_lines_lost metrics_missed";
    all.add("process", Numbers::new(process, &[1_000_000_000, 2_500_000_000, 3, 0]));
    all.add("startup", Numbers::new("wall_ns processor_ns", &[9_000_000, 8_000_000]));
    all.add("boot", Numbers::new("wall_ns processor_ns", &[1_500_000, 1_000_000]));
    all.add("pause", Numbers::new("took_ns", &[70_000]));
    all.add("resume", Numbers::new("took_ns", &[30_000]));
    let requests = ApiCounters::default();
    for is_success in [true, true, false] {
        let drives = Asked::new("PUT", "/drives/d");
        requests.count(drives);
        requests.count_outcome(drives, is_success, false);
    }
    requests.count_into(&mut all);
    all.push("loop", &[("loop", "main")], LoopCounters::default().read(), Vec::new());
    all.push("loop", &[("loop", "a\"b\\c\nd")], LoopCounters::default().read(), Vec::new());
    for vcpu in 0..2_u64 {
        let exits = Exits::default();
        exits.io_out.add(7 * vcpu);
        all.push("vcpu", &[("vcpu", &vcpu.to_string())], exits.read(), Vec::new());
    }
    all.add("memory", Numbers::new("size", &[32 << 20]));
    for (disk, queue, reads) in [("root", "0", 4), ("root", "1", 1), ("data", "0", 10)] {
        let counters = QueueCounters::default();
        counters.reads.add(reads);
        counters.read_bytes.add(512 * reads);
        counters.refused.add(1);
        let times = Times::default();
        for us in [1, 3, 3, 9_000_000] {
            times.record(Duration::from_micros(us));
        }
        let labels = [("disk", disk), ("queue", queue)];
        let times = vec![("read", times.read()), ("write", TimeCounts::default())];
        all.push("disk", &labels, counters.read(), times);
    }
    for (device, direction, closures) in
        [("root", "both", 2), ("data", "both", 0), ("eth0", "rx", 1), ("eth0", "tx", 0)]
    {
        let labels = [("device", device), ("direction", direction)];
        all.push("limiter", &labels, Numbers::new("closures", &[closures]), vec![]);
    }
    let card = net::Counters::default();
    card.rx_frames.add(5);
    card.tx_no_room.add(6);
    all.push("net", &[("net", "eth0")], card.read(), Vec::new());
    all.add("balloon", Numbers::new("target actual", &[2 << 20, 0]));
    all.add("inflation", BalloonCounters { inflated_pages: 2, ..Default::default() }.numbers());
    let sockets = vsock::Counters::default();
    sockets.connected.add(8);
    all.add("vsock", sockets.read());
    let entropy = rng::Counters::default();
    entropy.bytes.add(64);
    all.add("rng", entropy.read());
    all.add("serial", SerialCounters::default().read());
    all.push(
        "console",
        &[("console", "terminal")],
        Numbers::new("output lost input", &[11, 2, 3]),
        Vec::new(),
    );
    let times = Numbers::new("ran_ns waited_ns", &[1_234_000_000, 5]);
    all.push("thread", &[("thread", "vcpu 0")], times, Vec::new());
    all.add("cgroup_memory", Numbers::new("now peak", &[4096, 16384]));
    all.add("cgroup_cpu", Numbers::new("used_ns throttled_ns", &[2_000_000_000, 7]));
    all.add("cgroup_pids", Numbers::new("now", &[4]));
    all.add("resident", Numbers::new("guest own", &[4096, 8192]));
    all
}
