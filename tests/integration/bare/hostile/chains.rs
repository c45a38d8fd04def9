//! Malformed descriptor chains on the queue that takes requests: the device asks for a reset. And chains that are only
//! unusual, which it must take.

use harness::virtio::{Answer, Descriptor, Device, Queue, feature};

use super::{Case, Named, Verdict};
use crate::bare::subject::Subject;

/// First address behind the puppet's 32 MiB.
const END_OF_MEMORY: u32 = 32 << 20;
/// Where a case puts a table of its own.
const TABLE: u32 = 0x1f_0000 + 0x20_0000;
/// An address that nothing answers.
const HOLE: u32 = 0xd000_0000;

/// A way to spoil a chain: changes the descriptors of a good one.
pub(super) type Spoil = fn(&mut Vec<Descriptor>);

type Test = fn(Subject, &Device<'_>);
type SpoilPointer = fn(&mut Descriptor);
type SpoilRing = fn(&mut Queue<'_>);

/// Defects of a descriptor in the queue's own table.
pub(super) const DIRECT: &[Named<Spoil>] = &[
    ("loop_of_one", |chain| {
        let own = last_index(chain);
        link_last(chain, own);
    }),
    ("loop_to_head", |chain| link_last(chain, 0)),
    ("next_just_beyond_table", |chain| {
        link_last(chain, Queue::SIZE);
    }),
    ("next_far_beyond_table", |chain| link_last(chain, u16::MAX)),
    ("empty_buffer", |chain| last(chain).len = 0),
    ("buffer_at_nothing", |chain| {
        last(chain).address = HOLE.into();
    }),
    ("buffer_at_registers", |chain| {
        last(chain).address = 0xc000_1000;
    }),
    ("buffer_at_local_apic", |chain| {
        last(chain).address = 0xfee0_0000;
    }),
    ("buffer_just_beyond_memory", |chain| {
        last(chain).address = END_OF_MEMORY.into();
    }),
    ("buffer_across_end_of_memory", |chain| {
        last(chain).len += 1;
        last(chain).address = u64::from(END_OF_MEMORY) + 1 - u64::from(last(chain).len);
    }),
    ("buffer_at_last_address", |chain| {
        last(chain).address = u64::MAX;
    }),
    ("buffer_wraps_around", |chain| {
        last(chain).address = u64::MAX - 1;
        last(chain).len = 0x1000;
    }),
    ("buffer_above_52_bits", |chain| {
        last(chain).address |= 1 << 63;
    }),
    ("buffer_of_4_gib", |chain| last(chain).len = u32::MAX),
    ("buffer_longer_than_memory", |chain| {
        last(chain).len = END_OF_MEMORY;
    }),
    ("readable_after_writable", |chain| {
        let next = last_index(chain) + 1;
        link_last(chain, next);
        chain.push(Descriptor::writable(TABLE, 16).then(next + 1));
        chain.push(Descriptor::readable(TABLE, 16));
    }),
    ("indirect_without_the_feature", |chain| {
        *chain = vec![Descriptor::indirect(TABLE, 1)];
    }),
    ("indirect_flag_on_last", |chain| {
        last(chain).flags |= Descriptor::INDIRECT;
    }),
];

/// Defects around an indirect table, with the feature agreed on. The descriptors are the table's.
const INDIRECT: &[Named<Spoil>] = &[
    ("table_loops_to_itself", |chain| link_last(chain, 0)),
    ("table_next_beyond_it", |chain| {
        let own = last_index(chain);
        link_last(chain, own + 1);
    }),
    ("table_next_far_beyond_it", |chain| {
        link_last(chain, u16::MAX);
    }),
    ("table_in_a_table", |chain| {
        *last(chain) = Descriptor::indirect(TABLE + 0x1000, 1);
    }),
    ("table_in_itself", |chain| {
        *last(chain) = Descriptor::indirect(TABLE, 1);
    }),
    ("table_buffer_at_nothing", |chain| {
        last(chain).address = HOLE.into();
    }),
    ("table_buffer_empty", |chain| last(chain).len = 0),
    ("table_longer_than_queue", |chain| {
        let piece = Descriptor { len: 1, flags: last(chain).flags, ..*last(chain) };
        let count = 2 * Queue::SIZE;
        *chain = (1..count).map(|next| piece.then(next)).collect();
        chain.push(piece);
    }),
];

/// Defects of the descriptor that points to a good table.
const POINTER: &[Named<SpoilPointer>] = &[
    ("pointer_with_successor", |pointer| {
        *pointer = pointer.then(1);
    }),
    ("pointer_empty", |pointer| pointer.len = 0),
    ("pointer_length_not_whole", |pointer| pointer.len += 1),
    ("pointer_length_less_than_one", |pointer| pointer.len = 15),
    ("pointer_at_nothing", |pointer| {
        pointer.address = HOLE.into();
    }),
    ("pointer_across_end_of_memory", |pointer| {
        pointer.address = u64::from(END_OF_MEMORY) - 8;
    }),
    ("pointer_at_last_address", |pointer| {
        pointer.address = u64::MAX;
    }),
    ("pointer_of_4_gib", |pointer| pointer.len = 0xffff_fff0),
];

/// Defects of the available ring.
const RING: &[Named<SpoilRing>] = &[
    ("head_just_beyond_table", |queue| queue.offer(Queue::SIZE)),
    ("head_far_beyond_table", |queue| queue.offer(u16::MAX)),
    ("more_heads_than_descriptors", |queue| {
        queue.offer_index(Queue::SIZE + 1);
    }),
    ("index_runs_backwards", |queue| queue.offer_index(u16::MAX)),
];

/// All of `subject`'s request queue.
pub(super) fn cases(subject: Subject) -> Vec<Case> {
    let good: [Named<Test>; 8] = [
        ("whole_queue_in_one_chain", whole_queue_in_one_chain),
        ("whole_request_in_a_table", whole_request_in_a_table),
        ("same_head_twice", same_head_twice),
        ("many_requests_wrap_the_ring", many_requests_wrap_the_ring),
        ("interrupts_unwanted", interrupts_unwanted),
        ("used_event_far_away", used_event_far_away),
        ("used_ring_scribbled_on", used_ring_scribbled_on),
        ("kicks_for_nothing", kicks_for_nothing),
    ];
    let mut all: Vec<Case> = Vec::new();
    all.extend(good.map(|(name, test)| {
        Case::new(name, move |device| {
            test(subject, device);
            Verdict::Pass
        })
    }));
    let spoiled = |name: &str, refuse: Box<dyn Fn(&Device<'_>) -> Answer + Send>| {
        Case::new(name, move |device| {
            assert_eq!(refuse(device), Answer::NeedsReset);
            Verdict::Reject
        })
    };
    all.extend(DIRECT.iter().map(|&(name, spoil)| {
        spoiled(name, Box::new(move |device| spoiled_directly(subject, device, spoil)))
    }));
    all.extend(INDIRECT.iter().map(|&(name, spoil)| {
        spoiled(name, Box::new(move |device| spoiled_table(subject, device, spoil)))
    }));
    all.extend(POINTER.iter().map(|&(name, spoil)| {
        spoiled(name, Box::new(move |device| spoiled_pointer(subject, device, spoil)))
    }));
    all.extend(RING.iter().map(|&(name, spoil)| {
        spoiled(name, Box::new(move |device| spoiled_ring(subject, device, spoil)))
    }));
    all
}

fn spoiled_directly(subject: Subject, device: &Device<'_>, spoil: Spoil) -> Answer {
    let mut queue = subject.set_up(device, 0);
    let mut chain = subject.chain(&queue);
    spoil(&mut chain);
    subject.fill_buffers(device.puppet(), &queue);
    queue.request(&chain)
}

fn spoiled_table(subject: Subject, device: &Device<'_>, spoil: Spoil) -> Answer {
    let mut queue = subject.set_up(device, feature::INDIRECT);
    let mut chain = subject.chain(&queue);
    spoil(&mut chain);
    subject.fill_buffers(device.puppet(), &queue);
    queue.describe_at(TABLE, &chain);
    // What a table in a table would find: a good chain.
    queue.describe_at(TABLE + 0x1000, &subject.chain(&queue));
    let count = u32::try_from(chain.len()).unwrap();
    queue.request(&[Descriptor::indirect(TABLE, count)])
}

fn spoiled_pointer(subject: Subject, device: &Device<'_>, spoil: SpoilPointer) -> Answer {
    let mut queue = subject.set_up(device, feature::INDIRECT);
    let chain = subject.chain(&queue);
    subject.fill_buffers(device.puppet(), &queue);
    queue.describe_at(TABLE, &chain);
    let mut pointer = Descriptor::indirect(TABLE, u32::try_from(chain.len()).unwrap());
    spoil(&mut pointer);
    // A successor, where there is one, would be good in itself.
    queue.request(&[pointer, chain[0], chain[0]])
}

fn spoiled_ring(subject: Subject, device: &Device<'_>, spoil: SpoilRing) -> Answer {
    let mut queue = subject.set_up(device, 0);
    queue.describe(&subject.chain(&queue));
    spoil(&mut queue);
    queue.kick();
    queue.answer()
}

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`: answers come all the same.
fn interrupts_unwanted(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    subject.fill_buffers(device.puppet(), &queue);
    device.puppet().write(2, queue.areas.driver as u32, 0xffff);
    assert_eq!(queue.request(&subject.chain(&queue)), Answer::Used(0, subject.written()));
    subject.check_buffers(device.puppet(), &queue);
}

fn used_event_far_away(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, feature::EVENT_IDX);
    subject.fill_buffers(device.puppet(), &queue);
    let used_event = queue.areas.driver as u32 + 4 + 2 * u32::from(Queue::SIZE);
    for event in [0x8000, 0xffff, 1] {
        device.puppet().write(2, used_event, event);
        assert_eq!(queue.request(&subject.chain(&queue)), Answer::Used(0, subject.written()));
    }
}

/// The device knows by itself where it stands.
fn used_ring_scribbled_on(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    subject.fill_buffers(device.puppet(), &queue);
    device.puppet().store(queue.areas.device as u32, &[0xee; 64]);
    // As if nothing had been answered yet, so that the next answer is seen.
    device.puppet().write(2, queue.areas.device as u32 + 2, 0);
    assert_eq!(queue.request(&subject.chain(&queue)), Answer::Used(0, subject.written()));
    assert_eq!(queue.used_index(), 1);
}

fn kicks_for_nothing(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    for _ in 0..50 {
        queue.kick();
    }
    device.puppet().sync();
    assert_eq!(queue.used_index(), 0);
    subject.fill_buffers(device.puppet(), &queue);
    assert_eq!(queue.request(&subject.chain(&queue)), Answer::Used(0, subject.written()));
}

fn whole_queue_in_one_chain(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    subject.fill_buffers(device.puppet(), &queue);
    let chain = subject.chain_in_pieces(&queue);
    assert_eq!(chain.len(), usize::from(Queue::SIZE));
    assert_eq!(queue.request(&chain), Answer::Used(0, subject.written()));
    subject.check_buffers(device.puppet(), &queue);
}

fn whole_request_in_a_table(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, feature::INDIRECT | feature::EVENT_IDX);
    subject.fill_buffers(device.puppet(), &queue);
    let chain = subject.chain(&queue);
    queue.describe_at(TABLE, &chain);
    let pointer = Descriptor::indirect(TABLE, u32::try_from(chain.len()).unwrap());
    assert_eq!(queue.request(&[pointer]), Answer::Used(0, subject.written()));
    subject.check_buffers(device.puppet(), &queue);
}

fn same_head_twice(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    subject.fill_buffers(device.puppet(), &queue);
    queue.describe(&subject.chain(&queue));
    queue.offer(0);
    queue.offer(0);
    queue.kick();
    for _ in 0..2 {
        assert_eq!(queue.answer(), Answer::Used(0, subject.written()));
    }
}

fn many_requests_wrap_the_ring(subject: Subject, device: &Device<'_>) {
    let mut queue = subject.set_up(device, 0);
    subject.fill_buffers(device.puppet(), &queue);
    queue.describe(&subject.chain(&queue));
    let requests = 3 * Queue::SIZE + 1;
    for _ in 0..requests {
        queue.offer(0);
        queue.kick();
        assert_eq!(queue.answer(), Answer::Used(0, subject.written()));
    }
    assert_eq!(queue.used_index(), requests);
    subject.check_buffers(device.puppet(), &queue);
}

fn last(chain: &mut [Descriptor]) -> &mut Descriptor {
    chain.last_mut().expect("a chain has a descriptor")
}

fn last_index(chain: &[Descriptor]) -> u16 {
    u16::try_from(chain.len() - 1).unwrap()
}

fn link_last(chain: &mut [Descriptor], next: u16) {
    let linked = last(chain).then(next);
    *last(chain) = linked;
}
