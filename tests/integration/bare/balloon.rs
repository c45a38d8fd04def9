//! The balloon: memory that the guest gives away is the host's again, whatever the guest says it is.

use harness::puppet::{FREE_MEMORY, Puppet};
use harness::virtio::{Answer, Descriptor, Device, Kind, register};
use harness::{Need, Scratch, Vmm, artifacts};

use super::subject::Subject;

crate::suite::tests! { "bare::balloon" needs &[Need::Kvm];
    configuration,
    inflating_returns_memory_to_the_host,
    reporting_returns_memory_to_the_host,
    pages_that_are_not_the_guests_are_left_alone,
}

/// Feature bits (virtio 1.3, 5.5.3).
const STATS_VQ: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const FREE_PAGE_HINT: u64 = 1 << 3;
const PAGE_REPORTING: u64 = 1 << 5;

const MIB: u32 = 1 << 20;
const PAGE: u32 = 4096;
/// All memory of the guest.
const RAM: u32 = 160 * MIB;
/// Memory that a disk fills.
const FILLED: std::ops::Range<u32> = 64 * MIB..128 * MIB;

fn configuration() {
    let with = |balloon: &str| {
        let vmm = Vmm::puppet("").args(["--rng", "off", "--balloon", balloon]);
        Puppet::start(vmm)
    };
    let ours = STATS_VQ | DEFLATE_ON_OOM | FREE_PAGE_HINT | PAGE_REPORTING;
    let puppet = with("16M,deflate-on-oom,stats=1h,reporting,hinting");
    let device = Device::find(&puppet, Kind::Balloon);
    assert_eq!(device.offered() & ours, ours);
    assert_eq!(device.get(register::CONFIG), 16 << 8, "pages of 4 KiB");
    device.negotiate(0);
    device.set(register::CONFIG + 4, 7);
    device.set(register::CONFIG, 7);
    assert_eq!((device.get(register::CONFIG), device.get(register::CONFIG + 4)), (16 << 8, 7));
    puppet.finish();
    let puppet = with("1M");
    assert_eq!(Device::find(&puppet, Kind::Balloon).offered() & ours, 0);
    puppet.finish();
}

/// A guest with [`FILLED`] holding what it has read from a disk.
struct FullGuest {
    puppet: Puppet,
    _scratch: Scratch,
}

/// Where the numbers of all pages of [`FILLED`] are.
const NUMBERS: u32 = FREE_MEMORY + 4 * MIB;

impl FullGuest {
    fn new() -> Self {
        let scratch = Scratch::new();
        let pages = FILLED.step_by(PAGE as usize).map(|address| address / PAGE);
        let mut contents: Vec<u8> = pages.flat_map(u32::to_le_bytes).collect();
        let numbers = u32::try_from(contents.len()).unwrap();
        contents.resize(contents.len() + FILLED.len(), 0x5a);
        let disk = scratch.file("disk", contents);
        let vmm = Vmm::new().kernel(artifacts::puppet()).args([
            "--memory",
            &format!("{}M", RAM / MIB),
            "--cmdline",
            "",
        ]);
        let vmm = vmm.args(["--rng", "off", "--balloon", "0,reporting"]).disk(disk, ",readonly");
        let puppet = Puppet::start(vmm);
        let device = Device::find(&puppet, Kind::Block);
        let mut queue = Subject::Block.set_up(&device, 0);
        Subject::Block.fill_buffers(&puppet, &queue);
        puppet.store(queue.buffer(0) + 8, &[0; 8]);
        let chain = [
            Descriptor::readable(queue.buffer(0), 16).then(1),
            Descriptor::writable(NUMBERS, numbers).then(2),
            Descriptor::writable(FILLED.start, FILLED.end - FILLED.start).then(3),
            Descriptor::writable(queue.buffer(2), 1),
        ];
        let all = numbers + (FILLED.end - FILLED.start) + 1;
        assert_eq!(queue.request(&chain), Answer::Used(0, all));
        assert_eq!(puppet.load(queue.buffer(2), 1), [0], "status");
        device.reset();
        Self { puppet, _scratch: scratch }
    }

    /// The host's memory in use for the guest.
    fn in_use(&self) -> u64 {
        self.puppet.with_machine(|machine| machine.guest_memory(RAM.into()))
    }

    #[track_caller]
    fn expect_returned(self, before: u64) {
        let after = self.in_use();
        let asked = u64::from(FILLED.end - FILLED.start);
        assert!(before >= asked, "{before} bytes in use when all was filled");
        let returned = before.saturating_sub(after);
        assert!(returned >= asked / 10 * 9, "{returned} of {asked} bytes came back");
        // The guest has zeroes where it looks again, and everything else as it was.
        assert_eq!(self.puppet.load(FILLED.start, 8), [0; 8]);
        assert_eq!(self.puppet.load(FILLED.end - 8, 8), [0; 8]);
        assert_eq!(self.puppet.load(NUMBERS, 4), (FILLED.start / PAGE).to_le_bytes());
        self.puppet.finish();
    }
}

fn inflating_returns_memory_to_the_host() {
    /// As many page numbers as one request may have.
    const AT_A_TIME: u32 = 1024;
    let guest = FullGuest::new();
    let device = Device::find(&guest.puppet, Kind::Balloon);
    let mut inflate = Subject::Balloon.set_up(&device, 0);
    let before = guest.in_use();
    for request in 0..(FILLED.end - FILLED.start) / PAGE / AT_A_TIME {
        let numbers = NUMBERS + request * 4 * AT_A_TIME;
        let chain = [Descriptor::readable(numbers, 4 * AT_A_TIME)];
        assert_eq!(inflate.request(&chain), Answer::Used(0, 0));
    }
    guest.expect_returned(before);
}

fn reporting_returns_memory_to_the_host() {
    let guest = FullGuest::new();
    let device = Device::find(&guest.puppet, Kind::Balloon);
    device.negotiate(PAGE_REPORTING);
    let (_inflate, _deflate) = (device.queue(0), device.queue(1));
    let mut reports = device.queue(2);
    device.driver_ok();
    let before = guest.in_use();
    let half = (FILLED.end - FILLED.start) / 2;
    let chain = [
        Descriptor::writable(FILLED.start + half, half).then(1),
        Descriptor::writable(FILLED.start, half),
    ];
    assert_eq!(reports.request(&chain), Answer::Used(0, 0));
    guest.expect_returned(before);
}

fn pages_that_are_not_the_guests_are_left_alone() {
    Subject::Balloon.with_device(|device| {
        let puppet = device.puppet();
        let mut inflate = Subject::Balloon.set_up(device, 0);
        let numbers = inflate.buffer(0);
        // Beyond RAM, the windows of devices, the interrupt controllers, the end of what can be named.
        for page in [0x2000, 0x2001, 0xc_0001, 0xf_ec00, 0xf_ee00, 0x10_0000, u32::MAX] {
            puppet.write(4, numbers, page);
            let chain = [Descriptor::readable(numbers, 4)];
            assert_eq!(inflate.request(&chain), Answer::Used(0, 0), "page {page:#x}");
        }
        // The rings themselves: the guest's own loss, and nobody else's.
        let ring = u32::try_from(inflate.areas.descriptors).unwrap();
        puppet.write(4, numbers, ring / PAGE);
        let chain = [Descriptor::readable(numbers, 4)];
        assert_eq!(inflate.request(&chain), Answer::Used(0, 0));
        assert_eq!(puppet.load(ring, 16), [0; 16]);
        Subject::Balloon.good_request(device);
    });
}
