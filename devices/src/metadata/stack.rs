//! The service's end of TCP/IP: frames in, frames out, and connections in between.
//!
//! The protocols are smoltcp's. This module decides how much of everything there is: connections, buffers,
//! frames that wait. It knows no descriptors and no clock; the time comes with each call, counted from any
//! moment that stays the same.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use super::Service;
use super::http::{self, MAX_REQUEST, Outcome};

/// Where the service listens.
const PORT: u16 = 80;
/// Most connections at the same time, one of which is the next. Each costs the buffers below and an answer. When
/// the guest opens more, the one that was silent for longest is given up.
const MAX_CONNECTIONS: usize = 31;
/// Bytes that a connection may have received and not read: one request.
const RECEIVE_BUFFER: usize = MAX_REQUEST;
/// Bytes that a connection may have sent without being acknowledged.
const SEND_BUFFER: usize = 8192;
/// Most frames that wait for the guest; what is not sent then is sent later.
const MAX_WAITING: usize = 64;
/// Largest frame sent: an IP packet of 1500 bytes. A guest with a smaller MTU says so when it connects.
const MAX_FRAME: usize = 14 + 1500;
/// Most rounds of sending and answering for one frame; more follow with the next frame or timer.
const MAX_ROUNDS: usize = 8;

/// Longest frame taken from the guest. What its peer cannot receive at once a guest does not send.
pub(super) const MAX_RECEIVED: usize = 14 + 60 + 60 + RECEIVE_BUFFER;

/// TCP/IP for one card.
pub(super) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    connections: Vec<Connection>,
    service: Arc<Service>,
    /// The time of the latest use of a connection.
    uses: u64,
}

/// A socket and what is said over it.
struct Connection {
    socket: SocketHandle,
    received: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    /// The answer is the last one.
    is_last: bool,
    last_use: u64,
}

impl Stack {
    /// A stack at `address`, which must be unicast; `seed` makes its sequence numbers hard to guess.
    pub(super) fn new(address: Ipv4Addr, service: Arc<Service>, seed: u64) -> Self {
        let mut wire = Wire::default();
        let hardware = HardwareAddress::Ethernet(hardware_address(address));
        let mut config = Config::new(hardware);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The guest is a neighbour, whatever its address is. There is room for one.
            let _ = addresses.push(IpCidr::new(address.into(), 0));
        });
        let mut stack = Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            connections: Vec::new(),
            service,
            uses: 0,
        };
        stack.listen();
        stack
    }

    /// Takes a frame of the guest, and does what follows from it.
    pub(super) fn receive(&mut self, mut frame: Vec<u8>, address: Ipv4Addr, now: Duration) {
        // A guest that reaches the service by its gateway sends to the gateway's address.
        if let Some(destination) = frame.get_mut(..6)
            && destination.first().is_some_and(|first| first & 1 == 0)
        {
            destination.copy_from_slice(&hardware_address(address).0);
        }
        self.wire.incoming = Some(frame);
        self.poll(now);
        // What could not be taken for want of room is lost, as on any wire.
        self.wire.incoming = None;
    }

    /// Does what is due at `now`.
    pub(super) fn poll(&mut self, now: Duration) {
        for _ in 0..MAX_ROUNDS {
            let at = instant(now);
            self.interface.poll(at, &mut self.wire, &mut self.sockets);
            if !self.serve(now) {
                break;
            }
        }
    }

    /// A frame for the guest.
    pub(super) fn take(&mut self, now: Duration) -> Option<Vec<u8>> {
        let frame = self.wire.outgoing.pop_front();
        if frame.is_some() && self.wire.outgoing.is_empty() {
            // There may be more to send than fitted.
            self.poll(now);
        }
        frame
    }

    /// Whether a frame waits for the guest.
    pub(super) fn has_frames(&self) -> bool {
        !self.wire.outgoing.is_empty()
    }

    /// Forgets the frames that wait: they were for another driver.
    pub(super) fn drop_frames(&mut self) {
        self.wire.outgoing.clear();
    }

    /// How long from `now` on there is nothing to do unless a frame comes; `None` means for ever.
    pub(super) fn rest(&mut self, now: Duration) -> Option<Duration> {
        let at = instant(now);
        self.interface.poll_delay(at, &self.sockets).map(Into::into)
    }

    /// Moves what was received into answers, and answers into sockets. `true` when something changed that the
    /// interface should look at.
    fn serve(&mut self, now: Duration) -> bool {
        let mut has_changed = false;
        for connection in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket<'_>>(connection.socket);
            if connection.serve(socket, &self.service, now) {
                self.uses += 1;
                connection.last_use = self.uses;
                has_changed = true;
            }
        }
        let closed = |sockets: &SocketSet<'_>, connection: &Connection| {
            sockets.get::<Socket<'_>>(connection.socket).state() == State::Closed
        };
        while let Some(at) = self.connections.iter().position(|it| closed(&self.sockets, it)) {
            self.forget(at);
        }
        self.listen();
        has_changed
    }

    /// Sees to it that there is a socket for the next connection.
    fn listen(&mut self) {
        let listens = |connection: &Connection| {
            self.sockets.get::<Socket<'_>>(connection.socket).state() == State::Listen
        };
        if self.connections.iter().any(listens) {
            return;
        }
        if self.connections.len() >= MAX_CONNECTIONS
            && let Some((oldest, _)) =
                self.connections.iter().enumerate().min_by_key(|(_, it)| it.last_use)
        {
            self.forget(oldest);
        }
        let buffer = |len| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
        // An answer goes at once, and so does the acknowledgement of a request: no timer is needed for them.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        if let Err(error) = socket.listen(PORT) {
            return log::error!("metadata: a socket does not listen: {error}");
        }
        self.uses += 1;
        self.connections.push(Connection {
            socket: self.sockets.add(socket),
            received: Vec::new(),
            answer: Vec::new(),
            sent: 0,
            is_last: false,
            last_use: self.uses,
        });
    }

    fn forget(&mut self, at: usize) {
        let connection = self.connections.swap_remove(at);
        self.sockets.remove(connection.socket);
    }
}

