mod saved;

use super::mmio::MmioTransport;
use super::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};
use super::*;
use crate::bus::BusDevice;
use crate::test_util::{DriverQueue, FakeHost, FakeLine, fake_interrupt, guest_memory};
use crate::virtio::DeviceType;
use crate::virtio::device::{ActivateError, QueueHandler, read_config_bytes};

const QUEUE: u64 = 0x10000;
const READY: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;

/// Two queues, one feature, four bytes of writable configuration; no data plane.
struct Probe {
    config: [u8; 4],
}

impl VirtioDevice for Probe {
    fn device_type(&self) -> DeviceType {
        DeviceType(42)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 64]
    }

    fn features(&self) -> u64 {
        1 << 5
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        if let Some(to) = self.config.get_mut(start..start + data.len()) {
            to.copy_from_slice(data);
        }
    }

    fn activate(
        &mut self,
        mut activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError> {
        activation.take_queue(0).map(|_| Vec::new())
    }
}

struct Bench {
    device: MmioTransport,
    host: FakeHost,
    line: FakeLine,
    driver: DriverQueue,
}

fn bench() -> Bench {
    bench_on(FakeHost::default())
}

fn bench_on(host: FakeHost) -> Bench {
    let memory = guest_memory(1 << 20);
    let (interrupt, line) = fake_interrupt();
    let device = Box::new(Probe { config: [1, 2, 3, 4] });
    let driver = DriverQueue::new(&memory, QUEUE, 16);
    let transport =
        Transport::new("probe".to_owned(), device, Box::new(host.clone()), memory, interrupt);
    Bench { device: MmioTransport::new(transport), host, line, driver }
}

impl Bench {
    fn read(&mut self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.device.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn write(&mut self, offset: u64, value: u32) {
        assert_eq!(self.device.write(offset, &value.to_le_bytes()), None);
    }

    fn negotiate(&mut self) {
        self.write(0x70, ACKNOWLEDGE);
        self.write(0x70, ACKNOWLEDGE | DRIVER);
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x70, READY);
    }

    fn set_up_queue(&mut self, index: u32) {
        let config = self.driver.config();
        let low = |address: u64| u32::try_from(address).unwrap();
        self.write(0x30, index);
        self.write(0x38, u32::from(config.size));
        self.write(0x80, low(config.descriptors));
        self.write(0x90, low(config.driver));
        self.write(0xa0, low(config.device));
        self.write(0x44, 1);
    }

    fn start(&mut self) {
        self.negotiate();
        self.set_up_queue(0);
        self.write(0x70, READY | DRIVER_OK);
    }
}

#[test]
fn a_driver_finds_the_device() {
    let mut b = bench();
    assert_eq!(b.read(0x00), 0x7472_6976);
    assert_eq!(b.read(0x04), 2);
    assert_eq!(b.read(0x08), 42);
    assert_eq!(b.read(0x34), 16);
    b.write(0x30, 1);
    assert_eq!(b.read(0x34), 64);
    b.write(0x30, 2);
    assert_eq!(b.read(0x34), 0);
    assert_eq!(b.read(0xb0), u32::MAX, "no shared memory");
}

#[test]
fn features_are_shown_in_halves() {
    let mut b = bench();
    assert_eq!(b.read(0x10), 1 << 28 | 1 << 29 | 1 << 5);
    b.write(0x14, 1);
    assert_eq!(b.read(0x10), 1);
    b.write(0x14, 2);
    assert_eq!(b.read(0x10), 0);
}

#[test]
fn the_way_to_driver_ok_starts_the_device() {
    let mut b = bench();
    b.start();
    assert_eq!(b.read(0x70), READY | DRIVER_OK);
    assert!(b.host.is_running());
    assert_eq!(b.read(0x44), 1);
}

