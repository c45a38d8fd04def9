//! A card with frames on their way, and after commands, goes on elsewhere on another network.

use super::*;
use crate::test_util::Random;
use crate::test_util::life::{Life, is_never_noticed};
use crate::virtio::feature::EVENT_IDX;

const MERGEABLE: u64 = features::MRG_RXBUF | features::GUEST_CSUM;
/// Where frames to be sent lie.
const FRAMES: u64 = BUFFERS + 0x10_0000;
const BUFFER: u32 = 1600;

/// A driver that gives and takes, and a network on which frames come and go.
struct Traffic {
    card: FakeCard,
    features: u64,
    /// Frames that came, and how many of them the driver has seen.
    came: Vec<Vec<u8>>,
    seen: Vec<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    offered: [u64; 2],
    returned: [u64; 2],
}

fn card_on(net: Arc<FakeNet>) -> Net {
    let (rx_limiter, tx_limiter) = unlimited();
    Net::new(NetOptions {
        id: "net0".to_owned(),
        mac: Some(MacAddress::new([2, 0, 0, 0, 0, 1]).unwrap()),
        mtu: Some(Mtu::new(1500).unwrap()),
        backend: net,
        rx_limiter,
        tx_limiter,
    })
}

/// The card in another machine, on `net`.
fn copy_on(net: Arc<FakeNet>, from: &mut FakeCard) -> FakeCard {
    let device = card_on(net.clone());
    let (counters, control) = (device.counters(), device.control());
    let running = from.running.copy(Box::new(device));
    Card { net, counters, control, memory: running.memory.clone(), running }
}

impl Traffic {
    fn begin(features: u64) -> Self {
        let (came, seen, sent) = (Vec::new(), Vec::new(), Vec::new());
        let card = FakeCard::new(features);
        Self { card, features, came, seen, sent, offered: [0; 2], returned: [0; 2] }
    }

    fn offer(&mut self, queue: usize, at: u64, len: u32) {
        self.offered[queue] += 1;
        self.card.running.queues[queue].add(&[(at, len, queue == 0)]);
        let has_event_idx = self.features & EVENT_IDX != 0;
        self.card.running.kick_if_wanted(queue, 1, has_event_idx);
    }

    fn has_room(&self, queue: usize) -> bool {
        self.offered[queue] - self.returned[queue] < 16
    }

    fn take(&mut self) {
        for (_, len) in self.card.used(0) {
            let at = BUFFERS + u64::from(BUFFER) * (self.returned[0] % 16);
            self.returned[0] += 1;
            self.seen.push(self.card.bytes(at, len as usize));
        }
        self.returned[1] += self.card.used(1).len() as u64;
        self.sent.extend(self.card.net.sent(0));
    }

    fn run(&mut self) {
        assert!(self.card.run(1));
        self.take();
    }
}

impl Life for Traffic {
    type Outcome = [Vec<Vec<u8>>; 2];

    fn step(&mut self, random: &mut Random) {
        let len = 14 + random.below(1500_u16);
        match random.below(6_u32) {
            0 | 1 => {
                let frame = frame(len.into(), self.came.len());
                self.came.push(frame.clone());
                self.card.net.arrive(0, Ok(frame));
            }
            2 if self.has_room(0) => {
                self.offer(0, BUFFERS + u64::from(BUFFER) * (self.offered[0] % 16), BUFFER);
            }
            3 if self.has_room(1) => {
                let at = FRAMES + 2048 * (self.offered[1] % 16);
                self.card.put(at, &frame(len.into(), self.sent.len()));
                self.offer(1, at, 12 + u32::from(len));
            }
            _ => self.run(),
        }
    }

    fn copy(&mut self) -> Self {
        let card = copy_on(FakeNet::new(1, true), &mut self.card);
        self.take();
        // What the driver has not seen stays with the parent, and comes once more here.
        for frame in &self.came[self.seen.len()..] {
            card.net.arrive(0, Ok(frame.clone()));
        }
        let &mut Self { features, offered, returned, .. } = self;
        let [came, seen, sent] = [&self.came, &self.seen, &self.sent].map(Clone::clone);
        let mut copy = Self { card, features, came, seen, sent, offered, returned };
        // What the driver had not taken off the used ring yet, the parent's driver has just taken.
        copy.card.used(0);
        copy.card.used(1);
        copy
    }

    fn end(mut self) -> Self::Outcome {
        for _ in 0..80 {
            if self.has_room(0) {
                self.offer(0, BUFFERS + u64::from(BUFFER) * (self.offered[0] % 16), BUFFER);
            }
            self.run();
        }
        assert_eq!(self.returned[1], self.offered[1], "each sent frame's buffer came back");
        let expected = self.came.iter().map(|frame| &frame[12..]);
        assert!(
            self.seen.iter().map(|frame| &frame[12..]).eq(expected),
            "each frame once, in order"
        );
        [self.seen, self.sent]
    }
}

