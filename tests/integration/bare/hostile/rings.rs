//! Queues that cannot be, and queues that should not be: sizes and addresses. What no device may accept, it answers
//! at DRIVER_OK by asking for a reset; what harms only the driver, it may accept.

use harness::virtio::{Device, Queue, register};

use super::{Case, Named, Verdict};
use crate::bare::subject::Subject;

type Spoil = fn(&mut Queue<'_>);

const CASES: &[Named<Spoil>] = &[
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

/// Areas that lie on each other: whatever the device reads there is its own work, or the driver's.
const TANGLED: &[Named<Spoil>] = &[
    ("both_rings_in_one_place", |queue| queue.areas.device = queue.areas.driver),
    ("used_on_descriptors", |queue| queue.areas.device = queue.areas.descriptors),
    ("available_on_descriptors", |queue| queue.areas.driver = queue.areas.descriptors),
    ("all_in_one_place", |queue| {
        queue.areas.driver = queue.areas.descriptors;
        queue.areas.device = queue.areas.descriptors;
    }),
    ("used_index_on_available_index", |queue| queue.areas.device = queue.areas.driver + 4),
    ("used_on_buffers", |queue| queue.areas.device = queue.buffer(0).into()),
    ("descriptors_on_buffers", |queue| queue.areas.descriptors = queue.buffer(0).into()),
    ("at_the_boot_tables", |queue| queue.areas.device = 0x7000),
    ("at_the_end_of_memory", |queue| queue.areas.device = END - 4 - 8 * 8 - 2 - 2),
    ("of_one_descriptor", |queue| queue.size = 1),
    ("of_two_descriptors", |queue| queue.size = 2),
];

/// All of `subject`'s request queue.
pub(super) fn cases(subject: Subject) -> Vec<Case> {
    let refused = CASES.iter().map(move |&(name, spoil)| {
        Case::new(name, move |device| is_refused(subject, device, spoil))
    });
    let tangled = TANGLED.iter().map(move |&(name, spoil)| {
        Case::new(format!("tangled_{name}"), move |device| is_survived(subject, device, spoil))
    });
    let missing = Case::new("queue_missing", missing_queue_is_refused);
    refused.chain(tangled).chain([missing]).collect()
}

fn set_up(subject: Subject, device: &Device<'_>, spoil: Spoil) -> u16 {
    device.negotiate(0);
    subject.set_up_others(device);
    let mut queue = Queue::new(*device, subject.queue_index());
    queue.clear();
    spoil(&mut queue);
    queue.register();
    device.driver_ok();
    queue.size
}

fn is_refused(subject: Subject, device: &Device<'_>, spoil: Spoil) -> Verdict {
    set_up(subject, device, spoil);
    assert!(device.needs_reset(), "the queue was accepted");
    device.kick(subject.queue_index());
    Verdict::Reject
}

fn is_survived(subject: Subject, device: &Device<'_>, spoil: Spoil) -> Verdict {
    set_up(subject, device, spoil);
    let mut queue = Queue::new(*device, subject.queue_index());
    spoil(&mut queue);
    subject.fill_buffers(device.puppet(), &queue);
    queue.describe(&subject.chain(&queue));
    for _ in 0..3 {
        queue.offer(0);
        queue.kick();
    }
    device.puppet().sync();
    if device.needs_reset() { Verdict::Reject } else { Verdict::Pass }
}

fn missing_queue_is_refused(device: &Device<'_>) -> Verdict {
    device.negotiate(0);
    device.driver_ok();
    assert!(device.needs_reset(), "no queue is enabled");
    device.reset();
    assert_eq!(device.get(register::STATUS), 0);
    Verdict::Reject
}
