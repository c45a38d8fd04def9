//! Much data through the device and real sockets, with a driver that keeps its queues busy. The guest is this
//! test; no machine runs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::backend::vsock::UnixEndpoint;

/// Bytes each way.
const TOTAL: usize = 1 << 30;
/// What is sent again and again. A prime, so that no buffer begins where another one did.
const PATTERN: usize = 65_521;
/// Data of one packet from the guest: in two buffers, as Linux sends it.
const PACKET: usize = 64 << 10;
/// A receive buffer.
const ROOM_LEN: usize = 16 << 10;
const GUEST_ROOM: u32 = 1 << 20;
const RECEIVE_AT: u64 = 0x20_0000;
const SEND_AT: u64 = 0x40_0000;
/// Memory for one packet from the guest.
const SLOT: u64 = 0x2_0000;

/// The guest's end of one connection.
struct Peer {
    memory: GuestMemory,
    running: Running,
    pattern: Vec<u8>,
    sent: usize,
    got: usize,
    /// The host's room and what has left it, as it said last.
    room: u32,
    forwarded: u32,
    /// What the host knows of our own.
    told: usize,
    free_slots: Vec<u64>,
    /// Which slot a chain is in.
    slots: BTreeMap<u32, u64>,
    buffers: BTreeMap<u32, u64>,
}

impl Peer {
    fn header(&mut self, op: Op, len: usize) -> Header {
        self.told = self.got;
        let fwd_cnt = (self.got % (1 << 32)).try_into().unwrap();
        let len = len.try_into().unwrap();
        Header { len, fwd_cnt, buf_alloc: GUEST_ROOM, ..header(op) }
    }

    fn send(&mut self, op: Op, len: usize) {
        let slot = self.free_slots.pop().unwrap();
        let header = self.header(op, len);
        self.memory.write_slice(&header.to_bytes(), GuestAddress(slot)).unwrap();
        let mut chain = vec![(slot, 44, false)];
        let data = slot + 64;
        for (at, len) in [(data, len.min(PACKET / 2)), (data + 0x8000, len.saturating_sub(0x8000))]
        {
            if len > 0 {
                chain.push((at, len.try_into().unwrap(), false));
            }
        }
        let mut start = self.sent % PATTERN;
        let mut at = data;
        let mut left = len;
        while left > 0 {
            let part = left.min(PATTERN - start);
            let bytes = &self.pattern[start..start + part];
            self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
            at += part as u64;
            left -= part;
            start = 0;
        }
        self.sent += len;
        let head = self.running.queues[TX].add(&chain);
        self.slots.insert(head.into(), slot);
    }

    fn offer(&mut self, at: u64) {
        let head = self.running.queues[RX].add(&[(at, ROOM_LEN.try_into().unwrap(), true)]);
        self.buffers.insert(head.into(), at);
    }

    /// Takes what the device has done; whether that was anything.
    fn take(&mut self) -> bool {
        let sent = self.running.queues[TX].take_used();
        for (head, _) in &sent {
            self.free_slots.push(self.slots.remove(head).unwrap());
        }
        let got = self.running.queues[RX].take_used();
        for &(head, len) in &got {
            let at = self.buffers.remove(&head).unwrap();
            let mut bytes = vec![0; len as usize];
            self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            let (header, data) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
            let header = Header::from_bytes(header);
            (self.room, self.forwarded) = (header.buf_alloc, header.fwd_cnt);
            assert_ne!(header.op(), Some(Op::Reset), "after {} and {}", self.sent, self.got);
            self.got = check(&self.pattern, self.got, data);
            self.offer(at);
        }
        !sent.is_empty() || !got.is_empty()
    }

    /// Sends as much as it may; whether that was anything.
    fn fill(&mut self) -> bool {
        let mut progress = false;
        while self.free_slots.len() > 1 && self.sent < TOTAL {
            let sent: u32 = (self.sent % (1 << 32)).try_into().unwrap();
            let room = self.room - sent.wrapping_sub(self.forwarded);
            let len = (TOTAL - self.sent).min(PACKET).min(room as usize);
            if len == 0 {
                break;
            }
            self.send(Op::ReadWrite, len);
            progress = true;
        }
        if self.got - self.told > GUEST_ROOM as usize / 2 && !self.free_slots.is_empty() {
            self.send(Op::CreditUpdate, 0);
            progress = true;
        }
        progress
    }
}

/// Compares `data` with what must come after `from` bytes; how many have come then.
fn check(pattern: &[u8], from: usize, data: &[u8]) -> usize {
    let mut at = from;
    let mut data = data;
    while !data.is_empty() {
        let start = at % PATTERN;
        let (part, rest) = data.split_at(data.len().min(PATTERN - start));
        assert!(part == &pattern[start..start + part.len()], "wrong data after {at} bytes");
        at += part.len();
        data = rest;
    }
    at
}

#[test]
fn a_gibibyte_goes_each_way_through_real_sockets() {
    let pattern: Vec<u8> = (0..PATTERN).map(|i| (i * i / 7 % 256).try_into().unwrap()).collect();
    let path = std::env::temp_dir().join(format!("vmm-volume-{}", std::process::id()));
    let endpoint = UnixEndpoint::bind(&path, BTreeMap::new()).unwrap();
    let backends = endpoint.backends();
    let device = Vsock::new(CID, Box::new(move || backends.open()));
    let memory = guest_memory(16 << 20);
    let running = Running::new(Box::new(device), &memory, feature::EVENT_IDX, 0);

    let program_path = format!("{}_{ECHO}", path.display());
    let listener = UnixListener::bind(&program_path).unwrap();
    let sent = pattern.repeat(16);
    let wanted = pattern.clone();
    let program = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = stream.try_clone().unwrap();
        let heard = thread::spawn(move || {
            let mut got = 0;
            let mut bytes = vec![0; 1 << 18];
            while got < TOTAL {
                let count = reader.read(&mut bytes).unwrap();
                assert_ne!(count, 0, "the end after {got}");
                got = check(&wanted, got, &bytes[..count]);
            }
        });
        let mut left = TOTAL;
        while left > 0 {
            let count = left.min(sent.len());
            stream.write_all(&sent[..count]).unwrap();
            left -= count;
        }
        heard.join().unwrap();
    });

    let mut peer = Peer {
        memory,
        running,
        pattern,
        sent: 0,
        got: 0,
        room: 0,
        forwarded: 0,
        told: 0,
        free_slots: (0..5).map(|slot| SEND_AT + slot * SLOT).collect(),
        slots: BTreeMap::new(),
        buffers: BTreeMap::new(),
    };
    for buffer in 0..16 {
        peer.offer(RECEIVE_AT + buffer * ROOM_LEN as u64);
    }
    peer.send(Op::Request, 0);
    while peer.sent < TOTAL || peer.got < TOTAL || !peer.slots.is_empty() {
        let progress = peer.fill();
        peer.running.transport.kick(0);
        assert!(peer.running.kick(1), "the device failed");
        if !peer.take() && !progress {
            thread::yield_now();
        }
    }
    while !program.is_finished() {
        assert!(peer.running.host.run());
        peer.take();
        thread::yield_now();
    }
    program.join().unwrap();
    std::fs::remove_file(program_path).unwrap();
}
