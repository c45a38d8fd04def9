//! A small guest with one device, a driver that does what the bytes of an input say, and a device that is held to what
//! it may do.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use devices::bus::BusDevice;
use devices::event::Interest;
use devices::state::{State, StateError};
use devices::test_util::fake_interrupt;
use devices::virtio::device::{DeviceHost, VirtioDevice, Worker};
use devices::virtio::feature;
use devices::virtio::queue::QueueConfig;
use devices::virtio::transport::mmio::MmioTransport;
use devices::virtio::transport::{Transport, status};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

use crate::bytes::Bytes;
use crate::ram::{ALL, HIGH, HIGH_START, LOW, Ram};
use crate::shadow::Shadow;

/// Where queue `i` lies, with room for tables behind it: `QUEUES + i * QUEUE_SPACE`.
const QUEUES: u64 = 0x1000;
const QUEUE_SPACE: u64 = 0x800;
const AVAIL: u64 = 0x200;
const USED: u64 = 0x300;
const TABLE: u64 = 0x400;
/// From here to the end of low RAM, memory is free for buffers.
const BUFFERS: u64 = 0x4000;
/// Entries of each queue.
pub const SIZE: u16 = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Turns of the event loop within which a device must come to rest when nothing new happens.
const PATIENCE: usize = 200;
/// Decisions of one input, so that none takes long.
const STEPS: usize = 32;

/// One buffer of a chain: address, length, whether the device may write.
pub type Buffer = (u64, u32, bool);

