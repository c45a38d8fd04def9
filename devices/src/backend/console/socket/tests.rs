use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::backend::console::host::MAX_CLIENTS;
use crate::backend::console::tests::{drain, settle, without_markers};
use crate::backend::console::{Console, ConsolePort, Stage};
use crate::backend::socket::SocketError;

/// A path of its own for each test.
fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("vmm-sock-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn console(name: &str) -> (Console, ConsolePort, PathBuf) {
    let path = path(name);
    let console = Console::socket(&path).unwrap();
    let port = console.port(Stage::Early).unwrap();
    (console, port, path)
}

fn connect(path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).unwrap();
    client.set_nonblocking(true).unwrap();
    client
}

#[test]
fn a_late_reader_first_gets_what_was_said_last() {
    let (mut console, port, path) = console("late");
    port.write(&[b'-'; 100]);
    port.write(&[b'x'; (64 << 10) - 5]);
    port.write(b"login");
    settle(&mut console);
    for _ in 0..2 {
        let client = connect(&path);
        settle(&mut console);
        let mut got = drain(&client);
        settle(&mut console);
        got.extend(drain(&client));
        assert_eq!(got.len(), 64 << 10);
        assert!(got.starts_with(b"x") && got.ends_with(b"login"));
        port.write(b"");
    }
    assert_eq!(console.counters().lost, 0);
}

#[test]
fn clients_share_the_screen_and_the_keyboard() {
    let (mut console, port, path) = console("share");
    let (mut one, mut two) = (connect(&path), connect(&path));
    one.write_all(b"l").unwrap();
    two.write_all(b"s").unwrap();
    settle(&mut console);
    port.write(b"ls");
    settle(&mut console);
    assert_eq!((drain(&one), drain(&two)), (b"ls".to_vec(), b"ls".to_vec()));
    let mut keys = [0; 8];
    assert_eq!(port.read(&mut keys), 2);
    keys[..2].sort_unstable();
    assert_eq!(&keys[..2], b"ls");
}

#[test]
fn one_client_too_many_is_told_so_until_another_leaves() {
    let (mut console, port, path) = console("busy");
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| connect(&path)).collect();
    settle(&mut console);
    let mut refused = connect(&path);
    settle(&mut console);
    refused.set_nonblocking(false).unwrap();
    let mut told = String::new();
    refused.read_to_string(&mut told).unwrap();
    assert!(told.contains("busy"), "{told:?}");
    clients.pop();
    settle(&mut console);
    let admitted = connect(&path);
    port.write(b"welcome");
    settle(&mut console);
    assert_eq!(drain(&admitted), b"welcome");
}

#[test]
fn clients_that_left_input_behind_keep_nobody_out() {
    let (mut console, _port, path) = console("left");
    for _ in 0..MAX_CLIENTS {
        let mut client = connect(&path);
        client.write_all(&[b'k'; 8 << 10]).unwrap();
        drop(client);
        settle(&mut console);
    }
    let client = connect(&path);
    settle(&mut console);
    assert!(drain(&client).is_empty(), "admitted, not told to go");
    let mut byte = [0];
    assert_eq!((&client).read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_slow_client_loses_with_a_marker_and_the_others_nothing() {
    let (mut console, port, path) = console("slow");
    let (slow, fast) = (connect(&path), connect(&path));
    settle(&mut console);
    let mut seen = 0;
    let total = 16 << 20;
    let chunk: Vec<u8> = (0..1 << 14_u32).map(|i: u32| (i % 127) as u8 | 0x80).collect();
    for _ in 0..total / chunk.len() {
        port.write(&chunk);
        settle(&mut console);
        seen += drain(&fast).len();
    }
    assert_eq!(seen, total);
    let mut got = Vec::new();
    loop {
        let more = drain(&slow);
        if more.is_empty() {
            break;
        }
        got.extend(more);
        settle(&mut console);
    }
    let (rest, lost) = without_markers(&got);
    assert!(lost > 0 && rest.len() < 1 << 20);
    assert_eq!(rest.len() as u64 + lost, total as u64);
    assert_eq!(console.counters().lost, lost);
    // The account stays when the client goes.
    drop(slow);
    port.write(b".");
    settle(&mut console);
    assert_eq!(console.counters().lost, lost);
}

#[test]
fn a_client_that_is_done_sending_still_sees_the_answer() {
    let (mut console, port, path) = console("half");
    let mut client = connect(&path);
    client.write_all(b"uname\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    settle(&mut console);
    let mut keys = [0; 16];
    assert_eq!(port.read(&mut keys), 6);
    port.write(b"Linux\n");
    settle(&mut console);
    assert_eq!(drain(&client), b"Linux\n");
    drop(client);
    settle(&mut console);
    port.write(b"nobody hears");
    settle(&mut console);
    assert_eq!(console.counters().lost, 0, "output without clients is kept");
}

#[test]
fn what_a_client_sends_before_it_leaves_arrives() {
    let (mut console, port, path) = console("brief");
    connect(&path).write_all(b"reboot\n").unwrap();
    settle(&mut console);
    let mut keys = [0; 16];
    assert_eq!(port.read(&mut keys), 7);
}

#[test]
fn the_file_is_private_and_gone_at_the_end() {
    let (console, _port, path) = console("mode");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    console.close(Duration::ZERO);
    assert!(!path.exists());
}

#[test]
fn a_path_that_cannot_be_listened_on_is_told() {
    let error = Console::socket(Path::new("/nowhere/sock")).err().unwrap();
    assert!(matches!(&error, ConsoleError::Socket(SocketError::Host { .. })), "{error}");
}
