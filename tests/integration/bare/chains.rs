//! Malformed descriptor chains: each on each device, one machine per case. The device asks for a reset, the machine
//! lives, and after the reset a good request works.

use harness::virtio::{Answer, Descriptor, Device, Queue, feature};
use libtest_mimic::Trial;

use super::subject::Subject;
use crate::suite::trial;

/// First address behind the puppet's 32 MiB.
const END_OF_MEMORY: u32 = 32 << 20;
/// Where a case puts a table of its own.
const TABLE: u32 = 0x1f_0000 + 0x20_0000;
/// An address that nothing answers.
const HOLE: u32 = 0xd000_0000;

/// A way to spoil a chain: changes the descriptors of a good one.
type Spoil = fn(&mut Vec<Descriptor>);

type SpoilPointer = fn(&mut Descriptor);
type SpoilRing = fn(&mut Queue<'_>);

/// Defects of a descriptor in the queue's own table.
const DIRECT: &[(&str, Spoil)] = &[
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
const INDIRECT: &[(&str, Spoil)] = &[
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
const POINTER: &[(&str, SpoilPointer)] = &[
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
const RING: &[(&str, SpoilRing)] = &[
    ("head_just_beyond_table", |queue| queue.offer(Queue::SIZE)),
    ("head_far_beyond_table", |queue| queue.offer(u16::MAX)),
    ("more_heads_than_descriptors", |queue| {
        queue.offer_index(Queue::SIZE + 1);
    }),
    ("index_runs_backwards", |queue| queue.offer_index(u16::MAX)),
];

/// All cases on all devices.
pub fn tests() -> Vec<Trial> {
    Subject::ALL.into_iter().flat_map(tests_of).collect()
}

fn tests_of(subject: Subject) -> Vec<Trial> {
    let case = |name: &str, test: fn(Subject, &Device<'_>, usize), number: usize| {
        let name = format!("bare::chains::{}::{name}", subject.name());
        trial(name, subject.needs(), move || {
            subject.with_device(move |device| test(subject, device, number));
        })
    };
    let mut trials = vec![
        case("whole_queue_in_one_chain", whole_queue_in_one_chain, 0),
        case("whole_request_in_a_table", whole_request_in_a_table, 0),
        case("same_head_twice", same_head_twice, 0),
        case("many_requests_wrap_the_ring", many_requests_wrap_the_ring, 0),
    ];
    trials.extend(DIRECT.iter().enumerate().map(|(n, (name, _))| case(name, spoiled_directly, n)));
    trials.extend(INDIRECT.iter().enumerate().map(|(n, (name, _))| case(name, spoiled_table, n)));
    trials.extend(POINTER.iter().enumerate().map(|(n, (name, _))| case(name, spoiled_pointer, n)));
    trials.extend(RING.iter().enumerate().map(|(n, (name, _))| case(name, spoiled_ring, n)));
    trials
}

fn spoiled_directly(subject: Subject, device: &Device<'_>, number: usize) {
    let mut queue = subject.set_up(device, 0);
    let mut chain = subject.chain(&queue);
    (DIRECT[number].1)(&mut chain);
    subject.fill_buffers(device.puppet(), &queue);
    expect_refused(subject, device, queue.request(&chain));
}

fn spoiled_table(subject: Subject, device: &Device<'_>, number: usize) {
    let mut queue = subject.set_up(device, feature::INDIRECT);
    let mut chain = subject.chain(&queue);
    (INDIRECT[number].1)(&mut chain);
    subject.fill_buffers(device.puppet(), &queue);
    queue.describe_at(TABLE, &chain);
    // What a table in a table would find: a good chain.
    queue.describe_at(TABLE + 0x1000, &subject.chain(&queue));
    let count = u32::try_from(chain.len()).unwrap();
    expect_refused(subject, device, queue.request(&[Descriptor::indirect(TABLE, count)]));
}

fn spoiled_pointer(subject: Subject, device: &Device<'_>, number: usize) {
    let mut queue = subject.set_up(device, feature::INDIRECT);
    let chain = subject.chain(&queue);
    subject.fill_buffers(device.puppet(), &queue);
    queue.describe_at(TABLE, &chain);
    let mut pointer = Descriptor::indirect(TABLE, u32::try_from(chain.len()).unwrap());
    (POINTER[number].1)(&mut pointer);
    // A successor, where there is one, would be good in itself.
    let answer = queue.request(&[pointer, chain[0], chain[0]]);
    expect_refused(subject, device, answer);
}

fn spoiled_ring(subject: Subject, device: &Device<'_>, number: usize) {
    let mut queue = subject.set_up(device, 0);
    queue.describe(&subject.chain(&queue));
    (RING[number].1)(&mut queue);
    queue.kick();
    expect_refused(subject, device, queue.answer());
}

#[track_caller]
fn expect_refused(subject: Subject, device: &Device<'_>, answer: Answer) {
    assert_eq!(answer, Answer::NeedsReset);
    subject.good_request(device);
}

fn whole_queue_in_one_chain(subject: Subject, device: &Device<'_>, _: usize) {
    let mut queue = subject.set_up(device, 0);
    subject.fill_buffers(device.puppet(), &queue);
    let chain = subject.chain_in_pieces(&queue);
    assert_eq!(chain.len(), usize::from(Queue::SIZE));
    assert_eq!(queue.request(&chain), Answer::Used(0, subject.written()));
    subject.check_buffers(device.puppet(), &queue);
}

fn whole_request_in_a_table(subject: Subject, device: &Device<'_>, _: usize) {
    let mut queue = subject.set_up(device, feature::INDIRECT | feature::EVENT_IDX);
    subject.fill_buffers(device.puppet(), &queue);
    let chain = subject.chain(&queue);
    queue.describe_at(TABLE, &chain);
    let pointer = Descriptor::indirect(TABLE, u32::try_from(chain.len()).unwrap());
    assert_eq!(queue.request(&[pointer]), Answer::Used(0, subject.written()));
    subject.check_buffers(device.puppet(), &queue);
}

fn same_head_twice(subject: Subject, device: &Device<'_>, _: usize) {
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

fn many_requests_wrap_the_ring(subject: Subject, device: &Device<'_>, _: usize) {
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
