//! One connection: what state it is in, what a packet from the guest means in it, what the guest is owed.
//!
//! ```text
//!  host program asks ──▶ Requested ── RESPONSE ──▶ Established ── both halves over, RESET, mistakes ──▶ Over
//!  guest asks, host program found ────────────────────▲
//! ```
//!
//! Nothing here holds data or knows where it goes.

use super::credit::{ReceiveCredit, SendCredit};
use super::packet::{Directions, HOST_CID, Header, Op, Ports, TYPE_STREAM};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The guest has been asked, or will be.
    Requested,
    /// Data flows.
    Established,
    /// There is no connection any more, but the guest does not know: it gets a reset.
    Over,
}

/// Packets that the guest should get as soon as it has room. Each of them once, however often it became due,
/// so a guest that does not look costs nothing.
#[derive(Debug, Default)]
struct Due {
    request: bool,
    response: bool,
    credit_update: bool,
}

/// A connection as the guest sees it.
#[derive(Debug)]
pub(super) struct Connection {
    guest_cid: u64,
    ports: Ports,
    phase: Phase,
    send: SendCredit,
    receive: ReceiveCredit,
    due: Due,
    /// What the guest has said is over.
    guest_over: Directions,
    /// What is over on the host's side, and how much of that the guest was told.
    host_over: Directions,
    host_over_told: Directions,
    /// The guest was asked for room, and has not given any since.
    has_asked: bool,
}

/// What a packet from the guest asks of the host's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing.
    None,
    /// The guest has taken the connection that a host program asked for.
    Accepted,
    /// Pass the packet's data on.
    Deliver,
    /// The data is not wanted any more.
    Discard,
    /// The guest has said that more is over; see [`Connection::guest_over`].
    HalfOver,
    /// The connection is over, and the guest gets a reset; what it has sent still counts.
    Closed,
    /// The connection is over and the guest knows.
    Gone,
    /// The guest made a mistake: the connection is over, and the guest gets a reset.
    Broken,
}

/// What the guest gets next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// A packet without data.
    Control(Header),
    /// Up to this many bytes of data, in as many packets as it takes.
    Data(u32),
}

impl Connection {
    /// A connection that a host program asks for.
    pub(super) fn requested(guest_cid: u64, ports: Ports, room: u32) -> Self {
        let due = Due { request: true, ..Due::default() };
        Self::new(guest_cid, ports, room, Phase::Requested, due)
    }

    /// A connection that the guest asked for with `request`, and gets.
    pub(super) fn accepted(guest_cid: u64, request: &Header, room: u32) -> Self {
        let due = Due { response: true, ..Due::default() };
        let mut new = Self::new(guest_cid, request.ports(), room, Phase::Established, due);
        new.send.update(request);
        new
    }

    fn new(guest_cid: u64, ports: Ports, room: u32, phase: Phase, due: Due) -> Self {
        Self {
            guest_cid,
            ports,
            phase,
            send: SendCredit::default(),
            receive: ReceiveCredit::new(room),
            due,
            guest_over: Directions::default(),
            host_over: Directions::default(),
            host_over_told: Directions::default(),
            has_asked: false,
        }
    }

    /// Its ports.
    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether the guest has not answered yet.
    pub(super) fn is_requested(&self) -> bool {
        self.phase == Phase::Requested
    }

    /// Whether the guest has not even been asked.
    pub(super) fn is_unknown(&self) -> bool {
        self.is_requested() && self.due.request
    }

    /// What the guest has said is over.
    pub(super) fn guest_over(&self) -> Directions {
        self.guest_over
    }

    /// What is over on the host's side.
    pub(super) fn host_over(&self) -> Directions {
        self.host_over
    }

    /// Takes a packet of this connection.
    pub(super) fn receive(&mut self, header: &Header) -> Reaction {
        let Some(op) = header.op() else { return self.broken() };
        if op == Op::Reset {
            return Reaction::Gone;
        }
        match self.phase {
            // The reset is on its way.
            Phase::Over => return Reaction::None,
            Phase::Requested => {}
            Phase::Established => self.note_credit(header),
        }
        match (self.phase, op) {
            (Phase::Requested, Op::Response) => {
                self.phase = Phase::Established;
                self.note_credit(header);
                Reaction::Accepted
            }
            (Phase::Established, Op::ReadWrite) => self.receive_data(header.len),
            (Phase::Established, Op::Shutdown) => self.half_over(header.flags),
            (Phase::Established, Op::CreditUpdate) => Reaction::None,
            (Phase::Established, Op::CreditRequest) => {
                self.due.credit_update = true;
                Reaction::None
            }
            _ => self.broken(),
        }
    }

