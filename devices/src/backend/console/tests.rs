//! Every kind of console with real descriptors, and what the tests of other modules need for that.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use super::hub::INPUT_LIMIT;
use super::*;

/// Longest wait for the kernel's own threads (pseudo-terminals move their bytes on a work queue).
pub(crate) const PATIENCE_MS: i32 = 10_000;

/// A console on a socket pair, and the other end of it.
pub(crate) fn connected() -> (Console, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let output = ours.try_clone().unwrap();
    (Console::on(ours.into(), output.into()).unwrap(), theirs)
}

/// Does what an event loop would do until nothing is left; fails when that never happens.
pub(crate) fn settle(source: &mut dyn ConsoleSource) -> Option<ConsoleEvent> {
    let mut event = None;
    for _ in 0..100_000 {
        let mut idle = true;
        for interest in source.interests() {
            // SAFETY: the source keeps its descriptors open.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(interest.fd) };
            if sys::poll(fd, libc::POLLIN, 0) != 0 {
                idle = false;
                event = source.handle(interest.token).or(event);
            }
        }
        if idle {
            return event;
        }
    }
    panic!("the source never becomes quiet");
}

/// Everything that can be read now from a non-blocking descriptor.
pub(crate) fn drain(mut from: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = [0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        all.extend(&piece[..count]);
    }
    all
}

/// Drives `console` and reads `from` until `enough`.
pub(crate) fn read_until(
    console: &mut Console,
    from: &File,
    enough: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let mut all = Vec::new();
    while !enough(&all) {
        settle(console);
        assert_ne!(
            sys::poll(from.as_fd(), libc::POLLIN, PATIENCE_MS),
            0,
            "only {:?}",
            String::from_utf8_lossy(&all)
        );
        all.extend(drain(from));
    }
    all
}

pub(crate) fn contains(text: &[u8], part: &str) -> bool {
    String::from_utf8_lossy(text).contains(part)
}

/// Takes the markers out of `text`; returns the rest and the sum of what they report.
pub(crate) fn without_markers(text: &[u8]) -> (Vec<u8>, u64) {
    const BEGIN: &[u8] = b"\r\n[vmm: ";
    const END: &[u8] = b" bytes lost]\r\n";
    let (mut rest, mut lost, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        if !text[at..].starts_with(BEGIN) {
            rest.push(text[at]);
            at += 1;
            continue;
        }
        at += BEGIN.len();
        let digits = text[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let number = std::str::from_utf8(&text[at..at + digits]).unwrap();
        lost += number.parse::<u64>().unwrap();
        at += digits;
        assert!(text[at..].starts_with(END));
        at += END.len();
    }
    (rest, lost)
}

/// A pipe, both ends blocking as a shell makes them.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = io::pipe().unwrap();
    (reader.into(), writer.into())
}

fn is_non_blocking(fd: &OwnedFd) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap();
    i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_NONBLOCK != 0
}

/// A file that refuses to grow, as on a full disk.
fn file_of_fixed_size(len: u64) -> File {
    // SAFETY: the name is a valid C string.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_ALLOW_SEALING) };
    // SAFETY: the descriptor is new and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len).unwrap();
    // SAFETY: F_ADD_SEALS takes a number.
    let sealed = unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_GROW) };
    assert_eq!(sealed, 0);
    file
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

pub(crate) fn early(console: &Console) -> ConsolePort {
    console.port(Stage::Early).unwrap()
}

/// What an event loop would watch.
pub(crate) fn loop_fd(console: &Console) -> std::os::fd::BorrowedFd<'_> {
    // SAFETY: the console keeps its descriptor open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(console.interests()[0].fd) }
}

/// The other end of a descriptor, read without waiting.
fn non_blocking(fd: &OwnedFd) -> File {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .unwrap()
}

#[test]
fn output_reaches_a_pipe_in_order_also_what_came_before_the_loop_ran() {
    let (reader, writer) = pipe();
    let mut console = Console::on(null(), writer).unwrap();
    let port = early(&console);
    port.write(b"early ");
    port.write(b"bird");
    settle(&mut console);
    port.write_through(b" and worm");
    assert_eq!(drain(non_blocking(&reader)), b"early bird and worm");
    settle(&mut console);
    assert_eq!(console.counters().output, 19);
}

