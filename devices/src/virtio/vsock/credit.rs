//! Flow control (virtio 1.3, 5.10.6.3): nobody sends more than the other side has room for.
//!
//! All counts are modulo 2^32, as they are in packets.

use super::packet::Header;

/// What we may send: the guest's room, as it told us last.
#[derive(Debug, Default)]
pub(super) struct SendCredit {
    allocated: u32,
    forwarded: u32,
    sent: u32,
}

impl SendCredit {
    /// Takes note of what a packet from the guest says. A guest may say anything, to its own harm only.
    pub(super) fn update(&mut self, header: &Header) {
        self.allocated = header.buf_alloc;
        self.forwarded = header.fwd_cnt;
    }

    /// Bytes that may be sent now.
    pub(super) fn available(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.forwarded);
        self.allocated.saturating_sub(under_way)
    }

    /// `count` bytes were sent.
    pub(super) fn spend(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }
}

/// What the guest may send: our own room.
#[derive(Debug)]
pub(super) struct ReceiveCredit {
    allocated: u32,
    received: u32,
    forwarded: u32,
    /// `forwarded` as the guest knows it.
    told: u32,
}

impl ReceiveCredit {
    /// Room for `allocated` bytes.
    pub(super) fn new(allocated: u32) -> Self {
        Self { allocated, received: 0, forwarded: 0, told: 0 }
    }

    /// `count` bytes have come. `false` when the guest had no right to send them.
    pub(super) fn accept(&mut self, count: u32) -> bool {
        let held = self.received.wrapping_sub(self.forwarded);
        if count > self.allocated.saturating_sub(held) {
            return false;
        }
        self.received = self.received.wrapping_add(count);
        true
    }

    /// `count` of the bytes have left.
    pub(super) fn forward(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    /// Whether the guest should be told of its room without being asked. It need not be told of every
    /// byte; but what it does not know of stays below half of the room, so it cannot be stuck.
    pub(super) fn is_news(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= self.allocated.div_ceil(2)
    }

    /// Writes our room into a header.
    pub(super) fn tell(&mut self, header: &mut Header) {
        self.told = self.forwarded;
        header.buf_alloc = self.allocated;
        header.fwd_cnt = self.forwarded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(allocated: u32, forwarded: u32) -> Header {
        Header { buf_alloc: allocated, fwd_cnt: forwarded, ..Header::default() }
    }

    #[test]
    fn what_is_under_way_is_not_available() {
        for (allocated, forwarded, sent, available) in [
            (0, 0, 0, 0),
            (100, 0, 0, 100),
            (100, 0, 100, 0),
            (100, 60, 100, 60),
            // Across the end of 32 bits.
            (100, u32::MAX - 9, u32::MAX, 91),
            (100, u32::MAX - 9, 40, 50),
            (100, u32::MAX - 9, 90, 0),
            (u32::MAX, 5, 5, u32::MAX),
            // The guest took room away that is in use.
            (50, 0, 100, 0),
            // The guest says it has read what was never sent.
            (100, 7, 6, 0),
        ] {
            let mut credit = SendCredit { sent, ..SendCredit::default() };
            credit.update(&told(allocated, forwarded));
            assert_eq!(credit.available(), available, "{allocated} {forwarded} {sent}");
        }
    }

    #[test]
    fn spending_wraps_around() {
        let mut credit = SendCredit { sent: u32::MAX - 1, ..SendCredit::default() };
        credit.update(&told(10, u32::MAX - 1));
        credit.spend(10);
        assert_eq!((credit.sent, credit.available()), (8, 0));
        credit.update(&told(10, 3));
        assert_eq!(credit.available(), 5);
    }

    #[test]
    fn a_guest_gets_its_room_and_no_more_wherever_the_counters_stand() {
        for start in [0, 5, u32::MAX - 63, u32::MAX] {
            let mut credit =
                ReceiveCredit { allocated: 64, received: start, forwarded: start, told: start };
            assert!(credit.accept(64));
            assert!(credit.accept(0));
            assert!(!credit.accept(1), "{start}");
            credit.forward(10);
            assert!(!credit.accept(11));
            assert!(credit.accept(10));
            assert!(!credit.accept(u32::MAX));
        }
    }

    #[test]
    fn the_guest_is_told_before_it_can_be_stuck() {
        for start in [0, u32::MAX - 40] {
            let mut credit =
                ReceiveCredit { allocated: 64, received: start, forwarded: start, told: start };
            assert!(credit.accept(64));
            credit.forward(31);
            assert!(!credit.is_news());
            credit.forward(1);
            assert!(credit.is_news());
            let mut header = Header::default();
            credit.tell(&mut header);
            assert_eq!((header.buf_alloc, header.fwd_cnt), (64, start.wrapping_add(32)));
            assert!(!credit.is_news());
        }
    }
}
