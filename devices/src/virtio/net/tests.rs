pub(crate) mod fake;
mod real;
mod saved;

use std::sync::Arc;

use super::*;
use crate::backend::net::Offloads;
use crate::virtio::transport::status;
use fake::{BUFFERS, Card, FakeCard, FakeNet, Told, frame, unlimited};

fn net(mac: Option<MacAddress>, mtu: Option<Mtu>, backend: Arc<FakeNet>) -> Net {
    let (rx_limiter, tx_limiter) = unlimited();
    Net::new(NetOptions { id: "net0".to_owned(), mac, mtu, backend, rx_limiter, tx_limiter })
}

fn told(net: &FakeNet) -> Vec<Told> {
    std::mem::take(&mut net.told.lock().unwrap())
}

#[test]
fn configuration_space_has_the_fields_of_the_specification() {
    let mac = MacAddress::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]).unwrap();
    let net = net(Some(mac), Some(Mtu::new(9000).unwrap()), FakeNet::new(4, true));
    let mut config = [0xaa; 16];
    net.read_config(0, &mut config);
    assert_eq!(config[..6], [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!(config[6..8], [1, 0], "link up");
    assert_eq!(config[8..10], [4, 0], "pairs");
    assert_eq!(config[10..12], 9000_u16.to_le_bytes(), "mtu");
    assert_eq!(config[12..], [0; 4], "beyond the end");
    let mut part = [0xaa; 4];
    net.read_config(u64::MAX, &mut part);
    assert_eq!(part, [0; 4]);
    net.read_config(10, &mut part);
    assert_eq!(part, [0x28, 0x23, 0, 0]);
}

#[test]
fn features_are_offered_only_with_what_they_need() {
    let optional = features::MAC | features::MTU | features::MQ | features::USO;
    let plain = net(None, None, FakeNet::new(1, false)).features();
    assert_eq!(plain & optional, 0);
    assert_eq!(plain, features::ALWAYS);
    let mac = MacAddress::new([2, 0, 0, 0, 0, 1]).unwrap();
    let full = net(Some(mac), Some(Mtu::new(1500).unwrap()), FakeNet::new(2, true)).features();
    assert_eq!(full, features::ALWAYS | optional);
}

#[test]
fn there_are_two_queues_per_pair_and_one_for_commands() {
    for (pairs, queues) in [(1, 3), (2, 5), (256, 513)] {
        let net = net(None, None, FakeNet::new(pairs, true));
        assert_eq!(net.queue_sizes(), vec![256; queues]);
    }
}

#[test]
fn the_mtu_is_set_on_the_host_and_its_refusal_is_survived() {
    let backend = FakeNet::new(1, true);
    let _ = net(None, Some(Mtu::new(9000).unwrap()), backend.clone());
    let _ = net(None, None, backend.clone());
    assert_eq!(told(&backend), [Told::Mtu(9000)]);
    *backend.refuse_with.lock().unwrap() = Some(libc::EPERM);
    let card = net(None, Some(Mtu::new(9000).unwrap()), backend.clone());
    assert_ne!(card.features() & features::MTU, 0);
}

#[test]
fn offloads_follow_what_the_driver_accepted() {
    use features::*;

    let none = Offloads::default();
    let checksum = Offloads { checksum: true, ..none };
    for (acked, expected) in [
        (0, none),
        (CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO, none),
        (GUEST_CSUM, checksum),
        (GUEST_CSUM | GUEST_TSO4, Offloads { tso4: true, ..checksum }),
        (GUEST_CSUM | GUEST_TSO6, Offloads { tso6: true, ..checksum }),
        (GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | USO, none),
        (GUEST_CSUM | GUEST_ECN, checksum),
        (GUEST_CSUM | GUEST_TSO6 | GUEST_ECN, Offloads { tso6: true, ecn: true, ..checksum }),
        (GUEST_CSUM | GUEST_USO4, checksum),
        (GUEST_CSUM | GUEST_USO4 | GUEST_USO6, Offloads { uso: true, ..checksum }),
    ] {
        let card = FakeCard::new(acked);
        let told = told(&card.net);
        assert_eq!(told[1..], [Told::Active(1), Told::Offloads(expected)], "{acked:#x}");
    }
}

#[test]
fn a_backend_that_refuses_needs_a_reset_and_may_be_tried_again() {
    let backend = FakeNet::new(1, true);
    *backend.refuse_with.lock().unwrap() = Some(libc::EBADFD);
    let mut card = Card::on(backend, 0);
    assert_ne!(card.running.transport.status() & status::NEEDS_RESET, 0);
    assert!(!card.running.host.is_running());
    *card.net.refuse_with.lock().unwrap() = None;
    card.restart(0, 16);
    assert_eq!(card.running.transport.status() & status::NEEDS_RESET, 0);
    card.net.arrive(0, Ok(frame(60, 1)));
    card.give(0, &[(BUFFERS, 2048, true)]);
    assert_eq!(card.used(0), [(0, 72)]);
}

#[test]
fn a_driver_without_a_transmit_queue_is_refused() {
    let mut card = FakeCard::new(0);
    card.running.transport.write_status(0);
    let transport = &mut card.running.transport;
    for status in [1, 3] {
        transport.write_status(status);
    }
    transport.accept_features(1, 1);
    transport.write_status(11);
    transport.configure_queue(0, |q| *q = card.running.queues[0].config());
    transport.write_status(15);
    assert_ne!(transport.status() & status::NEEDS_RESET, 0);
}

#[test]
fn without_mq_the_command_queue_is_the_third() {
    // The same ring would be the second pair's receive queue with MQ.
    let mut card = Card::on(FakeNet::new(3, true), features::CTRL_VQ);
    card.put(BUFFERS, &[9, 9]);
    card.give(2, &[(BUFFERS, 2, false), (BUFFERS + 16, 1, true)]);
    assert_eq!(card.used(2), [(0, 1)], "answered as a command");
    card.restart(features::CTRL_VQ | features::MQ, 16);
    card.give(2, &[(BUFFERS, 2, false), (BUFFERS + 16, 1, true)]);
    assert_eq!(card.used(2), [], "an idle receive queue");
    card.give(6, &[(BUFFERS, 2, false), (BUFFERS + 16, 1, true)]);
    assert_eq!(card.used(6), [(0, 1)]);
}

#[test]
fn resets_under_load_lose_nothing_of_the_card() {
    let mut card = FakeCard::new(features::MRG_RXBUF);
    for round in 0..100 {
        for seed in 0..8 {
            card.net.arrive(0, Ok(frame(1000, seed)));
        }
        // Some buffers are used, some are posted, and one frame is held for want of a buffer.
        card.give(0, &[(BUFFERS, 2048, true)]);
        card.give(0, &[(BUFFERS + 2048, 100, true)]);
        card.put(BUFFERS + 0x1000, &frame(60, round));
        card.give(1, &[(BUFFERS + 0x1000, 72, false)]);
        assert_eq!(card.used(0).len(), 1, "round {round}");
        assert_eq!(card.used(1).len(), 1);
        assert_eq!(card.net.sent(0), [frame(60, round)]);
        card.restart(features::MRG_RXBUF, 16);
        assert!(card.run(1));
    }
    assert_eq!(card.counters.rx_frames.get(), 100);
    assert_eq!(card.counters.tx_frames.get(), 100);
}

#[test]
fn a_network_that_vanishes_takes_the_link_down_once() {
    let mut card = FakeCard::new(features::STATUS);
    let generation = card.running.transport.interrupt().generation();
    card.net.arrive(0, Err(libc::EBADFD));
    card.give(0, &[(BUFFERS, 2048, true)]);
    card.net.fail_send(0, libc::EBADFD);
    card.put(BUFFERS + 0x1000, &frame(60, 1));
    assert!(card.give(1, &[(BUFFERS + 0x1000, 72, false)]), "the device lives on");
    let mut link = [0xaa; 2];
    card.running.transport.read_config(6, &mut link);
    assert_eq!(link, [0, 0]);
    assert_eq!(card.running.transport.interrupt().generation(), generation + 1);
    assert_eq!(card.used(1), [(0, 0)], "a frame that cannot be sent is completed");
    assert_eq!(card.counters.tx_errors.get(), 1);
}

#[test]
fn stopping_hands_back_queues_that_stand_where_the_driver_thinks() {
    use crate::virtio::device::DeviceHost;

    let mut card = FakeCard::new(features::MRG_RXBUF | features::GUEST_CSUM | features::GUEST_TSO4);
    for buffer in 0..10 {
        card.running.queues[0].add(&[(BUFFERS + buffer * 2048, 1500, true)]);
    }
    card.net.arrive(0, Ok(frame(2000, 1)));
    // This one is held: it needs 11 buffers, and 8 are left.
    card.net.arrive(0, Ok(frame(16000, 1)));
    assert!(card.running.kick(0));
    assert!(card.run(3));
    let queues = card.running.host.stop().unwrap().stop();
    let receive = queues.iter().find(|q| q.index() == 0).unwrap().position();
    assert_eq!((receive.next_avail, receive.next_used), (2, 2));
    assert_eq!(card.counters.rx_no_buffer.get(), 1, "the held frame is lost, and counted");
}
