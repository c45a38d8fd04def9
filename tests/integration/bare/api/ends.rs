//! How machines end, and what is told about it.

use std::os::fd::AsRawFd;

use harness::{Need, Scratch, Vmm, openapi};
use serde_json::{Value, json};

use super::{FREE, ask, bare, end, start};

crate::suite::tests! { "bare::api::ends" needs &[Need::Kvm];
    ends_and_their_reports,
    events_on_a_descriptor,
    the_power_button_and_the_end_of_patience,
}

fn ends_and_their_reports() {
    for (words, code, reason) in [
        ("o 1 f4 9", 9, "guest_exit"),
        ("o 1 600 34", 0, "power_off"),
        ("o 1 64 fe", 110, "reboot"),
        ("o 1 505 1", 111, "panic"),
        ("t", 112, "triple_fault"),
    ] {
        let scratch = Scratch::new();
        let (mut machine, api) = bare(&scratch, &[]);
        let (mut waiter, mut reader) = (api.connect(), api.connect());
        waiter.send("GET", "/vm/wait", "");
        reader.send("GET", "/events", "");
        start(&mut machine, &api);
        assert_eq!(reader.head().status, 200);
        assert_eq!(reader.line().unwrap()["event"], "started");
        machine.send("w 1 c0000000 7b\n");
        let ready = reader.line().unwrap();
        assert_eq!((&ready["event"], &ready["by"]), (&json!("ready"), &json!("boot_timer")));
        api.patch("/vm", &json!({"state": "Paused"}));
        api.patch("/vm", &json!({"state": "Resumed"}));
        assert_eq!(reader.line().unwrap()["event"], "paused");
        assert_eq!(reader.line().unwrap()["event"], "resumed");
        machine.send(format!("{words}\n"));
        if reason == "panic" {
            let panic = reader.line().unwrap();
            assert_eq!(panic["event"], "panic");
            assert!(panic["console"].as_str().unwrap().contains("puppet: api"), "{panic}");
        }
        let exit = reader.line().unwrap();
        assert_eq!((&exit["reason"], &exit["code"]), (&json!(reason), &json!(code)));
        assert_eq!(reader.line(), None, "the stream ends with the machine");
        let reply = waiter.reply();
        openapi::check("GET", "/vm/wait", &reply);
        assert_eq!(reply.body["detail"], exit["detail"]);
        machine.expect_exit(code);
    }
}

fn events_on_a_descriptor() {
    let scratch = Scratch::new();
    let end = Vmm::puppet("mute exit=3")
        .inside(&scratch)
        .args(["--events", "events.json"])
        .run()
        .expect_code(3);
    let text = std::fs::read_to_string(scratch.join("events.json")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter().for_each(openapi::check_event);
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["started", "exit"]);
    assert!(end.last_line().contains(lines[1]["detail"].as_str().unwrap()));
    let (mut reader, writer) = std::io::pipe().unwrap();
    // SAFETY: duplicates a descriptor that is open; the copy is inherited, and closed below.
    let inherited = unsafe { libc::dup(writer.as_raw_fd()) };
    Vmm::puppet("mute exit=0").args(["--events", &format!("fd={inherited}")]).run().expect_code(0);
    // SAFETY: it is the copy made above.
    unsafe { libc::close(inherited) };
    drop(writer);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    let refused = Vmm::puppet("").args(["--events", "/nowhere/events"]).run().expect_code(152);
    refused.expect_one_line(&["/nowhere/events"]);
}

fn the_power_button_and_the_end_of_patience() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    api.action("PowerButton");
    assert_eq!(ask(&mut machine, &format!("r 4 {FREE:x}")), "0", "the puppet has no use for it");
    api.patch("/vm", &json!({"state": "Paused"}));
    api.put("/actions", &json!({"action_type": "Stop", "grace": "100ms"}));
    machine.expect_exit(143);
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    api.put("/actions", &json!({"action_type": "Stop", "grace": "1h"}));
    end(machine);
}
