use super::Range;

const fn range(start: u64, len: u64) -> Range {
    Range { start, len }
}

#[test]
fn end_is_checked() {
    assert_eq!(range(4, 6).end(), Some(10));
    assert_eq!(range(u64::MAX, 0).end(), Some(u64::MAX));
    assert_eq!(range(u64::MAX, 1).end(), None);
}

#[test]
fn neighbours_do_not_overlap() {
    assert!(!range(0, 16).overlaps(&range(16, 16)));
    assert!(!range(16, 16).overlaps(&range(0, 16)));
    assert!(range(0, 17).overlaps(&range(16, 16)));
    assert!(range(0, 100).overlaps(&range(50, 1)));
    assert!(range(50, 1).overlaps(&range(0, 100)));
}

#[test]
fn an_empty_range_overlaps_nothing() {
    assert!(!range(8, 0).overlaps(&range(0, 16)));
    assert!(!range(0, 16).overlaps(&range(8, 0)));
}

#[test]
fn wrapping_ranges_overlap_but_contain_nothing() {
    assert!(range(u64::MAX - 1, 16).overlaps(&range(u64::MAX - 8, 8)));
    assert!(!range(u64::MAX - 1, 16).contains(&range(u64::MAX - 1, 1)));
    assert!(!range(0, u64::MAX).contains(&range(8, u64::MAX)));
}

#[test]
fn contains_is_inclusive() {
    assert!(range(0, 16).contains(&range(0, 16)));
    assert!(range(0, 16).contains(&range(16, 0)));
    assert!(!range(0, 16).contains(&range(0, 17)));
    assert!(!range(1, 16).contains(&range(0, 4)));
}
