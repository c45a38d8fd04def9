//! A virtio driver (virtio 1.3, MMIO transport) that works through the puppet, so that a test decides about
//! every register write and every byte of a ring. It checks nothing and corrects nothing.

use std::thread;
use std::time::{Duration, Instant};

use crate::patience;
use crate::puppet::{FREE_MEMORY, Puppet};

/// First window of virtio devices, and the distance from each to the next.
pub const WINDOWS: u32 = 0xc000_1000;
/// Bytes of address space per device.
pub const WINDOW: u32 = 0x1000;
/// "virt", what each window starts with.
pub const MAGIC: u32 = 0x7472_6976;

/// Registers of a window (virtio 1.3, 4.2.2).
pub mod register {
    /// [`super::MAGIC`].
    pub const MAGIC: u32 = 0x00;
    /// Version of the interface, 2.
    pub const VERSION: u32 = 0x04;
    /// Kind of device.
    pub const DEVICE_ID: u32 = 0x08;
    /// Features on offer, 32 bits of them.
    pub const DEVICE_FEATURES: u32 = 0x10;
    /// Which 32 bits.
    pub const DEVICE_FEATURES_SELECT: u32 = 0x14;
    /// Features accepted.
    pub const DRIVER_FEATURES: u32 = 0x20;
    /// Which 32 bits.
    pub const DRIVER_FEATURES_SELECT: u32 = 0x24;
    /// Queue that the queue registers mean.
    pub const QUEUE_SELECT: u32 = 0x30;
    /// Largest size of it.
    pub const QUEUE_SIZE_MAX: u32 = 0x34;
    /// Its size.
    pub const QUEUE_SIZE: u32 = 0x38;
    /// Whether it is enabled.
    pub const QUEUE_READY: u32 = 0x44;
    /// Kick.
    pub const QUEUE_NOTIFY: u32 = 0x50;
    /// Why there was an interrupt.
    pub const INTERRUPT_STATUS: u32 = 0x60;
    /// Takes note of it.
    pub const INTERRUPT_ACK: u32 = 0x64;
    /// Status of the device.
    pub const STATUS: u32 = 0x70;
    /// Address of the descriptor table, lower half; the upper one follows.
    pub const QUEUE_DESCRIPTORS: u32 = 0x80;
    /// Address of the available ring.
    pub const QUEUE_DRIVER: u32 = 0x90;
    /// Address of the used ring.
    pub const QUEUE_DEVICE: u32 = 0xa0;
    /// Generation of the configuration space.
    pub const CONFIG_GENERATION: u32 = 0xfc;
    /// Start of the configuration space.
    pub const CONFIG: u32 = 0x100;
}

/// Bits of the status register (virtio 1.3, 2.1).
pub mod status {
    /// The driver noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// It can drive it.
    pub const DRIVER: u32 = 2;
    /// It is ready.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// The device gave up until it is reset.
    pub const NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
}

/// Features of every device (virtio 1.3, 6).
pub mod feature {
    /// Tables of descriptors.
    pub const INDIRECT: u64 = 1 << 28;
    /// Indices at which to notify.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy driver.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Kinds of devices (virtio 1.3, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Network card.
    Net = 1,
    /// Disk.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy source.
    Rng = 4,
    /// Sockets.
    Vsock = 19,
    /// Memory balloon.
    Balloon = 5,
}

/// A descriptor as it lies in a table (virtio 1.3, 2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Where the buffer is.
    pub address: u64,
    /// How long it is.
    pub len: u32,
    /// [`Self::NEXT`], [`Self::WRITE`], [`Self::INDIRECT`].
    pub flags: u16,
    /// The next one of the chain.
    pub next: u16,
}

impl Descriptor {
    /// The chain goes on.
    pub const NEXT: u16 = 1;
    /// The device writes.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;

    /// A buffer for the device to read, the last of its chain.
    #[must_use]
    pub fn readable(address: u32, len: u32) -> Self {
        Self { address: address.into(), len, flags: 0, next: 0 }
    }

    /// A buffer for the device to write, the last of its chain.
    #[must_use]
    pub fn writable(address: u32, len: u32) -> Self {
        Self { flags: Self::WRITE, ..Self::readable(address, len) }
    }

    /// A table of `count` descriptors.
    #[must_use]
    pub fn indirect(address: u32, count: u32) -> Self {
        Self { flags: Self::INDIRECT, ..Self::readable(address, count * 16) }
    }

