//! The network card on a real tap, in a network namespace of this process's own.
//!
//! The peer of the received frames is a packet socket, that of the sent ones the kernel, which drops them.

#![expect(unsafe_code, reason = "namespaces and packet sockets take raw calls")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::backend::net::tap::Tap;
use devices::rate_limiter::{Limiter, Limits};
use devices::virtio::net::{Net, NetOptions};
use vm_memory::{Bytes, GuestAddress};

use crate::rig::{BUFFERS, Rig};
use crate::simple::Rounds;
use crate::{Case, Subject};

const TAP: &str = "bench0";
/// Size of the queues, and of a receive buffer.
const SIZE: u16 = 256;
const BUFFER: u32 = 2048;

/// CSUM, HOST_TSO4, HOST_TSO6; GUEST_CSUM, GUEST_TSO4, GUEST_TSO6; MRG_RXBUF.
const FEATURES: u64 = 1 | 1 << 11 | 1 << 12 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 15;

/// Header of virtio-net, Ethernet, IPv4 and TCP.
const HEADERS: usize = 12 + 14 + 20 + 20;
/// Longest TCP segment that goes into one frame.
const SEGMENT: usize = 1448;

/// Moves this process, whose only thread this is, into a network of its own; `false` where the host does
/// not permit that, or no taps in it.
pub(crate) fn enter_own_network() -> bool {
    // SAFETY: takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let group = unsafe { libc::getegid() };
    // SAFETY: takes a number.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        // SAFETY: as above.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
            return false;
        }
        for (map, entry) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {user} 1")),
            ("gid_map", format!("0 {group} 1")),
        ] {
            if std::fs::write(format!("/proc/self/{map}"), entry).is_err() {
                return false;
            }
        }
    }
    // Its own chatter would be counted.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    Tap::open(TAP, 1).is_ok()
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (len, depth) in [(60, 1), (60, 32), (1514, 32), (65_054, 4)] {
        let name = format!("net send {len} B, depth {depth}");
        // Several frames go out in one call.
        let per_frame = if depth > 1 { 0.0 } else { 1.0 };
        all.push(Case::new(name, depth, per_frame, move || sender(len, depth)));
        let name = format!("net receive {len} B, depth {depth}");
        // Small frames come several in one call, after the first few.
        let per_frame = if depth > 4 { 0.25 } else { 1.0 };
        all.push(Case::new(name, depth, per_frame, move || receiver(len, depth)));
    }
    all
}

fn card(fill: impl FnOnce(&mut Rig)) -> Rig {
    let tap = Arc::new(Tap::open(TAP, 1).unwrap());
    let set_up = Command::new("ip").args(["link", "set", TAP, "up"]).status().unwrap();
    assert!(set_up.success());
    let net = Net::new(NetOptions {
        id: "net".to_owned(),
        mac: None,
        mtu: None,
        backend: tap,
        rx_limiter: Limiter::new(Limits::NONE),
        tx_limiter: Limiter::new(Limits::NONE),
    });
    let mut rig = Rig::new(Box::new(net), FEATURES, SIZE, |_, _| {});
    fill(&mut rig);
    rig
}

/// A frame of `len` bytes behind its virtio-net header: TCP, unsegmented if it is longer than a packet.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; 12 + len];
    let total = u16::try_from(len - 14).unwrap().to_be_bytes();
    frame[..HEADERS].fill(0);
    // NEEDS_CSUM from TCP's header on, its checksum being at 16.
    frame[0] = 1;
    frame[6..10].copy_from_slice(&[34, 0, 16, 0]);
    if len > 1514 {
        // TCPv4, the length of all headers, the length of a segment.
        frame[1] = 1;
        frame[2] = 54;
        frame[4..6].copy_from_slice(&u16::try_from(SEGMENT).unwrap().to_le_bytes());
    }
    // To somebody who is not there: it is dropped without further work.
    frame[12..26].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
    frame[26..28].copy_from_slice(&[0x45, 0]);
    frame[28..30].copy_from_slice(&total);
    // Time to live, TCP; from 10.0.0.1 to 10.0.0.9.
    frame[34..36].copy_from_slice(&[64, 6]);
    frame[38..46].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 9]);
    // The length of TCP's header, and ACK.
    frame[58..60].copy_from_slice(&[0x50, 0x10]);
    frame
}

