//! The entropy source.

use harness::virtio::{Answer, Descriptor, Device, Queue};

use super::{Case, MakeChain, Named, Verdict};
use crate::bare::subject::Subject;

type Lengths = std::ops::RangeInclusive<u32>;

/// Chains, and how many bytes of entropy each may get.
const CHAINS: &[Named<(MakeChain, Lengths)>] = &[
    ("nothing_to_write", (|q| vec![Descriptor::readable(q.buffer(0), 64)], 0..=0)),
    ("one_byte", (|q| vec![Descriptor::writable(q.buffer(0), 1)], 1..=1)),
    ("all_of_free_memory", (|q| vec![Descriptor::writable(q.buffer(0), 16 << 20)], 1..=16 << 20)),
    (
        "most_of_it_eight_times",
        (
            |q| {
                let all = Descriptor::writable(q.buffer(0), 16 << 20);
                let mut chain: Vec<_> = (1..Queue::SIZE).map(|next| all.then(next)).collect();
                chain.push(all);
                chain
            },
            1..=128 << 20,
        ),
    ),
    (
        "readable_before",
        (
            |q| {
                vec![
                    Descriptor::readable(q.buffer(0), 64).then(1),
                    Descriptor::writable(q.buffer(1), 32),
                ]
            },
            32..=32,
        ),
    ),
    (
        "onto_its_own_table",
        (|q| vec![Descriptor::writable(q.areas.descriptors as u32, 128)], 128..=128),
    ),
    ("onto_the_available_ring", (|q| vec![Descriptor::writable(q.areas.driver as u32, 2)], 2..=2)),
    ("onto_the_boot_tables", (|_| vec![Descriptor::writable(0x8000, 64)], 64..=64)),
    ("an_odd_address", (|q| vec![Descriptor::writable(q.buffer(0) + 1, 3)], 3..=3)),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let chains = CHAINS.iter().map(|(name, (chain, lengths))| {
        Case::new(*name, move |device| gets(device, *chain, lengths.clone()))
    });
    let onto = Case::new("onto_the_used_ring", onto_the_used_ring);
    chains.chain([onto]).collect()
}

fn gets(device: &Device<'_>, chain: MakeChain, lengths: Lengths) -> Verdict {
    let mut queue = Subject::Rng.set_up(device, 0);
    match queue.request(&chain(&queue)) {
        Answer::Used(0, len) => assert!(lengths.contains(&len), "{len} bytes"),
        other => panic!("{other:?}"),
    }
    Verdict::Pass
}

/// The answer is overwritten by, or overwrites, the entropy; in any case there is an end.
fn onto_the_used_ring(device: &Device<'_>) -> Verdict {
    let mut queue = Subject::Rng.set_up(device, 0);
    queue.describe(&[Descriptor::writable(queue.areas.device as u32, 70)]);
    for _ in 0..4 {
        queue.offer(0);
        queue.kick();
    }
    device.puppet().sync();
    if device.needs_reset() { Verdict::Reject } else { Verdict::Pass }
}
