//! The service behind a card, with a driver that plays the guest.

use std::thread;

use smoltcp::wire::{ArpOperation, EthernetFrame, Ipv4Packet, TcpControl, TcpPacket};

use super::super::DEFAULT_ADDRESS;
use super::super::stack::tests::{GUEST, SERVICE, Segment, arp, service};
use super::*;
use crate::virtio::net::tests::fake::{BUFFERS, Card, FakeNet, Told};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const BUFFER: u32 = 4096;

struct Guest {
    card: Card<MetadataNet>,
    network: Arc<FakeNet>,
    /// Address of the buffer behind each head of the receive queue.
    posted: Vec<u64>,
}

impl Guest {
    fn new() -> Self {
        assert_eq!(SERVICE, DEFAULT_ADDRESS);
        let network = FakeNet::new(1, true);
        let net = MetadataNet::new(network.clone(), service(), DEFAULT_ADDRESS).unwrap();
        let mut guest = Self { card: Card::on(Arc::new(net), 0), network, posted: vec![0; 16] };
        guest.post(8);
        guest
    }

    /// Offers `count` more buffers.
    fn post(&mut self, count: usize) {
        for _ in 0..count {
            let head = usize::from(self.card.running.queues[RECEIVE].next_head());
            let address = BUFFERS + 0x10_0000 + 0x1000 * head as u64;
            self.posted[head] = address;
            assert!(self.card.give(RECEIVE, &[(address, BUFFER, true)]));
        }
    }

    /// Sends a frame.
    fn send(&mut self, frame: &[u8]) {
        self.card.put(BUFFERS, &[&[0; 12], frame].concat());
        let len = u32::try_from(12 + frame.len()).unwrap();
        assert!(self.card.give(TRANSMIT, &[(BUFFERS, len, false)]));
        assert_eq!(self.card.used(TRANSMIT).len(), 1, "every frame is taken");
    }

    /// The frames that have come, without their headers, which say nothing.
    fn received(&mut self) -> Vec<Vec<u8>> {
        assert!(self.card.run(3));
        let used = self.card.used(RECEIVE);
        let frames = used.iter().map(|&(head, len)| {
            let frame = self.card.bytes(self.posted[head as usize], len as usize);
            let mut header = [0; 12];
            header[10] = 1;
            assert_eq!(frame[..12], header, "one buffer, and no offloads");
            frame[12..].to_vec()
        });
        let frames = frames.collect();
        self.post(used.len());
        frames
    }

    /// Becomes known to the service, so that it need not ask.
    fn introduce(&mut self) {
        self.send(&arp(ArpOperation::Request, GUEST, SERVICE));
        assert_eq!(self.received().len(), 1);
    }
}

/// Control, next number and payload of a segment of the service.
fn tcp(frame: &[u8]) -> (bool, i32, Vec<u8>) {
    let frame = EthernetFrame::new_checked(frame).unwrap();
    let ip = Ipv4Packet::new_checked(frame.payload()).unwrap();
    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
    (tcp.syn(), tcp.seq_number().0.wrapping_add(1), tcp.payload().to_vec())
}

#[test]
fn a_guest_asks_and_the_network_hears_nothing_of_it() {
    let mut guest = Guest::new();
    guest.introduce();
    guest.send(&Segment::new(9, TcpControl::Syn, 0, None).frame());
    let (is_syn, next, _) = tcp(&guest.received()[0]);
    assert!(is_syn);
    guest.send(&Segment::new(9, TcpControl::None, 1, Some(next)).frame());
    let request = b"GET /a HTTP/1.1\r\n\r\n";
    guest.send(&Segment::new(9, TcpControl::Psh, 1, Some(next)).with(request).frame());
    let text: Vec<u8> = guest.received().iter().flat_map(|frame| tcp(frame).2).collect();
    assert!(text.ends_with(b"\r\n\r\nb"), "{}", String::from_utf8_lossy(&text));
    assert_eq!(guest.network.sent(0), Vec::<Vec<u8>>::new());
}

