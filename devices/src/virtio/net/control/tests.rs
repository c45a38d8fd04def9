use super::super::tests::fake::{BUFFERS, Card, FakeCard, FakeNet, Told};
use super::*;
use crate::backend::net::Offloads;
use crate::virtio::transport::status;

const ANSWER: u64 = BUFFERS + 0x100;
const MULTI: u64 = features::CTRL_VQ | features::MQ;

/// Sends `command` in one piece on queue `queue` and returns the answer.
fn command(card: &mut FakeCard, queue: usize, command: &[u8]) -> u8 {
    let len = u32::try_from(command.len()).unwrap();
    card.put(BUFFERS, command);
    card.put(ANSWER, &[0xaa]);
    assert!(card.give(queue, &[(BUFFERS, len, false), (ANSWER, 1, true)]));
    let used = card.used(queue);
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].1, 1);
    card.bytes(ANSWER, 1)[0]
}

fn told(card: &FakeCard) -> Vec<Told> {
    std::mem::take(&mut card.net.told.lock().unwrap())
}

fn offloads(bits: u64) -> Vec<u8> {
    [5, 0].into_iter().chain(bits.to_le_bytes()).collect()
}

#[test]
fn one_pair_is_in_use_until_the_driver_says_otherwise() {
    let mut card = Card::on(FakeNet::new(4, true), MULTI);
    // All are attached first, so that the event loop can watch them.
    assert!(told(&card).contains(&Told::Active(4)));
    assert!(card.run(1));
    assert_eq!(told(&card), [Told::Active(1)]);
    assert_eq!(command(&mut card, 8, &[4, 0, 3, 0]), OK);
    assert_eq!(command(&mut card, 8, &[4, 0, 4, 0]), OK);
    assert_eq!(command(&mut card, 8, &[4, 0, 1, 0]), OK);
    assert_eq!(told(&card), [Told::Active(3), Told::Active(4), Told::Active(1)]);
}

#[test]
fn a_reset_goes_back_to_one_pair() {
    let mut card = Card::on(FakeNet::new(4, true), MULTI);
    assert_eq!(command(&mut card, 8, &[4, 0, 4, 0]), OK);
    told(&card);
    card.restart(MULTI, 16);
    assert!(card.run(1));
    assert!(told(&card).ends_with(&[Told::Active(1)]));
    card.restart(features::CTRL_VQ, 16);
    assert!(told(&card).contains(&Told::Active(1)));
}

#[test]
fn pairs_beyond_what_there_is_are_refused() {
    let mut card = Card::on(FakeNet::new(4, true), MULTI);
    assert!(card.run(1));
    told(&card);
    for count in [0, 5, 0x8000, 0xffff_u16] {
        let [a, b] = count.to_le_bytes();
        assert_eq!(command(&mut card, 8, &[4, 0, a, b]), REFUSED, "{count}");
    }
    assert_eq!(told(&card), []);
    assert_eq!(card.counters.control_refused.get(), 4);
}

#[test]
fn pairs_that_the_driver_did_not_set_up_are_refused() {
    let mut card = Card::on(FakeNet::new(4, true), 0);
    card.running.transport.write_status(0);
    let transport = &mut card.running.transport;
    for status in [1, 3] {
        transport.write_status(status);
    }
    transport.accept_features(0, u32::try_from(MULTI).unwrap());
    transport.accept_features(1, 1);
    transport.write_status(11);
    // Pair 0, pair 1, half of pair 2, pair 3 and the control queue.
    for index in [0, 1, 2, 3, 4, 6, 7, 8] {
        let config = card.running.queues[index].config();
        transport.configure_queue(u32::try_from(index).unwrap(), |q| *q = config);
    }
    transport.write_status(15);
    assert_eq!(transport.status(), 15);
    assert_eq!(command(&mut card, 8, &[4, 0, 2, 0]), OK);
    assert_eq!(command(&mut card, 8, &[4, 0, 3, 0]), REFUSED);
}

#[test]
fn a_host_that_refuses_is_reported_to_the_driver() {
    let features = MULTI | features::CTRL_GUEST_OFFLOADS | features::GUEST_CSUM;
    let mut card = Card::on(FakeNet::new(2, true), features);
    assert!(card.run(1));
    *card.net.refuse_with.lock().unwrap() = Some(libc::EBADFD);
    assert_eq!(command(&mut card, 4, &[4, 0, 2, 0]), REFUSED);
    assert_eq!(command(&mut card, 4, &offloads(0)), REFUSED);
    *card.net.refuse_with.lock().unwrap() = None;
    assert_eq!(command(&mut card, 4, &[4, 0, 2, 0]), OK);
}

