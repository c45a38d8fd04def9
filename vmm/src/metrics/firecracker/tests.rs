use serde_json::Value;

use super::*;
use crate::metrics::tests::full;

fn told(snapshot: &Snapshot, before: &Counts) -> (Value, Counts) {
    let (line, now) = line(snapshot, "", before);
    (serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")), now)
}

#[test]
fn numbers_are_where_firecracker_has_them() {
    let (line, _) = told(&full(), &Counts::default());
    for (path, value) in [
        ("/utc_timestamp_ms", 1_700_000_000_123_u64),
        ("/block/read_count", 15),
        ("/block/read_bytes", 15 * 512),
        ("/block/invalid_reqs_count", 3),
        ("/block/rate_limiter_throttled_events", 2),
        ("/block/read_agg/sum_us", 3 * 9_000_007),
        ("/block/read_agg/max_us", 0),
        ("/block_root/read_count", 5),
        ("/block_root/rate_limiter_throttled_events", 2),
        ("/block_root/read_agg/min_us", 1),
        ("/block_root/read_agg/max_us", 9_000_000),
        ("/block_root/write_agg/min_us", 0),
        ("/block_data/read_count", 10),
        ("/block_data/rate_limiter_throttled_events", 0),
        ("/net/rx_packets_count", 5),
        ("/net_eth0/tx_fails", 6),
        ("/net_eth0/rx_rate_limiter_throttled", 1),
        ("/net_eth0/tx_rate_limiter_throttled", 0),
        ("/net_eth0/tap_write_agg/sum_us", 0),
        ("/vcpu/exit_io_out", 7),
        ("/vsock/conns_added", 8),
        ("/entropy/entropy_bytes", 64),
        ("/put_api_requests/drive_count", 3),
        ("/put_api_requests/drive_fails", 1),
        ("/put_api_requests/boot_source_count", 0),
        ("/latencies_us/pause_vm", 70),
        ("/latencies_us/vmm_resume_vm", 30),
        ("/logger/missed_log_count", 3),
        ("/seccomp/num_faults", 0),
        ("/signals/sigbus", 0),
    ] {
        assert_eq!(line.pointer(path), Some(&Value::from(value)), "{path}: {line}");
    }
}

#[test]
fn counts_begin_anew_with_each_line_and_times_stay() {
    let full = full();
    let (_, before) = told(&full, &Counts::default());
    let (line, after) = told(&full, &before);
    assert_eq!(before, after);
    assert_eq!(line["block"]["read_count"], 0);
    assert_eq!(line["block_root"]["read_agg"]["sum_us"], 0);
    assert_eq!(line["block_root"]["read_agg"]["max_us"], 9_000_000);
    assert_eq!(line["latencies_us"]["pause_vm"], 70);
}

#[test]
fn a_new_machine_begins_with_what_the_old_one_was_not_asked_for() {
    let full = full();
    // Nothing was told of the old machine, and the new one did the same again.
    let moved = Counts::default().moved(&full, &without_machine(&full));
    let (line, _) = told(&full, &moved);
    assert_eq!(
        (&line["vcpu"]["exit_io_out"], &line["put_api_requests"]["drive_count"]),
        (&14.into(), &3.into())
    );
    // All was told.
    let (_, before) = told(&full, &Counts::default());
    let (line, _) = told(&full, &before.moved(&full, &without_machine(&full)));
    assert_eq!(
        (&line["vcpu"]["exit_io_out"], &line["put_api_requests"]["drive_count"]),
        (&7.into(), &0.into())
    );
}

/// The same things, those of the machine at zero.
fn without_machine(snapshot: &Snapshot) -> Snapshot {
    let mut new = snapshot.clone();
    for subject in new.subjects.iter_mut().filter(|it| !["api", "process"].contains(&it.kind)) {
        subject.numbers = devices::metrics::Numbers::default();
        subject.times.clear();
    }
    new
}

#[test]
fn every_number_of_the_table_exists() {
    let full = full();
    for group in GROUPS.lines() {
        let (name, rest) = group.split_once(' ').unwrap();
        let (kind, numbers) = rest.split_once(' ').unwrap();
        for number in numbers.split(' ') {
            if let Some(at) = number.find(['=', '~']) {
                let source = Source::new(&number[at + 1..], kind, None);
                let mut all = full.of(source.kind);
                let found = all.next().and_then(|subject| subject.numbers.get(source.number));
                assert!(found.is_some(), "{name}: {number}");
            }
        }
    }
}

#[test]
fn a_machine_without_anything_has_all_groups_and_zeroes() {
    let (line, _) =
        told(&Snapshot::new("x", crate::life_cycle::Phase::NotStarted), &Counts::default());
    let names: Vec<_> = line.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names.len(), GROUPS.lines().count() + 1);
    assert_eq!(line["block"]["read_agg"]["min_us"], 0);
}
