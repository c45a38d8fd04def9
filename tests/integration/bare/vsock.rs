//! The socket device between a guest that decides about every byte of a packet and programs of the host.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};

use harness::puppet::{FREE_MEMORY, Puppet};
use harness::virtio::{Answer, Descriptor, Device, Kind, Queue, register};
use harness::{Need, Scratch, Vmm, patience};

use super::subject::Subject;

crate::suite::tests! { "bare::vsock" needs &[Need::Kvm];
    configuration,
    host_program_connects,
    host_program_waits_for_the_driver,
    guest_connects,
    packets_in_any_pieces,
    packets_that_make_no_sense_are_reset,
    host_program_gets_no_further_than_the_guest_has_room,
    host_program_that_never_reads,
    halves_end_one_after_the_other,
    abrupt_ends,
    reset_ends_every_connection,
    receive_buffers_malformed,
    silent_programs_are_in_nobodys_way,
    hundred_connections,
    socket_file_is_taken_care_of,
    socket_file_survives_a_reboot,
}

/// Operations of packets (virtio 1.3, 5.10.6).
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RESET: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const READ_WRITE: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

const CID: u64 = 3;
const HOST: u64 = 2;
/// The guest's port and the host's, where a test has only one connection.
const GUEST_PORT: u32 = 1000;
const HOST_PORT: u32 = 52;

/// The header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

/// From the guest, with plenty of room.
impl Default for Header {
    fn default() -> Self {
        Self {
            src_cid: CID,
            dst_cid: HOST,
            src_port: GUEST_PORT,
            dst_port: HOST_PORT,
            len: 0,
            kind: 1,
            op: 0,
            flags: 0,
            buf_alloc: 1 << 20,
            fwd_cnt: 0,
        }
    }
}

impl Header {
    pub fn bytes(&self) -> Vec<u8> {
        [
            &self.src_cid.to_le_bytes()[..],
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ]
        .concat()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        Self {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }
}

/// A driver that knows packets and decides nothing.
struct Guest<'p> {
    puppet: &'p Puppet,
    receive: Queue<'p>,
    send: Queue<'p>,
}

impl<'p> Guest<'p> {
    fn ready(puppet: &'p Puppet) -> Self {
        let device = Device::find(puppet, Kind::Vsock);
        device.negotiate(0);
        let (receive, send, _events) = (device.queue(0), device.queue(1), device.queue(2));
        device.driver_ok();
        puppet.sync();
        Self { puppet, receive, send }
    }

    /// Sends a packet, the header and the data in a buffer each.
    #[track_caller]
    fn send(&mut self, header: Header, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        let (first, second) = (self.send.buffer(0), self.send.buffer(1));
        self.puppet.store(first, &Header { len, ..header }.bytes());
        self.puppet.store(second, data);
        let mut chain = vec![Descriptor::readable(first, 44).then_if(len > 0, 1)];
        chain.extend((len > 0).then(|| Descriptor::readable(second, len)));
        assert_eq!(self.send.request(&chain), Answer::Used(0, 0));
    }

    #[track_caller]
    fn send_op(&mut self, op: u16) {
        self.send(Header { op, ..Header::default() }, &[]);
    }

    /// Waits for the next packet, up to 200 bytes of data at a time.
    #[track_caller]
    fn get(&mut self) -> (Header, Vec<u8>) {
        let buffer = self.receive.buffer(0);
        match self.receive.request(&[Descriptor::writable(buffer, 244)]) {
            Answer::Used(0, len @ 44..) => {
                let bytes = self.puppet.load(buffer, len);
                let header = Header::from_bytes(&bytes);
                assert_eq!((header.dst_cid, header.len), (CID, len - 44));
                (header, bytes[44..].to_vec())
            }
            other => panic!("{other:?} instead of a packet"),
        }
    }

    #[track_caller]
    fn get_op(&mut self, op: u16) -> Header {
        let (header, data) = self.get();
        assert_eq!((header.op, header.kind), (op, 1), "{header:?} {data:x?}");
        header
    }

    #[track_caller]
    fn get_data(&mut self, wanted: &[u8]) {
        let mut data = Vec::new();
        while data.len() < wanted.len() {
            let (header, more) = self.get();
            assert_eq!(header.op, op::READ_WRITE, "{header:?}");
            data.extend(more);
        }
        assert_eq!(data, wanted);
    }

    /// Connects to a program of the host.
    #[track_caller]
    fn connect(&mut self, listener: &UnixListener) -> UnixStream {
        self.send_op(op::REQUEST);
        let (program, _) = listener.accept().unwrap();
        program.set_read_timeout(Some(patience())).unwrap();
        self.get_op(op::RESPONSE);
        program
    }