#[test]
fn the_flags_of_shared_descriptors_stay_as_they_are() {
    let (reader, writer) = pipe();
    let (in_reader, _in_writer) = pipe();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let ours = OwnedFd::from(ours);
    let shared = [&writer, &in_reader, &ours];
    let mut consoles = vec![
        Console::on(in_reader.try_clone().unwrap(), writer.try_clone().unwrap()).unwrap(),
        Console::on(ours.try_clone().unwrap(), ours.try_clone().unwrap()).unwrap(),
    ];
    for console in &mut consoles {
        early(console).write(&[b'x'; 1 << 18]);
        settle(console);
        assert!(shared.iter().all(|fd| !is_non_blocking(fd)));
    }
    drop(reader);
}

#[test]
fn a_flood_into_a_stalled_pipe_blocks_nobody_and_every_byte_is_accounted_for() {
    let (reader, writer) = pipe();
    let mut console = Console::on(null(), writer).unwrap();
    let port = early(&console);
    let total = 64 << 20;
    let mut next = 0_u8;
    let mut chunk = vec![0; 1 << 16];
    for round in 0..total / chunk.len() {
        for byte in &mut chunk {
            *byte = next;
            next = next.wrapping_add(1);
        }
        // Both ways in: as a vCPU thread and as a device on the loop.
        if round % 2 == 0 {
            port.write(&chunk);
        } else {
            port.write_through(&chunk);
        }
        settle(&mut console);
    }
    let mut got: Vec<u8> = Vec::new();
    let reader = non_blocking(&reader);
    loop {
        let more = drain(&reader);
        if more.is_empty() {
            break;
        }
        got.extend(more);
        settle(&mut console);
    }
    let (rest, lost) = without_markers(&got);
    let counters = console.counters();
    assert_eq!(counters.output, total as u64);
    assert_eq!(counters.lost, lost);
    assert_eq!(rest.len() as u64 + lost, total as u64);
    assert_eq!(rest.last(), Some(&next.wrapping_sub(1)), "the newest survive");
}

#[test]
fn no_wake_up_is_missed_between_a_writing_thread_and_the_loop() {
    const TOTAL: u64 = 300_000;
    let (reader, writer) = pipe();
    let mut console = Console::on(null(), writer).unwrap();
    let port = early(&console);
    let writing = std::thread::spawn(move || {
        for i in 0..TOTAL {
            port.write(&[i.to_le_bytes()[0] | 0x80]);
        }
    });
    let mut got = 0;
    let reader = non_blocking(&reader);
    loop {
        // The markers are plain ASCII.
        got += drain(&reader).iter().filter(|b| **b >= 0x80).count() as u64;
        let lost = console.counters().lost;
        if got + lost == TOTAL {
            break;
        }
        let ready = sys::poll(loop_fd(&console), libc::POLLIN, PATIENCE_MS);
        assert_ne!(ready, 0, "{got} of {TOTAL}, {lost} lost");
        console.handle(0);
    }
    writing.join().unwrap();
}

#[test]
fn a_reader_that_leaves_ends_the_output_but_not_the_console() {
    let (reader, writer) = pipe();
    let mut console = Console::on(null(), writer).unwrap();
    let port = early(&console);
    port.write(b"seen");
    settle(&mut console);
    drop(reader);
    for _ in 0..100 {
        port.write(b"unseen");
        settle(&mut console);
    }
    let counters = console.counters();
    assert_eq!((counters.output, counters.lost), (604, 600));
}

#[test]
fn a_stalled_reader_that_leaves_makes_no_noise() {
    let (reader, writer) = pipe();
    let mut console = Console::on(null(), writer).unwrap();
    let port = early(&console);
    port.write(&[b'x'; 100_000]);
    settle(&mut console);
    drop(reader);
    settle(&mut console);
    port.write(b"more");
    settle(&mut console);
    assert_eq!(console.counters().lost, 100_004 - (64 << 10));
}

