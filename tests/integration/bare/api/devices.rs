//! Devices that change while a guest uses them.

use std::thread;
use std::time::{Duration, Instant};

use harness::api::Api;
use harness::virtio::{Answer, Descriptor, Device, Kind, register};
use harness::{Need, Puppet, Scratch, Vmm, patience};
use serde_json::{Value, json};

use super::{bare, end, read_sector, start, started, started_with_disk};
use crate::bare::subject::{SECTORS, Subject};

crate::suite::tests! { "bare::api::devices" needs &[Need::Kvm];
    the_balloon_has_another_size,
    statistics_and_hints_of_the_balloon,
    metadata_before_and_after_the_start,
    a_disk_changes_while_the_guest_reads_it,
    pauses_under_load_lose_nothing,
}

fn the_balloon_has_another_size() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    api.put("/balloon", &json!({"amount_mib": 2, "deflate_on_oom": true}));
    start(&mut machine, &api);
    api.patch("/balloon", &json!({"amount_mib": 5}));
    assert_eq!(api.get("/balloon")["amount_mib"], 5);
    let too_much = json!({"amount_mib": 5000}).to_string();
    api.request("PATCH", "/balloon", &too_much).refused("bad_configuration");
    assert_eq!(api.get("/vm/config")["balloon"], api.get("/balloon"));
    end(machine);
}

