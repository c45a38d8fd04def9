//! When a guest is ready: the signs that tell, who is told, and what becomes of a guest that never is.

use harness::api::{Api, Connection};
use harness::{Machine, Need, Scratch, Vmm, openapi};
use serde_json::{Value, json};

crate::suite::tests! { "bare::ready" needs &[Need::Kvm];
    a_text_on_a_console_tells_once_for_each_start,
    who_waits_is_told,
    who_waits_in_vain_is_told_as_well,
    a_guest_that_is_not_ready_in_time_is_ended,
    a_guest_that_is_ready_in_time_goes_on,
    a_guest_that_starts_again_has_its_time_again,
}

/// A puppet with an API, which is ready when it says `pattern`.
fn machine(scratch: &Scratch, pattern: &str) -> (Machine, Api) {
    let vmm = Vmm::puppet("").serial("stdio").inside(scratch);
    let machine = vmm.args(["--api-sock", "api.sock", "--ready-pattern", pattern]).spawn();
    (machine, Api::at(&scratch.join("api.sock")))
}

fn events(api: &Api) -> Connection {
    let mut reader = api.connect();
    reader.send("GET", "/events", "");
    assert_eq!(reader.head().status, 200);
    reader
}

#[track_caller]
fn expect_events(reader: &mut Connection, expected: &[(&str, Value)]) {
    for (event, by) in expected {
        let line = reader.line().unwrap();
        assert_eq!((&line["event"], &line["by"]), (&json!(event), by));
    }
}

fn wait_reply(waiter: &mut Connection) -> (u16, Value) {
    let reply = waiter.reply();
    openapi::check("GET", "/vm/wait/ready", &reply);
    (reply.status, reply.body)
}

/// The serial port brings the text byte by byte.
fn a_text_on_a_console_tells_once_for_each_start() {
    let scratch = Scratch::new();
    let (mut machine, api) = machine(&scratch, "puppet: ");
    let mut reader = events(&api);
    expect_events(&mut reader, &[("started", Value::Null), ("ready", json!("console"))]);
    assert_eq!(api.get("/vm")["ready"], "console");
    // Other signs, and the same again, are no news.
    machine.wait_for("puppet: \n");
    machine.send("w 1 c0000000 7b\nO 1 3f8 200 100000\nr 1 100000\n");
    api.action("Reset");
    expect_events(
        &mut reader,
        &[("reset", Value::Null), ("started", Value::Null), ("ready", json!("console"))],
    );
    machine.wait_for("puppet: \n");
    machine.send("o 1 f4 0\n");
    expect_events(&mut reader, &[("exit", Value::Null)]);
    machine.expect_exit(0);
}

fn who_waits_is_told() {
    let scratch = Scratch::new();
    let (mut machine, api) = machine(&scratch, "never said");
    machine.wait_for("puppet: \n");
    let state = api.get("/vm");
    assert_eq!((&state["state"], &state["ready"]), (&json!("Running"), &Value::Null));
    assert_eq!(state["pid"], machine.outer_pid());
    assert!(state["uptime_us"].as_u64().unwrap() > 0, "{state}");
    let mut waiters = [api.connect(), api.connect()];
    waiters.iter_mut().for_each(|waiter| waiter.send("GET", "/vm/wait/ready", ""));
    machine.send("w 1 c0000000 7b\n");
    for waiter in &mut waiters {
        assert_eq!(wait_reply(waiter), (200, json!({"by": "boot_timer"})));
        // The connection is as good as before, and who asks late is told at once.
        assert_eq!(waiter.request("GET", "/vm/wait/ready", "").body["by"], "boot_timer");
    }
    machine.send("o 1 f4 0\n");
    machine.expect_exit(0);
}

fn who_waits_in_vain_is_told_as_well() {
    let scratch = Scratch::new();
    let (mut machine, api) = machine(&scratch, "never said");
    machine.wait_for("puppet: \n");
    let mut waiter = api.connect();
    waiter.send("GET", "/vm/wait/ready", "");
    // The next request is answered, so the one before was heard.
    assert_eq!(api.get("/vm")["ready"], Value::Null);
    machine.send("o 1 f4 5\n");
    let (status, body) = wait_reply(&mut waiter);
    assert_eq!((status, &body["code"]), (400, &json!("ended")));
    machine.expect_exit(5);
}

fn a_guest_that_is_not_ready_in_time_is_ended() {
    let scratch = Scratch::new();
    let vmm = Vmm::puppet("").inside(&scratch).args(["--wait-ready", "50ms"]);
    let end = vmm.args(["--events", "events"]).run().expect_code(123);
    assert_eq!(end.last_line(), "vmm: guest was not ready within 50ms");
    let text = std::fs::read_to_string(scratch.join("events")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["reason"], &last["code"]), (&json!("not_ready"), &json!(123)));
}

fn a_guest_that_is_ready_in_time_goes_on() {
    let ready = ["--ready-pattern", "puppet", "--wait-ready", "2s", "--timeout", "2500ms"];
    Vmm::puppet("").serial("stdio").args(ready).run().expect_code(124);
}

fn a_guest_that_starts_again_has_its_time_again() {
    let again = ["--on-reboot", "restart", "--wait-ready", "2s"];
    let mut machine = Vmm::puppet("").serial("stdio").args(again).spawn();
    machine.wait_for("puppet: \n");
    machine.send("w 1 c0000000 7b\no 1 64 fe\n");
    machine.wait_for("puppet: \n");
    machine.expect_exit(123);
}
