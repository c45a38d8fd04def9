//! The console.

use harness::virtio::{Answer, Descriptor, Device, Queue, WINDOW, register, status};

use super::{Case, MakeChain, Named, Verdict};
use crate::bare::subject::Subject;

/// Where a character can be written without queues: width and offset of the write in the configuration space.
const EMERGENCY: &[Named<(u32, u32)>] = &[
    ("byte", (1, 8)),
    ("half", (2, 8)),
    ("word", (4, 8)),
    ("second_byte", (1, 9)),
    ("across_it", (4, 6)),
    ("size", (4, 0)),
    ("ports", (4, 4)),
    ("beyond", (4, 12)),
    ("last_word", (4, WINDOW - register::CONFIG - 4)),
];

/// Buffers with output.
const OUTPUT: &[Named<MakeChain>] = &[
    ("one_byte", |q| vec![Descriptor::readable(q.buffer(0), 1)]),
    ("a_megabyte", |q| vec![Descriptor::readable(q.buffer(0), 1 << 20)]),
    ("all_of_free_memory", |q| vec![Descriptor::readable(q.buffer(0), 16 << 20)]),
    ("writable", |q| vec![Descriptor::writable(q.buffer(0), 64)]),
    ("writable_behind", |q| {
        vec![Descriptor::readable(q.buffer(0), 4).then(1), Descriptor::writable(q.buffer(1), 64)]
    }),
    ("its_own_rings", |q| vec![Descriptor::readable(q.areas.descriptors as u32, 0x3000)]),
    ("the_boot_tables", |_| vec![Descriptor::readable(0, 0x1_0000)]),
    ("escape_sequences", |q| vec![Descriptor::readable(q.buffer(3), 64)]),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, (width, at)) in EMERGENCY {
        all.push(Case::new(format!("emergency_write_of_{name}"), move |device| {
            device.reset();
            device.set(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
            device.puppet().write(*width, device.window + register::CONFIG + at, 0x0a21_0a21);
            device.puppet().sync();
            Verdict::Pass
        }));
    }
    for (name, chain) in OUTPUT {
        all.push(Case::new(format!("output_of_{name}"), move |device| {
            let mut queue = Subject::Console.set_up(device, 0);
            device.puppet().store(queue.buffer(3), b"\x1b[2J\x1b]0;title\x07\x01x\x00\xff");
            assert_eq!(queue.request(&chain(&queue)), Answer::Used(0, 0));
            Verdict::Pass
        }));
    }
    all.push(Case::new("emergency_writes_while_it_works", emergency_while_it_works));
    all.push(Case::new("buffers_for_input_of_every_kind", buffers_for_input));
    all.push(Case::new("much_output_in_one_kick", much_output));
    all
}

fn emergency_while_it_works(device: &Device<'_>) -> Verdict {
    let mut queue = Subject::Console.set_up(device, 0);
    Subject::Console.fill_buffers(device.puppet(), &queue);
    for _ in 0..20 {
        device.puppet().write(1, device.window + register::CONFIG + 8, 0x21);
        assert_eq!(queue.request(&Subject::Console.chain(&queue)), Answer::Used(0, 0));
    }
    Verdict::Pass
}

/// Nothing is typed, so that no buffer is looked at: also bad ones wait.
fn buffers_for_input(device: &Device<'_>) -> Verdict {
    device.negotiate(0);
    let (mut input, mut output) = (device.queue(0), device.queue(1));
    device.driver_ok();
    input.describe(&[
        Descriptor::writable(0xd000_0000, 64),
        Descriptor::readable(input.buffer(0), 64),
        Descriptor::writable(input.buffer(0), 0),
        Descriptor::writable(input.buffer(0), 64).then(3),
    ]);
    for head in [0, 1, 2, 3, Queue::SIZE] {
        input.offer(head);
        input.kick();
    }
    Subject::Console.fill_buffers(device.puppet(), &output);
    let answer = output.request(&Subject::Console.chain(&output));
    assert_eq!(input.used_index(), 0);
    answer.into()
}

fn much_output(device: &Device<'_>) -> Verdict {
    let mut queue = Subject::Console.set_up(device, 0);
    queue.describe(&[Descriptor::readable(queue.buffer(0), 1 << 20)]);
    (0..Queue::SIZE).for_each(|_| queue.offer(0));
    queue.kick();
    for _ in 0..Queue::SIZE {
        assert_eq!(queue.answer(), Answer::Used(0, 0));
    }
    Verdict::Pass
}
