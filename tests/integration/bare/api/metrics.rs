//! What is counted is what happened, in both forms that metrics have.

use harness::api::Api;
use harness::openmetrics::Metrics;
use harness::virtio::{Answer, Device, Kind};
use harness::{Need, Scratch, Vmm};
use serde_json::json;

use super::{bare, end, read_sector, start, started};
use crate::bare::subject::{SECTORS, Subject};

crate::suite::tests! { "bare::api::metrics" needs &[Need::Kvm];
    requests_of_a_disk,
    every_phase_has_metrics,
}

fn metrics(api: &Api) -> Metrics {
    let reply = api.request("GET", "/metrics/openmetrics", "").expect(200);
    let kind = reply.header("Content-Type");
    assert_eq!(kind, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    Metrics::parse(reply.body.as_str().unwrap())
}

fn requests_of_a_disk() {
    for engine in ["sync", "uring"] {
        let scratch = Scratch::new();
        let vmm = Vmm::puppet("").without_jail();
        let (puppet, api) = started(vmm, &scratch, &format!(",id=d,engine={engine}"));
        let device = Device::find(&puppet, Kind::Block);
        let mut queue = Subject::Block.set_up(&device, 0);
        for sector in (0..7).chain([SECTORS]) {
            let chain = read_sector(&queue, &puppet, sector);
            assert!(matches!(queue.request(&chain), Answer::Used(0, _)));
        }
        let metrics = metrics(&api);
        let of_disk = |name: &str, label: &str, word: &str| {
            metrics.get(name, &[("disk", "d"), ("queue", "0"), (label, word)])
        };
        assert_eq!(of_disk("vmm_block_requests_total", "operation", "read"), 7.0);
        assert_eq!(of_disk("vmm_block_requests_total", "operation", "write"), 0.0);
        assert_eq!(of_disk("vmm_block_bytes_total", "operation", "read"), 7.0 * 512.0);
        assert_eq!(of_disk("vmm_block_errors_total", "reason", "refused"), 1.0);
        assert_eq!(of_disk("vmm_block_request_seconds_count", "operation", "read"), 7.0);
        assert!(of_disk("vmm_block_request_seconds_sum", "operation", "read") > 0.0);
        assert!(metrics.get("vmm_vcpu_exits_total", &[("vcpu", "0"), ("reason", "io_out")]) > 0.0);
        assert!(metrics.get("vmm_thread_cpu_seconds_total", &[("thread", "vcpu 0")]) > 0.0);
        assert!(metrics.get("vmm_loop_wakeups_total", &[("loop", "main")]) > 0.0);
        assert_eq!(metrics.get("vmm_guest_memory_bytes", &[]), f64::from(32 << 20));
        let resident = |of| metrics.get("vmm_resident_bytes", &[("of", of)]);
        assert!(resident("guest") >= 4096.0 && resident("vmm") > resident("guest") / 100.0);
        let output = [("console", "serial"), ("direction", "output")];
        assert!(metrics.get("vmm_console_bytes_total", &output) > 0.0);
        puppet.finish();
    }
}

fn every_phase_has_metrics() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &["--id", "web-1"]);
    let state = |word: &str, metrics: &Metrics| {
        assert_eq!(metrics.get("vmm_state", &[("vmm_state", word)]), 1.0, "{word}");
    };
    let before = metrics(&api);
    state("not_started", &before);
    let info = before.samples.iter().find(|sample| sample.name == "vmm_info").unwrap();
    assert_eq!(info.labels[0], ("id".to_owned(), "web-1".to_owned()));
    api.request("PUT", "/drives/x", "{").refused("malformed_body");
    start(&mut machine, &api);
    api.patch("/vm", &json!({"state": "Paused"}));
    let paused = metrics(&api);
    state("paused", &paused);
    assert!(paused.get("vmm_pause_seconds", &[]) > 0.0);
    assert_eq!(paused.find("vmm_resume_seconds", &[]), None);
    let drives = [("method", "PUT"), ("endpoint", "drives")];
    assert_eq!(paused.get("vmm_api_requests_total", &drives), 1.0);
    assert_eq!(paused.get("vmm_api_failures_total", &drives), 1.0);
    let actions = [("method", "PUT"), ("endpoint", "actions")];
    assert_eq!(paused.get("vmm_api_failures_total", &actions), 0.0);
    let exits = [("vcpu", "0"), ("reason", "io_out")];
    let said = paused.get("vmm_vcpu_exits_total", &exits);

    api.action("Reset");
    machine.wait_for("puppet: api\n");
    let again = metrics(&api);
    state("running", &again);
    assert!(again.get("vmm_vcpu_exits_total", &exits) > 0.0 && said > 0.0);
    api.request("PUT", "/metrics/openmetrics", "").refused("unsupported");
    end(machine);
}
