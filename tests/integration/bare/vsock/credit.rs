//! Sides that do not read, and programs that say nothing.

use std::io::Write;
use std::os::unix::net::UnixStream;

use harness::Need;
use harness::puppet::FREE_MEMORY;
use harness::virtio::{Answer, Descriptor};
use harness::vsock::{Header, op};

use super::{Guest, Setup, is_over, read, read_line};

crate::suite::tests! { "bare::vsock::credit" needs &[Need::Kvm];
    host_program_gets_no_further_than_the_guest_has_room,
    host_program_that_never_reads,
    silent_programs_are_in_nobodys_way,
}

fn host_program_gets_no_further_than_the_guest_has_room() {
    let setup = Setup::new();
    let listener = setup.listener();
    let mut guest = Guest::ready(&setup.puppet);
    let small = Header { buf_alloc: 300, ..Header::default() };
    guest.send(Header { op: op::REQUEST, ..small }, &[]);
    let (mut program, _) = listener.accept().unwrap();
    guest.get_op(op::RESPONSE);
    let data: Vec<u8> = (0..=255).cycle().take(1000).collect();
    program.write_all(&data).unwrap();
    guest.get_data(&data[..300]);
    guest.get_op(op::CREDIT_REQUEST);
    // Room for 500 more, of which the first 200 come in one packet.
    guest.send(Header { op: op::CREDIT_UPDATE, fwd_cnt: 300, buf_alloc: 500, ..small }, &[]);
    guest.get_data(&data[300..800]);
    guest.get_op(op::CREDIT_REQUEST);
    guest.send(Header { op: op::CREDIT_UPDATE, fwd_cnt: 800, ..small }, &[]);
    guest.get_data(&data[800..]);
    setup.puppet.finish();
}

fn host_program_that_never_reads() {
    let setup = Setup::new();
    let listener = setup.listener();
    let mut guest = Guest::ready(&setup.puppet);
    let mut program = guest.connect(&listener);
    guest.send_op(op::CREDIT_REQUEST);
    let room = guest.get_op(op::CREDIT_UPDATE).buf_alloc;
    let header = Header { op: op::READ_WRITE, len: 1 << 16, ..Header::default() };
    let (head, data) = (guest.send.buffer(0), FREE_MEMORY + 0x40_0000);
    guest.puppet.store(head, &header.bytes());
    let chain = [Descriptor::readable(head, 44).then(1), Descriptor::readable(data, 1 << 16)];
    // Until it has sent what it may, by what it was told; the socket takes its part of that.
    let (mut sent, mut forwarded) = (0, 0);
    while sent - forwarded + (1 << 16) <= room {
        assert_eq!(guest.send.request(&chain), Answer::Used(0, 0));
        sent += 1 << 16;
        guest.send_op(op::CREDIT_REQUEST);
        guest.puppet.store(head, &header.bytes());
        forwarded = guest.get_op(op::CREDIT_UPDATE).fwd_cnt;
        assert!(sent < 64 << 20, "somebody takes it all");
    }
    assert!(forwarded < sent);
    // The program reads at last, and the guest is told of room.
    let all = read(&mut program, sent as usize);
    assert_eq!(all.len(), sent as usize);
    while guest.get_op(op::CREDIT_UPDATE).fwd_cnt < sent - room / 2 {}

    // And one that sends in spite of being told.
    let mut count = 0;
    loop {
        assert_eq!(guest.send.request(&chain), Answer::Used(0, 0));
        count += 1;
        if count * (1 << 16) > 2 * room + sent {
            break;
        }
    }
    while guest.get().0.op != op::RESET {}
    setup.puppet.finish();
}

fn silent_programs_are_in_nobodys_way() {
    let setup = Setup::new();
    let mut guest = Guest::ready(&setup.puppet);
    let silent: Vec<UnixStream> = (0..300).map(|_| setup.program("CONN")).collect();
    let mut other = setup.program("GET / HTTP/1.1\r\n");
    assert!(is_over(&mut other));
    let mut program = setup.program("CONNECT 7\n");
    let guests = guest.accept();
    assert_eq!(read_line(&mut program), format!("OK {}\n", guests.dst_port));
    drop(silent);
    setup.puppet.finish();
}