#[test]
fn frames_pass_once_wherever_the_card_is_saved() {
    for features in [0, MERGEABLE, MERGEABLE | EVENT_IDX] {
        is_never_noticed(1..3, || Traffic::begin(features));
    }
}

#[test]
fn a_large_frame_that_waits_for_buffers_is_lost_and_its_buffers_are_not() {
    let segmenting = MERGEABLE | features::GUEST_TSO4;
    let mut card = FakeCard::new(segmenting);
    // The first one makes the card expect large ones, so that the second goes into the buffers there are.
    for i in 0..8 {
        card.give(0, &[(BUFFERS + 2048 * i, 2048, true)]);
    }
    card.net.arrive(0, Ok(frame(9000, 1)));
    assert!(card.run(1));
    assert_eq!(card.used(0).len(), 5);
    card.net.arrive(0, Ok(frame(30_000, 2)));
    assert!(card.run(1));
    assert_eq!(card.used(0), []);
    let mut copy = copy_on(FakeNet::new(1, true), &mut card);
    copy.net.arrive(0, Ok(frame(60, 3)));
    assert!(copy.run(2));
    assert_eq!(copy.used(0), [(5, 72)], "the first of the three that were posted");
    assert_eq!(copy.bytes(BUFFERS + 2048 * 5 + 12, 60), frame(60, 3)[12..]);
    for i in 0..13 {
        card.give(0, &[(BUFFERS + 0x8000 + 2048 * i, 2048, true)]);
    }
    assert!(card.run(2));
    assert_eq!(card.used(0).len(), 15, "the parent had only paused");
}

#[test]
fn what_the_driver_commanded_is_in_force_until_it_resets_the_card() {
    const MULTI: u64 = features::CTRL_VQ | features::MQ | features::CTRL_GUEST_OFFLOADS;
    let acked = MULTI | features::GUEST_CSUM | features::GUEST_TSO4;
    let mut parent = Card::on(FakeNet::new(4, true), acked);
    for command in [&[4, 0, 3, 0][..], &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]] {
        parent.put(BUFFERS, command);
        let len = u32::try_from(command.len()).unwrap();
        assert!(parent.give(8, &[(BUFFERS, len, false), (BUFFERS + 64, 1, true)]));
    }
    let checksums = Offloads { checksum: true, ..Offloads::default() };
    assert!(told(&parent.net).ends_with(&[Told::Active(3), Told::Offloads(checksums)]));
    let mut copy = copy_on(FakeNet::new(4, true), &mut parent);
    // All are attached first, so that the event loop can watch them.
    assert!(told(&copy.net).ends_with(&[Told::Active(4), Told::Offloads(checksums)]));
    assert!(copy.run(1));
    assert_eq!(told(&copy.net), [Told::Active(3)]);
    copy.net.arrive(2, Ok(frame(60, 1)));
    copy.give(4, &[(BUFFERS, 2048, true)]);
    assert_eq!(copy.used(4).len(), 1, "the third pair is in use");
    // A copy of the copy is no different.
    let again = copy_on(FakeNet::new(4, true), &mut copy);
    assert!(again.run(1));
    assert!(told(&again.net).ends_with(&[Told::Offloads(checksums), Told::Active(3)]));
    copy.restart(acked, 16);
    assert!(copy.run(1));
    let all = Offloads { checksum: true, tso4: true, ..Offloads::default() };
    assert!(told(&copy.net).ends_with(&[Told::Offloads(all), Told::Active(1)]));
}

#[test]
fn commands_that_no_driver_could_give_are_refused() {
    for (field, value) in [("pairs", 0_u64), ("pairs", 3), ("pairs", 1 << 16), ("offloads", 1 << 3)]
    {
        let mut state = State::new();
        state.set(field, value);
        let error = card_on(FakeNet::new(2, true)).restore(&state, true).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{field} is {value}, which is not")));
    }
}

#[test]
fn a_card_on_a_network_with_fewer_queues_is_another_card() {
    let mut parent = Card::on(FakeNet::new(4, true), features::CTRL_VQ | features::MQ);
    parent.running.transport.pause();
    let state = parent.running.transport.save().unwrap();
    for (queues, complaint) in [(1, "the guest uses features"), (2, "queues is 9, which is not")] {
        let mut other = Card::on(FakeNet::new(queues, true), 0);
        other.running.transport.reset();
        let error = other.running.transport.restore(&state).unwrap_err().to_string();
        assert!(error.starts_with(complaint), "{error}");
    }
}
