//! All connections of a device: which packet is whose, and whose turn it is.
//!
//! Everything a guest can cause here is bounded: connections by [`MAX_CONNECTIONS`], resets that are owed to
//! nobody's packets by [`MAX_RESETS`] (then the muxer takes no more packets until the guest has taken
//! resets), data by the room that each connection has. Other packets are not stored at all: a connection
//! remembers what is due.

use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;

use vm_memory::GuestMemoryError;

use crate::backend::vsock::{Backend, Event, Readiness, Stream, StreamId};
use crate::memory::Buffers;

use super::connection::{Connection, Outgoing, Reaction};
use super::counters::Counters;
use super::link::{Link, Outcome, Remainder};
use super::packet::{HEADER_LEN, HOST_CID, Header, Op, Ports, TYPE_STREAM};

/// Most connections, those included that have only data left for the host.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Most resets that wait for the guest.
pub(super) const MAX_RESETS: usize = 256;
/// Room for data from the guest, per connection: what a fast sender and a slow reader need between them...
const ROOM: u32 = 256 << 10;
/// ... and what each gets when there are many: all together hold at most 76 MiB.
const SMALL_ROOM: u32 = 64 << 10;
const MANY: usize = 64;
/// Ports of host programs that ask for a connection; those below are for programs that listen.
const FIRST_PORT: u32 = 1 << 30;

/// The connections of a device.
pub(super) struct Muxer {
    guest_cid: u64,
    backend: Box<dyn Backend>,
    counters: Arc<Counters>,
    links: HashMap<StreamId, Link>,
    by_ports: HashMap<Ports, StreamId>,
    /// Streams without a connection, which have data left for their programs.
    remainders: HashMap<StreamId, Remainder>,
    /// Links that the guest should get something of, in turn.
    round: VecDeque<StreamId>,
    resets: VecDeque<Header>,
    next_port: u32,
    events: Vec<Event>,
}

/// What the guest gets next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This packet.
    Packet(Header),
    /// What [`Muxer::read`] finds for this link.
    Data {
        /// The link.
        id: StreamId,
        /// Most bytes the guest has room for.
        limit: usize,
        /// Whether it is likely to be more than a little.
        is_busy: bool,
    },
}

impl Muxer {
    pub(super) fn new(guest_cid: u64, backend: Box<dyn Backend>, counters: Arc<Counters>) -> Self {
        Self {
            guest_cid,
            backend,
            counters,
            links: HashMap::new(),
            by_ports: HashMap::new(),
            remainders: HashMap::new(),
            round: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
            events: Vec::new(),
        }
    }

    /// The descriptor that is readable while the host has news.
    pub(super) fn fd(&self) -> RawFd {
        self.backend.fd()
    }