#[test]
fn refused_output_is_kept_and_tried_again_as_more_comes_not_for_every_byte() {
    let disk = file_of_fixed_size(8192);
    (&disk).seek(SeekFrom::End(0)).unwrap();
    let mut console = Console::on(null(), disk.try_clone().unwrap().into()).unwrap();
    let port = early(&console);
    port.write(b"refused ");
    settle(&mut console);
    port.write(b"kept ");
    assert_eq!(sys::poll(loop_fd(&console), libc::POLLIN, 0), 0);
    // Room again.
    (&disk).seek(SeekFrom::Start(0)).unwrap();
    port.write(&[b'x'; 4096]);
    settle(&mut console);
    (&disk).seek(SeekFrom::Start(0)).unwrap();
    let mut got = vec![0; 13 + 4096];
    (&disk).read_exact(&mut got).unwrap();
    assert!(got.starts_with(b"refused kept xxx") && got.ends_with(b"x"));
    assert_eq!(console.counters().lost, 0);
}

#[test]
fn refused_output_is_tried_a_last_time_at_the_end() {
    let disk = file_of_fixed_size(8192);
    (&disk).seek(SeekFrom::End(0)).unwrap();
    let mut console = Console::on(null(), disk.try_clone().unwrap().into()).unwrap();
    early(&console).write(b"refused");
    settle(&mut console);
    (&disk).seek(SeekFrom::Start(0)).unwrap();
    console.close(Duration::ZERO);
    assert_eq!(console.counters().lost, 0);
    let mut got = [0; 7];
    (&disk).seek(SeekFrom::Start(0)).unwrap();
    (&disk).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"refused");
}

#[test]
fn an_outlet_that_takes_little_at_a_time_gets_all_in_the_end() {
    // A pseudo-terminal's master cannot be opened anew, so that it is asked before every byte.
    let (master, slave, _) = sys::open_pty().unwrap();
    let settings = sys::termios(slave.as_fd()).unwrap();
    sys::set_termios(slave.as_raw_fd(), &sys::raw(&settings)).unwrap();
    let mut console = Console::on(null(), master).unwrap();
    early(&console).write(&[b'x'; 1000]);
    let got = read_until(&mut console, &non_blocking(&slave), |all| all.len() >= 1000);
    assert_eq!(got, [b'x'; 1000]);
}

#[test]
fn input_of_a_pipe_arrives_and_its_end_is_not_the_end() {
    let (reader, writer) = pipe();
    let (out_reader, out_writer) = pipe();
    let mut console = Console::on(reader, out_writer).unwrap();
    let port = early(&console);
    // A pipe is no keyboard: Ctrl-A is a byte.
    File::from(writer).write_all(b"ls\x01x\n").unwrap();
    assert_eq!(settle(&mut console), None);
    let mut to = [0; 16];
    assert_eq!(port.read(&mut to), 5);
    assert_eq!(&to[..5], b"ls\x01x\n");
    port.write(b"still here");
    settle(&mut console);
    assert_eq!(drain(non_blocking(&out_reader)), b"still here");
}

#[test]
fn a_guest_that_never_reads_costs_no_memory_and_one_that_reads_slowly_gets_everything() {
    let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    let (reader, writer) = pipe();
    let path = std::env::temp_dir().join(format!("vmm-console-input-{}", std::process::id()));
    std::fs::write(&path, &content).unwrap();
    let file = OwnedFd::from(File::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let feeder = {
        let content = content.clone();
        std::thread::spawn(move || File::from(writer).write_all(&content).unwrap())
    };
    for input in [reader, file] {
        let mut console = Console::on(input, null()).unwrap();
        let port = early(&console);
        sys::poll(loop_fd(&console), libc::POLLIN, PATIENCE_MS);
        settle(&mut console);
        assert!(console.counters().input <= INPUT_LIMIT as u64);
        let mut got: Vec<u8> = Vec::new();
        let mut to = [0; 77];
        while got.len() < content.len() {
            let count = port.read(&mut to);
            got.extend(&to[..count]);
            if count == 0 {
                sys::poll(loop_fd(&console), libc::POLLIN, PATIENCE_MS);
            }
            settle(&mut console);
        }
        assert_eq!(got, content);
        assert_eq!(console.counters().input, content.len() as u64);
    }
    feeder.join().unwrap();
}

#[test]
fn input_that_is_always_ready_or_empty_does_not_spin() {
    for path in ["/dev/null", "/dev/zero"] {
        let mut console = Console::on(File::open(path).unwrap().into(), null()).unwrap();
        let port = early(&console);
        for _ in 0..10 {
            settle(&mut console);
            port.read(&mut [0; 4096]);
        }
        assert!(console.counters().input <= 11 * INPUT_LIMIT as u64);
    }
}

#[test]
fn a_socket_pair_serves_both_ways() {
    let (mut console, mut theirs) = connected();
    let port = early(&console);
    theirs.write_all(b"in").unwrap();
    port.write(b"out");
    settle(&mut console);
    assert_eq!(drain(&theirs), b"out");
    let mut to = [0; 4];
    assert_eq!(port.read(&mut to), 2);
    drop(theirs);
    port.write(b"gone");
    settle(&mut console);
    assert_eq!(console.counters().lost, 4);
}

#[test]
fn the_doorbell_rings_for_input_and_is_quiet_after_it() {
    let (mut console, mut theirs) = connected();
    let port = early(&console);
    let bell = port.doorbell(7);
    assert_eq!(bell.token, 7);
    // SAFETY: the port keeps its doorbell open.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(bell.fd) };
    assert_eq!(sys::poll(fd, libc::POLLIN, 0), 0);
    theirs.write_all(b"k").unwrap();
    settle(&mut console);
    assert_ne!(sys::poll(fd, libc::POLLIN, 0), 0);
    port.take_doorbell();
    assert_eq!(sys::poll(fd, libc::POLLIN, 0), 0);
}

#[test]
fn close_delivers_what_is_left_to_a_reader_that_reads() {
    let (reader, writer) = pipe();
    let console = Console::on(null(), writer).unwrap();
    let content = vec![b'x'; 200_000];
    early(&console).write(&content);
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        File::from(reader).read_to_end(&mut all).unwrap();
        all
    });
    console.close(Duration::from_secs(60));
    assert_eq!(console.counters().lost, 0);
    drop(console);
    assert_eq!(reading.join().unwrap(), content);
}

