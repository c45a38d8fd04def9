use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::*;
use crate::backend::console::tests::settle;
use crate::backend::console::{Console, ConsoleEvent, ConsoleSource, Size, Stage};

/// A process has one terminal to restore: tests with one take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A person's side of a terminal, and the side that a shell would hand to us.
fn terminal() -> (File, OwnedFd) {
    let (master, slave, _) = sys::open_pty().unwrap();
    (File::from(master), slave)
}

fn console_on(slave: &OwnedFd) -> Console {
    Console::on(slave.try_clone().unwrap(), slave.try_clone().unwrap()).unwrap()
}

/// The flags that decide how a terminal behaves.
fn flags(fd: impl AsFd) -> [libc::tcflag_t; 4] {
    let t = sys::termios(fd.as_fd()).unwrap();
    [t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag]
}

fn is_raw(fd: impl AsFd) -> bool {
    flags(fd)[3] & (libc::ICANON | libc::ECHO | libc::ISIG) == 0
}

/// Types `keys` and drives `console` until it has seen them, or an event comes.
fn type_keys(mut person: &File, console: &mut Console, keys: &[u8]) -> Option<ConsoleEvent> {
    person.write_all(keys).unwrap();
    // SAFETY: the console keeps its descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(console.interests()[0].fd) };
    assert_ne!(sys::poll(fd, libc::POLLIN, 10_000), 0);
    settle(console)
}

