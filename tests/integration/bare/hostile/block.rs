//! The disk: requests that are well-formed chains and make no sense. Whatever is wrong with one is an answer, as long as
//! there is room for it.

use harness::virtio::{Answer, Descriptor, Device, Queue};

use super::{Case, MakeChain, Named, Verdict};
use crate::bare::subject::{SECTORS, Subject};

/// `VIRTIO_BLK_T_*` (virtio 1.3, 5.2.6)
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const END: u64 = SECTORS as u64;

/// The one data buffer of a request.
#[derive(Clone, Copy)]
enum Data {
    None,
    /// Room for the device.
    Room(u32),
    /// So many bytes of the driver's.
    Sent(u32),
}

struct Request {
    kind: u32,
    sector: u64,
    data: Data,
    status: u8,
}

const fn request(kind: u32, sector: u64, data: Data, status: u8) -> Request {
    Request { kind, sector, data, status }
}

const REQUESTS: &[Named<Request>] = &[
    ("read_at_the_end", request(IN, END, Data::Room(512), IO_ERROR)),
    ("read_across_the_end", request(IN, END - 1, Data::Room(1024), IO_ERROR)),
    ("read_at_the_last_sector_of_all", request(IN, u64::MAX, Data::Room(512), IO_ERROR)),
    ("read_where_bytes_overflow", request(IN, 1 << 55, Data::Room(512), IO_ERROR)),
    ("read_where_bytes_wrap_to_zero", request(IN, u64::MAX / 512 + 1, Data::Room(512), IO_ERROR)),
    ("read_where_the_end_wraps", request(IN, u64::MAX - 1, Data::Room(1024), IO_ERROR)),
    ("read_of_half_a_sector", request(IN, 0, Data::Room(256), IO_ERROR)),
    ("read_of_a_sector_and_a_byte", request(IN, 0, Data::Room(513), IO_ERROR)),
    ("read_of_nothing", request(IN, 0, Data::None, OK)),
    ("read_of_nothing_at_the_end", request(IN, END, Data::None, OK)),
    ("read_of_nothing_beyond", request(IN, END + 1, Data::None, IO_ERROR)),
    ("read_larger_than_the_disk", request(IN, 0, Data::Room(16 << 20), IO_ERROR)),
    ("read_into_what_is_readable", request(IN, 0, Data::Sent(512), OK)),
    ("write_at_the_end", request(OUT, END, Data::Sent(512), IO_ERROR)),
    ("write_across_the_end", request(OUT, END - 1, Data::Sent(1024), IO_ERROR)),
    ("write_at_the_last_sector_of_all", request(OUT, u64::MAX, Data::Sent(512), IO_ERROR)),
    ("write_where_bytes_overflow", request(OUT, 1 << 55, Data::Sent(512), IO_ERROR)),
    ("write_of_one_byte", request(OUT, 0, Data::Sent(1), IO_ERROR)),
    ("write_of_nothing", request(OUT, 0, Data::None, OK)),
    ("write_from_what_is_writable", request(OUT, 0, Data::Room(512), OK)),
    ("flush_of_a_sector", request(FLUSH, 5, Data::None, OK)),
    ("flush_of_the_last_sector_of_all", request(FLUSH, u64::MAX, Data::None, OK)),
    ("flush_with_room", request(FLUSH, 0, Data::Room(512), OK)),
    ("flush_with_data", request(FLUSH, 0, Data::Sent(512), OK)),
    ("identity_without_room", request(GET_ID, 0, Data::None, IO_ERROR)),
    ("identity_in_19_bytes", request(GET_ID, 0, Data::Room(19), IO_ERROR)),
    ("identity_in_4096_bytes", request(GET_ID, 0, Data::Room(4096), OK)),
    ("identity_of_a_sector", request(GET_ID, u64::MAX, Data::Room(20), OK)),
    ("legacy_scsi_command", request(2, 0, Data::Room(512), UNSUPPORTED)),
    ("legacy_barrier", request(0x8000_0000, 0, Data::Room(512), UNSUPPORTED)),
    ("lifetime", request(10, 0, Data::Room(512), UNSUPPORTED)),
    ("secure_erase", request(14, 0, Data::Sent(16), UNSUPPORTED)),
    ("zones", request(16, 0, Data::Room(512), UNSUPPORTED)),
    ("unknown_type", request(0x5a5a_5a5a, 0, Data::Room(512), UNSUPPORTED)),
    ("last_type", request(u32::MAX, 0, Data::None, UNSUPPORTED)),
    ("discard_without_ranges", request(DISCARD, 0, Data::None, IO_ERROR)),
    ("discard_of_room", request(DISCARD, 0, Data::Room(16), IO_ERROR)),
    ("discard_of_half_a_range", request(DISCARD, 0, Data::Sent(8), IO_ERROR)),
    ("discard_of_a_range_and_a_byte", request(DISCARD, 0, Data::Sent(17), IO_ERROR)),
    ("discard_of_too_many_ranges", request(DISCARD, 0, Data::Sent(16 * 4096), IO_ERROR)),
    ("zeroes_without_ranges", request(WRITE_ZEROES, 0, Data::None, IO_ERROR)),
    ("zeroes_of_half_a_range", request(WRITE_ZEROES, 0, Data::Sent(8), IO_ERROR)),
    ("zeroes_of_too_many_ranges", request(WRITE_ZEROES, 0, Data::Sent(16 * 4096), IO_ERROR)),
];

