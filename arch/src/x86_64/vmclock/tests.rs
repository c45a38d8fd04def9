use super::*;
use crate::x86_64::tests::number;

#[test]
fn the_first_page_says_what_there_is() {
    let page = page([0; 16]);
    assert!(page.starts_with(b"VCLK"));
    assert_eq!((number::<4>(&page, 4), number::<2>(&page, 8)), (4096, 1));
    assert_eq!((page.len(), page[10]), (112, 0xff), "no clock");
    assert_eq!(number::<8>(&page, 24), 0x300, "generation counter, notification");
    let zero = [11..24, 32..112].into_iter().flatten().all(|at| page[at] == 0);
    assert!(zero, "{page:x?}");
}

#[test]
fn another_machine_has_other_numbers_and_the_same_rest() {
    let (one, other) = (page(*b"0123456789abcdef"), page([0xff; 16]));
    // Sequence, disruption marker, generation.
    for (at, even) in [(12, true), (16, false), (104, false)] {
        let numbers = [&one, &other].map(|page| number::<4>(page, at));
        assert!(numbers[0] != numbers[1] && !numbers.contains(&0), "{at}: {numbers:x?}");
        assert!(!even || numbers.iter().all(|it| it % 2 == 0), "{numbers:x?}");
    }
    assert_eq!(number::<8>(&one, 16), u64::from_le_bytes(*b"01234567"));
    assert_eq!(number::<8>(&one, 104), u64::from_le_bytes(*b"89abcdef"));
    for at in [0..12, 24..104].into_iter().flatten() {
        assert_eq!(one[at], other[at], "{at}");
    }
}