fn screen(mut person: &File, console: &mut Console, until: &str) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&all).contains(until) {
        settle(console);
        assert_ne!(sys::poll(person.as_fd(), libc::POLLIN, 10_000), 0);
        let count = person.read(&mut piece).unwrap();
        all.extend(&piece[..count]);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn a_terminal_is_raw_while_the_console_lives_and_as_before_afterwards() {
    let _turn = turn();
    let (_person, slave) = terminal();
    let before = flags(&slave);
    for close in [false, true] {
        let console = console_on(&slave);
        assert!(is_raw(&slave));
        assert_eq!(flags(&slave)[1], before[1], "output is processed as before");
        if close {
            console.close(Duration::ZERO);
        } else {
            drop(console);
        }
        assert_eq!(flags(&slave), before);
    }
}

#[test]
fn restore_now_works_at_any_time_and_any_number_of_times() {
    let _turn = turn();
    let (_person, slave) = terminal();
    let before = flags(&slave);
    restore_now();
    let console = console_on(&slave);
    restore_now();
    assert_eq!(flags(&slave), before);
    restore_now();
    drop(console);
    restore_now();
    assert_eq!(flags(&slave), before);
}

#[test]
fn a_terminal_that_somebody_made_cooked_becomes_raw_again() {
    let _turn = turn();
    let (_person, slave) = terminal();
    let cooked = sys::termios(slave.as_fd()).unwrap();
    let before = flags(&slave);
    let console = console_on(&slave);
    sys::set_termios(slave.as_raw_fd(), &cooked).unwrap();
    console.resumed();
    assert!(is_raw(&slave));
    drop(console);
    assert_eq!(flags(&slave), before);
}

#[test]
fn keys_reach_the_guest_and_ctrl_a_x_ends_it() {
    let _turn = turn();
    let (person, slave) = terminal();
    let mut console = console_on(&slave);
    let port = console.port(Stage::Early).unwrap();
    assert_eq!(type_keys(&person, &mut console, b"\x03\x04ls\r\x01\x01"), None);
    let mut keys = [0; 16];
    assert_eq!(port.read(&mut keys), 6);
    assert_eq!(&keys[..6], b"\x03\x04ls\r\x01");
    assert_eq!(type_keys(&person, &mut console, b"\x01"), None);
    let quit = type_keys(&person, &mut console, b"x");
    assert_eq!(quit, Some(ConsoleEvent::Quit));
}

#[test]
fn help_is_shown_to_the_person_and_hidden_from_the_guest() {
    let _turn = turn();
    let (person, slave) = terminal();
    let mut console = console_on(&slave);
    let port = console.port(Stage::Early).unwrap();
    assert_eq!(type_keys(&person, &mut console, b"\x01?"), None);
    assert!(screen(&person, &mut console, "this help").contains("end the virtual machine"));
    assert!(!port.has_input());
    assert_eq!(console.counters().output, 0);
}

#[test]
fn output_waits_for_a_terminal_that_is_stopped() {
    let _turn = turn();
    let (person, slave) = terminal();
    let mut console = console_on(&slave);
    let port = console.port(Stage::Early).unwrap();
    // More than a terminal's buffers hold, and less than the backlog and them together.
    for _ in 0..200 {
        port.write(&[b'x'; 1000]);
        settle(&mut console);
    }
    port.write(b"the end");
    let text = screen(&person, &mut console, "the end");
    assert_eq!(text.len(), 200_007);
    assert_eq!(console.counters().lost, 0);
}

#[test]
fn the_size_of_the_terminal_is_known_and_followed() {
    let _turn = turn();
    let (person, slave) = terminal();
    let size = |columns, rows| Size { columns, rows };
    sys::set_window_size(person.as_fd(), size(80, 25)).unwrap();
    let console = console_on(&slave);
    let port = console.port(Stage::Late).unwrap();
    assert_eq!(port.size(), Some(size(80, 25)));
    sys::set_window_size(person.as_fd(), size(132, 50)).unwrap();
    console.resized();
    assert_eq!(port.size(), Some(size(132, 50)));
    console.close(Duration::ZERO);
    console.resized();
    assert_eq!(port.size(), Some(size(132, 50)), "a closed terminal keeps its size");
}

#[test]
fn a_terminal_that_hangs_up_ends_the_input_quietly() {
    let _turn = turn();
    let (person, slave) = terminal();
    let mut console = console_on(&slave);
    drop(person);
    settle(&mut console);
    console.port(Stage::Early).unwrap().write(b"nobody there");
    settle(&mut console);
    console.close(Duration::ZERO);
    assert_eq!(console.counters().lost, 12);
}

const ROLE: &str = "VMM_TEST_ROLE";

/// This test binary again, as a process that does one thing on the terminal.
fn other_process(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "backend::console::terminal::tests::as_another_process";
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command.env(ROLE, role);
    command
}

#[test]
#[ignore = "a part that other tests play in a process of its own"]
fn as_another_process() {
    match &*std::env::var(ROLE).unwrap() {
        "crash" => {
            let slave = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let console = console_on(&slave);
            assert!(is_raw(&slave));
            std::mem::forget(console);
            std::process::abort();
        }
        "fault" => {
            let slave = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let console = console_on(&slave);
            assert!(is_raw(&slave));
            std::mem::forget(console);
            // SAFETY: there is none; the fault is the point, and no code runs after it.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
        }
        "signal" => {
            let slave = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let console = console_on(&slave);
            std::mem::forget(console);
            // SAFETY: raise has no preconditions.
            unsafe { libc::raise(libc::SIGFPE) };
        }
        "shell" => {
            let status = other_process("background").process_group(0).status();
            assert!(status.unwrap().success());
        }
        "background" => in_the_background(),
        role => panic!("no such role: {role}"),
    }
}

/// A job that its shell has put in the background, on a terminal that stops such jobs when they write.
fn in_the_background() {
    let slave = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    assert!(!sys::is_foreground(slave.as_raw_fd()));
    let mut console = console_on(&slave);
    assert!(!is_raw(&slave), "the terminal is the shell's");
    let mut settings = sys::termios(slave.as_fd()).unwrap();
    settings.c_lflag |= libc::TOSTOP;
    sys::set_termios(slave.as_raw_fd(), &settings).unwrap();
    let before = flags(&slave);
    let port = console.port(Stage::Early).unwrap();
    port.write(b"written from the background");
    settle(&mut console);
    assert_eq!(console.counters().lost, 0);
    // The person has typed a line for the shell by now.
    while sys::poll(slave.as_fd(), libc::POLLIN, 10_000) == 0 {}
    settle(&mut console);
    assert!(!port.has_input(), "the line is the shell's");
    console.resumed();
    console.close(Duration::ZERO);
    assert_eq!(flags(&slave), before);
}

fn die_on_a_terminal(role: &str, signal: libc::c_int) {
    let (_person, slave) = terminal();
    let before = flags(&slave);
    let status = other_process(role)
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(signal), "{status}");
    assert_eq!(flags(&slave), before);
}

#[test]
fn a_crash_leaves_the_terminal_as_it_was_and_is_still_a_crash() {
    die_on_a_terminal("crash", libc::SIGABRT);
    die_on_a_terminal("fault", libc::SIGSEGV);
    die_on_a_terminal("signal", libc::SIGFPE);
}

#[test]
fn a_background_job_is_not_stopped_and_leaves_the_terminal_to_the_shell() {
    let (person, slave) = terminal();
    let mut shell = other_process("shell");
    shell
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::from(slave.try_clone().unwrap()))
        .stderr(Stdio::inherit());
    let own_the_terminal = || {
        // SAFETY: setsid has no preconditions.
        unsafe { libc::setsid() };
        // SAFETY: TIOCSCTTY takes a number.
        unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
        Ok(())
    };
    // SAFETY: the calls between fork and exec are async-signal-safe.
    unsafe { shell.pre_exec(own_the_terminal) };
    let mut shell = shell.spawn().unwrap();
    (&person).write_all(b"a line for the shell\n").unwrap();
    let status = shell.wait().unwrap();
    assert!(status.success(), "{status}");
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = (&person).read(&mut piece) {
        text.extend(&piece[..count]);
    }
    assert!(String::from_utf8_lossy(&text).contains("written from the background"));
}
