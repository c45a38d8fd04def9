//! The metadata service, to a guest that makes its own packets.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use devices::backend::net::{NetBackend, Offloads};
use devices::guest_io::IoVecs;
use devices::memory::{Buffers, GuestMemory, Segment};
use devices::metadata::{
    DEFAULT_ADDRESS, MetadataNet, MetadataStore, Service, ServiceOptions, Version,
};
use devices::test_util::guest_memory;
use serde_json::json;
use vm_memory::{Bytes as _, GuestAddress};

use crate::bytes::Bytes;

const GUEST: [u8; 4] = [10, 0, 0, 2];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HEADER: usize = 12;
/// A page for frames in each direction, and some more for long ones.
const FROM: u64 = 0;
const TO: u64 = 0x4000;
const ROOM: u32 = 2048;
/// Most frames that may come of one.
const MAX_ANSWERS: usize = 64;

const SYN: u8 = 2;
const PUSH: u8 = 8;
const ACK: u8 = 16;

/// Requests that go somewhere.
const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\n\r\n",
    "GET /a/b HTTP/1.1\r\nAccept: application/json\r\n\r\n",
    "GET /list/0 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n",
    "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 0\r\n\r\n",
    "GET /a HTTP/1.1\r\nX-metadata-token: ",
    "GET /a HTTP/1.1\r\nContent-Length: ",
    "PATCH /a HTTP/1.1\r\n\r\n",
];

/// See the module.
pub fn run(input: &[u8]) {
    let mut input = Bytes::new(input);
    let mut guest = Guest::new(&mut input);
    while !input.is_empty() {
        match input.below(8) {
            0 => {
                let frame = input.some();
                guest.send(frame);
            }
            1 => guest.ask_for_address(&mut input),
            2 => drop(guest.receive()),
            _ => guest.segment(&mut input),
        }
    }
    guest.must_be_served();
}

thread_local! {
    static MEMORY: GuestMemory = guest_memory(0x8000);
}

struct Guest {
    net: MetadataNet,
    memory: GuestMemory,
    iovecs: IoVecs,
    /// What each port has sent and got, as sequence numbers.
    ports: [(u32, u32); 8],
    token: Vec<u8>,
}

impl Guest {
    fn new(input: &mut Bytes<'_>) -> Self {
        let version = if input.one_in(2) { Version::V2 } else { Version::V1 };
        let options = ServiceOptions { version, imds_compat: input.one_in(2) };
        let store = MetadataStore::new(4096);
        store
            .put(json!({"a": {"b": "text", "c": [1, 2]}, "list": ["x"], "n": null}))
            .expect("it is small");
        let service = Service::new(options, store).expect("randomness");
        let net = MetadataNet::new(Arc::new(Silence), Arc::new(service), DEFAULT_ADDRESS);
        Self {
            net: net.expect("descriptors"),
            memory: MEMORY.with(Clone::clone),
            iovecs: IoVecs::new(),
            ports: [(1000, 0); 8],
            token: Vec::new(),
        }
    }

    fn send(&mut self, frame: &[u8]) {
        let frame = [&[0; HEADER], frame].concat();
        self.memory.write_slice(&frame, GuestAddress(FROM)).expect("it fits");
        let segments = [Segment { address: GuestAddress(FROM), len: frame.len() as u32 }];
        // The card itself sends nothing that has no Ethernet header.
        if frame.len() >= HEADER + 14 {
            let from = Buffers::new(&self.memory, &segments);
            let sent =
                self.net.write_frame(0, &mut self.iovecs, &from).expect("nothing refuses it");
            assert_eq!(sent, frame.len());
        }
    }

    /// Takes all frames, and the payload of the last segment to each port.
    fn receive(&mut self) -> Vec<u8> {
        let segments = [Segment { address: GuestAddress(TO), len: ROOM }];
        let mut payload = Vec::new();
        for _ in 0..MAX_ANSWERS * 2 {
            let to = Buffers::new(&self.memory, &segments);
            let Ok(len) = self.net.read_frame(0, &mut self.iovecs, &to, &mut [0; 64]) else {
                return payload;
            };
            assert!((HEADER + 14..=HEADER + 1514).contains(&len), "a frame of {len} bytes");
            let mut frame = vec![0; len];
            self.memory.read_slice(&mut frame, GuestAddress(TO)).expect("RAM");
            assert_eq!(frame[..HEADER], [0; HEADER]);
            if let Some(data) = self.note(&frame[HEADER..]) {
                payload = data;
            }
        }
        panic!("frames without an end");
    }

