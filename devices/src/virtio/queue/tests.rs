use super::*;
use crate::test_util::{DriverQueue, FakeLine, fake_interrupt, guest_memory};
use crate::virtio::feature;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

mod differential;

const BASE: u64 = 0x10000;
const BUFFER: u64 = 0x20000;
const TABLE: u64 = 0x30000;
const RAM: usize = 1 << 20;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A raw descriptor: address, length, flags, next.
type Raw = (u64, u32, u16, u16);

struct Bench {
    queue: Queue,
    driver: DriverQueue,
    line: FakeLine,
    chain: Chain,
}

fn bench(features: u64) -> Bench {
    let memory = guest_memory(RAM);
    let driver = DriverQueue::new(&memory, BASE, 16);
    let (interrupt, line) = fake_interrupt();
    let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let queue = Queue::new(0, 256, driver.config(), features, memory, (kick, interrupt)).unwrap();
    Bench { queue, driver, line, chain: Chain::new() }
}

impl Bench {
    fn pop_fault(&mut self) -> ChainFault {
        match self.queue.pop(&mut self.chain) {
            Err(QueueError::Chain { fault, .. }) => fault,
            other => panic!("expected a malformed chain, got {other:?}"),
        }
    }
}

#[test]
fn a_chain_comes_out_as_it_went_in() {
    let mut b = bench(0);
    assert!(!b.queue.pop(&mut b.chain).unwrap());
    let head =
        b.driver.add(&[(BUFFER, 16, false), (BUFFER + 16, 4, false), (BUFFER + 64, 8, true)]);
    assert!(b.queue.pop(&mut b.chain).unwrap());
    assert_eq!(b.chain.head(), head);
    assert_eq!(b.chain.readable(b.queue.memory()).len(), 20);
    assert_eq!(b.chain.writable(b.queue.memory()).len(), 8);
    b.queue.push(head, 8).unwrap();
    assert_eq!(b.driver.take_used(), [(u32::from(head), 8)]);
    assert!(!b.queue.pop(&mut b.chain).unwrap());
}

#[test]
fn an_indirect_chain_is_the_same_to_the_device() {
    let mut b = bench(feature::INDIRECT_DESC);
    let head = b.driver.add_indirect(TABLE, &[(BUFFER, 16, false), (BUFFER + 64, 8, true)]);
    assert!(b.queue.pop(&mut b.chain).unwrap());
    assert_eq!(b.chain.head(), head);
    assert_eq!(b.chain.readable(b.queue.memory()).len(), 16);
    assert_eq!(b.chain.writable(b.queue.memory()).len(), 8);
}

#[test]
fn direct_descriptors_may_lead_into_an_indirect_table() {
    let mut b = bench(feature::INDIRECT_DESC);
    b.driver.descriptor(0, BUFFER, 16, NEXT, 1);
    b.driver.descriptor(1, TABLE, 16, INDIRECT, 0);
    let memory = b.queue.memory().clone();
    DriverQueue::new(&memory, TABLE, 16).descriptor(0, BUFFER + 64, 8, WRITE, 0);
    b.driver.offer(0);
    assert!(b.queue.pop(&mut b.chain).unwrap());
    assert_eq!(b.chain.readable(&memory).len(), 16);
    assert_eq!(b.chain.writable(&memory).len(), 8);
}

#[test]
fn a_chain_of_the_whole_queue_is_accepted_and_one_more_is_a_loop() {
    let mut b = bench(0);
    b.driver.add(&[(BUFFER, 1, false); 16]);
    assert!(b.queue.pop(&mut b.chain).unwrap());
    assert_eq!(b.chain.readable(b.queue.memory()).len(), 16);

    let mut b = bench(0);
    for i in 0..16 {
        b.driver.descriptor(i, BUFFER, 1, NEXT, (i + 1) % 16);
    }
    b.driver.offer(3);
    assert_eq!(b.pop_fault(), ChainFault::Loop);
}