#[test]
fn close_gives_up_on_a_reader_that_does_not_and_may_be_repeated() {
    let (_reader, writer) = pipe();
    let mut console = Console::on(null(), writer).unwrap();
    let port = early(&console);
    port.write(&[b'x'; 100_000]);
    console.close(Duration::from_millis(20));
    assert_eq!(console.counters().lost, 100_000 - (64 << 10));
    console.close(Duration::from_millis(20));
    port.write(b"after the end");
    settle(&mut console);
}

#[test]
fn the_serial_port_gives_way_to_the_console_device_and_comes_back() {
    let (mut console, theirs) = connected();
    let serial = early(&console);
    let device = console.port(Stage::Late).unwrap();
    serial.write(b"boot ");
    device.write_through(b"shell ");
    serial.write(b"hidden");
    device.release();
    serial.write(b"reboot");
    settle(&mut console);
    assert_eq!(drain(&theirs), b"boot shell reboot");
    assert_eq!(serial.hidden(), b"hidden");
}

/// A visitor of `console`, which was told `words`.
fn visitor(console: &Console, words: &[u8]) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    console.attach(ours, words).map(|()| theirs)
}

#[test]
fn a_visitor_sees_what_was_said_last_and_types_beside_the_owner() {
    let (reader, writer) = pipe();
    let mut console = Console::on(null(), writer).unwrap();
    console.keep_tail(5);
    let port = early(&console);
    port.write(b"long before");
    settle(&mut console);
    let mut visitor = visitor(&console, b"welcome: ").unwrap();
    settle(&mut console);
    assert_eq!(drain(&visitor), b"welcome: efore");
    port.write(b", now");
    visitor.write_all(b"keys").unwrap();
    settle(&mut console);
    assert_eq!(drain(&visitor), b", now");
    let mut keys = [0; 8];
    assert_eq!((port.read(&mut keys), &keys[..4]), (4, &b"keys"[..]));
    // One that has left is forgotten, and has lost nothing.
    drop(visitor);
    settle(&mut console);
    port.write(b", later");
    settle(&mut console);
    assert_eq!(drain(non_blocking(&reader)), b"long before, now, later");
    console.close(Duration::ZERO);
    assert_eq!(console.counters().lost, 0);
}

#[test]
fn visitors_have_a_limit_and_make_room_when_they_leave() {
    let (_reader, writer) = pipe();
    let mut console = Console::on(null(), writer).unwrap();
    let mut visitors: Vec<_> =
        (1..host::MAX_CLIENTS).map(|_| visitor(&console, b"").unwrap()).collect();
    let error = visitor(&console, b"").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    visitors.pop();
    settle(&mut console);
    visitor(&console, b"").unwrap();
}