/// A range of a discard or of zeroes: sector, sectors, flags; and the answer.
struct Range {
    kind: u32,
    range: (u64, u32, u32),
    status: u8,
}

const fn range(kind: u32, sector: u64, sectors: u32, flags: u32, status: u8) -> Range {
    Range { kind, range: (sector, sectors, flags), status }
}

const RANGES: &[Named<Range>] = &[
    ("discard_of_nothing", range(DISCARD, 0, 0, 0, OK)),
    ("discard_beyond_the_end", range(DISCARD, END, 1, 0, IO_ERROR)),
    ("discard_across_the_end", range(DISCARD, END - 1, 2, 0, IO_ERROR)),
    ("discard_where_the_end_wraps", range(DISCARD, u64::MAX, u32::MAX, 0, IO_ERROR)),
    ("discard_where_bytes_overflow", range(DISCARD, 1 << 55, 1, 0, IO_ERROR)),
    ("discard_of_more_than_allowed", range(DISCARD, 0, u32::MAX, 0, IO_ERROR)),
    ("discard_with_unmap", range(DISCARD, 0, 1, 1, UNSUPPORTED)),
    ("discard_with_all_flags", range(DISCARD, 0, 1, u32::MAX, UNSUPPORTED)),
    ("zeroes_of_nothing", range(WRITE_ZEROES, 0, 0, 0, OK)),
    ("zeroes_beyond_the_end", range(WRITE_ZEROES, END, 1, 0, IO_ERROR)),
    ("zeroes_across_the_end", range(WRITE_ZEROES, END - 1, 2, 1, IO_ERROR)),
    ("zeroes_where_the_end_wraps", range(WRITE_ZEROES, u64::MAX, 2, 0, IO_ERROR)),
    ("zeroes_of_more_than_allowed", range(WRITE_ZEROES, 0, u32::MAX, 0, IO_ERROR)),
    ("zeroes_with_unknown_flags", range(WRITE_ZEROES, 0, 1, 2, UNSUPPORTED)),
    ("zeroes_with_all_flags", range(WRITE_ZEROES, 0, 1, u32::MAX, UNSUPPORTED)),
];

/// Requests without room for an answer: the device cannot but give up.
const WITHOUT_STATUS: &[Named<MakeChain>] = &[
    ("header_alone", |q| vec![Descriptor::readable(q.buffer(0), 16)]),
    ("half_a_header_alone", |q| vec![Descriptor::readable(q.buffer(0), 8)]),
    ("all_readable", |q| {
        vec![
            Descriptor::readable(q.buffer(0), 16).then(1),
            Descriptor::readable(q.buffer(1), 512).then(2),
            Descriptor::readable(q.buffer(2), 1),
        ]
    }),
];

/// Requests whose header is not where it should be, with room for an answer.
const WITHOUT_HEADER: &[Named<MakeChain>] = &[
    ("status_alone", |q| vec![Descriptor::writable(q.buffer(2), 1)]),
    ("header_writable", |q| {
        vec![Descriptor::writable(q.buffer(0), 16).then(1), Descriptor::writable(q.buffer(2), 1)]
    }),
    ("header_of_one_byte", |q| {
        vec![Descriptor::readable(q.buffer(0), 1).then(1), Descriptor::writable(q.buffer(2), 1)]
    }),
    ("header_of_15_bytes", |q| {
        vec![Descriptor::readable(q.buffer(0), 15).then(1), Descriptor::writable(q.buffer(2), 1)]
    }),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, Request { kind, sector, data, status }) in REQUESTS {
        all.push(Case::new(*name, move |device| {
            let mut queue = ready(device);
            assert_eq!(ask(device, &mut queue, (*kind, *sector), *data), *status);
            Verdict::Pass
        }));
    }
    for (name, Range { kind, range, status }) in RANGES {
        all.push(Case::new(*name, move |device| {
            let mut queue = ready(device);
            let (sector, sectors, flags) = *range;
            let bytes = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()];
            device.puppet().store(queue.buffer(1), &bytes.concat());
            assert_eq!(ask(device, &mut queue, (*kind, 0), Data::Sent(16)), *status);
            Verdict::Pass
        }));
    }
    for (name, chain) in WITHOUT_STATUS {
        all.push(Case::new(format!("no_status_{name}"), move |device| {
            let mut queue = ready(device);
            assert_eq!(queue.request(&chain(&queue)), Answer::NeedsReset);
            Verdict::Reject
        }));
    }
    for (name, chain) in WITHOUT_HEADER {
        all.push(Case::new(format!("no_header_{name}"), move |device| {
            let mut queue = ready(device);
            device.puppet().store(queue.buffer(2), &[0x77]);
            assert_eq!(queue.request(&chain(&queue)), Answer::Used(0, 1));
            assert_eq!(device.puppet().load(queue.buffer(2), 1), [IO_ERROR]);
            Verdict::Pass
        }));
    }
    all.push(Case::new("features_that_requests_need_not_agreed_on", without_features));
    all.push(Case::new("refused_requests_change_nothing", refused_requests_change_nothing));
    all.push(Case::new("status_in_the_data", status_in_the_data));
    all.push(Case::new("data_on_the_header", data_on_the_header));
    all.push(Case::new("every_slot_with_the_same_request", every_slot));
    all
}

