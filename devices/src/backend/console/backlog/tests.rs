use super::*;

/// Delivers everything in pieces of `piece`, as a sink would.
fn deliver(cursor: &mut Cursor, backlog: &Backlog, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = vec![0; piece];
    loop {
        let n = cursor.fill(backlog, &mut chunk);
        if n == 0 {
            return all;
        }
        all.extend(&chunk[..n]);
        cursor.advance(n);
    }
}

#[test]
fn a_reader_that_keeps_up_gets_every_byte_in_any_piece_size() {
    for piece in [1, 3, 7, 64] {
        let mut backlog = Backlog::new(16);
        let mut cursor = Cursor::at_start_of(&backlog);
        let mut got = Vec::new();
        for i in 0..100_u8 {
            backlog.append(&[i, i]);
            got.extend(deliver(&mut cursor, &backlog, piece));
            backlog.discard_before(cursor.position());
        }
        let want: Vec<u8> = (0..100).flat_map(|i| [i, i]).collect();
        assert_eq!(got, want, "piece {piece}");
        assert_eq!(cursor.lost(&backlog), 0);
    }
}

#[test]
fn only_the_newest_bytes_are_kept_and_the_count_goes_on() {
    let mut backlog = Backlog::new(4);
    backlog.append(b"abc");
    backlog.append(b"def");
    assert_eq!((backlog.start(), backlog.end()), (2, 6));
    assert_eq!(backlog.to_vec(), b"cdef");
    backlog.append(b"0123456789");
    assert_eq!((backlog.start(), backlog.end()), (12, 16));
    assert_eq!(backlog.to_vec(), b"6789");
}

#[test]
fn copies_start_anywhere_also_across_the_fold_of_the_ring() {
    let mut backlog = Backlog::new(8);
    for chunk in [&b"01234567"[..], b"89a", b"bcd"] {
        backlog.append(chunk);
    }
    let want = b"6789abcd";
    for skip in 0..=8_usize {
        let mut to = [0; 8];
        let n = backlog.copy_from(backlog.start() + skip as u64, &mut to);
        assert_eq!(&to[..n], &want[skip..], "skip {skip}");
    }
    assert_eq!(backlog.copy_from(u64::MAX, &mut [0; 8]), 0);
}

#[test]
fn a_slow_reader_is_told_exactly_what_it_missed() {
    let mut backlog = Backlog::new(4);
    let mut cursor = Cursor::at_start_of(&backlog);
    backlog.append(b"ab");
    assert_eq!(deliver(&mut cursor, &backlog, 8), b"ab");
    backlog.append(b"0123456789");
    assert_eq!(cursor.lost(&backlog), 6);
    assert_eq!(deliver(&mut cursor, &backlog, 5), b"\r\n[vmm: 6 bytes lost]\r\n6789");
    assert_eq!(cursor.lost(&backlog), 6);
}

#[test]
fn a_marker_that_is_half_out_is_finished_before_the_next_one() {
    let mut backlog = Backlog::new(2);
    let mut cursor = Cursor::at_start_of(&backlog);
    backlog.append(b"abcde");
    let mut chunk = [0; 8];
    assert_eq!(cursor.fill(&backlog, &mut chunk), 8);
    cursor.advance(8);
    backlog.append(b"XYZ");
    let got = deliver(&mut cursor, &backlog, 64);
    assert_eq!(got, b"3 bytes lost]\r\n\r\n[vmm: 3 bytes lost]\r\nYZ");
    assert_eq!(cursor.lost(&backlog), 6);
}

#[test]
fn markers_do_not_pile_up_while_nothing_goes_out() {
    let mut backlog = Backlog::new(4);
    let mut cursor = Cursor::at_start_of(&backlog);
    for _ in 0..1000 {
        backlog.append(b"01234567");
        cursor.fill(&backlog, &mut [0; 64]);
    }
    let got = deliver(&mut cursor, &backlog, 64);
    assert_eq!(got, b"\r\n[vmm: 4 bytes lost]\r\n\r\n[vmm: 7992 bytes lost]\r\n4567");
    assert_eq!(cursor.lost(&backlog), 7996);
}

#[test]
fn what_was_filled_but_not_delivered_comes_again_or_counts_as_lost() {
    let mut backlog = Backlog::new(4);
    let mut cursor = Cursor::at_start_of(&backlog);
    backlog.append(b"abcd");
    let mut chunk = [0; 4];
    assert_eq!(cursor.fill(&backlog, &mut chunk), 4);
    // Two of the four went out while the stream moved on by three.
    backlog.append(b"efg");
    cursor.advance(2);
    assert_eq!(deliver(&mut cursor, &backlog, 64), b"\r\n[vmm: 1 bytes lost]\r\ndefg");
}

#[test]
fn a_late_reader_begins_with_the_oldest_byte_kept_and_has_lost_nothing() {
    let mut backlog = Backlog::new(4);
    backlog.append(b"abcdef");
    let mut cursor = Cursor::at_start_of(&backlog);
    assert_eq!(deliver(&mut cursor, &backlog, 64), b"cdef");
    assert_eq!(cursor.lost(&backlog), 0);
}

#[test]
fn words_of_the_monitor_do_not_pile_up_or_count_as_stream() {
    let mut backlog = Backlog::new(8);
    let mut cursor = Cursor::at_start_of(&backlog);
    for _ in 0..1000 {
        cursor.say("<help>");
    }
    backlog.append(b"ab");
    assert_eq!(deliver(&mut cursor, &backlog, 4), b"<help>ab");
    assert_eq!(cursor.position(), 2);
}

#[test]
fn memory_is_bounded_in_a_flood_and_given_back_after_it() {
    let mut backlog = Backlog::new(1 << 16);
    for _ in 0..1 << 10 {
        backlog.append(&[0; 1 << 14]);
        backlog.append(&[0; 3]);
    }
    assert!(backlog.bytes.capacity() <= 1 << 17);
    assert_eq!(backlog.end(), (1 << 24) + 3 * (1 << 10));
    backlog.discard_before(backlog.end());
    assert!(backlog.bytes.capacity() <= 2 * SPARE);
}

#[test]
fn a_closed_backlog_keeps_counting_and_holds_nothing() {
    let mut backlog = Backlog::new(8);
    let cursor = Cursor::at_start_of(&backlog);
    backlog.append(b"abc");
    backlog.close();
    backlog.append(b"defgh");
    assert_eq!((backlog.start(), backlog.end()), (8, 8));
    assert_eq!(cursor.lost(&backlog), 8);
    assert_eq!(backlog.bytes.capacity(), 0);
}