#[test]
fn features_that_were_not_offered_are_not_ok() {
    for (half, bits) in [(0, 1), (0, 1 << 6), (1, 1 << 5 | 1)] {
        let mut b = bench();
        b.write(0x70, ACKNOWLEDGE);
        b.write(0x70, ACKNOWLEDGE | DRIVER);
        b.write(0x24, 1);
        b.write(0x20, 1);
        b.write(0x24, half);
        b.write(0x20, bits);
        b.write(0x70, READY);
        assert_eq!(b.read(0x70), ACKNOWLEDGE | DRIVER, "half {half} bits {bits:#x}");
    }
}

#[test]
fn version_1_is_required() {
    let mut b = bench();
    b.write(0x70, ACKNOWLEDGE);
    b.write(0x70, ACKNOWLEDGE | DRIVER);
    b.write(0x70, READY);
    assert_eq!(b.read(0x70), ACKNOWLEDGE | DRIVER);
}

#[test]
fn status_bits_come_in_order_and_stay() {
    for wrong in [DRIVER, FEATURES_OK, DRIVER_OK, ACKNOWLEDGE | FEATURES_OK] {
        let mut b = bench();
        b.write(0x70, wrong);
        assert_eq!(b.read(0x70) & !ACKNOWLEDGE, 0, "{wrong:#x}");
        assert!(!b.host.is_running());
    }
    let mut b = bench();
    b.start();
    b.write(0x70, ACKNOWLEDGE);
    assert_eq!(b.read(0x70), READY | DRIVER_OK, "bits cannot be cleared one by one");
}

#[test]
fn nothing_can_be_changed_while_the_device_is_active() {
    let mut b = bench();
    b.start();
    let before = *b.device.transport().queue(0).unwrap();
    for (offset, value) in [(0x38, 8), (0x80, 0), (0x84, 1), (0x90, 0), (0xa0, 0), (0x44, 0)] {
        b.write(offset, value);
    }
    b.write(0x24, 0);
    b.write(0x20, 1 << 5);
    assert_eq!(*b.device.transport().queue(0).unwrap(), before);
    assert_eq!(b.device.transport().refused_writes(), 7);
}

#[test]
fn queue_registers_wait_for_features_ok_and_freeze_when_enabled() {
    let mut b = bench();
    b.write(0x38, 8);
    assert_eq!(b.device.transport().queue(0).unwrap().size, 0);
    b.negotiate();
    b.set_up_queue(0);
    b.write(0x38, 8);
    assert_eq!(b.device.transport().queue(0).unwrap().size, 16);
    b.write(0x44, 0);
    b.write(0x38, 8);
    assert_eq!(b.device.transport().queue(0).unwrap().size, 8);
}

#[test]
fn a_kick_before_driver_ok_is_refused_and_after_it_arrives() {
    let mut b = bench();
    b.write(0x50, 0);
    assert_eq!(b.device.transport().refused_writes(), 1);
    b.start();
    b.write(0x50, 0);
    assert_eq!(b.device.transport().refused_writes(), 1);
    b.write(0x50, 1);
    assert_eq!(b.device.transport().refused_writes(), 2, "queue 1 was not set up");
}

#[test]
fn a_device_without_its_queue_or_with_a_bad_one_needs_a_reset() {
    let mut b = bench();
    b.negotiate();
    b.write(0x70, READY | DRIVER_OK);
    assert_eq!(b.read(0x70), READY | DRIVER_OK | NEEDS_RESET);
    assert_eq!(b.read(0x60), 2, "the driver is told by a configuration interrupt");
    assert_eq!(b.line.edges(), 1);

    let mut b = bench();
    b.negotiate();
    b.set_up_queue(0);
    b.write(0x44, 0);
    b.write(0xa4, 0xffff);
    b.write(0x44, 1);
    b.write(0x70, READY | DRIVER_OK);
    assert_eq!(b.read(0x70), READY | DRIVER_OK | NEEDS_RESET);
    assert!(!b.host.is_running());
    b.write(0x70, 0);
    assert_eq!(b.read(0x70), 0);
    b.start();
    assert!(b.host.is_running());
}

