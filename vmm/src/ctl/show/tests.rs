use serde_json::json;

use super::*;

#[test]
fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_tail() {
    let mut table = Table::default();
    table.row(&["a", "long", "x"]);
    table.row(&["longer", "\u{e4}", ""]);
    table.row(&["\u{1b}[2J\n", "", ""]);
    assert_eq!(table.text(), "a       long  x\nlonger  \u{e4}\n?[2J?\n");
}

#[test]
fn a_machine_as_tables() {
    let machine = json!({"id": "web", "state": "Running", "ready": "vsock", "uptime_us": 3_250_000, "pid": 7});
    let bucket = |size: u64| json!({"size": size, "one_time_burst": 0, "refill_time": 100});
    let config = json!({
        "boot-source": {"kernel_image_path": "bzImage"},
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 256},
        "drives": [
            {"drive_id": "root", "path_on_host": "r.img", "is_read_only": true, "rate_limiter": null},
            {"drive_id": "d", "path_on_host": "d.img", "is_read_only": false,
                "rate_limiter": {"bandwidth": bucket(10 << 20), "ops": bucket(500)}},
        ],
        "network-interfaces": [{"iface_id": "n", "host_dev_name": "tap0", "guest_mac": null,
            "rx_rate_limiter": null, "tx_rate_limiter": {"ops": bucket(10)}}],
        "vsock": {"guest_cid": 3, "uds_path": "v"},
        "balloon": {"amount_mib": 64},
        "serial": {"type": "file", "path": "log"},
        "console": {"type": "pty"},
    });
    assert_eq!(
        info(&whole(machine.clone(), config.clone())),
        "machine  web\n\
         state    running, started 3.2 s ago, ready by vsock\n\
         process  7\n\
         kernel   bzImage\n\
         cpus     2\n\
         memory   256 MiB\n\
         console  pty\n\
         serial   file log\n\
         vsock    v\n\
         balloon  64 MiB\n\
         \n\
         DISK  PATH   ACCESS  LIMITS\n\
         root  r.img  read    none\n\
         d     d.img  write   bw=100M iops=5000\n\
         \n\
         NET  TAP   ADDRESS  IN    OUT\n\
         n    tap0           none  pps=100\n"
    );
    let machine =
        json!({"id": "vm", "state": "Not started", "ready": null, "uptime_us": null, "pid": 7});
    let config =
        json!({"boot-source": null, "machine-config": {"vcpu_count": 1, "mem_size_mib": 512}});
    assert_eq!(
        info(&whole(machine.clone(), config.clone())),
        "machine  vm\nstate    not started\nprocess  7\ncpus     1\nmemory   512 MiB\n"
    );
    let both = whole(machine, config.clone());
    assert_eq!((&both["state"], &both["config"]), (&json!("Not started"), &config));
}

#[test]
fn what_is_missing_or_strange_is_survived() {
    for strange in [json!(null), json!([]), json!({"drives": 5, "vsock": [], "balloon": "x"})] {
        assert!(
            info(&whole(strange.clone(), strange.clone())).starts_with("machine\n"),
            "{strange}"
        );
        let _ = balloon(&strange, &strange);
        assert!(outcome(&strange, false).ends_with('\n'));
    }
}

#[test]
fn rates_in_the_unit_in_which_they_are_said() {
    for (bytes, text) in [
        (100 << 20, "100M"),
        (1 << 30, "1G"),
        (10 << 10, "10K"),
        (1000, "1000"),
        (0, "0"),
        ((100 << 20) + 1, "100M"),
    ] {
        assert_eq!(scaled(bytes), text);
    }
}

#[test]
fn a_balloon_with_and_without_statistics() {
    let configured = json!({"amount_mib": 64, "stats_polling_interval_s": 1});
    let said = json!({"target_pages": 1, "actual_pages": 2, "target_mib": 64, "actual_mib": 32,
        "free_memory": 5 << 20, "oom_kill": 0});
    assert_eq!(
        balloon(&configured, &said),
        "target       64 MiB\nactual       32 MiB\nfree memory  5 MiB\noom kills    0\n"
    );
    assert!(balloon(&configured, &Value::Null).contains("statistics  off"));
}

#[test]
fn events_are_lines_with_the_time_since_the_first() {
    let mut first = None;
    let mut show = |event: Value| event_line(&event, &mut first);
    let at = |micros: u64, event: &str| json!({"seq": 1, "id": "m", "time_us": 5_000_000 + micros, "event": event});
    let with = |mut event: Value, more: Value| {
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    assert_eq!(show(at(0, "started")), "     0.000  started\n");
    assert_eq!(
        show(with(at(12_345, "ready"), json!({"by": "vsock"}))),
        "     0.012  ready          vsock\n"
    );
    assert_eq!(
        show(with(at(1_000_000, "panic"), json!({"console": "a\r\nKernel panic\u{7}!\r\n \n"}))),
        "     1.000  panic          said last: Kernel panic?!\n"
    );
    assert_eq!(
        show(with(
            at(2_000_000, "exit"),
            json!({"reason": "panic", "code": 111, "detail": "it panicked"})
        )),
        "     2.000  exit           code=111 it panicked\n"
    );
    assert_eq!(
        show(with(at(3_000_000, "throttled"), json!({"device": "d", "times": 4}))),
        "     3.000  throttled      d times=4\n"
    );
    assert_eq!(event("not \u{1b}JSON", &mut None), "not ?JSON\n");
}

fn event_line(value: &Value, first: &mut Option<u64>) -> String {
    event(&value.to_string(), first)
}

#[test]
fn outcomes() {
    assert_eq!(outcome(&json!({"by": "console"}), false), "ready by console\n");
    let exit = json!({"reason": "power_off", "code": 0, "detail": "guest powered off"});
    assert_eq!(outcome(&exit, false), "guest powered off (exit code 0)\n");
    assert_eq!(serde_json::from_str::<Value>(&outcome(&exit, true)).unwrap(), exit);
}
