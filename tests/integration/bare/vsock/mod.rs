//! The socket device between a guest that decides about every byte of a packet and programs of the host.

mod connections;
mod credit;
mod packets;
mod ready;
mod socket;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use harness::puppet::Puppet;
use harness::virtio::{Answer, Descriptor, Device, Kind, Queue};
use harness::vsock::{GUEST_CID, HOST_CID, HOST_PORT, Header, op};
use harness::{Scratch, Vmm, patience};
use libtest_mimic::Trial;

/// All of them.
pub fn tests() -> Vec<Trial> {
    let lists =
        [connections::tests(), packets::tests(), credit::tests(), ready::tests(), socket::tests()];
    lists.into_iter().flatten().collect()
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
                assert_eq!((header.dst_cid, header.len), (GUEST_CID, len - 44));
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
        assert_eq!(request.src_cid, HOST_CID);
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

/// A program of the guest and one of the host, beside the device's `socket`, talk to each other.
pub fn guest_talks_to_host(puppet: &Puppet, socket: &Path) {
    let path = PathBuf::from(format!("{}_{HOST_PORT}", socket.display()));
    let listener = UnixListener::bind(&path).unwrap();
    // Whoever the machine is run by.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let mut guest = Guest::ready(puppet);
    let mut program = guest.connect(&listener);
    guest.send(Header { op: op::READ_WRITE, ..Header::default() }, b"hello");
    assert_eq!(read(&mut program, 5), b"hello");
    program.write_all(b"world").unwrap();
    guest.get_data(b"world");
    // Nobody has ever listened there.
    guest.send(Header { dst_port: 53, op: op::REQUEST, ..Header::default() }, &[]);
    assert_eq!(guest.get_op(op::RESET).src_port, 53);
    fs::remove_file(path).unwrap();
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