    /// The same, followed by descriptor `next`.
    #[must_use]
    pub fn then(self, next: u16) -> Self {
        Self { flags: self.flags | Self::NEXT, next, ..self }
    }

    /// The same, followed by descriptor `next` if `condition` holds.
    #[must_use]
    pub fn then_if(self, condition: bool, next: u16) -> Self {
        if condition { self.then(next) } else { self }
    }

    /// The bytes in memory.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A device and the way to it.
#[derive(Clone, Copy)]
pub struct Device<'p> {
    puppet: &'p Puppet,
    /// Where its window is.
    pub window: u32,
}

impl<'p> Device<'p> {
    /// The first device of a kind.
    #[must_use]
    #[track_caller]
    pub fn find(puppet: &'p Puppet, kind: Kind) -> Self {
        Self::all(puppet)
            .into_iter()
            .find(|device| device.get(register::DEVICE_ID) == kind as u32)
            .unwrap_or_else(|| panic!("the guest finds no {kind:?} device"))
    }

    /// All devices, in the order of their windows.
    #[must_use]
    pub fn all(puppet: &'p Puppet) -> Vec<Self> {
        let windows = (WINDOWS..).step_by(WINDOW as usize).map(|window| Self { puppet, window });
        windows.take_while(|device| device.get(register::MAGIC) == MAGIC).collect()
    }

    /// The guest that drives it.
    #[must_use]
    pub fn puppet(&self) -> &'p Puppet {
        self.puppet
    }

    /// Reads a register.
    #[must_use]
    #[track_caller]
    pub fn get(&self, register: u32) -> u32 {
        self.puppet.read(4, self.window + register)
    }

    /// Writes a register.
    pub fn set(&self, register: u32, value: u32) {
        self.puppet.write(4, self.window + register, value);
    }

    /// All features on offer.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.set(register::DEVICE_FEATURES_SELECT, 1);
        let high = self.get(register::DEVICE_FEATURES);
        self.set(register::DEVICE_FEATURES_SELECT, 0);
        u64::from(high) << 32 | u64::from(self.get(register::DEVICE_FEATURES))
    }

    /// Resets the device.
    pub fn reset(&self) {
        self.set(register::STATUS, 0);
    }

    /// Accepts features.
    pub fn accept(&self, features: u64) {
        self.set(register::DRIVER_FEATURES_SELECT, 0);
        self.set(register::DRIVER_FEATURES, features as u32);
        self.set(register::DRIVER_FEATURES_SELECT, 1);
        self.set(register::DRIVER_FEATURES, (features >> 32) as u32);
    }

    /// From reset to the point where queues are set up, with `features` and version 1.
    #[track_caller]
    pub fn negotiate(&self, features: u64) {
        use status::{ACKNOWLEDGE, DRIVER, FEATURES_OK};
        self.reset();
        self.set(register::STATUS, ACKNOWLEDGE);
        self.set(register::STATUS, ACKNOWLEDGE | DRIVER);
        self.accept(features | feature::VERSION_1);
        self.set(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        let status = self.get(register::STATUS);
        assert_eq!(status, ACKNOWLEDGE | DRIVER | FEATURES_OK, "features {features:#x} refused");
    }

    /// Declares the driver ready.
    pub fn driver_ok(&self) {
        use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
        self.set(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Whether the device asks for a reset.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.get(register::STATUS) & status::NEEDS_RESET != 0
    }

    /// Enables queue `index`, its rings in their usual place and empty.
    #[must_use]
    pub fn queue(&self, index: u16) -> Queue<'p> {
        let queue = Queue::new(*self, index);
        queue.clear();
        queue.register();
        queue
    }

    /// Kicks a queue.
    pub fn kick(&self, queue: u16) {
        self.set(register::QUEUE_NOTIFY, queue.into());
    }
}

/// What came of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is on the used ring, with this head and this many bytes written.
    Used(u32, u32),
    /// The device wants to be reset.
    NeedsReset,
}

/// A queue of [`Self::SIZE`] descriptors.
pub struct Queue<'p> {
    device: Device<'p>,
    index: u16,
    /// Where the rings are; a test may put other addresses before [`Self::register`].
    pub areas: Areas,
    /// Its number of descriptors.
    pub size: u16,
    offered: u16,
    seen: u16,
}

/// The three parts of a queue in memory.
#[derive(Debug, Clone, Copy)]
pub struct Areas {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub driver: u64,
    /// Used ring.
    pub device: u64,
}

impl<'p> Queue<'p> {
    /// Number of descriptors unless a test wants another one.
    pub const SIZE: u16 = 8;