impl Connection {
    /// One step; `true` when anything was done.
    fn serve(&mut self, socket: &mut Socket<'_>, service: &Service, now: Duration) -> bool {
        if socket.state() == State::TimeWait {
            // Nothing but the name of the connection is left, and that it was used can be forgotten early: the
            // guest's other end is closed.
            return false;
        }
        if self.sent < self.answer.len() {
            return self.send(socket);
        }
        let has_received = self.take_in(socket);
        match http::answer(service, &self.received, now) {
            Outcome::Answered { consumed, answer, is_last } if !self.received.is_empty() => {
                self.received.drain(..consumed.min(self.received.len()));
                (self.answer, self.sent, self.is_last) = (answer, 0, is_last);
                self.send(socket);
                true
            }
            // The guest has said its last, and it was no request.
            _ if !socket.may_recv() && socket.state() == State::CloseWait => {
                socket.close();
                true
            }
            _ => has_received,
        }
    }

    /// Takes what has come, as much as a request may have.
    fn take_in(&mut self, socket: &mut Socket<'_>) -> bool {
        let room = MAX_REQUEST.saturating_sub(self.received.len());
        let taken = socket.recv(|bytes| {
            let part = bytes.get(..bytes.len().min(room)).unwrap_or_default();
            self.received.extend_from_slice(part);
            (part.len(), part.len())
        });
        taken.is_ok_and(|taken| taken > 0)
    }

    fn send(&mut self, socket: &mut Socket<'_>) -> bool {
        let rest = self.answer.get(self.sent..).unwrap_or_default();
        match socket.send_slice(rest) {
            Ok(sent) => {
                self.sent += sent;
                if self.sent == self.answer.len() {
                    self.answer = Vec::new();
                    self.sent = 0;
                    if self.is_last {
                        socket.close();
                    }
                }
                sent > 0
            }
            Err(_) => {
                socket.abort();
                true
            }
        }
    }
}

/// Locally administered, unicast, and the same in every run.
fn hardware_address(address: Ipv4Addr) -> EthernetAddress {
    let [a, b, c, d] = address.octets();
    EthernetAddress([0x02, 0, a, b, c, d])
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// What is between the stack and the card: one frame in, some frames out.
#[derive(Default)]
struct Wire {
    incoming: Option<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        if self.outgoing.len() >= MAX_WAITING {
            return None;
        }
        Some((Incoming(self.incoming.take()?), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        (self.outgoing.len() < MAX_WAITING).then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // Within one machine nothing is lost, and a driver leaves checksums to whoever sends the frame on.
        checksum.tcp = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME;
        capabilities.checksum = checksum;
        capabilities
    }
}

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

#[cfg(test)]
pub(super) mod tests;