/// What is particular about a device.
pub trait Subject {
    /// Makes it.
    fn device(&mut self, input: &mut Bytes<'_>) -> Box<dyn VirtioDevice>;

    /// The driver asks for something that makes sense, more or less.
    fn request(&mut self, rig: &mut Rig, input: &mut Bytes<'_>);

    /// Something happens on the host.
    fn host(&mut self, _input: &mut Bytes<'_>) {}

    /// The host is as it was, so that nothing keeps a request from being answered.
    fn calm(&mut self) {}

    /// A request that must be answered, after a reset.
    fn good(&mut self, rig: &mut Rig);
}

/// Lets `input` decide what the driver of a device does, and the host.
pub fn drive(subject: &mut dyn Subject, input: &[u8]) {
    let mut input = Bytes::new(input);
    let device = subject.device(&mut input);
    let mut rig = Rig::new(device);
    let features = input.u64();
    rig.bring_up(features, &mut Bytes::new(&[]));
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        match input.below(16) {
            0..6 => subject.request(&mut rig, &mut input),
            6 | 7 => subject.host(&mut input),
            8 => rig.any_chain(&mut input),
            9 => rig.any_write(&mut input),
            10 => rig.any_access(&mut input),
            11 => rig.kick(input.u8().into()),
            12 => {
                let features = input.u64();
                rig.bring_up(features, &mut input);
            }
            13 => rig.transport.transport_mut().pause(),
            14 => rig.transport.transport_mut().resume(),
            _ => rig.run(),
        }
    }
    rig.run();
    // Whatever it was, a driver that starts anew finds a device that works.
    subject.calm();
    rig.bring_up(u64::MAX, &mut Bytes::new(&[]));
    assert!(!rig.needs_reset(), "the device does not start again");
    subject.good(&mut rig);
}

/// See the module.
pub struct Rig {
    ram: Ram,
    transport: MmioTransport,
    host: Host,
    shadow: Shadow,
    count: usize,
    /// Of each queue, the next descriptor and the next index of its available ring.
    next: Vec<(u16, u16)>,
    next_buffer: u64,
}

impl Rig {
    /// A guest with `device`, which its driver has not found yet.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let ram = Ram::of_thread();
        for (start, len) in ALL {
            ram.write(start, &vec![0; len as usize]);
        }
        let host = Host::default();
        let count = device.queue_sizes().len();
        let transport = in_front_of(device, &host, &ram);
        let shadow = Shadow::new(&ram);
        let next = vec![(0, 0); count];
        Self { ram, transport, host, shadow, count, next, next_buffer: BUFFERS }
    }

    /// What a device needs to go on from here. This one does nothing any more.
    pub fn save(&mut self) -> State {
        self.transport.transport_mut().pause();
        self.transport.save().expect("a device at rest")
    }

    /// Goes on with `device` and what `state` says; `is_true`: what another such device saved just now.
    ///
    /// # Errors
    /// What is wrong with the state.
    pub fn go_on_with(
        &mut self,
        device: Box<dyn VirtioDevice>,
        state: &State,
        is_true: bool,
    ) -> Result<(), StateError> {
        self.host = Host::default();
        self.transport = in_front_of(device, &self.host, &self.ram);
        let restored = self.transport.restore(state);
        self.transport.transport_mut().resume();
        if !is_true {
            self.watch_over();
            self.shadow.doubt();
        }
        restored
    }

    /// Resets the device and starts it as a driver would, with those of `features` that are offered; where `odd` has
    /// bytes left, with a queue that is not as it should be.
    pub fn bring_up(&mut self, features: u64, odd: &mut Bytes<'_>) {
        self.reset();
        self.next.fill((0, 0));
        self.next_buffer = BUFFERS;
        for queue in 0..self.count as u64 {
            for ring in [AVAIL, USED] {
                self.write(QUEUES + queue * QUEUE_SPACE + ring, &[0; 4]);
            }
        }
        let features =
            features & self.transport.transport().offered_features() | feature::VERSION_1;
        for (register, value) in [
            (0x70, status::ACKNOWLEDGE),
            (0x70, status::ACKNOWLEDGE | status::DRIVER),
            (0x24, 0),
            (0x20, (features & 0xffff_ffff) as u32),
            (0x24, 1),
            (0x20, (features >> 32) as u32),
            (0x70, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK),
        ] {
            self.set(register, value);
        }
        let mut configs: Vec<_> = (0..self.count as u64).map(config).collect();
        if !odd.is_empty() && odd.one_in(4) {
            let which = odd.below(self.count);
            make_odd(&mut configs[which], odd);
        }
        for (index, config) in (0..).zip(&configs) {
            self.set(0x30, index);
            self.set(0x38, config.size.into());
            for (register, address) in
                [(0x80, config.descriptors), (0x90, config.driver), (0xa0, config.device)]
            {
                self.set(register, (address & 0xffff_ffff) as u32);
                self.set(register + 4, (address >> 32) as u32);
            }
            self.set(0x44, config.ready.into());
        }
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.set(0x70, ready);
        self.watch_over();
    }

    /// Resets the device.
    pub fn reset(&mut self) {
        self.set(0x70, 0);
        assert_eq!(self.get(0x70), 0, "a reset device has a status");
        assert!(!self.host.is_running(), "a reset device runs");
        self.shadow.check_used(&self.ram);
        self.shadow.check_memory(&self.ram);
        self.shadow.start(&self.ram, &[]);
    }

    /// Whether the device has given up.
    pub fn needs_reset(&mut self) -> bool {
        self.get(0x70) & status::NEEDS_RESET != 0
    }

    /// Delivers all events until nothing happens any more.
    pub fn run(&mut self) {
        self.shadow.offer(&self.ram);
        assert!((0..PATIENCE).any(|_| !self.host.turn()), "the device does not come to rest");
        self.shadow.check_used(&self.ram);
    }

    /// Memory of the driver's own, not used for something else recently.
    pub fn buffer(&mut self, len: u64) -> u64 {
        let len = len.min(LOW - BUFFERS);
        if self.next_buffer + len > LOW {
            self.next_buffer = BUFFERS;
        }
        let start = self.next_buffer;
        self.next_buffer += len;
        start
    }

    /// The driver writes to memory; what is none stays away.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        if self.ram.write(address, bytes) {
            self.shadow.written(address, bytes);
        }
    }

    /// The driver reads memory.
    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        self.ram.array(address).expect("RAM")
    }

    /// A buffer with `bytes` in it, for the device to read.
    pub fn sent(&mut self, bytes: &[u8]) -> Buffer {
        let address = self.buffer(bytes.len() as u64);
        self.write(address, bytes);
        (address, bytes.len() as u32, false)
    }

    /// A buffer for the device to write.
    pub fn room(&mut self, len: u32) -> Buffer {
        (self.buffer(len.into()), len, true)
    }

    /// Offers a chain and kicks; where `input` says so, through a table, or spoiled a little.
    pub fn offer(&mut self, queue: usize, buffers: &[Buffer], input: &mut Bytes<'_>) {
        let manner = input.u8();
        let base = QUEUES + queue as u64 * QUEUE_SPACE;
        let count = buffers.len().min(usize::from(SIZE));
        let is_table = manner & 7 == 7;
        let head = self.next[queue].0 % SIZE;
        for (n, &(address, len, write)) in (0_u16..).zip(&buffers[..count]) {
            let has_next = usize::from(n) + 1 < count;
            let flags = if write { WRITE } else { 0 } | if has_next { NEXT } else { 0 };
            let (at, next) = if is_table {
                (base + TABLE + 16 * u64::from(n), n + 1)
            } else {
                (base + 16 * u64::from((head + n) % SIZE), (head + n + 1) % SIZE)
            };
            self.describe(at, (address, len, flags, next));
        }
        let used = if is_table { 1 } else { count as u16 };
        if is_table {
            let len = 16 * count as u32;
            self.describe(base + 16 * u64::from(head), (base + TABLE, len, INDIRECT, 0));
        }
        self.next[queue].0 = (head + used) % SIZE;
        if manner & 0xf8 == 0xf8 {
            // One field of one descriptor is another.
            let at = base + 16 * u64::from(head) + u64::from(input.u8() % 16);
            let value = input.u8();
            self.write(at, &[value]);
        }
        self.make_available(queue, head);
        if manner & 0x18 != 0x08 {
            self.kick(queue as u32);
            self.run();
        }
    }

    /// What the device has handed back on `queue`: index of the used ring, and the length of the last one.
    pub fn used(&self, queue: usize) -> (u16, u32) {
        let ring = QUEUES + queue as u64 * QUEUE_SPACE + USED;
        let index = u16::from_le_bytes(self.read(ring + 2));
        let slot = u64::from(index.wrapping_sub(1) % SIZE);
        (index, u32::from_le_bytes(self.read(ring + 4 + 8 * slot + 4)))
    }

    /// Offers a chain that must be answered now; how much was written.
    pub fn must_answer(&mut self, queue: usize, buffers: &[Buffer]) -> u32 {
        let (before, _) = self.used(queue);
        self.offer(queue, buffers, &mut Bytes::new(&[]));
        let (after, len) = self.used(queue);
        assert!(!self.needs_reset(), "a good request is a reason to give up");
        assert_eq!(after, before.wrapping_add(1), "a good request was not answered");
        len
    }

    /// Kicks a queue, there or not.
    pub fn kick(&mut self, queue: u32) {
        self.set(0x50, queue);
    }

    /// Writes a register.
    pub fn set(&mut self, register: u64, value: u32) {
        assert_eq!(self.transport.write(register, &value.to_le_bytes()), None);
    }

    /// Reads a register.
    pub fn get(&mut self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Any access of the window, in any width.
    pub fn any_access(&mut self, input: &mut Bytes<'_>) {
        const REGISTERS: [u64; 20] = [
            0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0,
            0xa4, 0xfc, 0x100, 0x104, 0x108, 0x10c,
        ];
        let kind = input.u8();
        let offset = match kind & 3 {
            0 => u64::from(input.u16() & 0xfff),
            1 => REGISTERS[input.below(REGISTERS.len())] + u64::from(input.u8() & 3),
            _ => REGISTERS[input.below(REGISTERS.len())],
        };
        let width = if kind & 4 == 0 { 4 } else { 1 << (kind >> 3 & 3) };
        let mut bytes = [0; 8];
        if kind & 0x20 != 0 {
            return self.transport.read(offset, &mut bytes[..width]);
        }
        let value = match kind >> 6 {
            0 => u64::from(input.u8()),
            1 => 1 << (input.u8() & 63),
            2 => u64::from(input.u32()),
            _ => input.u64(),
        };
        if offset == 0x70 {
            // What the device did so far is judged by the queues that it had so far.
            self.shadow.check_used(&self.ram);
            self.shadow.check_memory(&self.ram);
        }
        let was_active = self.host.is_running();
        bytes = value.to_le_bytes();
        // Some of these ask for something of the machine, which is nobody's here.
        let _ = self.transport.write(offset, &bytes[..width]);
        if was_active != self.host.is_running() {
            self.watch_over();
        }
    }

    /// Any chain of any buffers.
    fn any_chain(&mut self, input: &mut Bytes<'_>) {
        let queue = input.below(self.count);
        let count = 1 + input.below(6) as u16;
        let base = QUEUES + queue as u64 * QUEUE_SPACE;
        let table = if input.one_in(4) { base + TABLE } else { base };
        let head = u16::from(input.u8()) % SIZE;
        let mut index = head;
        for _ in 0..count {
            let (address, len) = (any_address(input), any_len(input));
            let flags = u16::from(input.u8() & 7);
            let next = if input.one_in(8) { input.u16() } else { (index + 1) % SIZE };
            self.describe(table + 16 * u64::from(index), (address, len, flags, next));
            index = next % SIZE;
        }
        self.make_available(queue, head);
        self.kick(queue as u32);
        self.run();
    }

    /// Any bytes anywhere, mostly where they matter.
    fn any_write(&mut self, input: &mut Bytes<'_>) {
        let queue = QUEUES + input.below(self.count) as u64 * QUEUE_SPACE;
        let value = input.u16().to_le_bytes();
        match input.below(5) {
            0 => self.write(queue + AVAIL + 2, &value),
            1 => self.write(queue + AVAIL, &value),
            2 => self.write(queue + AVAIL + 4 + u64::from(input.u8() % 34), &value),
            3 => self.write(queue + u64::from(input.u8()), &value),
            _ => {
                let address = any_address(input);
                let bytes = input.some();
                self.write(address, bytes);
            }
        }
    }

    fn make_available(&mut self, queue: usize, head: u16) {
        let ring = QUEUES + queue as u64 * QUEUE_SPACE + AVAIL;
        let index = self.next[queue].1;
        self.write(ring + 4 + 2 * u64::from(index % SIZE), &head.to_le_bytes());
        self.next[queue].1 = index.wrapping_add(1);
        self.write(ring + 2, &index.wrapping_add(1).to_le_bytes());
    }

    fn describe(&mut self, at: u64, (address, len, flags, next): (u64, u32, u16, u16)) {
        let fields = [
            &address.to_le_bytes()[..],
            &len.to_le_bytes(),
            &flags.to_le_bytes(),
            &next.to_le_bytes(),
        ];
        self.write(at, &fields.concat());
    }

    /// The device may have just started, or stopped: from now on it is judged by the queues that it has.
    fn watch_over(&mut self) {
        let transport = self.transport.transport();
        let queue = |index| transport.queue(index).copied().unwrap_or_default();
        let is_active = self.host.is_running();
        let configs: Vec<_> = (0..self.count as u32).filter(|_| is_active).map(queue).collect();
        self.shadow.start(&self.ram, &configs);
    }
}