#[test]
fn all_other_frames_pass_untouched() {
    let mut guest = Guest::new();
    let neighbour = Ipv4Addr::new(169, 254, 169, 253);
    let mut tagged = arp(ArpOperation::Request, GUEST, SERVICE);
    tagged.splice(12..12, [0x81, 0, 0, 1]);
    let mut ip6 = Segment::new(9, TcpControl::Syn, 0, None).frame();
    ip6[12..14].copy_from_slice(&[0x86, 0xdd]);
    let mut other_ip = Segment::new(9, TcpControl::Syn, 0, None).frame();
    other_ip[30..34].copy_from_slice(&[10, 0, 0, 9]);
    let frames = [
        arp(ArpOperation::Request, GUEST, neighbour),
        tagged,
        ip6,
        other_ip,
        vec![0x55; 14],
        vec![0; 33],
    ];
    for frame in frames {
        guest.send(&frame);
        let sent = guest.network.sent(0);
        assert_eq!(sent.len(), 1, "{frame:02x?}");
        assert_eq!(sent[0][12..], frame, "what the network got");
    }
    assert_eq!(guest.received().len(), 0);
    // And the other way.
    for seed in 0..3 {
        guest.network.arrive(0, Ok([&[0; 12][..], &[seed; 60]].concat()));
    }
    let received = guest.received();
    assert_eq!(received, [vec![0; 60], vec![1; 60], vec![2; 60]]);
}

#[test]
fn what_is_meant_for_the_service_never_leaves_even_if_it_is_nonsense() {
    let mut guest = Guest::new();
    let mut udp = Segment::new(9, TcpControl::Syn, 0, None).frame();
    udp[23] = 17;
    let mut short = Segment::new(9, TcpControl::Syn, 0, None).frame();
    short.truncate(34);
    let mut long = Segment::new(9, TcpControl::Syn, 0, None).frame();
    long.resize(60_000, 0);
    for frame in [udp, short, long] {
        guest.send(&frame);
        assert_eq!(guest.network.sent(0), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn an_answer_comes_by_itself_and_before_the_networks_frames() {
    let mut guest = Guest::new();
    guest.send(&arp(ArpOperation::Request, GUEST, SERVICE));
    guest.network.arrive(0, Ok(vec![0; 72]));
    // No kick of the receive queue: the card was called by the doorbell.
    assert!(guest.card.run(1));
    let frames = guest.received();
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [42, 60]);
}

#[test]
fn an_answer_that_is_not_acknowledged_comes_again() {
    let mut guest = Guest::new();
    guest.introduce();
    guest.send(&Segment::new(9, TcpControl::Syn, 0, None).frame());
    let first = guest.received();
    assert_eq!(first.len(), 1);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let again = guest.received();
        if let Some(frame) = again.first() {
            assert_eq!(tcp(frame).1, tcp(&first[0]).1);
            return;
        }
        assert!(Instant::now() < deadline, "nothing is sent again");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_new_driver_gets_no_frames_of_the_old_one() {
    let mut guest = Guest::new();
    guest.card.running.transport.write_status(0);
    guest.card.net.divert_for_test(&arp(ArpOperation::Request, GUEST, SERVICE));
    assert!(guest.card.net.has_frames.load(Ordering::Acquire));
    guest.card.restart(0, 16);
    assert!(!guest.card.net.has_frames.load(Ordering::Acquire));
    guest.post(4);
    assert_eq!(guest.received().len(), 0);
    let told = guest.network.told.lock().unwrap();
    assert!(told.contains(&Told::Offloads(Offloads::default())), "{told:?}");
}

impl MetadataNet {
    /// Gives the stack a frame while no driver is there to send one.
    fn divert_for_test(&self, frame: &[u8]) {
        let mut state = self.lock();
        state.stack.receive(frame.to_vec(), self.address, Duration::ZERO);
        self.arrange(&mut state, Duration::ZERO);
    }
}