#[test]
fn offloads_can_be_switched_within_what_was_negotiated() {
    let acked = features::CTRL_VQ
        | features::CTRL_GUEST_OFFLOADS
        | features::GUEST_CSUM
        | features::GUEST_TSO4
        | features::GUEST_USO4
        | features::GUEST_USO6;
    let mut card = FakeCard::new(acked);
    told(&card);
    let none = Offloads::default();
    let checksum = Offloads { checksum: true, ..none };
    for (bits, answer, effect) in [
        (0, OK, Some(none)),
        (features::GUEST_CSUM, OK, Some(checksum)),
        (1 << 1 | 1 << 7, OK, Some(Offloads { tso4: true, ..checksum })),
        (1 << 1 | 1 << 54 | 1 << 55, OK, Some(Offloads { uso: true, ..checksum })),
        // Not accepted, not an offload, not known.
        (1 << 1 | 1 << 8, REFUSED, None),
        (features::CTRL_VQ, REFUSED, None),
        (1 << 63, REFUSED, None),
        (u64::MAX, REFUSED, None),
    ] {
        assert_eq!(command(&mut card, 2, &offloads(bits)), answer, "{bits:#x}");
        let effect: Vec<_> = effect.map(Told::Offloads).into_iter().collect();
        assert_eq!(told(&card), effect, "{bits:#x}");
    }
}

#[test]
fn what_is_unknown_or_malformed_is_refused() {
    let features = MULTI | features::CTRL_GUEST_OFFLOADS;
    let mut card = Card::on(FakeNet::new(2, true), features);
    assert!(card.run(1));
    told(&card);
    let commands: &[&[u8]] = &[
        &[4],
        &[4, 0],
        &[4, 0, 1],
        &[4, 0, 1, 0, 0],
        &[4, 1, 1, 0],
        &[5, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 1],
        &[1, 0, 0, 0, 0, 0],
        &[255; 300],
    ];
    for bytes in commands {
        assert_eq!(command(&mut card, 4, bytes), REFUSED, "{bytes:?}");
    }
    assert_eq!(told(&card), []);
    assert_eq!(card.counters.control_refused.get(), commands.len() as u64);
    assert_eq!(command(&mut card, 4, &[4, 0, 1, 0]), OK);
}

#[test]
fn commands_that_were_not_negotiated_are_refused() {
    let mut card = Card::on(FakeNet::new(2, true), features::CTRL_VQ);
    assert_eq!(command(&mut card, 2, &[4, 0, 1, 0]), REFUSED);
    assert_eq!(command(&mut card, 2, &offloads(0)), REFUSED);
}

#[test]
fn a_command_may_come_in_pieces() {
    let mut card = Card::on(FakeNet::new(2, true), MULTI);
    card.put(BUFFERS, &[4, 0, 2, 0]);
    let pieces: Vec<_> =
        (0..4).map(|i| (BUFFERS + i, 1, false)).chain([(ANSWER, 4, true)]).collect();
    assert!(card.give(4, &pieces));
    assert_eq!(card.used(4), [(0, 1)]);
    assert!(told(&card).ends_with(&[Told::Active(2)]));
}

#[test]
fn a_command_without_room_for_an_answer_is_completed() {
    let mut card = Card::on(FakeNet::new(2, true), MULTI);
    card.put(BUFFERS, &[4, 0, 2, 0]);
    assert!(card.give(4, &[(BUFFERS, 4, false)]));
    assert!(card.give(4, &[(ANSWER, 1, true)]));
    assert_eq!(card.used(4), [(0, 0), (1, 1)]);
    assert_eq!(card.bytes(ANSWER, 1), [REFUSED], "no command at all");
}

#[test]
fn a_malformed_chain_needs_a_reset() {
    let mut card = Card::on(FakeNet::new(2, true), MULTI);
    assert!(!card.give(4, &[(u64::MAX, 4, false), (ANSWER, 1, true)]));
    assert_ne!(card.running.transport.status() & status::NEEDS_RESET, 0);
    card.restart(MULTI, 16);
    assert_eq!(command(&mut card, 4, &[4, 0, 2, 0]), OK);
}