fn in_front_of(device: Box<dyn VirtioDevice>, host: &Host, ram: &Ram) -> MmioTransport {
    let (name, memory) = ("fuzz".to_owned(), ram.memory().clone());
    let interrupt = fake_interrupt().0;
    let host = Box::new(host.clone());
    MmioTransport::new(Transport::new(name, device, host, memory, interrupt))
}

fn config(queue: u64) -> QueueConfig {
    let base = QUEUES + queue * QUEUE_SPACE;
    QueueConfig {
        size: SIZE,
        ready: true,
        descriptors: base,
        driver: base + AVAIL,
        device: base + USED,
    }
}

fn make_odd(config: &mut QueueConfig, input: &mut Bytes<'_>) {
    match input.below(6) {
        0 => config.size = input.u16(),
        1 => config.size = 1 << input.below(16),
        2 => config.ready = false,
        3 => config.descriptors = any_address(input),
        4 => config.driver = any_address(input),
        _ => config.device = any_address(input),
    }
}

/// Where a hostile driver would look for trouble.
fn any_address(input: &mut Bytes<'_>) -> u64 {
    let kind = input.u8();
    let near = u64::from(input.u8());
    match kind & 7 {
        0 => LOW.wrapping_sub(near),
        1 => HIGH_START.wrapping_sub(near).wrapping_add(8),
        2 => HIGH_START + HIGH - near.min(HIGH),
        3 => QUEUES + 16 * near,
        4 => u64::MAX - near,
        5 => input.u64(),
        _ => BUFFERS + 64 * near,
    }
}