    /// Keeps up with the sequence numbers of a segment; its payload.
    fn note(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let ip = frame.get(14..)?;
        if frame[12..14] != [8, 0] || ip.get(9) != Some(&6) {
            return None;
        }
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let tcp = ip.get(usize::from(ip[0] & 15) * 4..total).expect("a whole packet");
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let data = &tcp[usize::from(tcp[12] >> 4) * 4..];
        let more = data.len() as u32 + u32::from(tcp[13] & 3 != 0);
        let port = usize::from(u16::from_be_bytes([tcp[2], tcp[3]]) & 7);
        self.ports[port].1 = seq.wrapping_add(more);
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte);
        if let Some(at) = data.windows(4).position(|it| it == b"\r\n\r\n")
            && data[at + 4..].iter().all(is_token)
        {
            self.token = data[at + 4..].to_vec();
        }
        Some(data.to_vec())
    }

    fn ask_for_address(&mut self, input: &mut Bytes<'_>) {
        let mut frame = arp();
        if input.one_in(2) {
            let at = usize::from(input.u8()) % frame.len();
            frame[at] = input.u8();
        }
        self.send(&frame);
    }

    /// A segment as it should be, or nearly.
    fn segment(&mut self, input: &mut Bytes<'_>) {
        let port = input.below(self.ports.len());
        let flags = input.of(&[SYN, ACK, ACK | PUSH, ACK | PUSH, ACK | PUSH, ACK | 1, 4, 0xff]);
        let mut data = Vec::new();
        if flags & PUSH != 0 {
            data.extend(REQUESTS[input.below(REQUESTS.len())].bytes());
            if input.one_in(2) {
                data.extend(&self.token);
                data.extend(b"\r\n\r\n");
            }
            data.extend(input.some());
        }
        self.push(port, flags, &data, input);
        self.receive();
    }

    fn push(&mut self, port: usize, flags: u8, data: &[u8], odd: &mut Bytes<'_>) {
        let (seq, ack) = self.ports[port];
        let mut tcp = vec![0xc0, port as u8, 0, 80];
        tcp.extend(seq.to_be_bytes());
        tcp.extend(if flags & ACK == 0 { 0 } else { ack }.to_be_bytes());
        tcp.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        tcp.extend(data);
        if odd.one_in(8) {
            let at = usize::from(odd.u8()) % 20;
            tcp[at] = odd.u8();
            tcp[16..18].fill(0);
        }
        self.ports[port].0 = seq.wrapping_add(data.len() as u32 + u32::from(flags & 3 != 0));
        self.send(&packet(tcp, odd));
    }

    /// Another connection, whatever the others are doing.
    fn must_be_served(&mut self) {
        let mut none = Bytes::new(&[]);
        self.receive();
        self.send(&arp());
        self.receive();
        // A port that no input can name.
        self.ports[7] = (77, 0);
        let mut tcp = vec![0xd0, 7, 0, 80, 0, 0, 0, 77, 0, 0, 0, 0, 0x50, SYN, 0x20, 0, 0, 0, 0, 0];
        self.send(&packet(tcp.clone(), &mut none));
        self.receive();
        let ack = self.ports[7].1;
        assert_ne!(ack, 0, "a connection was not accepted");
        tcp[4..8].copy_from_slice(&78_u32.to_be_bytes());
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp[13] = ACK | PUSH;
        tcp.extend(REQUESTS[0].bytes());
        self.send(&packet(tcp, &mut none));
        let answer = self.receive();
        assert!(answer.starts_with(b"HTTP/1.1 "), "no answer");
    }
}

fn arp() -> Vec<u8> {
    let mut frame = [[0xff; 6], GUEST_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC);
    frame.extend(GUEST);
    frame.extend([0; 6]);
    frame.extend(DEFAULT_ADDRESS.octets());
    frame
}

/// A frame around `tcp`, all checksums in place.
fn packet(mut tcp: Vec<u8>, odd: &mut Bytes<'_>) -> Vec<u8> {
    let address: Ipv4Addr = DEFAULT_ADDRESS;
    let pseudo =
        [&GUEST[..], &address.octets(), &[0, 6], &(tcp.len() as u16).to_be_bytes(), &tcp].concat();
    let sum = checksum(&pseudo);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((20 + tcp.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip.extend(GUEST);
    ip.extend(address.octets());
    if odd.one_in(16) {
        let at = usize::from(odd.u8()) % 16;
        ip[at] = odd.u8();
    }
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&[2, 0, 0, 0, 0, 9][..], &GUEST_MAC, &[8, 0], &ip, &tcp].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    !(((sum >> 16) + (sum & 0xffff)) as u16)
}

/// A network on which nothing happens.
struct Silence;

impl NetBackend for Silence {
    fn name(&self) -> &str {
        "silence"
    }

    fn queues(&self) -> u16 {
        1
    }

    fn has_uso(&self) -> bool {
        false
    }

    fn fd(&self, _queue: u16) -> Option<BorrowedFd<'_>> {
        None
    }

    fn read_frame(
        &self,
        _queue: u16,
        _iovecs: &mut IoVecs,
        _to: &Buffers<'_>,
        _spill: &mut [u8],
    ) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write_frame(&self, _: u16, _: &mut IoVecs, from: &Buffers<'_>) -> io::Result<usize> {
        Ok(from.len())
    }

    fn set_offloads(&self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn set_active_queues(&self, _count: u16) -> io::Result<()> {
        Ok(())
    }

    fn set_mtu(&self, _mtu: u16) -> io::Result<()> {
        Ok(())
    }
}
