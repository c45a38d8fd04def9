//! What is counted is what happened, in both forms that metrics have.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use harness::api::Api;
use harness::openmetrics::Metrics;
use harness::virtio::{Answer, Device, Kind};
use harness::{Need, Puppet, Scratch, Vmm, artifacts};
use serde_json::{Value, json};

use super::{bare, end, read_sector, start, started};
use crate::bare::subject::{SECTORS, Subject};

crate::suite::tests! { "bare::api::metrics" needs &[Need::Kvm];
    requests_of_a_disk,
    every_phase_has_metrics,
    lines_of_a_file,
    a_fifo_without_a_reader,
    a_full_device,
    metrics_of_a_file_without_the_api,
    a_throttled_disk,
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
    let drives = [("method", "PUT"), ("endpoint", "/drives")];
    assert_eq!(paused.get("vmm_api_requests_total", &drives), 1.0);
    assert_eq!(paused.get("vmm_api_failures_total", &drives), 1.0);
    let actions = [("method", "PUT"), ("endpoint", "/actions")];
    assert_eq!(paused.get("vmm_api_failures_total", &actions), 0.0);
    let exits = [("vcpu", "0"), ("reason", "io_out")];
    let said = paused.get("vmm_vcpu_exits_total", &exits);

    api.action("Reset");
    machine.wait_for("puppet: api\n");
    let again = metrics(&api);
    state("running", &again);
    assert!(again.get("vmm_vcpu_exits_total", &exits) > 0.0 && said > 0.0);
    api.action("FlushMetrics");
    end(machine);
}

/// The lines of a file of metrics.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How often the guest wrote to a port, in all lines together: it may be quicker than the first of them.
fn port_writes(lines: &[Value]) -> u64 {
    lines.iter().map(|line| line["vcpu"]["exit_io_out"].as_u64().unwrap()).sum()
}

fn lines_of_a_file() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    let body = json!({"metrics_path": "metrics.json", "properties": {"customer": "a"}});
    api.request("PUT", "/actions", r#"{"action_type": "FlushMetrics"}"#).refused("before_start");
    api.request("PUT", "/metrics", r#"{"metrics_path": "/nowhere/x"}"#)
        .refused("bad_configuration");
    api.put("/metrics", &body);
    let again = api.request("PUT", "/metrics", &body.to_string()).refused("bad_configuration");
    assert_eq!(again, "Reinitialization of metrics not allowed.");
    assert_eq!(api.get("/vm/config")["metrics"], body);
    let disk = scratch.sparse_file("disk", 1 << 20);
    let drive = json!({"drive_id": "d", "path_on_host": disk, "is_root_device": false});
    api.put("/drives/d", &drive);
    start(&mut machine, &api);
    api.request("PUT", "/metrics", &body.to_string()).refused("after_start");
    let file = scratch.join("metrics.json");
    let first = lines(&file).remove(0);
    assert_eq!(first["put_api_requests"]["drive_count"], 1);
    assert_eq!(first["put_api_requests"]["metrics_count"], 3);
    assert_eq!(first["put_api_requests"]["metrics_fails"], 2);
    assert_eq!(first["properties"]["customer"], "a");
    assert_eq!(first["block_d"]["read_count"], 0);

    api.action("FlushMetrics");
    let told = lines(&file);
    assert_eq!(told.len(), 2);
    assert!(port_writes(&told) > 0);
    assert_eq!(told[1]["put_api_requests"]["drive_count"], 0, "each count is told once");
    api.action("Reset");
    machine.wait_for("puppet: api\n");
    end(machine);
    let last = lines(&file).pop().unwrap();
    assert!(last["vcpu"]["exit_io_out"].as_u64().unwrap() > 0);
    assert_eq!(last["put_api_requests"]["actions_count"], 1);
    assert_eq!(lines(&file).len(), 3, "one of them at the end");
}

fn make_fifo(path: &Path) {
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a terminated name.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

fn a_fifo_without_a_reader() {
    let scratch = Scratch::new();
    let fifo = scratch.join("fifo");
    make_fifo(&fifo);
    let disk = scratch.file("disk", crate::bare::subject::disk_contents());
    let vmm = Vmm::puppet("").inside(&scratch).args(["--rng", "off", "--api-sock", "api.sock"]);
    let puppet = Puppet::start(vmm.args(["--metrics-path", "fifo"]).disk(disk, ",id=d"));
    let api = Api::at(&scratch.join("api.sock"));
    let device = Device::find(&puppet, Kind::Block);
    let mut queue = Subject::Block.set_up(&device, 0);
    let mut reads = 0;
    let mut read = || {
        let chain = read_sector(&queue, &puppet, 3);
        assert!(matches!(queue.request(&chain), Answer::Used(0, _)), "the guest goes on");
        reads += 1;
    };
    let flush = || {
        let body = json!({"action_type": "FlushMetrics"}).to_string();
        api.request("PUT", "/actions", &body)
    };
    let mut missed = 0;
    for _ in 0..100 {
        read();
        if flush().status == 400 {
            missed += 1;
        }
        if missed == 3 {
            break;
        }
    }
    assert_eq!(missed, 3, "a FIFO has an end");
    assert!(flush().refused("host_failure").starts_with("Failed to write metrics: "));
    // Somebody comes to read: whole lines, and nothing is lost.
    let open = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo);
    let mut reader = BufReader::new(open.unwrap());
    let mut told: Vec<Value> = Vec::new();
    let mut line = String::new();
    let mut take = |told: &mut Vec<Value>| {
        while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
            // The rest of a line comes with the next one.
            if line.ends_with('\n') {
                told.push(serde_json::from_str(&line).unwrap());
                line.clear();
            }
        }
    };
    take(&mut told);
    read();
    flush().expect(204);
    take(&mut told);
    let sum = |group: &str, name: &str| -> u64 {
        told.iter().map(|line| line[group][name].as_u64().unwrap()).sum()
    };
    assert_eq!(sum("block_d", "read_count"), reads);
    assert_eq!(sum("logger", "missed_metrics_count"), 4);
    puppet.finish();
}