    /// Takes some of the host's news.
    pub(super) fn poll(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.backend.poll(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Incoming { id, port, stream } => self.request(id, port, stream),
                Event::Ready(id, news) => self.stream_is_ready(id, news),
            }
        }
        self.events = events;
    }

    /// Whether packets from the guest can be taken: each may be answered by a reset.
    pub(super) fn takes_packets(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Takes a packet from the guest.
    ///
    /// # Errors
    /// When guest memory vanished.
    pub(super) fn receive(&mut self, packet: &Buffers<'_>) -> Result<(), GuestMemoryError> {
        self.counters.tx_packets.add(1);
        let Some(header) = Header::read(packet)? else {
            // Nobody knows whose it is.
            self.counters.tx_rejected.add(1);
            return Ok(());
        };
        let is_for_us = header.src_cid == self.guest_cid && header.dst_cid == HOST_CID;
        if !is_for_us || header.kind != TYPE_STREAM {
            self.reject(&header);
            return Ok(());
        }
        match self.by_ports.get(&header.ports()) {
            Some(&id) => self.receive_for(id, &header, packet),
            None if header.op() == Some(Op::Request) => self.connect(&header),
            // As it ends: our own reset has crossed it.
            None if header.op() == Some(Op::Reset) => {}
            None => self.reject(&header),
        }
        Ok(())
    }

    /// What the guest gets next; it must have a buffer for it.
    pub(super) fn next(&mut self) -> Option<Next> {
        if let Some(reset) = self.resets.pop_front() {
            self.counters.rx_packets.add(1);
            return Some(Next::Packet(reset));
        }
        while let Some(id) = self.round.pop_front() {
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.in_round = false;
            match link.next() {
                Some(Outgoing::Control(header)) => {
                    self.counters.rx_packets.add(1);
                    if header.op() == Some(Op::Reset) {
                        self.forget(id);
                    } else {
                        self.schedule(id);
                    }
                    return Some(Next::Packet(header));
                }
                Some(Outgoing::Data(limit)) => {
                    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                    return Some(Next::Data { id, limit, is_busy: link.is_busy() });
                }
                None => {}
            }
        }
        None
    }

    /// Whether [`Self::next`] may have something.
    pub(super) fn has_next(&self) -> bool {
        !self.resets.is_empty() || !self.round.is_empty()
    }

    /// Reads data of a link into `to`, which is no larger than its limit and holds at least one byte;
    /// `None` when there is none after all.
    pub(super) fn read(&mut self, id: StreamId, to: &Buffers<'_>) -> Option<usize> {
        let result = self.links.get_mut(&id)?.read(to);
        if result.is_err() {
            self.counters.broken.add(1);
        }
        let count = result.ok().flatten();
        if count.is_none() {
            self.schedule(id);
        }
        count
    }

    /// The header of a packet with `len` bytes of what was read.
    pub(super) fn data_header(&mut self, id: StreamId, len: usize) -> Header {
        self.counters.rx_packets.add(1);
        self.counters.rx_bytes.add(len as u64);
        self.links.get_mut(&id).map_or_else(Header::default, |link| link.data_header(len))
    }

    /// All that was read of a link has been given to the guest.
    pub(super) fn has_read(&mut self, id: StreamId) {
        self.schedule(id);
    }

    fn receive_for(&mut self, id: StreamId, header: &Header, packet: &Buffers<'_>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let was_requested = link.connection().is_requested();
        let data = usize::try_from(header.len).unwrap_or(usize::MAX);
        let is_cut_off =
            header.op() == Some(Op::ReadWrite) && packet.len().saturating_sub(HEADER_LEN) < data;
        let reaction = link.connection_mut().receive(header);
        let outcome = match reaction {
            _ if is_cut_off && reaction != Reaction::None => {
                self.counters.tx_rejected.add(1);
                link.fail()
            }
            Reaction::None => Outcome::Alive,
            Reaction::Accepted => {
                self.counters.connected.add(1);
                link.accepted()
            }
            Reaction::Deliver => {
                self.counters.tx_bytes.add(data as u64);
                link.deliver(packet, data)
            }
            Reaction::Discard => link.discard(data),
            Reaction::HalfOver => {
                link.guest_is_over();
                Outcome::Alive
            }
            Reaction::Closed => {
                if let Some(remainder) = link.take_remainder() {
                    self.remainders.insert(id, remainder);
                }
                Outcome::Alive
            }
            Reaction::Gone => {
                if was_requested {
                    self.counters.refused.add(1);
                }
                return self.forget(id);
            }
            Reaction::Broken => {
                self.counters.tx_rejected.add(1);
                link.fail()
            }
        };
        if outcome == Outcome::Failed {
            self.counters.broken.add(1);
        }
        self.schedule(id);
    }

    /// The guest asks for a connection.
    fn connect(&mut self, request: &Header) {
        if self.is_full() {
            log::debug!("vsock: more than {MAX_CONNECTIONS} connections");
            return self.refuse(request);
        }
        match self.backend.connect(request.dst_port) {
            Ok((id, stream)) => {
                self.counters.connected.add(1);
                let connection = Connection::accepted(self.guest_cid, request, self.room());
                self.add(id, Link::new(connection, stream));
            }
            Err(error) => {
                log::debug!("vsock: guest's connection to port {}: {error}", request.dst_port);
                self.refuse(request);
            }
        }
    }

    /// A program asks for a connection. Without room for one, it sees its stream closed.
    fn request(&mut self, id: StreamId, port: u32, stream: Box<dyn Stream>) {
        if self.is_full() {
            log::debug!("vsock: more than {MAX_CONNECTIONS} connections");
            self.counters.refused.add(1);
            return;
        }
        let ports = self.free_ports(port);
        let connection = Connection::requested(self.guest_cid, ports, self.room());
        self.add(id, Link::new(connection, stream));
    }

    fn stream_is_ready(&mut self, id: StreamId, news: Readiness) {
        if let Some(link) = self.links.get_mut(&id) {
            let is_unknown = link.connection().is_unknown();
            if link.stream_is_ready(news) == Outcome::Failed {
                self.counters.refused.add(1);
                if is_unknown {
                    return self.forget(id);
                }
            }
            self.schedule(id);
        } else if let Some(remainder) = self.remainders.get_mut(&id)
            && remainder.stream_is_ready(news)
        {
            self.remainders.remove(&id);
        }
    }

    fn add(&mut self, id: StreamId, link: Link) {
        self.by_ports.insert(link.connection().ports(), id);
        self.links.insert(id, link);
        self.schedule(id);
    }

    fn forget(&mut self, id: StreamId) {
        if let Some(link) = self.links.remove(&id) {
            self.by_ports.remove(&link.connection().ports());
            if link.in_round {
                // Or the round would grow with every connection that a guest opens and resets.
                self.round.retain(|other| *other != id);
            }
        }
    }

    /// Puts a link that has something for the guest at the end of the round.
    fn schedule(&mut self, id: StreamId) {
        if let Some(link) = self.links.get_mut(&id)
            && !link.in_round
            && link.is_pending()
        {
            link.in_round = true;
            self.round.push_back(id);
        }
    }

    fn refuse(&mut self, request: &Header) {
        self.counters.refused.add(1);
        self.resets.push_back(request.reset());
    }

    /// Answers a packet that makes no sense. A reset is never answered.
    fn reject(&mut self, header: &Header) {
        self.counters.tx_rejected.add(1);
        if header.op() != Some(Op::Reset) {
            let reset = Header { dst_cid: self.guest_cid, ..header.reset() };
            self.resets.push_back(reset);
        }
    }

    fn is_full(&self) -> bool {
        self.links.len() + self.remainders.len() >= MAX_CONNECTIONS
    }

    fn room(&self) -> u32 {
        if self.links.len() + self.remainders.len() < MANY { ROOM } else { SMALL_ROOM }
    }

    /// A port of the host that has no connection to `guest` yet: there are far more than connections.
    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports { host: self.next_port, guest };
            // Up to 2^31 - 1, then from the start.
            self.next_port = FIRST_PORT | (self.next_port + 1) & (FIRST_PORT - 1);
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }
}

#[cfg(test)]
mod tests;