fn sender(len: usize, depth: u16) -> Box<dyn Subject> {
    let rig = card(|rig| {
        let frame = frame(len);
        let size = u32::try_from(frame.len()).unwrap();
        for i in 0..64 {
            let at = BUFFERS + i * 0x2_0000;
            rig.memory.write_slice(&frame, GuestAddress(at)).unwrap();
            // As Linux does it: the header and the data apart.
            rig.rings[1].add(&[(at, 12, false), (at + 12, size - 12, false)]);
        }
        rig.rings[1].publish();
    });
    Box::new(Rounds { rig, queue: 1, depth })
}

/// Frames of a packet socket into the card's buffers.
struct Receiver {
    rig: Rig,
    peer: OwnedFd,
    frame: Vec<u8>,
    frames: u16,
    sent: u64,
    peer_time: Duration,
}

fn receiver(len: usize, frames: u16) -> Box<dyn Subject> {
    let mut rig = card(|rig| {
        for i in 0..u64::from(SIZE) {
            rig.rings[0].add(&[(BUFFERS + i * u64::from(BUFFER), BUFFER, true)]);
        }
        rig.rings[0].publish();
    });
    rig.offer(0, SIZE);
    let peer = packet_socket().unwrap();
    // The socket's header has no `num_buffers`.
    let mut frame = frame(len);
    frame.drain(10..12);
    Box::new(Receiver { rig, peer, frame, frames, sent: 0, peer_time: Duration::ZERO })
}

impl Subject for Receiver {
    fn round(&mut self) {
        let start = Instant::now();
        for _ in 0..self.frames {
            let (data, len) = (self.frame.as_ptr().cast(), self.frame.len());
            // SAFETY: `data` is `len` bytes of `self.frame`, which outlives the call.
            let sent =
                unsafe { libc::sendto(self.peer.as_raw_fd(), data, len, 0, std::ptr::null(), 0) };
            assert_eq!(usize::try_from(sent), Ok(len), "{}", io::Error::last_os_error());
            self.sent += 1;
        }
        self.peer_time += start.elapsed();
        let per_frame = (self.frame.len() + 2).div_ceil(BUFFER as usize);
        let used = u16::try_from(per_frame).unwrap() * self.frames;
        while self.rig.rings[0].pending() > SIZE - used {
            self.rig.turn();
        }
        self.rig.offer(0, used);
    }

    fn driver_calls(&self) -> u64 {
        self.rig.kicks
    }

    fn peer_calls(&self) -> u64 {
        self.sent
    }

    fn peer_time(&self) -> Duration {
        self.peer_time
    }
}

/// A socket that sends frames, behind a virtio-net header of 10 bytes, out of the tap.
fn packet_socket() -> io::Result<OwnedFd> {
    let name = CString::new(TAP)?;
    // SAFETY: takes numbers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    check(fd)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let (option, value) = (libc::PACKET_VNET_HDR, 1_i32);
    // SAFETY: the option takes an int, which lives until the call returns.
    check(unsafe { libc::setsockopt(fd, libc::SOL_PACKET, option, (&raw const value).cast(), 4) })?;
    // SAFETY: all zeroes is a valid value of this structure of numbers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_protocol = 0x0800_u16.to_be();
    // SAFETY: `name` ends with a NUL.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
    let len = u32::try_from(size_of_val(&address)).unwrap();
    // SAFETY: `address` is `len` bytes.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), len) })?;
    Ok(socket)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
