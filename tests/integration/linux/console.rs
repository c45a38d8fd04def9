//! Consoles as people and programs use them: terminal, pipe, socket, file, pseudo-terminal.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use harness::machine::PROMPT;
use harness::transcript::{Transcript, end_of};
use harness::{Machine, Need, Scratch, Vmm};

use super::{output_of, scaled};

crate::suite::tests! { "linux::console" needs &[Need::LinuxKvm, Need::Guest];
    virtio_console_both_ways,
    serial_line_both_ways,
    terminal_is_shared_and_resized,
    socket_with_a_late_reader,
    file,
    pseudo_terminal,
}

/// More than any buffer on the way holds.
const PASTE: usize = 10 << 10;

#[track_caller]
fn takes_a_paste(guest: &mut Machine) {
    // In lines, because a guest's terminal takes no line of more than 4095 bytes.
    guest.shell("stty -echo");
    guest.send(format!("cat >/tmp/paste\n{}", format!("{}\n", "p".repeat(63)).repeat(PASTE / 64)));
    guest.send([4]);
    assert_eq!(guest.shell("wc -c </tmp/paste"), PASTE.to_string());
}

fn virtio_console_both_ways() {
    let mut guest = Vmm::linux().console("stdio").spawn().booted();
    assert_eq!(guest.shell("tty"), "/dev/hvc0");
    assert_eq!(guest.shell("ls /dev/ttyS0 2>/dev/null | wc -l"), "0");
    takes_a_paste(&mut guest);
    // Each line is a transaction of its own, for which the guest waits.
    let lines = scaled(4000);
    let printed = guest.shell(&format!("yes 0123456789abcdef | head -n {lines}"));
    assert_eq!(printed.len(), lines * 17 - 1);
    guest.power_off();
}

fn serial_line_both_ways() {
    let mut guest = Vmm::linux().serial("stdio").spawn().booted();
    assert_eq!(guest.shell("tty"), "/dev/ttyS0");
    takes_a_paste(&mut guest);
    guest.power_off();
}

fn terminal_is_shared_and_resized() {
    let mut guest = Vmm::linux().args(["--append", "loglevel=7"]).on_terminal().spawn();
    guest.wait_for("Linux version");
    let mut guest = guest.booted();
    assert_eq!(guest.shell("tty"), "/dev/hvc0");
    assert_eq!(guest.shell("stty size"), "24 80");
    guest.terminal().resize(43, 132);
    // The guest hears of it by an interrupt, some time before the next command or after it.
    let waited =
        guest.shell("until stty size | grep -q '43 132'; do usleep 10000; done; stty size");
    assert_eq!(waited, "43 132");
    guest.power_off();
}

fn socket_with_a_late_reader() {
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let target = format!("socket={}", path.display());
    let machine = Vmm::linux().console(&target).spawn();
    let mut client = connect(&path);
    let heard = Transcript::of(client.try_clone().unwrap());
    assert!(heard.wait(0, |all| end_of(all, PROMPT)).is_some(), "{}", heard.text());
    drop(client);

    // Another one, later, sees what the first one saw, and can go on.
    client = connect(&path);
    let heard = Transcript::of(client.try_clone().unwrap());
    let replayed = heard.wait(0, |all| end_of(all, PROMPT));
    client.write_all(b"echo ans''wer\n").unwrap();
    let start = replayed.unwrap_or_else(|| panic!("no replay: {}", heard.text()));
    assert!(heard.wait(start, |new| end_of(new, "answer")).is_some(), "{}", heard.text());
    client.write_all(b"exit\n").unwrap();
    machine.expect_exit(0);
    assert_eq!(scratch.names(), [""; 0], "the socket is gone");
}

fn connect(path: &std::path::Path) -> UnixStream {
    let deadline = std::time::Instant::now() + harness::patience();
    loop {
        match UnixStream::connect(path) {
            Ok(client) => return client,
            Err(error) => {
                assert!(std::time::Instant::now() < deadline, "{}: {error}", path.display());
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn file() {
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let vmm = Vmm::linux().console(&format!("file={}", path.display()));
    let end =
        vmm.args(["--append", &format!("vmm.run64={}", harness::base64(b"echo wri''tten"))]).run();
    assert_eq!(end.expect_code(0).stdout, "");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("written\r\n"), "{text}");
    // Kernel messages on the serial line, init on the console.
    let serial = scratch.join("serial");
    let both = Vmm::linux().console("stdio").serial(&format!("file={}", serial.display()));
    let text = output_of(both.args(["--append", "loglevel=7"]), "echo here");
    assert_eq!(text, "here\n");
    assert!(fs::read_to_string(serial).unwrap().contains("Linux version"));
}

fn pseudo_terminal() {
    let mut machine = Vmm::linux().console("pty").spawn();
    let said = machine.wait_for_error("/dev/pts/");
    let name = said.split_whitespace().find(|word| word.starts_with("/dev/pts/"));
    let name = name.unwrap_or_else(|| panic!("{said}"));
    let mut terminal = fs::File::options().read(true).write(true).open(name).unwrap();
    let heard = Transcript::of(terminal.try_clone().unwrap());
    assert!(heard.wait(0, |all| end_of(all, PROMPT)).is_some(), "{}", heard.text());
    terminal.write_all(b"exit\n").unwrap();
    machine.expect_exit(0);
    let _ = terminal.read(&mut [0; 1]);
}