#[test]
fn a_host_that_refuses_needs_a_reset() {
    let mut b = bench_on(FakeHost::refusing());
    b.start();
    assert_eq!(b.read(0x70), READY | DRIVER_OK | NEEDS_RESET);
}

#[test]
fn reset_stops_the_device_and_forgets_everything() {
    let mut b = bench();
    b.start();
    b.write(0x70, 0);
    assert!(!b.host.is_running());
    assert_eq!(b.read(0x70), 0);
    assert_eq!(b.read(0x44), 0);
    assert_eq!(*b.device.transport().queue(0).unwrap(), QueueConfig::default());
    b.start();
    assert!(b.host.is_running(), "and it can start again");
}

#[test]
fn a_failed_driver_can_only_reset() {
    let mut b = bench();
    b.write(0x70, ACKNOWLEDGE | FAILED);
    b.write(0x70, ACKNOWLEDGE | FAILED | DRIVER);
    assert_eq!(b.read(0x70), FAILED);
    b.write(0x70, 0);
    assert_eq!(b.read(0x70), 0);
}

#[test]
fn interrupts_are_acknowledged_bit_by_bit() {
    let mut b = bench();
    let interrupt = b.device.transport().interrupt().clone();
    interrupt.used_buffer();
    interrupt.config_changed();
    assert_eq!(b.read(0x60), 3);
    assert_eq!(b.read(0xfc), 1);
    b.write(0x64, 1);
    assert_eq!(b.read(0x60), 2);
    b.write(0x64, u32::MAX);
    assert_eq!(b.read(0x60), 0);
}

#[test]
fn configuration_space_is_read_in_any_width_and_written_by_a_driver() {
    let mut b = bench();
    assert_eq!(b.read(0x100), 0x0403_0201);
    let mut bytes = [0xff; 2];
    b.device.read(0x103, &mut bytes);
    assert_eq!(bytes, [4, 0], "zero beyond the end");
    let mut far = [0xff; 8];
    b.device.read(0xff8, &mut far);
    assert_eq!(far, [0; 8]);
    b.device.write(0x101, &[9]);
    assert_eq!(b.read(0x100), 0x0403_0201, "no driver yet");
    b.write(0x70, ACKNOWLEDGE);
    b.write(0x70, ACKNOWLEDGE | DRIVER);
    b.device.write(0x101, &[9]);
    assert_eq!(b.read(0x100), 0x0403_0901);
}

#[test]
fn registers_answer_aligned_words_only() {
    let mut b = bench();
    for (offset, len) in [(0, 1), (0, 2), (0, 8), (1, 4), (0x52, 2), (0xff, 1)] {
        let mut data = vec![0; len];
        b.device.read(offset, &mut data);
        assert!(data.iter().all(|&byte| byte == 0xff), "{offset:#x} {len}");
        b.device.write(offset, &data);
    }
    assert_eq!(b.read(0x70), 0);
}

#[test]
fn a_paused_device_is_off_its_loop_and_its_driver_sees_nothing_of_it() {
    let mut b = bench();
    b.start();
    b.device.transport_mut().pause();
    assert!(!b.host.is_running());
    assert_eq!(b.read(0x70), READY | DRIVER_OK);
    b.device.transport_mut().resume();
    assert!(b.host.is_running());
    assert_eq!(b.read(0x70), READY | DRIVER_OK);
}

#[test]
fn an_inactive_device_stays_inactive_over_a_pause() {
    let mut b = bench();
    b.negotiate();
    b.device.transport_mut().pause();
    b.device.transport_mut().resume();
    assert!(!b.host.is_running());
    assert_eq!(b.read(0x70), READY);
}

#[test]
fn a_paused_device_can_be_reset_and_does_not_come_back() {
    let mut b = bench();
    b.start();
    b.device.transport_mut().pause();
    b.device.transport_mut().reset();
    b.device.transport_mut().resume();
    assert!(!b.host.is_running());
    assert_eq!(b.read(0x70), 0);
    b.start();
    assert!(b.host.is_running());
}
