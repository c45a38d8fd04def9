//! Orders of the status register, odd sets of features, and registers of queues with odd values: what a driver writes
//! before it is ready (virtio 1.3, 2.1, 2.2, 3.1 and 4.2.2).

use harness::virtio::{Answer, Device, Queue, feature, register, status};

use super::{Case, Named, Verdict};
use crate::bare::subject::Subject;

const ACKNOWLEDGED: u32 = status::ACKNOWLEDGE;
const DRIVER: u32 = ACKNOWLEDGED | status::DRIVER;
const AGREED: u32 = DRIVER | status::FEATURES_OK;
const READY: u32 = AGREED | status::DRIVER_OK;

/// Values for the status register, in this order, and what it reads after the last.
const ORDERS: &[(&str, &[u32], u32)] = &[
    ("acknowledge_alone", &[ACKNOWLEDGED], ACKNOWLEDGED),
    ("acknowledge_twice", &[ACKNOWLEDGED, ACKNOWLEDGED], ACKNOWLEDGED),
    ("both_at_once", &[DRIVER], DRIVER),
    ("driver_alone", &[status::DRIVER], 0),
    ("ready_at_once_without_features", &[READY], DRIVER),
    ("ready_before_features", &[ACKNOWLEDGED, DRIVER, DRIVER | status::DRIVER_OK], DRIVER),
    ("reset_bit_of_the_device", &[DRIVER, DRIVER | status::NEEDS_RESET], DRIVER),
    ("bits_that_nobody_has", &[DRIVER | 16 | 32], DRIVER),
    ("bits_beyond_a_byte", &[DRIVER | 0xffff_ff00], DRIVER),
    ("all_bits_at_once", &[u32::MAX], status::FAILED),
    ("failed_first", &[status::FAILED], status::FAILED),
    ("failed_and_on", &[DRIVER, DRIVER | status::FAILED, READY], DRIVER | status::FAILED),
    ("reset_in_the_middle", &[DRIVER, 0], 0),
    ("reset_twice", &[DRIVER, 0, 0], 0),
    ("bits_taken_back", &[DRIVER, ACKNOWLEDGED], DRIVER),
];

type Choice = fn(u64) -> u64;

/// Sets of features on top of VERSION_1, of those on offer: by what they leave out or put together.
const FEATURES: &[Named<Choice>] = &[
    ("all_on_offer", |offered| offered),
    ("none_but_the_version", |_| feature::VERSION_1),
    ("every_other", |offered| offered & 0x5555_5555_5555_5555 | feature::VERSION_1),
    ("the_others", |offered| offered & 0xaaaa_aaaa_aaaa_aaaa | feature::VERSION_1),
    ("low_half_only", |offered| offered & 0xffff_ffff | feature::VERSION_1),
    ("lowest_bit", |offered| offered & 1 | feature::VERSION_1),
    ("tables_only", |_| feature::INDIRECT | feature::VERSION_1),
    ("events_only", |_| feature::EVENT_IDX | feature::VERSION_1),
];