#[test]
fn every_malformed_chain_is_named() {
    let end = RAM as u64;
    // (descriptors as (address, length, flags, next), what must be found)
    let cases: Vec<(Vec<Raw>, ChainFault)> = vec![
        (vec![(BUFFER, 0, 0, 0)], ChainFault::Empty),
        (vec![(BUFFER, 1, NEXT, 0)], ChainFault::Loop),
        (vec![(BUFFER, 1, NEXT, 16)], ChainFault::Index { index: 16, size: 16 }),
        (vec![(BUFFER, 1, NEXT, u16::MAX)], ChainFault::Index { index: u16::MAX, size: 16 }),
        (vec![(end - 1, 2, 0, 0)], ChainFault::NotMemory { address: end - 1, len: 2 }),
        (vec![(end, 1, 0, 0)], ChainFault::NotMemory { address: end, len: 1 }),
        (vec![(u64::MAX, 2, 0, 0)], ChainFault::NotMemory { address: u64::MAX, len: 2 }),
        (vec![(0, u32::MAX, 0, 0)], ChainFault::NotMemory { address: 0, len: u32::MAX }),
        (vec![(BUFFER, 1, NEXT | WRITE, 1), (BUFFER, 1, 0, 0)], ChainFault::Order),
        (vec![(TABLE, 16, INDIRECT | NEXT, 1)], ChainFault::IndirectNext),
        (vec![(TABLE, 0, INDIRECT, 0)], ChainFault::IndirectLength { len: 0 }),
        (vec![(TABLE, 24, INDIRECT, 0)], ChainFault::IndirectLength { len: 24 }),
        (vec![(end - 8, 16, INDIRECT, 0)], ChainFault::NotMemory { address: end - 8, len: 16 }),
    ];
    for (descriptors, fault) in cases {
        let mut b = bench(feature::INDIRECT_DESC);
        for (i, &(address, len, flags, next)) in (0..).zip(&descriptors) {
            b.driver.descriptor(i, address, len, flags, next);
        }
        b.driver.offer(0);
        assert_eq!(b.pop_fault(), fault, "{descriptors:x?}");
    }
}

#[test]
fn indirection_must_be_negotiated_and_does_not_nest() {
    let mut b = bench(0);
    b.driver.add_indirect(TABLE, &[(BUFFER, 1, false)]);
    assert_eq!(b.pop_fault(), ChainFault::IndirectUnexpected);

    let mut b = bench(feature::INDIRECT_DESC);
    b.driver.add_indirect(TABLE, &[(BUFFER, 1, false)]);
    let memory = b.queue.memory().clone();
    DriverQueue::new(&memory, TABLE, 16).descriptor(0, TABLE, 16, INDIRECT, 0);
    assert_eq!(b.pop_fault(), ChainFault::IndirectNested);
}

#[test]
fn a_head_beyond_the_table_and_a_jump_of_the_index_are_errors() {
    let mut b = bench(0);
    b.driver.offer(16);
    assert_eq!(b.pop_fault(), ChainFault::Index { index: 16, size: 16 });

    let mut b = bench(0);
    b.driver.set_avail_index(17);
    assert!(matches!(b.queue.pop(&mut b.chain), Err(QueueError::Ring { .. })));
}

#[test]
fn a_chain_that_was_not_used_can_be_put_back() {
    let mut b = bench(0);
    let head = b.driver.add(&[(BUFFER, 1, true)]);
    assert!(b.queue.pop(&mut b.chain).unwrap());
    b.queue.unpop();
    assert!(b.queue.pop(&mut b.chain).unwrap());
    assert_eq!(b.chain.head(), head);
}

#[test]
fn the_driver_is_interrupted_once_per_batch_and_only_for_news() {
    let mut b = bench(0);
    b.driver.add(&[(BUFFER, 1, true)]);
    b.driver.add(&[(BUFFER, 1, true)]);
    b.queue.serve(64, &mut b.chain, |_, _| Ok(1)).unwrap();
    assert_eq!(b.line.edges(), 1);
    b.queue.announce().unwrap();
    assert_eq!(b.line.edges(), 1);
}

