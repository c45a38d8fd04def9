//! The balloon: pages that there are not, pages that are in use, numbers and commands that make no sense. A guest may
//! give away any of its memory, the rings included; what it then finds there is its own business.

use harness::virtio::{Answer, Descriptor, Device, Queue, register};

use super::{Case, Named, Verdict};
use crate::bare::subject::Subject;

const STATS_VQ: u64 = 1 << 1;
const FREE_PAGE_HINT: u64 = 1 << 3;
const PAGE_REPORTING: u64 = 1 << 5;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;

/// Page numbers, and how many bytes of them are sent.
const PAGES: &[Named<(&[u32], u32)>] = &[
    ("the_first_page_beyond_memory", (&[0x2000], 4)),
    ("a_page_of_the_hole", (&[0xd_0000], 4)),
    ("a_page_of_registers", (&[0xc_0001], 4)),
    ("the_last_page_of_all", (&[u32::MAX], 4)),
    ("the_same_page_often", (&[0x1fff; 8], 32)),
    ("pages_in_and_out_of_memory", (&[0x1fff, 0x2000, 0x1ffe, u32::MAX], 16)),
    ("one_byte", (&[0x1fff], 1)),
    ("three_bytes", (&[0x1fff], 3)),
    ("a_page_and_a_byte", (&[0x1fff, 0x1ffe], 5)),
    ("a_megabyte_of_page_numbers", (&[0x1fff], 1 << 20)),
    ("its_own_descriptors", (&[0x200], 4)),
    ("its_own_available_ring", (&[0x201], 4)),
    ("its_own_used_ring", (&[0x202], 4)),
    ("the_boot_tables", (&[7, 8, 9], 12)),
];

/// Ranges that a driver reports as free: address and length.
const REPORTS: &[Named<(u32, u32)>] = &[
    ("a_byte", (0x80_0000, 1)),
    ("less_than_a_page", (0x80_0000, 4095)),
    ("across_a_page", (0x80_0800, 4096)),
    ("no_whole_page", (0x80_0001, 4097)),
    ("16_mib", (0x80_0000, 16 << 20)),
    ("its_own_used_ring", (0x21_2000, 4096)),
    ("its_own_descriptors", (0x21_0000, 4096)),
    ("the_last_page", (0x1ff_f000, 4096)),
];

/// Statistics: bytes as they are.
const NUMBERS: &[Named<&[u8]>] = &[
    ("one_byte", &[0]),
    ("a_tag_alone", &[4, 0]),
    ("nine_bytes", &[4, 0, 1, 2, 3, 4, 5, 6, 7]),
    ("eleven_bytes", &[4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ("an_unknown_tag", &[0xff, 0x7f, 1, 0, 0, 0, 0, 0, 0, 0]),
    ("the_last_tag", &[0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]),
    ("the_same_twice", &[4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
    ("the_largest", &[4, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, (pages, len)) in PAGES {
        for (verb, queue) in [("inflate_by", INFLATE), ("deflate_by", DEFLATE)] {
            all.push(Case::new(format!("{verb}_{name}"), move |device| {
                names(device, queue, pages, *len)
            }));
        }
    }
    for (name, (address, len)) in REPORTS {
        for (verb, queue, feature) in [("report", 4, PAGE_REPORTING), ("hint", 3, FREE_PAGE_HINT)] {
            all.push(Case::new(format!("{verb}_of_{name}"), move |device| {
                let mut queue = other_queue(device, queue, feature);
                let chain = [Descriptor::writable(*address, *len)];
                settled(device, &mut queue, &chain)
            }));
        }
    }
    for (name, bytes) in NUMBERS {
        all.push(Case::new(format!("statistics_of_{name}"), move |device| {
            let mut queue = other_queue(device, 2, STATS_VQ);
            device.puppet().store(queue.buffer(0), bytes);
            let len = u32::try_from(bytes.len()).unwrap();
            queue.describe(&[Descriptor::readable(queue.buffer(0), len)]);
            // The second one takes the place of the first, which comes back.
            queue.offer(0);
            queue.offer(0);
            queue.kick();
            assert_eq!(queue.answer(), Answer::Used(0, 0));
            Verdict::Pass
        }));
    }
    for (name, value) in [("nothing", 0), ("a_page", 1), ("everything", u32::MAX)] {
        all.push(Case::new(format!("says_it_has_{name}"), move |device| {
            let mut queue = Subject::Balloon.set_up(device, 0);
            device.set(register::CONFIG + 4, value);
            device.set(register::CONFIG, !value);
            Subject::Balloon.fill_buffers(device.puppet(), &queue);
            queue.request(&Subject::Balloon.chain(&queue)).into()
        }));
    }
    for (name, command) in [("stop", 0), ("done", 1), ("that_is_none", 77), ("last", u32::MAX)] {
        all.push(Case::new(format!("hinting_command_{name}"), move |device| {
            let mut queue = other_queue(device, 3, FREE_PAGE_HINT);
            device.puppet().write(4, queue.buffer(0), command);
            let command = Descriptor::readable(queue.buffer(0), 4);
            let pages = Descriptor::writable(0x80_0000, 4096);
            assert_eq!(queue.request(&[command.then(1), pages]), Answer::Used(0, 0));
            Verdict::Pass
        }));
    }
    all
}

/// The device with the queues that it cannot do without, and another one.
fn other_queue<'p>(device: &Device<'p>, index: u16, feature: u64) -> Queue<'p> {
    assert_eq!(device.offered() & feature, feature, "there is no such queue");
    device.negotiate(feature);
    let (_inflate, _deflate) = (device.queue(INFLATE), device.queue(DEFLATE));
    let queue = device.queue(index);
    device.driver_ok();
    queue
}

fn names(device: &Device<'_>, queue: u16, pages: &[u32], len: u32) -> Verdict {
    device.negotiate(0);
    let mut queues = [INFLATE, DEFLATE].map(|index| device.queue(index));
    device.driver_ok();
    let queue = &mut queues[usize::from(queue)];
    let bytes: Vec<u8> = pages.iter().copied().flat_map(u32::to_le_bytes).collect();
    device.puppet().store(queue.buffer(0), &bytes);
    let chain = [Descriptor::readable(queue.buffer(0), len)];
    settled(device, queue, &chain)
}

/// Offers a chain and waits until the device has looked at it; with the rings given away, there may be no answer to see.
fn settled(device: &Device<'_>, queue: &mut Queue<'_>, chain: &[Descriptor]) -> Verdict {
    queue.describe(chain);
    queue.offer(0);
    queue.kick();
    // Its kicks and those of other queues are served in turn: after a question to another device, or two, it is done.
    for _ in 0..20 {
        device.puppet().sync();
    }
    if device.needs_reset() { Verdict::Reject } else { Verdict::Pass }
}