fn a_full_device() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &["--metrics-path", "/dev/full"]);
    start(&mut machine, &api);
    let body = json!({"action_type": "FlushMetrics"}).to_string();
    let text = api.request("PUT", "/actions", &body).refused("host_failure");
    assert!(text.contains("No space left"), "{text}");
    end(machine);
    let refused = Vmm::puppet("mute exit=0").args(["--metrics-path", "/nowhere/m"]).run();
    refused.expect_code(152).expect_one_line(&["metrics", "/nowhere/m", "No such file"]);
}

fn metrics_of_a_file_without_the_api() {
    let scratch = Scratch::new();
    let config = json!({
        "boot-source": {"kernel_image_path": artifacts::puppet(), "exact_args": "mute exit=0"},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 32},
        "metrics": {"metrics_path": "metrics.json"},
    });
    let file = scratch.file("vm.json", config.to_string());
    let started = ["--no-api", "--start-time-us", "1", "--start-time-cpu-us", "0", "--config-file"];
    Vmm::new().inside(&scratch).args(started).arg(file).run().expect_code(0);
    let told = lines(&scratch.join("metrics.json"));
    assert_eq!(told.len(), 2, "one at the start, one at the end");
    assert!(told[0]["api_server"]["process_startup_time_us"].as_u64().unwrap() > 1_000_000);
    assert!(told[1]["api_server"]["process_startup_time_cpu_us"].as_u64().unwrap() > 0);
    assert!(port_writes(&told) > 0);
}

fn a_throttled_disk() {
    let scratch = Scratch::new();
    // One request at once, the next in a year: it waits for good.
    let (puppet, api) = started(Vmm::puppet(""), &scratch, ",id=d,iops=1,burst=1h");
    let mut events = api.connect();
    events.send("GET", "/events", "");
    assert_eq!(events.head().status, 200);
    let device = Device::find(&puppet, Kind::Block);
    let mut queue = Subject::Block.set_up(&device, 0);
    let limiter = json!({"ops": {"size": 1, "refill_time": 31_536_000_000_u64}});
    api.patch("/drives/d", &json!({"drive_id": "d", "rate_limiter": limiter}));
    let chain = read_sector(&queue, &puppet, 3);
    assert!(matches!(queue.request(&chain), Answer::Used(0, _)));
    let event = loop {
        let event = events.line().expect("an event");
        if event["event"] == "throttled" {
            break event;
        }
    };
    assert_eq!((&event["device"], &event["count"]), (&json!("d"), &json!(1)));
    let labels = [("device", "d"), ("direction", "both")];
    assert_eq!(metrics(&api).get("vmm_throttled_total", &labels), 1.0);
    puppet.finish();
}