#[test]
fn without_event_idx_the_flag_suppresses_interrupts() {
    let mut b = bench(0);
    b.driver.set_avail_flags(1);
    b.driver.add(&[(BUFFER, 1, true)]);
    b.queue.serve(64, &mut b.chain, |_, _| Ok(1)).unwrap();
    assert_eq!(b.line.edges(), 0);
    assert_eq!(b.driver.take_used().len(), 1);
}

#[test]
fn with_event_idx_the_driver_says_when_to_interrupt() {
    let mut b = bench(feature::EVENT_IDX);
    b.driver.set_used_event(1);
    b.driver.add(&[(BUFFER, 1, true)]);
    b.queue.serve(64, &mut b.chain, |_, _| Ok(1)).unwrap();
    assert_eq!(b.line.edges(), 0, "the first buffer is not the one waited for");
    b.driver.add(&[(BUFFER, 1, true)]);
    b.queue.serve(64, &mut b.chain, |_, _| Ok(1)).unwrap();
    assert_eq!(b.line.edges(), 1);
}

#[test]
fn chains_handed_back_together_appear_together_or_not_at_all() {
    let mut b = bench(0);
    b.queue.push_all(&[]).unwrap();
    b.queue.push_all(&[(3, 100), (1, 200), (2, 0)]).unwrap();
    assert_eq!(b.driver.take_used(), [(3, 100), (1, 200), (2, 0)]);
    for bad in [[16, 1, 2], [1, 16, 2], [1, 2, 16]] {
        let mut b = bench(0);
        assert!(b.queue.push_all(&bad.map(|head| (head, 1))).is_err());
        assert_eq!(b.driver.take_used(), []);
    }
}

#[test]
fn an_event_index_among_chains_handed_back_together_is_not_missed() {
    for (wish, edges) in [(0, 1), (1, 1), (4, 1), (5, 0), (u16::MAX, 0)] {
        let mut b = bench(feature::EVENT_IDX);
        b.driver.set_used_event(wish);
        b.queue.push_all(&[(0, 1); 5]).unwrap();
        b.queue.announce().unwrap();
        assert_eq!(b.line.edges(), edges, "wish for entry {wish}");
    }
}

#[test]
fn a_busy_queue_stops_at_its_budget_and_reschedules_itself() {
    let mut b = bench(0);
    for _ in 0..5 {
        b.driver.add(&[(BUFFER, 1, true)]);
    }
    b.queue.serve(3, &mut b.chain, |_, _| Ok(1)).unwrap();
    assert_eq!(b.driver.take_used().len(), 3);
    assert_eq!(b.queue.kick.read().unwrap(), 1, "it asked to be called again");
    b.queue.serve(3, &mut b.chain, |_, _| Ok(1)).unwrap();
    assert_eq!(b.driver.take_used().len(), 2);
}

#[test]
fn indices_wrap_after_65536_chains() {
    let mut b = bench(feature::EVENT_IDX);
    for round in 0..70_000_u32 {
        b.driver.add(&[(BUFFER, 1, true)]);
        b.queue.serve(64, &mut b.chain, |_, _| Ok(1)).unwrap();
        assert_eq!(b.driver.take_used().len(), 1, "round {round}");
    }
}

#[test]
fn a_queue_that_cannot_work_is_refused() {
    let memory = guest_memory(RAM);
    let good = DriverQueue::new(&memory, BASE, 16).config();
    let end = RAM as u64;
    let bad = [
        QueueConfig { size: 0, ..good },
        QueueConfig { size: 3, ..good },
        QueueConfig { size: 512, ..good },
        QueueConfig { driver: 0, ..good },
        QueueConfig { device: 0, ..good },
        QueueConfig { descriptors: BASE + 8, ..good },
        QueueConfig { driver: BASE + 1, ..good },
        QueueConfig { device: BASE + 2, ..good },
        QueueConfig { descriptors: end - 16, ..good },
        QueueConfig { driver: end - 2, ..good },
        QueueConfig { device: end, ..good },
        QueueConfig { descriptors: !0xf, ..good },
    ];
    for config in bad {
        let doorbells = (Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()), fake_interrupt().0);
        let queue = Queue::new(0, 256, config, 0, memory.clone(), doorbells);
        assert!(matches!(queue, Err(QueueError::Setup { .. })), "{config:x?}");
    }
}