fn any_len(input: &mut Bytes<'_>) -> u32 {
    const COMMON: [u32; 12] = [0, 1, 4, 8, 12, 16, 44, 512, 4096, 0x1_0000, 0x8000_0000, u32::MAX];
    match input.u8() & 3 {
        0 => input.u8().into(),
        1 => input.u16().into(),
        2 => COMMON[input.below(COMMON.len())],
        _ => input.u32(),
    }
}

/// An event loop of one device.
#[derive(Clone, Default)]
struct Host(Arc<Mutex<Option<Served>>>);

struct Served {
    worker: Worker,
    epoll: Epoll,
}

impl Host {
    fn is_running(&self) -> bool {
        self.lock().is_some()
    }

    /// Delivers what is ready; `false` when nothing is.
    fn turn(&self) -> bool {
        let mut served = self.lock();
        let Some(Served { worker, epoll }) = &mut *served else { return false };
        if worker.has_failed() {
            return false;
        }
        let mut events = [EpollEvent::default(); 16];
        let count = epoll.wait(0, &mut events).expect("an event loop");
        for event in &events[..count] {
            if !worker.handle(event.data() as u32) {
                return false;
            }
            for (data, interest) in worker.late_interests() {
                watch(epoll, data, interest);
            }
        }
        count > 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Served>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceHost for Host {
    fn start(&self, worker: Worker) -> io::Result<()> {
        let epoll = Epoll::new()?;
        for (data, interest) in worker.interests() {
            watch(&epoll, data, interest);
        }
        *self.lock() = Some(Served { worker, epoll });
        Ok(())
    }

    fn stop(&self) -> Option<Worker> {
        self.lock().take().map(|served| served.worker)
    }
}

fn watch(epoll: &Epoll, data: u32, interest: Interest) {
    let event = EpollEvent::new(interest.events, u64::from(data));
    epoll.ctl(ControlOperation::Add, interest.fd, event).expect("a descriptor that can be watched");
}
