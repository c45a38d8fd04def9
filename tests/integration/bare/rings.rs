//! Queues that cannot be: sizes and addresses that no device may accept. The device asks for a reset at DRIVER_OK,
//! and after one it works.

use harness::virtio::{Device, Queue, register};
use libtest_mimic::Trial;

use super::subject::Subject;
use crate::suite::trial;

type Spoil = fn(&mut Queue<'_>);

const CASES: &[(&str, Spoil)] = &[
    ("size_zero", |queue| queue.size = 0),
    ("size_not_a_power_of_two", |queue| queue.size = 6),
    ("size_beyond_maximum", |queue| queue.size = 0x8000),
    ("descriptors_unaligned", |queue| {
        queue.areas.descriptors += 8;
    }),
    ("descriptors_at_nothing", |queue| {
        queue.areas.descriptors = 0xd000_0000;
    }),
    ("descriptors_at_registers", |queue| {
        queue.areas.descriptors = 0xc000_1000;
    }),
    ("descriptors_across_end_of_memory", |queue| {
        queue.areas.descriptors = END - 16;
    }),
    ("descriptors_beyond_4_gib", |queue| {
        queue.areas.descriptors |= 1 << 32;
    }),
    ("descriptors_at_last_address", |queue| {
        queue.areas.descriptors = u64::MAX - 15;
    }),
    ("available_unaligned", |queue| queue.areas.driver += 1),
    ("available_at_zero", |queue| queue.areas.driver = 0),
    ("available_at_nothing", |queue| {
        queue.areas.driver = 0xd000_0000;
    }),
    ("available_across_end_of_memory", |queue| {
        queue.areas.driver = END - 4;
    }),
    ("available_at_last_address", |queue| {
        queue.areas.driver = u64::MAX - 1;
    }),
    ("used_unaligned", |queue| queue.areas.device += 2),
    ("used_at_zero", |queue| queue.areas.device = 0),
    ("used_at_nothing", |queue| queue.areas.device = 0xd000_0000),
    ("used_across_end_of_memory", |queue| {
        queue.areas.device = END - 4;
    }),
    ("used_at_last_address", |queue| {
        queue.areas.device = u64::MAX - 3;
    }),
];

/// First address behind the puppet's 32 MiB.
const END: u64 = 32 << 20;

/// All cases on all devices.
pub fn tests() -> Vec<Trial> {
    let cases = Subject::ALL.into_iter().flat_map(|subject| {
        CASES.iter().map(move |(name, spoil)| {
            let name = format!("bare::rings::{}::{name}", subject.name());
            trial(name, subject.needs(), move || {
                subject.with_device(move |device| is_refused(subject, device, *spoil));
            })
        })
    });
    let missing = Subject::ALL.into_iter().map(|subject| {
        let name = format!("bare::rings::{}::queue_missing", subject.name());
        trial(name, subject.needs(), move || {
            subject.with_device(move |device| missing_queue_is_refused(subject, device));
        })
    });
    cases.chain(missing).collect()
}

fn is_refused(subject: Subject, device: &Device<'_>, spoil: Spoil) {
    device.negotiate(0);
    subject.set_up_others(device);
    let mut queue = Queue::new(*device, subject.queue_index());
    queue.clear();
    spoil(&mut queue);
    queue.register();
    device.driver_ok();
    assert!(device.needs_reset(), "the queue was accepted");
    device.kick(subject.queue_index());
    subject.good_request(device);
}

fn missing_queue_is_refused(subject: Subject, device: &Device<'_>) {
    device.negotiate(0);
    device.driver_ok();
    assert!(device.needs_reset(), "no queue is enabled");
    device.reset();
    assert_eq!(device.get(register::STATUS), 0);
    subject.good_request(device);
}
