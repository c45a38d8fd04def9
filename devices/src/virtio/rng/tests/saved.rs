//! An entropy source in the middle of its work goes on elsewhere.

use super::*;
use crate::test_util::life::{Life, is_never_noticed};
use crate::test_util::{Random, guest_memory};
use crate::virtio::feature;
use vm_memory::{Bytes, GuestAddress};

const BUFFERS: u64 = 0x8_0000;
const MEMORY: usize = 1 << 20;
/// Close to where indices begin again at 0.
const NEAR_THE_END: u16 = u16::MAX - 6;

struct Requests {
    running: Running,
    features: u64,
    offered: u64,
    used: Vec<(u32, u32)>,
}

fn device() -> Box<Rng> {
    Box::new(Rng::new(Box::new(|| Ok(Box::new(std::io::repeat(0xa5))))))
}

impl Requests {
    fn begin(features: u64) -> Self {
        let memory = guest_memory(MEMORY);
        let running = Running::new(device(), &memory, features, QUEUE);
        let running = running.wound_to(NEAR_THE_END, device());
        Self { running, features, offered: 0, used: Vec::new() }
    }

    fn take(&mut self) {
        self.used.extend(self.running.queues[0].take_used());
    }
}

impl Life for Requests {
    type Outcome = (Vec<(u32, u32)>, Vec<u8>);

    fn step(&mut self, random: &mut Random) {
        match random.below(4_u32) {
            0 => {
                assert!(self.running.host.run());
                self.take();
            }
            // A driver has no more buffers on the ring than the ring has room for.
            _ if self.offered - self.used.len() as u64 == 16 => {}
            _ => {
                let len = 1 + random.below(64_u32);
                let to = BUFFERS + 64 * self.offered;
                self.offered += 1;
                self.running.queues[0].add(&[(to, len, true)]);
                let has_event_idx = self.features & feature::EVENT_IDX != 0;
                self.running.kick_if_wanted(0, 1, has_event_idx);
            }
        }
    }

    fn copy(&mut self) -> Self {
        let running = self.running.copy(device());
        assert_eq!(running.line.edges(), 1, "the driver looks, whatever it has heard before");
        let &mut Self { features, offered, .. } = self;
        Self { running, features, offered, used: self.used.clone() }
    }

    fn end(mut self) -> Self::Outcome {
        assert!(self.running.host.run());
        self.take();
        assert_eq!(self.used.len() as u64, self.offered);
        let mut filled = vec![0; 64 * 64];
        self.running.memory.read_slice(&mut filled, GuestAddress(BUFFERS)).unwrap();
        (self.used, filled)
    }
}

#[test]
fn requests_are_answered_once_wherever_the_device_is_saved() {
    for features in [0, feature::EVENT_IDX] {
        is_never_noticed(1..3, || Requests::begin(features));
    }
}

#[test]
fn a_device_that_is_broken_stays_so_until_it_is_reset() {
    let memory = guest_memory(MEMORY);
    let mut running = Running::new(device(), &memory, 0, QUEUE);
    running.queues[0].add(&[(1 << 40, 8, true)]);
    assert!(!running.kick(0));
    let mut copy = running.copy(device());
    let memory = copy.memory.clone();
    let needs_reset = crate::virtio::transport::status::NEEDS_RESET;
    for machine in [&mut running, &mut copy] {
        assert_ne!(machine.transport.status() & needs_reset, 0);
    }
    assert!(!copy.host.is_running());
    assert_eq!(copy.line.edges(), 0, "nothing new for a driver that knows already");
    copy.transport.write_status(0);
    memory.write_slice(&[0; 0x4000], GuestAddress(QUEUE)).unwrap();
    copy.queues[0] = crate::test_util::DriverQueue::new(&memory, QUEUE, 16);
    copy.bring_up(0);
    copy.queues[0].add(&[(BUFFERS, 8, true)]);
    assert!(copy.kick(0));
    assert_eq!(copy.queues[0].take_used(), [(0, 8)]);
}
