use super::*;
use crate::x86_64::tests::number;

#[test]
fn the_table_has_the_descriptors_that_the_selectors_index() {
    let long = table(&LONG_MODE);
    assert_eq!(number::<8>(&long, 0x10), 0x00af_9b00_0000_ffff, "64-bit code");
    assert_eq!(number::<8>(&long, 0x18), 0x00cf_9300_0000_ffff, "data");
    assert_eq!(number::<8>(&long, 0x20), 0x0000_8b00_0000_0067, "busy task");
    let protected = table(&PROTECTED_MODE);
    assert_eq!(number::<8>(&protected, 0x10), 0x00cf_9b00_0000_ffff, "32-bit code");
}

#[test]
fn unused_entries_are_zero_and_the_limit_is_the_last_byte() {
    let bytes = table(&LONG_MODE);
    assert_eq!(bytes.len(), usize::from(LIMIT) + 1);
    assert!(bytes[..0x10].iter().chain(&bytes[0x28..]).all(|byte| *byte == 0));
}

#[test]
fn a_scattered_descriptor_is_packed() {
    let segment = Segment {
        base: 0x1234_5678,
        limit: 0xa_bcde,
        type_: 0x9,
        present: 1,
        dpl: 3,
        avl: 1,
        ..Default::default()
    };
    assert_eq!(descriptor(&segment), 0x121a_e934_5678_bcde);
}
