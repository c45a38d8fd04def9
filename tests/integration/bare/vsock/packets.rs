//! Packets, good and bad, in buffers of every shape.

use harness::Need;
use harness::puppet::FREE_MEMORY;
use harness::virtio::{Answer, Descriptor, Device, Kind, Queue, register};
use harness::vsock::{GUEST_PORT, HOST_CID, HOST_PORT, Header, op};

use super::{Guest, Setup, is_over, read};
use crate::bare::subject::Subject;

crate::suite::tests! { "bare::vsock::packets" needs &[Need::Kvm];
    configuration,
    packets_in_any_pieces,
    packets_that_make_no_sense_are_reset,
    receive_buffers_malformed,
}

fn configuration() {
    Subject::Vsock.with_device(|device| {
        assert_eq!(device.get(register::CONFIG), 3, "the guest's address");
        assert_eq!(device.get(register::CONFIG + 4), 0);
        const STREAM: u64 = 1;
        assert_eq!(device.offered() & 7, STREAM);
    });
}

fn packets_in_any_pieces() {
    let setup = Setup::new();
    let listener = setup.listener();
    let mut guest = Guest::ready(&setup.puppet);
    let mut program = guest.connect(&listener);
    let header = Header { op: op::READ_WRITE, len: 10, ..Header::default() };
    let buffer = guest.send.buffer(0);
    guest.puppet.store(buffer, &[&header.bytes()[..], b"0123456789and what is not sent"].concat());
    let readable = Descriptor::readable;
    let pieces: [&[u32]; 6] = [
        &[54],
        &[44, 10],
        &[1, 53],
        &[20, 20, 4, 10],
        &[40, 8, 6],
        // Longer than the packet says.
        &[44, 10, 5],
    ];
    for lengths in pieces {
        let mut at = buffer;
        let mut chain = Vec::new();
        for (index, len) in (1..).zip(lengths) {
            let has_more = usize::from(index) < lengths.len();
            chain.push(readable(at, *len).then_if(has_more, index));
            at += len;
        }
        assert_eq!(guest.send.request(&chain), Answer::Used(0, 0));
        assert_eq!(read(&mut program, 10), b"0123456789", "{lengths:?}");
    }

    // What current kernels send: 64 KiB as a header and two buffers of 32 KiB.
    let (one, two) = (FREE_MEMORY + 0x40_0000, FREE_MEMORY + 0x50_0000);
    guest.puppet.store(buffer, &Header { len: 1 << 16, ..header }.bytes());
    guest.puppet.store(one, b"start");
    guest.puppet.store(two + 0x8000 - 3, b"end");
    let chain =
        [readable(buffer, 44).then(1), readable(one, 0x8000).then(2), readable(two, 0x8000)];
    assert_eq!(guest.send.request(&chain), Answer::Used(0, 0));
    let data = read(&mut program, 1 << 16);
    assert!(data.starts_with(b"start") && data.ends_with(b"end"));
    setup.puppet.finish();
}

fn packets_that_make_no_sense_are_reset() {
    let setup = Setup::new();
    let listener = setup.listener();
    let mut guest = Guest::ready(&setup.puppet);
    let request = Header { op: op::REQUEST, ..Header::default() };
    for bad in [
        Header { src_cid: 4, ..request },
        Header { src_cid: u64::MAX, ..request },
        Header { dst_cid: 1, ..request },
        Header { dst_cid: HOST_CID | 1 << 40, ..request },
        Header { kind: 0, ..request },
        Header { kind: 2, ..request },
        Header { op: 0, ..request },
        Header { op: 8, ..request },
        Header { op: op::RESPONSE, ..request },
        Header { op: op::SHUTDOWN, flags: 3, ..request },
        Header { op: op::READ_WRITE, ..request },
        Header { op: op::CREDIT_UPDATE, ..request },
        Header { op: op::CREDIT_REQUEST, ..request },
    ] {
        guest.send(bad, &[]);
        let (reset, _) = guest.get();
        assert_eq!((reset.op, reset.src_port, reset.dst_port), (op::RESET, HOST_PORT, GUEST_PORT));
    }
    // Too short for a header, or for the data that it announces.
    guest.puppet.store(guest.send.buffer(0), &request.bytes());
    let short = [Descriptor::readable(guest.send.buffer(0), 43)];
    assert_eq!(guest.send.request(&short), Answer::Used(0, 0));
    let writable = [Descriptor::writable(guest.send.buffer(0), 44)];
    assert_eq!(guest.send.request(&writable), Answer::Used(0, 0));
    let mut program = guest.connect(&listener);
    let long = Header { op: op::READ_WRITE, len: 5, ..request };
    guest.puppet.store(guest.send.buffer(0), &[&long.bytes()[..], b"four"].concat());
    let chain = [Descriptor::readable(guest.send.buffer(0), 48)];
    assert_eq!(guest.send.request(&chain), Answer::Used(0, 0));
    guest.get_op(op::RESET);
    assert!(is_over(&mut program));
    // All of that has left the device as it was.
    guest.connect(&listener);
    setup.puppet.finish();
}

fn receive_buffers_malformed() {
    let setup = Setup::new();
    let device = Device::find(&setup.puppet, Kind::Vsock);
    let defects: [fn(&Queue<'_>) -> Vec<Descriptor>; 7] = [
        |queue| vec![Descriptor::writable(queue.buffer(0), 4096).then(0)],
        |_| vec![Descriptor::writable(0xd000_0000, 4096)],
        |queue| vec![Descriptor::writable(queue.buffer(0), 0)],
        |queue| vec![Descriptor::writable(queue.buffer(0), 4096).then(Queue::SIZE)],
        |queue| vec![Descriptor::readable(queue.buffer(0), 4096)],
        |queue| vec![Descriptor::writable(queue.buffer(0), 43)],
        |queue| vec![Descriptor::writable(queue.buffer(0), 44)],
    ];
    for spoil in defects {
        let mut guest = Guest::ready(&setup.puppet);
        guest.send_op(op::REQUEST);
        let chain = spoil(&guest.receive);
        assert_eq!(guest.receive.request(&chain), Answer::NeedsReset, "{chain:x?}");
    }
    Subject::Vsock.good_request(&device);
    setup.puppet.finish();
}
