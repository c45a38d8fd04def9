//! Connections from both sides, and how they end.

use std::io::{Read, Write};
use std::net::Shutdown;

use harness::Need;
use harness::virtio::{Device, Kind};
use harness::vsock::{Header, op};

use super::{Guest, Setup, guest_talks_to_host, is_over, read, read_line};

crate::suite::tests! { "bare::vsock::connections" needs &[Need::Kvm];
    host_program_connects,
    host_program_waits_for_the_driver,
    guest_connects,
    halves_end_one_after_the_other,
    abrupt_ends,
    reset_ends_every_connection,
    hundred_connections,
}

fn host_program_connects() {
    let setup = Setup::new();
    let mut guest = Guest::ready(&setup.puppet);
    let mut program = setup.program("CONNECT 7\nfirst");
    let guests = guest.accept();
    assert_eq!(guests.src_port, 7);
    assert_eq!(read_line(&mut program), format!("OK {}\n", guests.dst_port));
    guest.get_data(b"first");
    guest.send(Header { op: op::READ_WRITE, ..guests }, b"second");
    assert_eq!(read(&mut program, 6), b"second");

    let mut refused = setup.program("CONNECT 8\n");
    let request = guest.get_op(op::REQUEST);
    let reset = Header { src_port: 8, dst_port: request.src_port, ..guests };
    guest.send(Header { op: op::RESET, ..reset }, &[]);
    assert!(is_over(&mut refused));
    setup.puppet.finish();
}

fn host_program_waits_for_the_driver() {
    let setup = Setup::new();
    let mut program = setup.program("CONNECT 7\n");
    let mut guest = Guest::ready(&setup.puppet);
    let guests = guest.accept();
    assert_eq!(read_line(&mut program), format!("OK {}\n", guests.dst_port));
    setup.puppet.finish();
}

fn guest_connects() {
    let setup = Setup::new();
    guest_talks_to_host(&setup.puppet, &setup.scratch.join("v"));
    setup.puppet.finish();
}

fn halves_end_one_after_the_other() {
    let setup = Setup::new();
    let listener = setup.listener();
    let mut guest = Guest::ready(&setup.puppet);
    let mut program = guest.connect(&listener);
    guest.send(Header { op: op::READ_WRITE, ..Header::default() }, b"last");
    guest.send(Header { op: op::SHUTDOWN, flags: 2, ..Header::default() }, &[]);
    let mut heard = Vec::new();
    program.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"last");
    program.write_all(b"answer").unwrap();
    guest.get_data(b"answer");
    program.shutdown(Shutdown::Write).unwrap();
    let flags = guest.get_op(op::SHUTDOWN).flags;
    assert_eq!(flags & 2, 2, "no more will be sent");
    guest.send(Header { op: op::SHUTDOWN, flags: 3, ..Header::default() }, &[]);
    guest.get_op(op::RESET);
    // The same ports again.
    guest.connect(&listener);
    setup.puppet.finish();
}

fn abrupt_ends() {
    let setup = Setup::new();
    let listener = setup.listener();
    let mut guest = Guest::ready(&setup.puppet);
    // The program goes, with data for the guest under way.
    let mut program = guest.connect(&listener);
    program.write_all(b"bye").unwrap();
    drop(program);
    guest.get_data(b"bye");
    assert_eq!(guest.get_op(op::SHUTDOWN).flags, 3);
    guest.send_op(op::RESET);
    // The program goes without having read.
    let program = guest.connect(&listener);
    guest.send(Header { op: op::READ_WRITE, ..Header::default() }, b"unread");
    drop(program);
    while guest.get().0.op != op::RESET {}
    // The guest goes, with data for the program under way.
    let mut program = guest.connect(&listener);
    guest.send(Header { op: op::READ_WRITE, ..Header::default() }, b"bye");
    guest.send_op(op::RESET);
    let mut heard = Vec::new();
    program.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"bye");
    // A program that does not wait for the guest's answer.
    let program = setup.program("CONNECT 7\n");
    let request = guest.get_op(op::REQUEST);
    drop(program);
    assert_eq!(guest.get_op(op::RESET).src_port, request.src_port);
    setup.puppet.finish();
}

fn reset_ends_every_connection() {
    let setup = Setup::new();
    let listener = setup.listener();
    let mut guest = Guest::ready(&setup.puppet);
    let mut accepted = guest.connect(&listener);
    let mut waiting = setup.program("CONNECT 7\n");
    guest.get_op(op::REQUEST);
    let device = Device::find(&setup.puppet, Kind::Vsock);
    device.reset();
    setup.puppet.sync();
    assert!(is_over(&mut accepted) && is_over(&mut waiting));
    let mut guest = Guest::ready(&setup.puppet);
    let mut program = setup.program("CONNECT 7\n");
    let guests = guest.accept();
    assert_eq!(read_line(&mut program), format!("OK {}\n", guests.dst_port));
    setup.puppet.finish();
}

fn hundred_connections() {
    let setup = Setup::new();
    let mut guest = Guest::ready(&setup.puppet);
    let mut programs = Vec::new();
    for _ in 0..100 {
        let mut program = setup.program("CONNECT 7\n");
        let guests = guest.accept();
        assert_eq!(read_line(&mut program), format!("OK {}\n", guests.dst_port));
        programs.push((program, guests));
    }
    for (number, (program, guests)) in programs.iter_mut().enumerate() {
        let text = format!("{number:04}");
        guest.send(Header { op: op::READ_WRITE, ..*guests }, text.as_bytes());
        assert_eq!(read(program, 4), text.as_bytes());
    }
    setup.puppet.finish();
}
