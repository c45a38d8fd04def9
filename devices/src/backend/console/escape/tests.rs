use super::*;

fn decode(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Command>) {
    let mut decoder = EscapeDecoder::default();
    let mut input = Vec::new();
    let commands = pieces.iter().filter_map(|keys| decoder.decode(keys, &mut input)).collect();
    (input, commands)
}

#[test]
fn every_key_but_ctrl_a_passes_unchanged() {
    let keys: Vec<u8> = (0..=255).filter(|&k| k != 1).collect();
    assert_eq!(decode(&[&keys]), (keys, vec![]));
}

#[test]
fn ctrl_a_is_typed_by_ctrl_a_twice_or_ctrl_a_and_a() {
    assert_eq!(decode(&[b"-\x01\x01-\x01a-"]), (b"-\x01-\x01-".to_vec(), vec![]));
}

#[test]
fn x_ends_the_machine_and_nothing_after_it_counts() {
    assert_eq!(decode(&[b"ls\x01xrm"]), (b"ls".to_vec(), vec![Command::Quit]));
    assert_eq!(decode(&[b"\x01X"]), (vec![], vec![Command::Quit]));
}

#[test]
fn the_sequence_may_be_cut_anywhere() {
    assert_eq!(decode(&[b"a\x01", b"x"]), (b"a".to_vec(), vec![Command::Quit]));
    assert_eq!(decode(&[b"\x01", b"", b"\x01", b"x"]), (b"\x01x".to_vec(), vec![]));
}

#[test]
fn help_is_shown_for_h_question_mark_and_every_letter_without_a_meaning() {
    for key in (0..=255_u8).filter(|k| !b"xXa\x01".contains(k)) {
        let (input, commands) = decode(&[&[1, key, b'!']]);
        assert_eq!((&*input, &*commands), (&b"!"[..], &[Command::Help][..]), "{key}");
    }
}
