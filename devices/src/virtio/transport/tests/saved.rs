//! Registers of a saved device, at every step of a driver's way, and states that no device had.

use super::*;
use crate::state::{State, StateError};
use crate::test_util::copy_of;

/// What a driver writes until the device works, in order: offset and value.
fn way(bench: &Bench) -> Vec<(u64, u32)> {
    let config = bench.driver.config();
    let low = |address: u64| u32::try_from(address).unwrap();
    vec![
        (0x70, ACKNOWLEDGE),
        (0x70, ACKNOWLEDGE | DRIVER),
        (0x14, 1),
        (0x24, 1),
        (0x20, 1),
        (0x24, 0),
        (0x20, 1 << 5),
        (0x70, READY),
        (0x30, 1),
        (0x30, 0),
        (0x38, u32::from(config.size)),
        (0x80, low(config.descriptors)),
        (0x90, low(config.driver)),
        (0xa0, low(config.device)),
        // A kick too early, which is refused.
        (0x50, 0),
        (0x44, 1),
        (0x70, READY | DRIVER_OK),
        (0x50, 0),
        (0x70, READY | DRIVER_OK | FAILED),
        (0x70, 0),
        (0x70, ACKNOWLEDGE),
    ]
}

/// Every register but what tells the driver to look: the interrupt's status and the generation.
fn seen(bench: &mut Bench) -> (Vec<u32>, QueueConfig, u64, bool) {
    let registers = (0..0xfc).step_by(4).filter(|at| *at != 0x60);
    let registers = registers.map(|at| bench.read(at)).collect();
    let transport = bench.device.transport();
    (registers, *transport.queue(0).unwrap(), transport.refused_writes(), bench.host.is_running())
}

/// The device in another machine that goes on from here.
fn copy_of_bench(from: &mut Bench) -> Bench {
    from.device.transport_mut().pause();
    let state = from.device.save().unwrap();
    from.device.transport_mut().resume();
    let mut copy = bench();
    copy.driver = from.driver.in_copy(&copy_of(&guest_memory(1 << 20)));
    copy.device.restore(&state).unwrap();
    copy.device.transport_mut().resume();
    copy
}

#[test]
fn a_driver_finds_its_registers_wherever_it_was() {
    let way = way(&bench());
    for saved_at in 0..=way.len() {
        let mut parent = bench();
        for (offset, value) in &way[..saved_at] {
            parent.write(*offset, *value);
        }
        let mut copy = copy_of_bench(&mut parent);
        for (offset, value) in &way[saved_at..] {
            assert_eq!(seen(&mut copy), seen(&mut parent), "{saved_at} before {offset:#x}");
            parent.write(*offset, *value);
            copy.write(*offset, *value);
        }
        assert_eq!(seen(&mut copy), seen(&mut parent), "{saved_at} at the end");
    }
}

#[test]
fn what_is_pending_is_pending_and_the_driver_is_told_to_look() {
    let mut parent = bench();
    parent.start();
    parent.device.transport().interrupt().used_buffer();
    let mut copy = copy_of_bench(&mut parent);
    assert_eq!(parent.read(0x60), 1);
    assert_eq!(copy.read(0x60), 3, "what is used and what is configured may be new");
    assert_eq!(copy.line.edges(), 1);
    assert_ne!(copy.read(0xfc), parent.read(0xfc));
    copy.device.transport_mut().pause();
    copy.device.transport_mut().resume();
    assert_eq!(copy.line.edges(), 1, "once");
}

#[test]
fn a_device_at_work_cannot_be_saved_and_one_in_use_cannot_be_restored() {
    let mut b = bench();
    b.start();
    assert!(matches!(b.device.save(), Err(StateError::Busy)));
    b.device.transport_mut().pause();
    let state = b.device.save().unwrap();
    assert!(matches!(b.device.restore(&state), Err(StateError::NotFresh)));
    b.device.transport_mut().resume();
    assert!(b.host.is_running());
}

#[test]
fn a_copy_that_was_not_resumed_can_be_saved_again() {
    let mut parent = bench();
    parent.start();
    parent.device.transport_mut().pause();
    let first = parent.device.save().unwrap();
    let mut copy = bench();
    copy.device.restore(&first).unwrap();
    assert!(!copy.host.is_running());
    assert_eq!(copy.device.save().unwrap(), first);
}

#[test]
fn states_that_no_device_had_are_refused_and_leave_a_device_that_works() {
    let mut parent = bench();
    parent.start();
    parent.device.transport_mut().pause();
    let good = parent.device.save().unwrap();
    for (field, value) in [
        ("status", 2),
        ("status", u64::from(READY | DRIVER_OK | NEEDS_RESET)),
        ("status", 1 << 32 | 1),
        ("driver_features", 1 << 5),
        ("driver_features", 1 << 32 | 1 << 6),
        ("queues", 3),
        ("queues", u64::MAX),
        ("interrupt", 4),
        ("generation", 1 << 32),
        ("needs_reset", 2),
        ("queue.0.size", 15),
        ("queue.0.size", 32),
        ("queue.0.size", 0),
        ("queue.0.ready", 0),
        ("queue.0.ready", 2),
        ("queue.0.descriptors", 1 << 40),
        ("queue.0.driver", 0xf_fffe),
        ("queue.0.driver", 0),
        ("queue.0.device", u64::MAX),
        ("queue.0.next_used", 1 << 16),
        ("queue.1.size", 1 << 16),
        ("queue.1.ready", 1),
        ("selected.queue", 1 << 32),
    ] {
        let mut bad = good.clone();
        bad.set(field, value);
        let mut b = bench();
        let error = b.device.restore(&bad).unwrap_err();
        if let StateError::Field { field: named, .. } = &error {
            assert!(field.ends_with(named), "{field} {value:#x}: {error}");
        }
        assert!(!error.to_string().contains('\n'));
        assert_eq!(b.read(0x70), 0, "{field} {value:#x}");
        b.device.transport_mut().resume();
        assert!(!b.host.is_running(), "{field} {value:#x}");
        b.start();
        assert!(b.host.is_running(), "{field} {value:#x}");
    }
}

#[test]
fn a_state_without_fields_is_that_of_a_device_nobody_has_used() {
    let mut b = bench();
    b.device.restore(&State::new()).unwrap();
    assert_eq!(seen(&mut b), seen(&mut bench()));
    b.start();
    assert!(b.host.is_running());
}