fn statistics_and_hints_of_the_balloon() {
    const STATS_VQ: u64 = 1 << 1;
    const FREE_PAGE_HINT: u64 = 1 << 3;
    let scratch = Scratch::new();
    let vmm = Vmm::puppet("").arg("--api-sock").arg(scratch.join("api.sock"));
    let puppet = Puppet::start(vmm.args(["--rng", "off", "--balloon", "2M,stats=3600s,hinting"]));
    let api = Api::at(&scratch.join("api.sock"));
    let sizes = json!({"target_pages": 512, "actual_pages": 0, "target_mib": 2, "actual_mib": 0});
    assert_eq!(api.get("/balloon/statistics"), sizes);
    api.request("PATCH", "/balloon/hinting/start", "").refused("bad_configuration");

    let device = Device::find(&puppet, Kind::Balloon);
    device.negotiate(STATS_VQ | FREE_PAGE_HINT);
    let (_inflate, _deflate) = (device.queue(0), device.queue(1));
    let (mut statistics, mut hints) = (device.queue(2), device.queue(3));
    device.driver_ok();
    // Free memory, by its tag.
    puppet.store(statistics.buffer(0), &[4, 0, 0x39, 0x30, 0, 0, 0, 0, 0, 0]);
    statistics.describe(&[Descriptor::readable(statistics.buffer(0), 10)]);
    statistics.offer(0);
    statistics.kick();
    puppet.sync();
    let deadline = Instant::now() + patience();
    while api.get("/balloon/statistics").get("free_memory") != Some(&json!(12345)) {
        assert!(Instant::now() < deadline, "{}", api.get("/balloon/statistics"));
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(statistics.used_index(), 0, "nobody asks for an hour");
    let off = json!({"stats_polling_interval_s": 0}).to_string();
    api.request("PATCH", "/balloon/statistics", &off).refused("bad_value");
    api.patch("/balloon/statistics", &json!({"stats_polling_interval_s": 1}));
    assert_eq!(api.get("/balloon")["stats_polling_interval_s"], 1);
    assert_eq!(statistics.answer(), Answer::Used(0, 0));

    let status = "/balloon/hinting/status";
    api.patch("/balloon/hinting/start", &json!({"acknowledge_on_stop": false}));
    assert_eq!(api.get(status), json!({"host_cmd": 2, "guest_cmd": null}));
    assert_eq!(device.get(register::CONFIG + 8), 2);
    puppet.write(4, hints.buffer(0), 2);
    let chain = [Descriptor::readable(hints.buffer(0), 4)];
    assert_eq!(hints.request(&chain), Answer::Used(0, 0));
    assert_eq!(api.get(status), json!({"host_cmd": 2, "guest_cmd": 2}));
    api.request("PATCH", "/balloon/hinting/stop", "").expect(204);
    assert_eq!(device.get(register::CONFIG + 8), 1);
    puppet.finish();
}

fn metadata_before_and_after_the_start() {
    let scratch = Scratch::new();
    let file = scratch.file("m.json", r#"{"a": {"b": 1}}"#);
    let file = file.display().to_string();
    let options = ["--metadata", &file, "--mmds-size-limit", "40"];
    let (mut machine, api) = bare(&scratch, &options);
    assert_eq!(api.get("/mmds"), json!({"a": {"b": 1}}));
    api.patch("/mmds", &json!({"a": {"b": null, "c": "d"}}));
    api.put("/network-interfaces/n", &json!({"iface_id": "n", "host_dev_name": "no-such-tap"}));
    let config =
        json!({"network_interfaces": ["n"], "version": "V2", "ipv4_address": "169.254.1.1"});
    api.put("/mmds/config", &config);
    let shown = api.get("/vm/config");
    assert_eq!(shown["mmds-config"]["version"], "V2");
    assert_eq!(shown["mmds-config"]["network_interfaces"], json!(["n"]));
    machine.kill();
    std::fs::remove_file(scratch.join("api.sock")).unwrap();

    let (new, api) = bare(&scratch, &options);
    machine = new;
    start(&mut machine, &api);
    api.patch("/mmds", &json!({"x": [1, 2]}));
    assert_eq!(api.get("/mmds"), json!({"a": {"b": 1}, "x": [1, 2]}));
    let long = json!({"y": "0123456789012345678901234567890123456789"}).to_string();
    for method in ["PUT", "PATCH"] {
        let reply = api.request(method, "/mmds", &long);
        assert_eq!((reply.status, &reply.body["code"]), (413, &json!("metadata_too_large")));
    }
    assert_eq!(api.get("/mmds"), json!({"a": {"b": 1}, "x": [1, 2]}));
    let late = api.request("PUT", "/mmds/config", &config.to_string());
    late.refused("after_start");
    api.put("/mmds", &json!({}));
    end(machine);
}

fn a_disk_changes_while_the_guest_reads_it() {
    let scratch = Scratch::new();
    // A jail has no other file; its own test says so.
    let (puppet, api) = started(Vmm::puppet("").without_jail(), &scratch, ",id=d");
    let other = scratch.file("other", [0xaa; 512 * 32]);
    let device = Device::find(&puppet, Kind::Block);
    let mut queue = Subject::Block.set_up(&device, 0);
    // The status, and the first byte of the sector.
    let mut read = |sector: u8| {
        let chain = read_sector(&queue, &puppet, sector);
        assert!(matches!(queue.request(&chain), Answer::Used(0, _)));
        (puppet.load(queue.buffer(2), 1)[0], puppet.load(queue.buffer(1), 1)[0])
    };
    assert_eq!(read(40), (0, 40));
    api.patch("/drives/d", &json!({"drive_id": "d", "path_on_host": other}));
    assert_eq!(read(3), (0, 0xaa));
    assert_eq!(read(40).0, 1, "the new disk has 32 sectors");
    assert_eq!(api.get("/vm/config")["drives"][0]["path_on_host"], json!(other));
    let gone = json!({"drive_id": "d", "path_on_host": "/nowhere"}).to_string();
    let text = api.request("PATCH", "/drives/d", &gone).refused("bad_configuration");
    assert!(text.contains("/nowhere"), "{text}");
    assert_eq!(read(4), (0, 0xaa));
    let unknown = json!({"drive_id": "e", "path_on_host": other}).to_string();
    api.request("PATCH", "/drives/e", &unknown).refused("unknown_device");
    let limiter = json!({"ops": {"size": 1000, "refill_time": 100}});
    api.patch("/drives/d", &json!({"drive_id": "d", "rate_limiter": limiter}));
    let shown = &api.get("/vm/config")["drives"][0]["rate_limiter"];
    assert_eq!((&shown["ops"]["size"], &shown["bandwidth"]), (&json!(1000), &Value::Null));
    assert_eq!(read(5), (0, 0xaa));
    puppet.finish();
}

/// Reads and pauses take turns in every way; each read is answered once, with the right data.
fn pauses_under_load_lose_nothing() {
    for engine in ["sync", "uring"] {
        let scratch = Scratch::new();
        let (puppet, api) = started_with_disk(&scratch, &format!(",id=d,engine={engine}"));
        let device = Device::find(&puppet, Kind::Block);
        let mut queue = Subject::Block.set_up(&device, 0);
        let pausing = {
            let api = api.clone();
            thread::spawn(move || {
                let mut connection = api.connect();
                for _ in 0..500 {
                    for state in ["Paused", "Resumed"] {
                        let body = json!({ "state": state }).to_string();
                        connection.request("PATCH", "/vm", &body).expect(204);
                    }
                }
            })
        };
        let mut reads = 0_u16;
        while !pausing.is_finished() {
            let sector = (reads % u16::from(SECTORS)) as u8;
            let chain = read_sector(&queue, &puppet, sector);
            assert_eq!(queue.request(&chain), Answer::Used(0, 513));
            assert_eq!(puppet.load(queue.buffer(2), 1), [0]);
            assert_eq!(puppet.load(queue.buffer(1), 512), [sector; 512]);
            reads += 1;
            assert_eq!(queue.used_index(), reads, "each request is answered once");
        }
        pausing.join().unwrap();
        assert!(reads > 0);
        puppet.finish();
    }
}
