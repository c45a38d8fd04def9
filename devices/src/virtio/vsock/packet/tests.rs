use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::Segment;
use crate::test_util::guest_memory;

const HEADER: Header = Header {
    src_cid: 0x0102_0304_0506_0708,
    dst_cid: 2,
    src_port: 0x1112_1314,
    dst_port: 52,
    len: 0x2122_2324,
    kind: 1,
    op: 5,
    flags: 3,
    buf_alloc: 0x3132_3334,
    fwd_cnt: 0x4142_4344,
};

/// As the table in virtio 1.3, 5.10.6 has it.
const BYTES: [u8; HEADER_LEN] = [
    8, 7, 6, 5, 4, 3, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0x14, 0x13, 0x12, 0x11, 52, 0, 0, 0, 0x24,
    0x23, 0x22, 0x21, 1, 0, 5, 0, 3, 0, 0, 0, 0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41,
];

#[test]
fn a_header_is_as_the_specification_has_it() {
    assert_eq!(Header::from_bytes(&BYTES), HEADER);
    assert_eq!(HEADER.to_bytes(), BYTES);
}

#[test]
fn a_header_may_be_cut_anywhere_and_must_be_whole() {
    let memory = guest_memory(1 << 20);
    memory.write_slice(&BYTES, GuestAddress(0x1000)).unwrap();
    for cut in 1..44_u32 {
        let first = Segment { address: GuestAddress(0x1000), len: cut };
        let rest = Segment { address: GuestAddress(0x1000 + u64::from(cut)), len: 44 - cut };
        let short = Segment { len: 43 - cut.min(42), ..rest };
        let packet = [first, rest];
        assert_eq!(Header::read(&Buffers::new(&memory, &packet)).unwrap(), Some(HEADER));
        let packet = [first, short];
        if cut < 43 {
            assert_eq!(Header::read(&Buffers::new(&memory, &packet)).unwrap(), None);
        }
    }
    assert_eq!(Header::read(&Buffers::new(&memory, &[])).unwrap(), None);
}

#[test]
fn operations_have_their_numbers_and_no_others_exist() {
    let known: Vec<u16> = (0..=u16::MAX).filter(|n| Op::from_number(*n).is_some()).collect();
    assert_eq!(known, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(HEADER.op(), Some(Op::ReadWrite));
}

#[test]
fn a_reset_goes_back_to_where_the_packet_came_from() {
    let reset = HEADER.reset();
    assert_eq!((reset.src_cid, reset.dst_cid), (HEADER.dst_cid, HEADER.src_cid));
    assert_eq!((reset.src_port, reset.dst_port), (HEADER.dst_port, HEADER.src_port));
    assert_eq!((reset.op(), reset.len, reset.kind), (Some(Op::Reset), 0, 1));
}

#[test]
fn directions_ignore_what_they_do_not_know() {
    assert_eq!(Directions::from_flags(u32::MAX), Directions::BOTH);
    assert_eq!(Directions::from_flags(0xfc), Directions::default());
    assert_eq!(Directions::RECEIVE.and(Directions::SEND), Directions::BOTH);
    assert!(!Directions::SEND.has(Directions::BOTH));
}
