//! The registers of a device under a driver that does things out of order, on each device (virtio 1.3, 2.1, 2.2 and
//! 4.2.2).

use harness::virtio::{Answer, Device, Queue, WINDOW, feature, register, status};

use super::{Case, Named, Verdict};
use crate::bare::subject::Subject;

type Test = fn(Subject, &Device<'_>);

const CASES: &[Named<Test>] = &[
    ("identity", identity),
    ("registers_take_aligned_words_only", registers_take_aligned_words_only),
    ("reserved_registers_do_nothing", reserved_registers_do_nothing),
    ("configuration_space_in_every_width", configuration_space_in_every_width),
    ("absent_queue", absent_queue),
    ("features_not_offered", features_not_offered),
    ("legacy_driver", legacy_driver),
    ("features_after_the_agreement", features_after_the_agreement),
    ("status_bits_out_of_order", status_bits_out_of_order),
    ("status_bits_cleared", status_bits_cleared),
    ("driver_that_failed", driver_that_failed),
    ("kick_before_ready", kick_before_ready),
    ("kick_of_absent_queue", kick_of_absent_queue),
    ("queue_registers_before_agreement", queue_registers_before_agreement),
    ("queue_registers_after_ready", queue_registers_after_ready),
    ("reset_forgets_everything", reset_forgets_everything),
    ("reset_many_times", reset_many_times),
    ("reset_with_requests_pending", reset_with_requests_pending),
    ("interrupt_status", interrupt_status),
];

const AGREED: u32 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;

/// All of `subject`; the device goes along with each.
pub(super) fn cases(subject: Subject) -> Vec<Case> {
    let case = move |&(name, test): &Named<Test>| {
        Case::new(name, move |device| {
            device.reset();
            test(subject, device);
            Verdict::Pass
        })
    };
    CASES.iter().map(case).collect()
}

fn identity(subject: Subject, device: &Device<'_>) {
    assert_eq!(device.get(register::VERSION), 2);
    assert_eq!(device.get(register::DEVICE_ID), subject.kind() as u32);
    let offered = device.offered();
    let wanted = feature::VERSION_1 | feature::INDIRECT | feature::EVENT_IDX;
    assert_eq!(offered & wanted, wanted, "{offered:#x}");
    device.set(register::DEVICE_FEATURES_SELECT, 2);
    assert_eq!(device.get(register::DEVICE_FEATURES), 0, "features beyond 63");
    assert_eq!(device.get(register::STATUS), 0);
}

fn registers_take_aligned_words_only(_: Subject, device: &Device<'_>) {
    let puppet = device.puppet();
    for at in [register::MAGIC, register::STATUS, register::QUEUE_SIZE_MAX] {
        assert_eq!(puppet.read(1, device.window + at), 0xff);
        assert_eq!(puppet.read(2, device.window + at), 0xffff);
        for odd in 1..4 {
            assert_eq!(puppet.read(4, device.window + at + odd), 0xffff_ffff);
        }
    }
    for (width, at) in [(1, 0), (2, 0), (4, 1), (4, 2), (2, 2)] {
        puppet.write(width, device.window + register::STATUS + at, status::ACKNOWLEDGE);
        assert_eq!(device.get(register::STATUS), 0, "width {width} at {at}");
    }
}

fn reserved_registers_do_nothing(_: Subject, device: &Device<'_>) {
    let known =
        [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4];
    for at in (0..register::CONFIG).step_by(4).filter(|at| !known.contains(at)) {
        device.set(at, 0xffff_ffff);
        let _ = device.get(at);
    }
    assert_eq!(device.get(register::STATUS), 0);
    assert_eq!(device.get(register::MAGIC), harness::virtio::MAGIC);
}

fn configuration_space_in_every_width(_: Subject, device: &Device<'_>) {
    let puppet = device.puppet();
    device.set(register::STATUS, status::ACKNOWLEDGE);
    device.set(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    for at in [0, 1, 2, 3, 4, 7, 8, 60, 0xef8, 0xefc, 0xefe, 0xeff] {
        for width in [1, 2, 4] {
            let address = device.window + register::CONFIG + at;
            let _ = puppet.read(width, address);
            puppet.write(width, address, 0xffff_ffff);
        }
    }
    // A word that is half in this window and half in nobody's.
    assert_eq!(puppet.read(4, device.window + WINDOW - 2) >> 16, 0xffff);
    let word = puppet.read(4, device.window + register::CONFIG);
    let halves = [0, 2].map(|at| puppet.read(2, device.window + register::CONFIG + at));
    assert_eq!(word, halves[0] | halves[1] << 16, "the space reads the same in every width");
}

fn absent_queue(_: Subject, device: &Device<'_>) {
    device.negotiate(0);
    for index in [64, 0xffff, 0xffff_ffff] {
        device.set(register::QUEUE_SELECT, index);
        assert_eq!(device.get(register::QUEUE_SIZE_MAX), 0);
        device.set(register::QUEUE_SIZE, 8);
        device.set(register::QUEUE_READY, 1);
        assert_eq!(device.get(register::QUEUE_READY), 0);
    }
}

fn features_not_offered(_: Subject, device: &Device<'_>) {
    let offered = device.offered();
    // Bits that are nobody's: a legacy one, SR-IOV, and the last of all.
    for bit in [27, 37, 63].map(|n| 1_u64 << n).into_iter().filter(|bit| offered & bit == 0) {
        refuse_features(device, offered | bit);
    }
}

fn legacy_driver(_: Subject, device: &Device<'_>) {
    refuse_features(device, 0);
}

#[track_caller]
fn refuse_features(device: &Device<'_>, features: u64) {
    device.reset();
    device.set(register::STATUS, status::ACKNOWLEDGE);
    device.set(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    device.accept(features);
    device.set(register::STATUS, AGREED);
    let now = device.get(register::STATUS);
    assert_eq!(now & status::FEATURES_OK, 0, "{features:#x} accepted");
    device.set(register::STATUS, AGREED | status::DRIVER_OK);
    assert_eq!(device.get(register::STATUS) & status::DRIVER_OK, 0, "ready without agreement");
}

fn features_after_the_agreement(subject: Subject, device: &Device<'_>) {
    device.negotiate(0);
    device.accept(feature::VERSION_1 | feature::INDIRECT);
    // Had that been accepted, a table of descriptors would now be followed.
    let mut queue = device.queue(subject.queue_index());
    if subject.queue_index() == 1 {
        let _receive = device.queue(0);
    }
    device.driver_ok();
    let pointer = harness::virtio::Descriptor::indirect(queue.buffer(0), 1);
    assert_eq!(queue.request(&[pointer]), Answer::NeedsReset);
}

fn status_bits_out_of_order(_: Subject, device: &Device<'_>) {
    for value in [status::DRIVER, status::FEATURES_OK, status::DRIVER_OK, AGREED & !1] {
        device.set(register::STATUS, value);
        assert_eq!(device.get(register::STATUS), 0, "{value:#x} before ACKNOWLEDGE");
    }
    device.set(register::STATUS, status::ACKNOWLEDGE);
    device.set(register::STATUS, status::ACKNOWLEDGE | status::DRIVER_OK);
    assert_eq!(device.get(register::STATUS), status::ACKNOWLEDGE);
}

fn status_bits_cleared(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    let ready = AGREED | status::DRIVER_OK;
    for value in [status::ACKNOWLEDGE, status::DRIVER_OK, AGREED, ready & !status::FEATURES_OK] {
        device.set(register::STATUS, value);
        assert_eq!(device.get(register::STATUS), ready, "after writing {value:#x}");
    }
    subject.fill_buffers(device.puppet(), &queue);
    assert_eq!(queue.request(&subject.chain(&queue)), Answer::Used(0, subject.written()));
}

fn driver_that_failed(subject: Subject, device: &Device<'_>) {
    let _queue = subject.set_up(device, 0);
    device.set(register::STATUS, AGREED | status::DRIVER_OK | status::FAILED);
    assert_ne!(device.get(register::STATUS) & status::FAILED, 0);
    device.set(register::STATUS, AGREED);
    assert_ne!(device.get(register::STATUS) & status::FAILED, 0, "only a reset takes it back");
}

fn kick_before_ready(subject: Subject, device: &Device<'_>) {
    device.kick(subject.queue_index());
    device.negotiate(0);
    device.kick(subject.queue_index());
    let queue = device.queue(subject.queue_index());
    queue.describe(&subject.chain(&queue));
    queue.kick();
    device.reset();
    device.kick(subject.queue_index());
    assert_eq!(queue.used_index(), 0, "an answer before the driver was ready");
}

fn kick_of_absent_queue(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    for index in [64, 0xffff, 0x1_0000, 0xffff_ffff] {
        device.set(register::QUEUE_NOTIFY, index);
    }
    subject.fill_buffers(device.puppet(), &queue);
    assert_eq!(queue.request(&subject.chain(&queue)), Answer::Used(0, subject.written()));
}

fn queue_registers_before_agreement(subject: Subject, device: &Device<'_>) {
    let queue = Queue::new(*device, subject.queue_index());
    queue.register();
    device.set(register::QUEUE_SELECT, subject.queue_index().into());
    assert_eq!(device.get(register::QUEUE_READY), 0);
}

fn queue_registers_after_ready(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    device.set(register::QUEUE_SELECT, subject.queue_index().into());
    for (at, value) in [
        (register::QUEUE_READY, 0),
        (register::QUEUE_SIZE, 0),
        (register::QUEUE_DESCRIPTORS, 0xd000_0000),
        (register::QUEUE_DRIVER, 0xd000_0000),
        (register::QUEUE_DEVICE, 0xd000_0000),
        (register::QUEUE_DEVICE + 4, 0xffff_ffff),
    ] {
        device.set(at, value);
    }
    assert_eq!(device.get(register::QUEUE_READY), 1);
    subject.fill_buffers(device.puppet(), &queue);
    assert_eq!(queue.request(&subject.chain(&queue)), Answer::Used(0, subject.written()));
}

fn reset_forgets_everything(subject: Subject, device: &Device<'_>) {
    let _queue = subject.set_up(device, 0);
    device.reset();
    assert_eq!(device.get(register::STATUS), 0);
    assert_eq!(device.get(register::INTERRUPT_STATUS), 0);
    device.set(register::QUEUE_SELECT, subject.queue_index().into());
    assert_eq!(device.get(register::QUEUE_READY), 0);
    device.driver_ok();
    assert_eq!(device.get(register::STATUS) & status::DRIVER_OK, 0, "ready without agreement");
}

fn reset_many_times(subject: Subject, device: &Device<'_>) {
    subject.good_request(device);
    device.reset();
    device.puppet().sync();
    let count = || device.puppet().with_machine(|m| (m.open_files(), m.threads()));
    let before = count();
    for _ in 0..30 {
        let _queue = subject.set_up(device, 0);
        device.reset();
    }
    device.puppet().sync();
    assert_eq!(count(), before, "descriptors and threads");
}

fn reset_with_requests_pending(subject: Subject, device: &Device<'_>) {
    for _ in 0..5 {
        let mut queue = subject.set_up(device, 0);
        subject.fill_buffers(device.puppet(), &queue);
        queue.describe(&subject.chain(&queue));
        (0..Queue::SIZE).for_each(|_| queue.offer(0));
        queue.kick();
        device.reset();
    }
}

fn interrupt_status(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    subject.fill_buffers(device.puppet(), &queue);
    assert_eq!(queue.request(&subject.chain(&queue)), Answer::Used(0, subject.written()));
    // The ring is filled before the interrupt is raised.
    let deadline = std::time::Instant::now() + harness::patience();
    while device.get(register::INTERRUPT_STATUS) & 1 == 0 {
        assert!(std::time::Instant::now() < deadline, "no interrupt for a used buffer");
    }
    device.set(register::INTERRUPT_ACK, 1);
    assert_eq!(device.get(register::INTERRUPT_STATUS), 0);
}
