use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn parse(line: &str) -> Value {
    assert!(line.ends_with('\n'));
    serde_json::from_str(line).unwrap()
}

/// A sink that takes what fits into a socket's buffer, and its other end.
fn sink() -> (File, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (File::from(OwnedFd::from(ours)), theirs)
}

fn read_all(from: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    // It ends with "would block", or with the end of the stream.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn lines_have_a_number_a_time_a_machine_and_the_event() {
    let stream = Stream::new("m1", None);
    stream.emit(Event::Started, at(3));
    stream.emit(Event::Ready { by: ReadySign::BootTimer }, at(4));
    stream.emit(Event::Panic { console: "a\n\"b\"".to_owned() }, at(5));
    let exit = Exit::new(&EndReason::GuestExit(7), "guest exited with status 7".to_owned());
    stream.emit(Event::Exit(exit), at(6));
    let (lines, next) = stream.lock().since(0);
    assert_eq!(next, 4);
    let lines: Vec<_> = lines.iter().map(|line| parse(line)).collect();
    assert_eq!(lines[0], json!({"seq": 0, "time_us": 3_000_000, "id": "m1", "event": "started"}));
    assert_eq!(lines[1]["by"], "boot_timer");
    assert_eq!(lines[2]["console"], "a\n\"b\"");
    assert_eq!(
        lines[3],
        json!({"seq": 3, "time_us": 6_000_000, "id": "m1", "event": "exit",
            "reason": "guest_exit", "code": 7, "detail": "guest exited with status 7"})
    );
}

#[test]
fn a_late_reader_gets_the_last_lines_and_a_regular_one_each_once() {
    let stream = Stream::new("m", None);
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    stream.lock().wake = Some(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let mut next = 0;
    for number in 0..1000_u64 {
        stream.emit(Event::Paused, at(0));
        let (lines, after) = stream.lock().since(next);
        assert_eq!(lines.len(), 1);
        assert_eq!(parse(&lines[0])["seq"], number);
        next = after;
    }
    let (late, _) = stream.lock().since(0);
    assert_eq!((late.len(), woken.load(Ordering::Relaxed)), (KEPT, 1000));
    assert_eq!(parse(&late[0])["seq"], 1000 - 256);
    assert!(stream.lock().since(next + 5).0.is_empty());
}

#[test]
fn a_sink_gets_every_line() {
    let (ours, mut theirs) = sink();
    let stream = Stream::new("m", Some(ours));
    for _ in 0..10 {
        stream.emit(Event::Paused, at(0));
        stream.emit(Event::Resumed, at(0));
    }
    let text = read_all(&mut theirs);
    assert_eq!(text.lines().count(), 20);
    text.lines().for_each(|line| drop(parse(&format!("{line}\n"))));
}

#[test]
fn a_sink_that_does_not_read_costs_a_limit_and_loses_whole_lines() {
    let (ours, mut theirs) = sink();
    let stream = Stream::new("m", Some(ours));
    let long = "x".repeat(1000);
    for _ in 0..2000 {
        stream.emit(Event::Panic { console: long.clone() }, at(0));
        assert!(stream.lock().pending.len() <= SINK_MAX + 2000);
    }
    let mut text = String::new();
    while {
        let more = read_all(&mut theirs);
        text.push_str(&more);
        !stream.lock().deliver() || !more.is_empty()
    } {}
    let numbers: Vec<_> =
        text.split_inclusive('\n').map(|line| parse(line)["seq"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.len() < 2000);
    assert_eq!(numbers.last(), Some(&1999), "the newest are kept");
}

#[test]
fn a_sink_that_is_gone_is_forgotten() {
    let (ours, theirs) = sink();
    let stream = Stream::new("m", Some(ours));
    drop(theirs);
    stream.emit(Event::Paused, at(0));
    let state = stream.lock();
    assert!(state.sink.is_none() && state.pending.is_empty());
}

#[test]
fn nothing_is_recorded_while_it_is_off() {
    emit(Event::Started);
    assert!(!is_on());
    assert_eq!(since(0), (Vec::new(), 0));
}

#[test]
fn the_first_sign_of_readiness_counts_once_for_each_start() {
    let stream = Stream::new("m", None);
    let ready = |by| stream.emit(Event::Ready { by }, at(0));
    stream.emit(Event::Started, at(0));
    assert_eq!(stream.lock().ready, None);
    ready(ReadySign::Vsock);
    ready(ReadySign::Console);
    assert_eq!(stream.lock().ready, Some(ReadySign::Vsock));
    stream.emit(Event::Reboot, at(0));
    stream.emit(Event::Started, at(0));
    assert_eq!(stream.lock().ready, None, "it is another start");
    ready(ReadySign::Console);
    let (lines, _) = stream.lock().since(0);
    let signs: Vec<_> = lines.iter().map(|line| parse(line)["by"].clone()).collect();
    assert_eq!(signs, [json!(null), json!("vsock"), json!(null), json!(null), json!("console")]);
}

#[test]
fn a_throttled_device_is_told_of_at_once_and_then_once_a_second() {
    let (mut throttled, start) = (Throttled::default(), Instant::now());
    let told = |ms, throttled: &mut Throttled| throttled.add(start + Duration::from_millis(ms));
    assert_eq!(told(0, &mut throttled), Some(1));
    assert_eq!([1, 500, 999].map(|ms| told(ms, &mut throttled)), [None; 3]);
    assert_eq!(told(1000, &mut throttled), Some(4));
    assert_eq!(told(1001, &mut throttled), None);
    assert_eq!(told(9000, &mut throttled), Some(2));
}
