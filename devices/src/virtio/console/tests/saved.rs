//! A console in the middle of a conversation goes on elsewhere.

use super::*;
use crate::test_util::Random;
use crate::test_util::life::{Life, is_never_noticed};

const KEYS: u64 = BUFFER;
const ROOM: u32 = 16;
const TEXT: u64 = BUFFER + 0x1_0000;

struct Conversation {
    setup: Setup,
    features: u64,
    /// What was shown and typed, and what of that the guest has got.
    shown: Vec<u8>,
    typed: Vec<u8>,
    received: Vec<u8>,
    /// Buffers on each ring that have not come back.
    offered: [u64; 2],
    returned: [u64; 2],
}

impl Conversation {
    fn begin(features: u64) -> Self {
        let setup = Setup::new(features);
        let (shown, typed, received) = (Vec::new(), Vec::new(), Vec::new());
        Self { setup, features, shown, typed, received, offered: [0; 2], returned: [0; 2] }
    }

    fn offer(&mut self, queue: usize, buffer: (u64, u32, bool)) {
        if self.offered[queue] - self.returned[queue] == 16 {
            return;
        }
        self.offered[queue] += 1;
        self.setup.running.queues[queue].add(&[buffer]);
        let has_event_idx = self.features & feature::EVENT_IDX != 0;
        self.setup.running.kick_if_wanted(queue, 1, has_event_idx);
    }

    fn take(&mut self) {
        self.returned[1] += self.setup.running.queues[1].take_used().len() as u64;
        for (_, len) in self.setup.running.queues[0].take_used() {
            let mut bytes = vec![0; len as usize];
            let at = KEYS + u64::from(ROOM) * self.returned[0];
            self.setup.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            self.returned[0] += 1;
            self.received.extend(bytes);
        }
        self.shown.extend(drain(&self.setup.person));
    }
}

impl Life for Conversation {
    type Outcome = (Vec<u8>, Vec<u8>);

    fn step(&mut self, random: &mut Random) {
        match random.below(5_u32) {
            0 => {
                let len = 1 + random.below(100_u32);
                let at = TEXT + 0x100 * self.offered[1];
                let text = vec![b'a' + random.below(26_u8); len as usize];
                self.setup.memory.write_slice(&text, GuestAddress(at)).unwrap();
                self.offer(1, (at, len, false));
            }
            1 => {
                let count = 1 + random.below(20_u8);
                let keys = vec![b'A' + random.below(26_u8); count.into()];
                self.setup.person.write_all(&keys).unwrap();
                settle(&mut self.setup.backend);
                self.typed.extend(keys);
            }
            2 => self.offer(0, (KEYS + u64::from(ROOM) * self.offered[0], ROOM, true)),
            _ => {
                self.setup.turn();
                self.take();
            }
        }
    }

    fn copy(&mut self) -> Self {
        self.take();
        let (mut backend, mut person) = connected();
        let port = backend.port(Stage::Late).unwrap();
        // In front of the console until it has spoken.
        backend.port(Stage::Early).unwrap();
        port.set_size(SIZE);
        let device = Box::new(Console::new(port.clone()));
        let running = self.setup.running.copy(device);
        let memory = running.memory.clone();
        // What waits for the guest stays with the parent.
        person.write_all(&self.typed[self.received.len()..]).unwrap();
        settle(&mut backend);
        let setup = Setup { memory, running, backend, port, person };
        let &mut Self { features, offered, returned, .. } = self;
        let [shown, typed, received] =
            [&self.shown, &self.typed, &self.received].map(|bytes| bytes.clone());
        Self { setup, features, shown, typed, received, offered, returned }
    }

    fn end(mut self) -> Self::Outcome {
        // To the front, if it was not there before.
        self.setup.memory.write_slice(b"!", GuestAddress(TEXT)).unwrap();
        self.offer(1, (TEXT, 1, false));
        for _ in 0..40 {
            self.setup.turn();
            self.take();
            self.offer(0, (KEYS + u64::from(ROOM) * self.offered[0], ROOM, true));
        }
        assert_eq!(self.returned[1], self.offered[1], "all text was taken");
        assert_eq!(self.received, self.typed);
        (self.shown, self.received)
    }
}

#[test]
fn text_is_shown_once_and_keys_arrive_wherever_the_device_is_saved() {
    for features in [0, feature::EVENT_IDX] {
        is_never_noticed(1..3, || Conversation::begin(features | F_SIZE));
    }
}

#[test]
fn a_size_that_the_driver_relies_on_is_there_without_a_terminal() {
    let mut parent = Setup::new(F_SIZE);
    assert!(parent.transmit(b"hello"));
    let (mut backend, mut person) = connected();
    let _serial = backend.port(Stage::Early).unwrap();
    let device = Box::new(Console::new(backend.port(Stage::Late).unwrap()));
    assert_eq!(device.features() & F_SIZE, 0);
    let mut running = parent.running.copy(device);
    assert_eq!(config(&running, 0, 4), [132, 0, 50, 0]);
    // It is in front as before, though nobody has heard it yet.
    person.write_all(b"k").unwrap();
    settle(&mut backend);
    running.queues[0].add(&[(BUFFER, 16, true)]);
    assert!(running.kick(0));
    assert_eq!(running.queues[0].take_used().len(), 1);
}
