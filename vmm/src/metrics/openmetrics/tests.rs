use super::*;
use crate::metrics::tests::full;

/// What the integration tests read the text with.
#[path = "../../../../tests/harness/openmetrics.rs"]
#[allow(dead_code, unreachable_pub, clippy::missing_panics_doc)]
mod reader;
use reader::Metrics;

#[test]
fn everything_is_told_and_can_be_read() {
    let metrics = Metrics::parse(&render(&full()));
    let expect = |name, labels: &[(&str, &str)], value| {
        assert_eq!(metrics.get(name, labels), value, "{name} {labels:?}");
    };
    expect("vmm_info", &[("id", "web-1"), ("version", env!("CARGO_PKG_VERSION"))], 1.0);
    expect("vmm_state", &[("vmm_state", "paused")], 1.0);
    expect("vmm_state", &[("vmm_state", "running")], 0.0);
    expect("vmm_uptime_seconds", &[], 2.5);
    expect("vmm_guest_boot_seconds", &[], 0.0015);
    expect("vmm_vcpu_exits_total", &[("vcpu", "1"), ("reason", "io_out")], 7.0);
    expect("vmm_vcpu_exits_total", &[("vcpu", "0"), ("reason", "io_out")], 0.0);
    expect("vmm_thread_cpu_seconds_total", &[("thread", "vcpu 0")], 1.234);
    expect("vmm_thread_steal_seconds_total", &[("thread", "vcpu 0")], 5e-9);
    expect("vmm_loop_wakeups_total", &[("loop", "a\"b\\c\nd")], 0.0);
    expect("vmm_guest_memory_bytes", &[], 33_554_432.0);
    expect("vmm_resident_bytes", &[("of", "guest")], 4096.0);
    expect("vmm_cgroup_memory_bytes", &[("of", "peak")], 16384.0);
    expect("vmm_cgroup_cpu_seconds_total", &[], 2.0);
    expect("vmm_cgroup_throttled_seconds_total", &[], 7e-9);
    expect("vmm_cgroup_threads", &[], 4.0);
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
    expect("vmm_balloon_inflated_bytes_total", &[], 8192.0);
    expect("vmm_console_bytes_total", &[("console", "terminal"), ("direction", "output")], 11.0);
    expect("vmm_api_failures_total", &[("method", "PUT"), ("endpoint", "/drives")], 1.0);
    expect("vmm_log_lines_lost_total", &[], 3.0);
}

#[test]
fn every_number_of_the_table_exists() {
    let full = full();
    for line in FAMILIES.lines() {
        let fields: Vec<_> = line.splitn(6, ' ').collect();
        let [kind, _, _, of, samples, help] = fields.as_slice() else { panic!("{line}") };
        assert!(help.ends_with('.'), "{line}");
        let subject = full.of(of).next().unwrap_or_else(|| panic!("{line}"));
        if *kind == "histogram" {
            assert!(!subject.times.is_empty(), "{line}");
            continue;
        }
        for sample in samples.split('{').skip(1) {
            let (_, number) = sample.split_once('}').unwrap();
            assert!(subject.numbers.get(number).is_some(), "{number}: {line}");
        }
    }
}

#[test]
fn a_machine_without_devices_has_no_families_of_them() {
    let text = render(&Snapshot::new("x", Phase::NotStarted));
    let names: Vec<_> = Metrics::parse(&text).families.into_iter().map(|it| it.0).collect();
    assert_eq!(names, ["vmm", "vmm_state"]);
}

#[test]
fn bounds_are_written_as_what_they_are() {
    let bounds: Vec<_> = BOUNDS.split(' ').collect();
    assert_eq!((bounds.len(), bounds.last()), (devices::metrics::TIME_BOUNDS + 1, Some(&"+Inf")));
    for (index, bound) in bounds.iter().take(devices::metrics::TIME_BOUNDS).enumerate() {
        let seconds = std::time::Duration::from_micros(1 << index).as_secs_f64();
        assert_eq!(bound.parse::<f64>().unwrap(), seconds);
    }
}