    fn note_credit(&mut self, header: &Header) {
        self.send.update(header);
        self.has_asked &= self.send.available() == 0;
    }

    fn receive_data(&mut self, len: u32) -> Reaction {
        if self.guest_over.has(Directions::SEND) || !self.receive.accept(len) {
            return self.broken();
        }
        if self.host_over.has(Directions::RECEIVE) { Reaction::Discard } else { Reaction::Deliver }
    }

    fn half_over(&mut self, flags: u32) -> Reaction {
        self.guest_over = self.guest_over.and(Directions::from_flags(flags));
        if self.guest_over == Directions::BOTH {
            self.phase = Phase::Over;
            return Reaction::Closed;
        }
        Reaction::HalfOver
    }

    fn broken(&mut self) -> Reaction {
        self.phase = Phase::Over;
        Reaction::Broken
    }

    /// Something on the host failed: the guest gets a reset.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Over;
    }

    /// On the host's side `directions` are over.
    pub(super) fn host_is_over(&mut self, directions: Directions) {
        self.host_over = self.host_over.and(directions);
    }

    /// `count` bytes of data that came have left.
    pub(super) fn forwarded(&mut self, count: u32) {
        self.receive.forward(count);
        self.due.credit_update |= self.receive.is_news();
    }

    /// Whether the guest should get something; `readable`: there may be data for it.
    pub(super) fn is_pending(&self, readable: bool) -> bool {
        let due = &self.due;
        match self.phase {
            Phase::Over => true,
            Phase::Requested => due.request,
            Phase::Established => {
                due.response
                    || due.credit_update
                    || self.host_over != self.host_over_told
                    || readable && self.takes_data() && (self.room() > 0 || !self.has_asked)
            }
        }
    }

    /// What the guest should get first. After [`Outgoing::Control`] with a reset there is no more.
    pub(super) fn next(&mut self, readable: bool) -> Option<Outgoing> {
        match self.phase {
            Phase::Over => return Some(self.control(Op::Reset)),
            Phase::Requested => {
                return std::mem::take(&mut self.due.request).then(|| self.control(Op::Request));
            }
            Phase::Established => {}
        }
        if std::mem::take(&mut self.due.response) {
            return Some(self.control(Op::Response));
        }
        if readable && self.takes_data() {
            match self.room() {
                0 if !self.has_asked => {
                    self.has_asked = true;
                    return Some(self.control(Op::CreditRequest));
                }
                0 => {}
                // The header of data tells of our room as well.
                room => return Some(Outgoing::Data(room)),
            }
        }
        if self.host_over != self.host_over_told {
            self.host_over_told = self.host_over;
            let mut header = self.header(Op::Shutdown);
            header.flags = self.host_over.flags();
            return Some(Outgoing::Control(header));
        }
        self.due.credit_update.then(|| self.control(Op::CreditUpdate))
    }

    /// The header of a packet with `len` bytes of data that the guest gets now.
    pub(super) fn data_header(&mut self, len: u32) -> Header {
        self.send.spend(len);
        Header { len, ..self.header(Op::ReadWrite) }
    }

    /// Whether the guest would take data if it had room.
    fn takes_data(&self) -> bool {
        self.phase == Phase::Established
            && !self.guest_over.has(Directions::RECEIVE)
            && !self.host_over.has(Directions::SEND)
    }

    fn room(&self) -> u32 {
        self.send.available()
    }

    fn control(&mut self, op: Op) -> Outgoing {
        Outgoing::Control(self.header(op))
    }

    fn header(&mut self, op: Op) -> Header {
        let mut header = Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.ports.host,
            dst_port: self.ports.guest,
            kind: TYPE_STREAM,
            op: op as u16,
            ..Header::default()
        };
        // Every packet tells of our room.
        self.due.credit_update = false;
        self.receive.tell(&mut header);
        header
    }
}

#[cfg(test)]
mod tests;
