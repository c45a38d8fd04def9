use std::ops::Range;
use std::time::Instant;

use devices::backend::console::ConsoleCounters;
use devices::metrics::{Live, Times};
use devices::virtio::{net, rng, vsock};

use super::*;
use crate::metrics::api::RequestCounts;
use crate::metrics::host::{Resident, Thread};
use crate::vcpu::ExitCounts;

/// What the integration tests read the text with.
#[path = "../../../../tests/harness/openmetrics.rs"]
#[allow(dead_code, unreachable_pub, clippy::missing_panics_doc)]
mod reader;
use reader::{Kind as ReadKind, Metrics};

const EVERYTHING: Range<usize> = 0x1000..0x200_1000;

/// A machine that has one of everything.
fn full() -> Snapshot {
    let times = Times::default();
    for us in [1, 3, 3, 9_000_000] {
        times.record(Duration::from_micros(us));
    }
    let queue = QueueCounts {
        reads: 4,
        read_bytes: 2048,
        refused: 1,
        read_times: times.read(),
        ..QueueCounts::default()
    };
    let mut all = Snapshot::new("web-1", Phase::Paused, Instant::now());
    all.guest_boot = Some(Duration::from_micros(1_500));
    all.requests = vec![RequestCounts {
        method: "PUT",
        endpoint: "drives",
        requests: 3,
        failures: 1,
        deprecated: 0,
    }];
    all.vcpus = vec![ExitCounts::default(), ExitCounts { io_out: 7, ..ExitCounts::default() }];
    all.loops = vec![
        ("main".to_owned(), Default::default()),
        ("a\"b\\c\nd".to_owned(), Default::default()),
    ];
    all.disks = vec![Disk {
        id: "root".to_owned(),
        throttled: 2,
        queues: vec![queue, QueueCounts::default()],
    }];
    let counts = net::Counts { rx_frames: 5, tx_no_room: 6, ..net::Counts::default() };
    all.nets = vec![Net { id: "eth0".to_owned(), rx_throttled: 1, tx_throttled: 0, counts }];
    all.vsock = Some(vsock::Counts { connected: 8, ..vsock::Counts::default() });
    all.rng = Some(rng::Counts { requests: 1, bytes: 64, failed: 0 });
    all.balloon = Some(Balloon { target_pages: 512, ..Balloon::default() });
    all.consoles = vec![("terminal", ConsoleCounters { output: 11, lost: 2, input: 3 })];
    all.memory = vec![EVERYTHING];
    all
}

fn host() -> Host {
    let (ran, waited) = (Duration::from_millis(1_234), Duration::from_nanos(5));
    let thread = Thread { name: "vcpu 0".to_owned(), ran, waited };
    Host { threads: vec![thread], resident: Some(Resident { guest: 4096, own: 8192 }) }
}

#[test]
fn everything_is_told_and_can_be_read() {
    let metrics = Metrics::parse(&render(&full(), &host()));
    let expect = |name, labels: &[(&str, &str)], value| {
        assert_eq!(metrics.get(name, labels), value, "{name} {labels:?}");
    };
    expect("vmm_info", &[("id", "web-1"), ("version", env!("CARGO_PKG_VERSION"))], 1.0);
    expect("vmm_state", &[("vmm_state", "paused")], 1.0);
    expect("vmm_state", &[("vmm_state", "running")], 0.0);
    expect("vmm_guest_boot_seconds", &[], 0.0015);
    assert_eq!(metrics.find("vmm_pause_seconds", &[]), None, "it was never paused");
    expect("vmm_vcpu_exits_total", &[("vcpu", "1"), ("reason", "io_out")], 7.0);
    expect("vmm_vcpu_exits_total", &[("vcpu", "0"), ("reason", "io_out")], 0.0);
    expect("vmm_thread_cpu_seconds_total", &[("thread", "vcpu 0")], 1.234);
    expect("vmm_thread_steal_seconds_total", &[("thread", "vcpu 0")], 5e-9);
    expect("vmm_loop_wakeups_total", &[("loop", "a\"b\\c\nd")], 0.0);
    expect("vmm_guest_memory_bytes", &[], 33_554_432.0);
    expect("vmm_resident_bytes", &[("of", "guest")], 4096.0);
    let queue = |rest: &[(&'static str, &'static str)]| {
        [&[("disk", "root"), ("queue", "0")], rest].concat()
    };
    expect("vmm_block_requests_total", &queue(&[("operation", "read")]), 4.0);
    expect("vmm_block_bytes_total", &queue(&[("operation", "read")]), 2048.0);
    expect("vmm_block_errors_total", &queue(&[("reason", "refused")]), 1.0);
    let bucket = |bound| queue(&[("operation", "read"), ("le", bound)]);
    for (bound, count) in [("1e-06", 1.0), ("4e-06", 3.0), ("8.388608", 3.0), ("+Inf", 4.0)] {
        expect("vmm_block_request_seconds_bucket", &bucket(bound), count);
    }
    expect("vmm_block_request_seconds_sum", &queue(&[("operation", "read")]), 9.000_007);
    expect("vmm_net_frames_total", &[("net", "eth0"), ("direction", "rx")], 5.0);
    let lost = [("net", "eth0"), ("direction", "tx"), ("reason", "no_room")];
    expect("vmm_net_dropped_frames_total", &lost, 6.0);
    expect("vmm_throttled_total", &[("device", "root"), ("direction", "both")], 2.0);
    expect("vmm_throttled_total", &[("device", "eth0"), ("direction", "rx")], 1.0);
    expect("vmm_vsock_connections_total", &[("outcome", "connected")], 8.0);
    expect("vmm_rng_bytes_total", &[], 64.0);
    expect("vmm_balloon_target_bytes", &[], 2_097_152.0);
    expect("vmm_console_bytes_total", &[("console", "terminal"), ("direction", "output")], 11.0);
    expect("vmm_api_failures_total", &[("method", "PUT"), ("endpoint", "drives")], 1.0);
}

#[test]
fn a_machine_without_devices_has_no_families_of_them() {
    let bare = Snapshot::new("x", Phase::NotStarted, Instant::now());
    let metrics = Metrics::parse(&render(&bare, &Host::default()));
    let devices = ["vmm_block", "vmm_net", "vmm_vsock", "vmm_rng", "vmm_balloon", "vmm_resident"];
    for (family, _) in &metrics.families {
        assert!(devices.iter().all(|device| !family.starts_with(device)), "{family}");
    }
    assert!(metrics.families.contains(&("vmm_api_requests".to_owned(), ReadKind::Counter)));
}

#[test]
fn bounds_are_written_as_what_they_are() {
    for (index, bound) in BOUNDS.iter().enumerate() {
        let seconds = Duration::from_micros(1 << index).as_secs_f64();
        assert_eq!(bound.parse::<f64>().unwrap(), seconds);
    }
}