fn ready<'p>(device: &Device<'p>) -> Queue<'p> {
    Subject::Block.set_up(device, F_DISCARD | F_WRITE_ZEROES)
}

/// Makes a request, and tells its status.
#[track_caller]
fn ask(device: &Device<'_>, queue: &mut Queue<'_>, (kind, sector): (u32, u64), data: Data) -> u8 {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    let (head, status) = (queue.buffer(0), queue.buffer(2) + 0x20_0000);
    device.puppet().store(head, &header);
    device.puppet().store(status, &[0x77]);
    let head = Descriptor::readable(head, 16).then(1);
    let (data, last) = match data {
        Data::None => (None, 1),
        Data::Room(len) => (Some(Descriptor::writable(queue.buffer(1), len)), 2),
        Data::Sent(len) => (Some(Descriptor::readable(queue.buffer(1), len)), 2),
    };
    let mut chain = vec![head];
    chain.extend(data.map(|data| data.then(last)));
    chain.push(Descriptor::writable(status, 1));
    match queue.request(&chain) {
        Answer::Used(0, written) => assert!(written >= 1, "the status is not counted"),
        other => panic!("{other:?}"),
    }
    device.puppet().load(status, 1)[0]
}

fn without_features(device: &Device<'_>) -> Verdict {
    let mut queue = Subject::Block.set_up(device, 0);
    for kind in [DISCARD, WRITE_ZEROES] {
        let status = ask(device, &mut queue, (kind, 0), Data::Sent(16));
        assert_eq!(status, UNSUPPORTED);
    }
    Verdict::Pass
}

/// A range that is refused spoils the good one before it.
fn refused_requests_change_nothing(device: &Device<'_>) -> Verdict {
    let mut queue = ready(device);
    let good = [&7_u64.to_le_bytes()[..], &1_u32.to_le_bytes(), &[0; 4]].concat();
    let bad = [&END.to_le_bytes()[..], &1_u32.to_le_bytes(), &[0; 4]].concat();
    device.puppet().store(queue.buffer(1), &[good, bad].concat());
    for kind in [WRITE_ZEROES, DISCARD] {
        assert_eq!(ask(device, &mut queue, (kind, 0), Data::Sent(32)), IO_ERROR);
    }
    assert_eq!(ask(device, &mut queue, (IN, 7), Data::Room(512)), OK);
    assert_eq!(device.puppet().load(queue.buffer(1), 16), [7; 16], "sector 7 is as it was");
    Verdict::Pass
}

fn status_in_the_data(device: &Device<'_>) -> Verdict {
    let mut queue = ready(device);
    Subject::Block.fill_buffers(device.puppet(), &queue);
    let data = Descriptor::writable(queue.buffer(1), 512);
    let chain = [
        Descriptor::readable(queue.buffer(0), 16).then(1),
        data.then(2),
        Descriptor::writable(queue.buffer(1) + 511, 1),
    ];
    assert_eq!(queue.request(&chain), Answer::Used(0, 513));
    assert_eq!(device.puppet().load(queue.buffer(1) + 511, 1), [OK], "the status comes last");
    Verdict::Pass
}

/// What is read lands on the request itself, which was looked at before.
fn data_on_the_header(device: &Device<'_>) -> Verdict {
    let mut queue = ready(device);
    Subject::Block.fill_buffers(device.puppet(), &queue);
    let chain = [
        Descriptor::readable(queue.buffer(0), 16).then(1),
        Descriptor::writable(queue.buffer(0), 512).then(2),
        Descriptor::writable(queue.buffer(2), 1),
    ];
    assert_eq!(queue.request(&chain), Answer::Used(0, 513));
    assert_eq!(device.puppet().load(queue.buffer(0), 16), [3; 16]);
    Verdict::Pass
}

fn every_slot(device: &Device<'_>) -> Verdict {
    let mut queue = ready(device);
    Subject::Block.fill_buffers(device.puppet(), &queue);
    queue.describe(&Subject::Block.chain(&queue));
    (0..Queue::SIZE).for_each(|_| queue.offer(0));
    queue.kick();
    for _ in 0..Queue::SIZE {
        assert_eq!(queue.answer(), Answer::Used(0, 513));
    }
    Verdict::Pass
}
