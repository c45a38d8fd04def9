use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::backend::console::tests::{
    PATIENCE_MS, contains, early, loop_fd, read_until, settle, without_markers,
};

#[test]
fn a_full_disk_costs_bytes_and_nothing_else() {
    let mut console = Console::file(Path::new("/dev/full")).unwrap();
    let port = early(&console);
    for _ in 0..1000 {
        port.write(&[b'x'; 1000]);
        settle(&mut console);
    }
    assert!(console.counters().lost >= 1_000_000 - (256 << 10));
    console.close(Duration::from_secs(60));
    assert_eq!(console.counters().lost, 1_000_000);
}

#[test]
fn a_file_is_appended_to_and_private() {
    let path = std::env::temp_dir().join(format!("vmm-console-file-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    for text in ["first run\n", "second run\n"] {
        let mut console = Console::file(&path).unwrap();
        early(&console).write(text.as_bytes());
        settle(&mut console);
        assert_eq!(console.counters().lost, 0);
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"first run\nsecond run\n");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let error = Console::file(Path::new("/nowhere/log")).err().unwrap();
    assert!(error.to_string().contains("/nowhere/log"));
}

#[test]
fn a_fifo_needs_no_reader_and_keeps_the_newest_output_for_one() {
    let path = std::env::temp_dir().join(format!("vmm-console-fifo-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut console = Console::file(&path).unwrap();
    let port = early(&console);
    for _ in 0..1024 {
        port.write(&[b'x'; 1024]);
        settle(&mut console);
    }
    port.write(b"the end");
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let got = read_until(&mut console, &reader, |all| all.ends_with(b"the end"));
    let (rest, lost) = without_markers(&got);
    assert_eq!(rest.len() as u64 + lost, (1 << 20) + 7);
    assert_eq!(console.counters().lost, lost);
}

/// Somebody attaches to a pseudo-terminal.
fn attach(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .unwrap()
}

#[test]
fn a_pty_keeps_output_until_somebody_attaches_and_passes_keys_on() {
    let mut console = Console::pty().unwrap();
    let path = console.pty_path().unwrap().to_owned();
    let port = early(&console);
    port.write(b"before\r\n");
    settle(&mut console);
    for round in 0..3 {
        let mut person = attach(&path);
        port.write(b"hello");
        let got = read_until(&mut console, &person, |all| all.ends_with(b"hello"));
        assert_eq!(contains(&got, "before"), round == 0);
        person.write_all(b"\x01x\x03\x04\r\n\x7f").unwrap();
        let mut keys: Vec<u8> = Vec::new();
        while keys.len() < 7 {
            settle(&mut console);
            let mut to = [0; 16];
            let count = port.read(&mut to);
            keys.extend(&to[..count]);
            if count == 0 {
                assert_ne!(sys::poll(loop_fd(&console), libc::POLLIN, PATIENCE_MS), 0);
            }
        }
        assert_eq!(keys, b"\x01x\x03\x04\r\n\x7f", "raw, and no echo of it");
        drop(person);
        settle(&mut console);
    }
}

#[test]
fn a_pty_that_nobody_reads_is_bounded_and_wakes_up_when_somebody_does() {
    let mut console = Console::pty().unwrap();
    let path = console.pty_path().unwrap().to_owned();
    let port = early(&console);
    let chunk = [b'x'; 1 << 16];
    for _ in 0..(64 << 20) / chunk.len() {
        port.write(&chunk);
        settle(&mut console);
    }
    port.write(b"the end");
    let person = attach(&path);
    let got = read_until(&mut console, &person, |all| all.ends_with(b"the end"));
    let (rest, lost) = without_markers(&got);
    assert!(lost > 0);
    assert_eq!(rest.len() as u64 + lost, (64 << 20) + 7);
    assert_eq!(console.counters().lost, lost);
}

#[test]
fn off_drops_output_and_loses_nothing_that_anybody_wanted() {
    let mut console = Console::off().unwrap();
    let port = early(&console);
    port.write(b"into the void");
    settle(&mut console);
    port.write(b"again");
    let counters = console.counters();
    assert_eq!((counters.output, counters.lost, counters.input), (18, 0, 0));
    assert!(!port.has_input());
    console.close(Duration::from_secs(60));
}
