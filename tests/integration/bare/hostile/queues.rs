//! The queues that take no requests of the guest's own: malformed chains on those of which a device takes chains by
//! itself.

use harness::virtio::{Answer, Descriptor, Device};

use super::chains::{DIRECT, Spoil};
use super::{Case, MakeChain, Verdict};
use crate::bare::subject::Subject;

/// A queue, the features that make it one, and a chain that would do.
struct Other {
    name: &'static str,
    index: u16,
    features: u64,
    chain: MakeChain,
}

fn others(subject: Subject) -> Vec<Other> {
    const CTRL_VQ: u64 = 1 << 17;
    const STATS_VQ: u64 = 1 << 1;
    const FREE_PAGE_HINT: u64 = 1 << 3;
    const PAGE_REPORTING: u64 = 1 << 5;
    match subject {
        Subject::Rng | Subject::Block | Subject::Console | Subject::Vsock => Vec::new(),
        Subject::Net => vec![
            Other {
                name: "receive",
                index: 0,
                features: 0,
                chain: |queue| vec![Descriptor::writable(queue.buffer(0), 2048)],
            },
            Other {
                name: "commands",
                index: 2,
                features: CTRL_VQ,
                chain: |queue| {
                    vec![
                        Descriptor::readable(queue.buffer(0), 4).then(1),
                        Descriptor::writable(queue.buffer(1), 1),
                    ]
                },
            },
        ],
        Subject::Balloon => vec![
            Other {
                name: "deflate",
                index: 1,
                features: 0,
                chain: |queue| vec![Descriptor::readable(queue.buffer(0), 16)],
            },
            Other {
                name: "statistics",
                index: 2,
                features: STATS_VQ,
                chain: |queue| vec![Descriptor::readable(queue.buffer(0), 20)],
            },
            Other {
                name: "hints",
                index: 3,
                features: FREE_PAGE_HINT,
                chain: |queue| vec![Descriptor::readable(queue.buffer(0), 4)],
            },
            Other {
                name: "reports",
                index: 4,
                features: PAGE_REPORTING,
                chain: |queue| vec![Descriptor::writable(queue.buffer(0), 4096)],
            },
        ],
    }
}

/// All of `subject`.
pub(super) fn cases(subject: Subject) -> Vec<Case> {
    let of = |Other { name, index, features, chain }: Other| {
        DIRECT.iter().map(move |&(defect, spoil)| {
            Case::new(format!("{name}_{defect}"), move |device| {
                is_refused(subject, device, (index, features), chain, spoil)
            })
        })
    };
    others(subject).into_iter().flat_map(of).collect()
}

fn is_refused(
    subject: Subject,
    device: &Device<'_>,
    (index, features): (u16, u64),
    chain: MakeChain,
    spoil: Spoil,
) -> Verdict {
    assert_eq!(device.offered() & features, features, "there is no such queue");
    device.negotiate(features);
    subject.set_up_others(device);
    let _requests = device.queue(subject.queue_index());
    let mut queue = device.queue(index);
    device.driver_ok();
    let mut chain = chain(&queue);
    spoil(&mut chain);
    assert_eq!(queue.request(&chain), Answer::NeedsReset, "{chain:x?}");
    Verdict::Reject
}