type Test = fn(Subject, &Device<'_>);

const OTHERS: &[Named<Test>] = &[
    ("features_of_a_third_half", features_of_a_third_half),
    ("features_after_a_reset", features_after_a_reset),
    ("queue_size_of_17_bits", queue_size_of_17_bits),
    ("queue_enabled_by_any_odd_number", queue_enabled_by_any_odd_number),
    ("queue_disabled_again", queue_disabled_again),
    ("queue_changed_while_enabled", queue_changed_while_enabled),
    ("acknowledge_what_is_not_pending", acknowledge_what_is_not_pending),
    ("generation_is_the_devices", generation_is_the_devices),
    ("configuration_by_nobody", configuration_by_nobody),
    ("ready_twice", ready_twice),
    ("reset_while_kicking", reset_while_kicking),
    ("kick_with_a_queues_number_in_the_upper_half", kick_with_more_bits),
    ("read_registers_that_are_only_written", read_what_is_only_written),
];

/// All of `subject`.
pub(super) fn cases(subject: Subject) -> Vec<Case> {
    let orders = ORDERS.iter().map(|&(name, writes, wanted)| {
        Case::new(format!("status_{name}"), move |device| {
            device.reset();
            writes.iter().for_each(|&value| device.set(register::STATUS, value));
            let now = device.get(register::STATUS);
            assert_eq!(now, wanted, "{now:#x} instead of {wanted:#x}");
            Verdict::Pass
        })
    });
    let features = FEATURES.iter().map(move |&(name, choose)| {
        Case::new(format!("features_{name}"), move |device| {
            let chosen = choose(device.offered());
            let mut queue = subject.set_up(device, chosen & !feature::VERSION_1);
            subject.fill_buffers(device.puppet(), &queue);
            queue.request(&subject.chain(&queue)).into()
        })
    });
    let others = OTHERS.iter().map(move |&(name, test)| {
        Case::new(name, move |device| {
            device.reset();
            test(subject, device);
            Verdict::Pass
        })
    });
    orders.chain(features).chain(others).collect()
}

#[track_caller]
fn works(subject: Subject, device: &Device<'_>, queue: &mut Queue<'_>) {
    subject.fill_buffers(device.puppet(), queue);
    assert_eq!(queue.request(&subject.chain(queue)), Answer::Used(0, subject.written()));
}

fn features_of_a_third_half(_: Subject, device: &Device<'_>) {
    device.set(register::STATUS, DRIVER);
    device.accept(feature::VERSION_1);
    for half in [2, 0x8000_0000, u32::MAX] {
        device.set(register::DRIVER_FEATURES_SELECT, half);
        device.set(register::DRIVER_FEATURES, u32::MAX);
        device.set(register::DEVICE_FEATURES_SELECT, half);
        assert_eq!(device.get(register::DEVICE_FEATURES), 0);
    }
    device.set(register::STATUS, AGREED);
    assert_eq!(device.get(register::STATUS), AGREED, "nothing of it counts");
}

fn features_after_a_reset(_: Subject, device: &Device<'_>) {
    device.set(register::STATUS, DRIVER);
    device.accept(device.offered());
    device.reset();
    device.set(register::STATUS, DRIVER);
    device.set(register::STATUS, AGREED);
    assert_eq!(device.get(register::STATUS), DRIVER, "an earlier driver's features count");
}

fn queue_size_of_17_bits(subject: Subject, device: &Device<'_>) {
    device.negotiate(0);
    subject.set_up_others(device);
    let queue = Queue::new(*device, subject.queue_index());
    device.set(register::QUEUE_SELECT, subject.queue_index().into());
    device.set(register::QUEUE_SIZE, 0x1_0000 | u32::from(Queue::SIZE));
    for (register, address) in [
        (register::QUEUE_DESCRIPTORS, queue.areas.descriptors),
        (register::QUEUE_DRIVER, queue.areas.driver),
        (register::QUEUE_DEVICE, queue.areas.device),
    ] {
        device.set(register, address as u32);
    }
    device.set(register::QUEUE_READY, 1);
    device.driver_ok();
    assert!(device.needs_reset(), "its low half was believed");
}

fn queue_enabled_by_any_odd_number(subject: Subject, device: &Device<'_>) {
    device.negotiate(0);
    device.set(register::QUEUE_SELECT, subject.queue_index().into());
    for (value, wanted) in [(2, 0), (0xffff_fffe, 0), (3, 1)] {
        device.set(register::QUEUE_READY, value);
        assert_eq!(device.get(register::QUEUE_READY), wanted, "after {value:#x}");
    }
}

fn queue_disabled_again(subject: Subject, device: &Device<'_>) {
    device.negotiate(0);
    subject.set_up_others(device);
    let mut queue = device.queue(subject.queue_index());
    for enabled in [0, 1, 0, 1] {
        device.set(register::QUEUE_SELECT, subject.queue_index().into());
        device.set(register::QUEUE_READY, enabled);
        assert_eq!(device.get(register::QUEUE_READY), enabled);
    }
    device.driver_ok();
    works(subject, device, &mut queue);
}

fn queue_changed_while_enabled(subject: Subject, device: &Device<'_>) {
    device.negotiate(0);
    subject.set_up_others(device);
    let mut queue = device.queue(subject.queue_index());
    device.set(register::QUEUE_SELECT, subject.queue_index().into());
    device.set(register::QUEUE_SIZE, 0);
    device.set(register::QUEUE_DEVICE, 0xd000_0000);
    device.driver_ok();
    works(subject, device, &mut queue);
}

fn acknowledge_what_is_not_pending(subject: Subject, device: &Device<'_>) {
    for value in [0, 3, u32::MAX] {
        device.set(register::INTERRUPT_ACK, value);
        assert_eq!(device.get(register::INTERRUPT_STATUS), 0);
    }
    let mut queue = subject.set_up(device, 0);
    device.set(register::INTERRUPT_ACK, u32::MAX);
    works(subject, device, &mut queue);
}

fn generation_is_the_devices(_: Subject, device: &Device<'_>) {
    let before = device.get(register::CONFIG_GENERATION);
    device.set(register::CONFIG_GENERATION, before.wrapping_add(7));
    assert_eq!(device.get(register::CONFIG_GENERATION), before);
}

/// A driver that has not announced itself, and one that has failed.
fn configuration_by_nobody(_: Subject, device: &Device<'_>) {
    let before = device.puppet().load(device.window + register::CONFIG, 16);
    for state in [0, ACKNOWLEDGED, DRIVER | status::FAILED] {
        device.set(register::STATUS, state);
        (0..16).step_by(4).for_each(|at| device.set(register::CONFIG + at, 0x5a5a_5a5a));
    }
    assert_eq!(device.puppet().load(device.window + register::CONFIG, 16), before);
}

fn ready_twice(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    device.driver_ok();
    device.set(register::STATUS, READY);
    works(subject, device, &mut queue);
}

fn reset_while_kicking(subject: Subject, device: &Device<'_>) {
    for _ in 0..5 {
        let mut queue = subject.set_up(device, 0);
        subject.fill_buffers(device.puppet(), &queue);
        queue.describe(&subject.chain(&queue));
        for _ in 0..Queue::SIZE {
            queue.offer(0);
            queue.kick();
            device.reset();
            queue.kick();
        }
    }
}

fn kick_with_more_bits(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    for bits in [0x1_0000, 0x8000_0000, 0xffff_0000] {
        device.set(register::QUEUE_NOTIFY, bits | u32::from(subject.queue_index()));
    }
    works(subject, device, &mut queue);
}

fn read_what_is_only_written(_: Subject, device: &Device<'_>) {
    for register in [
        register::DEVICE_FEATURES_SELECT,
        register::DRIVER_FEATURES,
        register::DRIVER_FEATURES_SELECT,
        register::QUEUE_SELECT,
        register::QUEUE_SIZE,
        register::QUEUE_NOTIFY,
        register::INTERRUPT_ACK,
        register::QUEUE_DESCRIPTORS,
        register::QUEUE_DRIVER + 4,
    ] {
        assert_eq!(device.get(register), 0, "{register:#x}");
    }
}