    /// Queue `index` of `device`, of which the device knows nothing yet.
    #[must_use]
    pub fn new(device: Device<'p>, index: u16) -> Self {
        let start = u64::from(FREE_MEMORY) + u64::from(index) * 0x4000;
        let areas = Areas { descriptors: start, driver: start + 0x1000, device: start + 0x2000 };
        Self { device, index, areas, size: Self::SIZE, offered: 0, seen: 0 }
    }

    /// The same for a device that knows it: the driver goes on where memory says that it stands.
    #[must_use]
    pub fn go_on(device: Device<'p>, index: u16) -> Self {
        let mut queue = Self::new(device, index);
        let index = |area: u64| device.puppet.read(2, area as u32 + 2) as u16;
        queue.offered = index(queue.areas.driver);
        queue.seen = index(queue.areas.device);
        queue
    }

    /// Memory for buffer `number` of this queue, 4 KiB each.
    #[must_use]
    pub fn buffer(&self, number: u32) -> u32 {
        FREE_MEMORY + 0x10_0000 + u32::from(self.index) * 0x1_0000 + number * 0x1000
    }

    /// Empties the rings.
    pub fn clear(&self) {
        self.device.puppet.write(4, self.areas.driver as u32, 0);
        self.device.puppet.write(4, self.areas.device as u32, 0);
    }

    /// Tells the device about the queue and enables it.
    pub fn register(&self) {
        let device = &self.device;
        device.set(register::QUEUE_SELECT, self.index.into());
        device.set(register::QUEUE_SIZE, self.size.into());
        for (register, address) in [
            (register::QUEUE_DESCRIPTORS, self.areas.descriptors),
            (register::QUEUE_DRIVER, self.areas.driver),
            (register::QUEUE_DEVICE, self.areas.device),
        ] {
            device.set(register, address as u32);
            device.set(register + 4, (address >> 32) as u32);
        }
        device.set(register::QUEUE_READY, 1);
    }

    /// Puts descriptors into the table, from index 0 on.
    pub fn describe(&self, descriptors: &[Descriptor]) {
        self.describe_at(self.areas.descriptors as u32, descriptors);
    }

    /// Puts descriptors into any table.
    pub fn describe_at(&self, table: u32, descriptors: &[Descriptor]) {
        let bytes: Vec<u8> = descriptors.iter().flat_map(|d| d.bytes()).collect();
        self.device.puppet.store(table, &bytes);
    }

    /// Puts `head` on the available ring.
    pub fn offer(&mut self, head: u16) {
        let slot = u32::from(self.offered % self.size);
        let ring = self.areas.driver as u32;
        self.device.puppet.write(2, ring + 4 + 2 * slot, head.into());
        self.offered = self.offered.wrapping_add(1);
        self.device.puppet.write(2, ring + 2, self.offered.into());
    }

    /// Writes any index to the available ring.
    pub fn offer_index(&mut self, index: u16) {
        self.offered = index;
        self.device.puppet.write(2, self.areas.driver as u32 + 2, index.into());
    }

    /// Kicks the queue.
    pub fn kick(&self) {
        self.device.kick(self.index);
    }

    /// Waits for the next answer.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let deadline = Instant::now() + patience();
        let ring = self.areas.device as u32;
        loop {
            // Index first: an answer counts even if the device gave up after it.
            let used = self.device.puppet.read(2, ring + 2) as u16;
            if used != self.seen {
                let slot = u32::from(self.seen % self.size);
                self.seen = self.seen.wrapping_add(1);
                let element = self.device.puppet.load(ring + 4 + 8 * slot, 8);
                let [a, b, c, d, e, f, g, h] = element[..] else { panic!("eight bytes") };
                let (head, len) = ([a, b, c, d], [e, f, g, h]);
                return Answer::Used(u32::from_le_bytes(head), u32::from_le_bytes(len));
            }
            if self.device.needs_reset() {
                return Answer::NeedsReset;
            }
            assert!(
                Instant::now() < deadline,
                "queue {}: no answer and no word of a failure",
                self.index
            );
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Offers one chain of `descriptors` from index 0 on, and waits for what comes of it.
    #[track_caller]
    pub fn request(&mut self, descriptors: &[Descriptor]) -> Answer {
        self.describe(descriptors);
        self.offer(0);
        self.kick();
        self.answer()
    }

    /// How many answers the device has given so far, as the ring says.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.device.puppet.read(2, self.areas.device as u32 + 2) as u16
    }
}