    /// Accepts what the next packet asks for; the answers to come go to its port.
    #[track_caller]
    fn accept(&mut self) -> Header {
        let request = self.get_op(op::REQUEST);
        assert_eq!(request.src_cid, HOST);
        let answer = Header {
            src_port: request.dst_port,
            dst_port: request.src_port,
            op: op::RESPONSE,
            ..Header::default()
        };
        self.send(answer, &[]);
        answer
    }
}

/// A machine with a socket device, in a directory of its own.
struct Setup {
    scratch: Scratch,
    puppet: Puppet,
}

impl Setup {
    fn new() -> Self {
        let scratch = Scratch::new();
        // A path relative to the machine's own directory.
        let vmm = Vmm::puppet("").inside(&scratch).args(["--rng", "off", "--vsock", "socket=v"]);
        let puppet = Puppet::start(vmm);
        Self { scratch, puppet }
    }

    /// A program of the host that says `line`.
    fn program(&self, line: &str) -> UnixStream {
        let mut program = UnixStream::connect(self.scratch.join("v")).unwrap();
        program.set_read_timeout(Some(patience())).unwrap();
        program.write_all(line.as_bytes()).unwrap();
        program
    }

    /// A program of the host that waits for the guest.
    fn listener(&self) -> UnixListener {
        UnixListener::bind(self.scratch.join(&format!("v_{HOST_PORT}"))).unwrap()
    }
}

fn read_line(program: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        assert_eq!(program.read(&mut byte).unwrap(), 1, "the end after {line:?}");
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn read(program: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    program.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether a program hears the end; what it has sent may have been lost.
fn is_over(program: &mut UnixStream) -> bool {
    match program.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn configuration() {
    Subject::Vsock.with_device(|device| {
        assert_eq!(device.get(register::CONFIG), 3, "the guest's address");
        assert_eq!(device.get(register::CONFIG + 4), 0);
        const STREAM: u64 = 1;
        assert_eq!(device.offered() & 7, STREAM);
    });
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
    let listener = setup.listener();
    let mut guest = Guest::ready(&setup.puppet);
    let mut program = guest.connect(&listener);
    guest.send(Header { op: op::READ_WRITE, ..Header::default() }, b"hello");
    assert_eq!(read(&mut program, 5), b"hello");
    program.write_all(b"world").unwrap();
    guest.get_data(b"world");
    // Nobody has ever listened there.
    guest.send(Header { dst_port: 53, op: op::REQUEST, ..Header::default() }, &[]);
    assert_eq!(guest.get_op(op::RESET).src_port, 53);
    setup.puppet.finish();
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
        Header { dst_cid: HOST | 1 << 40, ..request },
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

fn socket_file_is_taken_care_of() {
    let setup = Setup::new();
    let path = setup.scratch.join("v");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    // Another machine must not take it.
    let vsock = format!("socket={}", path.display());
    let second = Vmm::puppet("").args(["--vsock", &vsock]).run();
    second.expect_code(152).expect_one_line(&["vsock", "v\"", "in use"]);
    setup.puppet.finish();
    assert_eq!(setup.scratch.names(), [""; 0], "the socket is gone");
    // What a process that was killed has left is no obstacle; anything else is.
    drop(UnixListener::bind(&path).unwrap());
    let puppet = Puppet::start(Vmm::puppet("").args(["--vsock", &vsock]));
    puppet.finish();
    fs::write(&path, "precious").unwrap();
    let refused = Vmm::puppet("").args(["--vsock", &vsock]).run();
    refused.expect_code(152).expect_one_line(&["not a socket"]);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

fn socket_file_survives_a_reboot() {
    let scratch = Scratch::new();
    let vmm = Vmm::puppet("").inside(&scratch);
    let puppet = Puppet::start(vmm.args(["--vsock", "socket=v", "--on-reboot", "restart"]));
    let inode = fs::metadata(scratch.join("v")).unwrap().ino();
    let mut program = UnixStream::connect(scratch.join("v")).unwrap();
    program.write_all(b"CONNECT 7\n").unwrap();
    puppet.port_out(1, 0x64, 0xfe);
    let mut machine = puppet.release();
    machine.wait_for("puppet: ");
    machine.wait_for("\n");
    assert_eq!(fs::metadata(scratch.join("v")).unwrap().ino(), inode);
    machine.send("o 1 f4 0\n");
    machine.expect_exit(0);
}
