//! The terminal of the person who started `vmm`: raw while the guest runs, as before when it has ended, however it
//! ended.

use harness::{Machine, Need, Scratch, Vmm};

crate::suite::tests! { "bare::terminal" needs &[Need::Kvm];
    restored_after_the_guest_ended,
    restored_after_escape,
    restored_after_sigterm,
    restored_after_sigint,
    restored_after_a_start_that_failed,
    escape_character_itself,
    control_c_goes_to_the_guest,
    input_from_a_file_and_from_nothing,
    end_of_input_is_no_end,
    output_into_a_full_pipe_stalls_nobody,
}

/// A puppet on a terminal that is raw by now.
fn on_raw_terminal() -> Machine {
    let mut machine = Vmm::puppet("").serial("stdio").args(["--grace", "0s"]).on_terminal().spawn();
    machine.wait_for("puppet: ");
    machine.wait_for("\n");
    assert!(!machine.terminal().settings().echoes(), "the guest echoes, not the terminal");
    machine
}

#[track_caller]
fn expect_restored(machine: Machine, code: i32, end_it: impl FnOnce(&mut Machine)) {
    let mut machine = machine;
    let (terminal, fresh) = (machine.terminal().observer(), harness::terminal::Terminal::new());
    end_it(&mut machine);
    machine.expect_exit(code);
    assert_eq!(terminal.settings(), fresh.settings());
}

fn restored_after_the_guest_ended() {
    expect_restored(on_raw_terminal(), 7, |machine| machine.send("o 1 f4 7\n"));
}

fn restored_after_escape() {
    expect_restored(on_raw_terminal(), 130, |machine| machine.send(b"\x01x"));
}

fn restored_after_sigterm() {
    expect_restored(on_raw_terminal(), 143, |machine| machine.signal(libc::SIGTERM));
}

fn restored_after_sigint() {
    expect_restored(on_raw_terminal(), 130, |machine| machine.signal(libc::SIGINT));
}

fn restored_after_a_start_that_failed() {
    let machine = Vmm::new().kernel("/nowhere").serial("stdio").on_terminal().spawn();
    expect_restored(machine, 152, |_| {});
}

fn escape_character_itself() {
    // The puppet takes anything that is no digit for the end of a number: here 0x01.
    let mut machine = on_raw_terminal();
    machine.send(b"d 100000\x01\x011\n");
    machine.wait_for("\n");
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
}

fn control_c_goes_to_the_guest() {
    let mut machine = on_raw_terminal();
    machine.send(b"\x03");
    // The puppet takes it for a command that it does not know, and reads the next character as a space.
    machine.send(b" r 1 100000\n");
    machine.wait_for("\n");
    machine.send(b"\x01x");
    machine.expect_exit(130);
}

fn input_from_a_file_and_from_nothing() {
    let scratch = Scratch::new();
    let commands = scratch.file("commands", "w 1 200000 2a\nr 1 200000\no 1 f4 3\n");
    let end = Vmm::puppet("").serial("stdio").input_from(&commands).spawn().expect_exit(3);
    assert!(end.stdout.ends_with("2a\n"), "{}", end.story());
    Vmm::puppet("exit=4").serial("stdio").run().expect_code(4);
}

fn end_of_input_is_no_end() {
    let mut machine = Vmm::puppet("").serial("stdio").args(["--timeout", "500ms"]).spawn();
    machine.close_input();
    machine.expect_exit(124);
}

/// A guest that prints more than a pipe holds, to a reader that does not read, still gets to its end.
fn output_into_a_full_pipe_stalls_nobody() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut machine = Vmm::puppet("mute").serial("stdio").output_to(writer).spawn();
    // Each instruction prints 20 KiB of whatever is there.
    for _ in 0..20 {
        machine.send("O 1 3f8 5000 100000\n");
    }
    machine.send("o 1 f4 9\n");
    machine.expect_exit(9);
    drop(reader);
}
