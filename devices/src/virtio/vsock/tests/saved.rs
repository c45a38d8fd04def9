//! A socket device is saved without its connections: the copy's driver hears of that, the parent's of nothing.

use super::super::handler::TRANSPORT_RESET;
use super::*;
use crate::test_util::Random;

const STEPS: u32 = 40;
/// The address of the guest's copy.
const OTHER_CID: u32 = 77;
/// Where the driver wants events.
const EVENTS: u64 = ROOM + 0x10_0000;

/// A guest that talks to one program of the host.
struct Talk {
    setup: Setup,
    id: StreamId,
    /// Receive buffers that came back.
    returned: u64,
    heard: usize,
}

impl Talk {
    fn begin() -> Self {
        let mut setup = Setup::new(feature::EVENT_IDX);
        let id = setup.connect();
        for i in 0..4 {
            setup.running.queues[EVENT].add(&[(EVENTS + 8 * i, 8, true)]);
        }
        assert!(setup.running.kick(2));
        Self { setup, id, returned: 1, heard: 0 }
    }

    fn outstanding(&self) -> u64 {
        self.setup.buffers - self.returned
    }

    fn step(&mut self, random: &mut Random) {
        let bytes = vec![random.below(255_u8); usize::from(1 + random.below(50_u8))];
        match random.below(4_u32) {
            0 => {
                let len = u32::try_from(bytes.len()).unwrap();
                assert!(self.setup.send(Header { len, ..header(Op::ReadWrite) }, &bytes));
                self.setup.running.queues[TX].take_used();
            }
            1 => self.setup.host.send(self.id, &bytes),
            2 if self.outstanding() < 16 => self.setup.offer(1),
            _ => self.setup.turn(),
        }
        self.take();
    }

    fn take(&mut self) {
        for (_, len) in self.setup.running.queues[RX].take_used() {
            self.returned += 1;
            self.heard += len as usize - HEADER_LEN;
        }
    }

    /// What the program got, and how much the guest did.
    fn end(mut self) -> (Vec<u8>, usize) {
        for _ in 0..STEPS {
            if self.outstanding() < 16 {
                self.setup.offer(1);
            }
            self.setup.turn();
            self.take();
        }
        assert_eq!(self.setup.running.queues[EVENT].take_used(), [], "nothing happened to it");
        (self.setup.host.with(self.id, |program| program.got.clone()), self.heard)
    }

    /// The guest in another machine, where it has another address.
    fn copy(&mut self) -> Setup {
        let host = FakeHost::new(&[ECHO]);
        let opened = host.clone();
        let device = Vsock::new(OTHER_CID, Box::new(move || Ok(opened.backend())));
        let running = self.setup.running.copy(Box::new(device));
        Setup { memory: running.memory.clone(), running, host, buffers: self.setup.buffers }
    }
}

/// The guest hears that its connections are gone and connects again, with the buffers that it had offered before.
fn starts_again(mut copy: Setup, outstanding: u64) {
    let mut cid = [0; 8];
    copy.running.transport.read_config(0, &mut cid);
    assert_eq!(u64::from_le_bytes(cid), u64::from(OTHER_CID));
    copy.turn();
    assert_eq!(copy.running.queues[EVENT].take_used(), [(0, 4)]);
    let event: u32 = copy.memory.read_obj(GuestAddress(EVENTS)).unwrap();
    assert_eq!(event, TRANSPORT_RESET);
    if outstanding == 16 {
        return;
    }
    copy.offer(1);
    let request = Header { src_cid: OTHER_CID.into(), ..header(Op::Request) };
    assert!(copy.send(request, &[]));
    let id = copy.host.last();
    let mut used = copy.running.queues[RX].take_used();
    assert_eq!(used.len(), 1, "the answer");
    copy.host.send(id, &vec![1; (BUFFER as usize) * 20]);
    for _ in 0..3 {
        copy.turn();
    }
    used.extend(copy.running.queues[RX].take_used());
    assert_eq!(used.len() as u64, outstanding + 1, "every buffer comes back, none twice");
    let first = u32::try_from((copy.buffers - outstanding - 1) % 16).unwrap();
    let expected = (0..).map(|i| (first + i) % 16);
    assert!(used.iter().map(|(head, _)| *head).eq(expected.take(used.len())), "in their order");
}

#[test]
fn a_parent_notices_nothing_and_a_copy_starts_again() {
    for seed in 1..4 {
        let live = |saved_at: Option<u32>| {
            let mut random = Random::new(seed);
            let mut talk = Talk::begin();
            for step in 0..STEPS {
                if saved_at == Some(step) {
                    let copy = talk.copy();
                    // What came back before is the parent driver's business.
                    let outstanding = talk.outstanding();
                    starts_again(copy, outstanding);
                }
                talk.step(&mut random);
            }
            talk.end()
        };
        let unsaved = live(None);
        for saved_at in 0..STEPS {
            assert!(live(Some(saved_at)) == unsaved, "seed {seed}, saved at {saved_at}");
        }
    }
}

#[test]
fn an_event_that_was_not_delivered_is_owed_by_the_next_copy() {
    let mut talk = Talk::begin();
    let mut copy = talk.copy();
    let again = FakeHost::new(&[]);
    let device = Vsock::new(CID, Box::new(move || Ok(again.backend())));
    let mut next = copy.running.copy(Box::new(device));
    assert!(next.host.run());
    assert_eq!(next.queues[EVENT].take_used(), [(0, 4)]);
}
