mod saved;

use super::*;
use crate::test_util::{Running, guest_memory};
use crate::virtio::feature;
use vm_memory::{Bytes, GuestAddress};

const QUEUE: u64 = 0x10000;
const BUFFER: u64 = 0x80000;

/// A source that counts: 1, 2, 3, ...
struct Counter(u8);

impl Read for Counter {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        for byte in to.iter_mut() {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(to.len())
    }
}

fn counting() -> Box<Rng> {
    Box::new(Rng::new(Box::new(|| Ok(Box::new(Counter(0))))))
}

#[test]
fn a_buffer_is_filled_with_the_source() {
    let memory = guest_memory(1 << 20);
    let mut rng = Running::new(counting(), &memory, 0, QUEUE);
    rng.queues[0].add(&[(BUFFER, 3, true), (BUFFER + 16, 2, true)]);
    assert!(rng.kick(0));
    assert_eq!(rng.queues[0].take_used(), [(0, 5)]);
    let mut bytes = [0; 18];
    memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
    assert_eq!(bytes[..3], [1, 2, 3]);
    assert_eq!(bytes[16..], [4, 5]);
    assert_eq!(rng.line.edges(), 1);
}

#[test]
fn a_huge_buffer_gets_a_bounded_answer() {
    let memory = guest_memory(1 << 20);
    let mut rng = Running::new(counting(), &memory, 0, QUEUE);
    rng.queues[0].add(&[(BUFFER, 0x40000, true)]);
    assert!(rng.kick(0));
    assert_eq!(rng.queues[0].take_used(), [(0, 4096)]);
}

#[test]
fn a_buffer_that_cannot_be_written_gets_no_bytes() {
    let memory = guest_memory(1 << 20);
    let mut rng = Running::new(counting(), &memory, 0, QUEUE);
    rng.queues[0].add(&[(BUFFER, 8, false)]);
    assert!(rng.kick(0));
    assert_eq!(rng.queues[0].take_used(), [(0, 0)]);
}

#[test]
fn a_source_that_fails_answers_every_request() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("broken"))
        }
    }
    let memory = guest_memory(1 << 20);
    let device = Box::new(Rng::new(Box::new(|| Ok(Box::new(Broken)))));
    let counters = device.counters();
    let mut rng = Running::new(device, &memory, 0, QUEUE);
    rng.queues[0].add(&[(BUFFER, 8, true)]);
    assert!(rng.kick(0));
    assert_eq!(rng.queues[0].take_used(), [(0, 0)]);
    let counted =
        [&counters.requests, &counters.bytes, &counters.failed].map(crate::metrics::Counter::get);
    assert_eq!(counted, [1, 0, 1]);
}

#[test]
fn a_malformed_chain_needs_a_reset_and_a_reset_heals() {
    let memory = guest_memory(1 << 20);
    let mut rng = Running::new(counting(), &memory, feature::EVENT_IDX, QUEUE);
    rng.queues[0].add(&[(BUFFER, 0, true)]);
    assert!(!rng.kick(0));
    assert_ne!(rng.transport.status() & crate::virtio::transport::status::NEEDS_RESET, 0);
    rng.queues[0].add(&[(BUFFER, 8, true)]);
    assert!(!rng.kick(0), "a broken ring is not touched again");

    rng.transport.write_status(0);
    assert!(!rng.host.is_running());
    let zero = [0; 0x4000];
    memory.write_slice(&zero, GuestAddress(QUEUE)).unwrap();
    rng.queues[0] = crate::test_util::DriverQueue::new(&memory, QUEUE, 16);
    rng.bring_up(0);
    rng.queues[0].add(&[(BUFFER, 8, true)]);
    assert!(rng.kick(0));
    assert_eq!(rng.queues[0].take_used(), [(0, 8)]);
}

#[test]
fn a_source_that_cannot_be_opened_needs_a_reset() {
    let memory = guest_memory(1 << 20);
    let device = Box::new(Rng::new(Box::new(|| Err(std::io::Error::other("gone")))));
    let rng = Running::new(device, &memory, 0, QUEUE);
    assert!(!rng.host.is_running());
    assert_ne!(rng.transport.status() & crate::virtio::transport::status::NEEDS_RESET, 0);
}
