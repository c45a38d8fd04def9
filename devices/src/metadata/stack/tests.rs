use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress,
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::super::{MetadataStore, ServiceOptions, Version};
use super::*;

pub(in crate::metadata) const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub(in crate::metadata) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const GUEST_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x42]);
const GATEWAY_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

fn now(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(in crate::metadata) fn service() -> Arc<Service> {
    let store = MetadataStore::new(100_000);
    store.put(serde_json::json!({ "a": "b", "long": "x".repeat(50_000) })).unwrap();
    let options = ServiceOptions { version: Version::V1, imds_compat: false };
    Arc::new(Service::new(options, store).unwrap())
}

fn stack() -> Stack {
    Stack::new(SERVICE, service(), 1)
}

pub(in crate::metadata) fn arp(
    operation: ArpOperation,
    sender: Ipv4Addr,
    target: Ipv4Addr,
) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: GUEST_MAC,
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut frame = ethernet(EthernetProtocol::Arp, EthernetAddress::BROADCAST, repr.buffer_len());
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

fn ethernet(kind: EthernetProtocol, to: EthernetAddress, payload: usize) -> Vec<u8> {
    let repr = EthernetRepr { src_addr: GUEST_MAC, dst_addr: to, ethertype: kind };
    let mut frame = vec![0; 14 + payload];
    repr.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    frame
}

/// A segment of the guest.
#[derive(Clone, Copy)]
pub(in crate::metadata) struct Segment<'a> {
    pub(in crate::metadata) port: u16,
    pub(in crate::metadata) to_port: u16,
    pub(in crate::metadata) control: TcpControl,
    pub(in crate::metadata) number: i32,
    pub(in crate::metadata) acknowledged: Option<i32>,
    pub(in crate::metadata) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    pub(in crate::metadata) fn new(
        port: u16,
        control: TcpControl,
        number: i32,
        acknowledged: Option<i32>,
    ) -> Self {
        Self { port, to_port: PORT, control, number, acknowledged, payload: &[] }
    }

    pub(in crate::metadata) fn with(self, payload: &'a [u8]) -> Self {
        Self { payload, ..self }
    }

    pub(in crate::metadata) fn frame(self) -> Vec<u8> {
        let mut tcp = TcpRepr {
            src_port: self.port,
            dst_port: self.to_port,
            control: self.control,
            seq_number: TcpSeqNumber(self.number),
            ack_number: self.acknowledged.map(TcpSeqNumber),
            window_len: 60_000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: self.payload,
        };
        if self.control == TcpControl::Syn {
            tcp.max_seg_size = Some(1460);
        }
        let ip = Ipv4Repr {
            src_addr: GUEST,
            dst_addr: SERVICE,
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let len = ip.buffer_len() + tcp.buffer_len();
        let mut frame = ethernet(EthernetProtocol::Ipv4, GATEWAY_MAC, len);
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
        let (from, to) = (IpAddress::Ipv4(GUEST), IpAddress::Ipv4(SERVICE));
        // As a driver that leaves checksums to the device sends it.
        let mut unfinished = checksums;
        unfinished.tcp = Checksum::None;
        tcp.emit(&mut TcpPacket::new_unchecked(&mut frame[34..]), &from, &to, &unfinished);
        frame
    }
}

/// A segment of the service: number, acknowledgement, what else it says, payload.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    port: u16,
    number: i32,
    acknowledged: Option<i32>,
    control: TcpControl,
    payload: Vec<u8>,
}

/// Takes the frames that wait. Requests for the guest's address are answered, everything else must be TCP with
/// correct checksums.
fn replies(stack: &mut Stack, at: Duration) -> Vec<Reply> {
    let mut all = Vec::new();
    while let Some(frame) = stack.take(at) {
        let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
        if frame.ethertype() == EthernetProtocol::Arp {
            let request =
                ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
            let ArpRepr::EthernetIpv4 { operation, target_protocol_addr, .. } = request else {
                panic!("{request:?}")
            };
            if operation == ArpOperation::Request && target_protocol_addr == GUEST {
                stack.receive(arp(ArpOperation::Reply, GUEST, SERVICE), SERVICE, at);
            }
            continue;
        }
        assert_eq!((frame.ethertype(), frame.dst_addr()), (EthernetProtocol::Ipv4, GUEST_MAC));
        let ip = Ipv4Packet::new_checked(frame.payload()).unwrap();
        assert!(ip.verify_checksum());
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        let (from, to) = (IpAddress::Ipv4(SERVICE), IpAddress::Ipv4(GUEST));
        let checksums = ChecksumCapabilities::default();
        let repr = TcpRepr::parse(&tcp, &from, &to, &checksums).unwrap();
        all.push(Reply {
            port: repr.dst_port,
            number: repr.seq_number.0,
            acknowledged: repr.ack_number.map(|number| number.0),
            control: repr.control,
            payload: repr.payload.to_vec(),
        });
    }
    all
}

/// Opens a connection; the service's next number.
fn connect(stack: &mut Stack, port: u16, at: Duration) -> i32 {
    stack.receive(Segment::new(port, TcpControl::Syn, 0, None).frame(), SERVICE, at);
    let reply = replies(stack, at).into_iter().find(|reply| reply.port == port).unwrap();
    assert_eq!((reply.control, reply.acknowledged), (TcpControl::Syn, Some(1)));
    let next = reply.number.wrapping_add(1);
    stack.receive(Segment::new(port, TcpControl::None, 1, Some(next)).frame(), SERVICE, at);
    next
}

#[test]
fn its_address_is_its_own_and_no_other() {
    let mut stack = stack();
    stack.receive(arp(ArpOperation::Request, GUEST, SERVICE), SERVICE, now(0));
    let frame = stack.take(now(0)).unwrap();
    let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
    let arp_reply = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
    let expected = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: hardware_address(SERVICE),
        source_protocol_addr: SERVICE,
        target_hardware_addr: GUEST_MAC,
        target_protocol_addr: GUEST,
    };
    assert_eq!(arp_reply, expected);
    let other = Ipv4Addr::new(169, 254, 169, 253);
    stack.receive(arp(ArpOperation::Request, GUEST, other), SERVICE, now(0));
    assert!(!stack.has_frames());
}

#[test]
fn a_request_by_the_gateway_is_answered() {
    let mut stack = stack();
    let next = connect(&mut stack, 1000, now(0));
    let request = b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n";
    let len = i32::try_from(request.len()).unwrap();
    let segment = Segment::new(1000, TcpControl::Psh, 1, Some(next)).with(request);
    stack.receive(segment.frame(), SERVICE, now(1));
    let answer = replies(&mut stack, now(1));
    let text: Vec<u8> = answer.iter().flat_map(|reply| reply.payload.clone()).collect();
    assert!(text.starts_with(b"HTTP/1.1 200 OK\r\n") && text.ends_with(b"\r\n\r\nb"));
    assert!(answer.iter().all(|reply| reply.acknowledged == Some(1 + len)));
    // The service has said its last.
    assert_eq!(answer.last().unwrap().control, TcpControl::Fin);
}

#[test]
fn a_long_answer_waits_for_the_guest_and_a_lost_piece_is_sent_again() {
    let mut stack = stack();
    let next = connect(&mut stack, 1000, now(0));
    let request = b"GET /long HTTP/1.1\r\n\r\n";
    let sent = 1 + i32::try_from(request.len()).unwrap();
    stack.receive(
        Segment::new(1000, TcpControl::Psh, 1, Some(next)).with(request).frame(),
        SERVICE,
        now(0),
    );
    let (mut body, mut expected, mut at, mut lost) = (Vec::new(), next, 0, 0);
    while body.len() < 50_000 {
        let got = replies(&mut stack, now(at));
        let unacknowledged: usize = got.iter().map(|reply| reply.payload.len()).sum();
        assert!(unacknowledged <= SEND_BUFFER, "{unacknowledged} bytes at once");
        // Every fifth burst is lost; then nothing comes before the timer.
        at += 1;
        if at % 5 == 0 && !got.is_empty() {
            lost += 1;
            let rest = stack.rest(now(at)).expect("something to repeat");
            at += u64::try_from(rest.as_millis()).unwrap() + 1;
            stack.poll(now(at));
            continue;
        }
        for reply in &got {
            if reply.number != expected {
                continue;
            }
            body.extend_from_slice(&reply.payload);
            expected = expected.wrapping_add(i32::try_from(reply.payload.len()).unwrap());
        }
        let acknowledgement = Segment::new(1000, TcpControl::None, sent, Some(expected));
        stack.receive(acknowledgement.frame(), SERVICE, now(at));
        assert!(at < 1_000_000, "{} bytes came", body.len());
    }
    assert!(lost > 0 && body.ends_with(b"xxxx"), "{lost} lost");
    replies(&mut stack, now(at));
    assert_eq!(stack.rest(now(at + 100)), None, "a quiet connection needs no timer");
}

#[test]
fn nothing_is_due_before_the_first_frame_and_ports_are_closed() {
    let mut stack = stack();
    assert_eq!(stack.rest(now(0)), None);
    assert!(!stack.has_frames());
    let closed = Segment { to_port: 81, ..Segment::new(1, TcpControl::Syn, 0, None) };
    stack.receive(arp(ArpOperation::Request, GUEST, SERVICE), SERVICE, now(0));
    stack.receive(closed.frame(), SERVICE, now(0));
    let answers = replies(&mut stack, now(0));
    assert_eq!(answers.iter().map(|reply| reply.control).collect::<Vec<_>>(), [TcpControl::Rst]);
}

#[test]
fn more_connections_than_there_can_be_displace_the_oldest() {
    let mut stack = stack();
    let numbers: Vec<i32> =
        (1000..1200).map(|port| connect(&mut stack, port, now(port.into()))).collect();
    assert_eq!(stack.connections.len(), MAX_CONNECTIONS);
    // The first one is gone, the last one is there.
    for (port, number, is_there) in [(1000, numbers[0], false), (1199, numbers[199], true)] {
        let text = b"GET /a HTTP/1.1\r\n\r\n";
        let segment = Segment::new(port, TcpControl::Psh, 1, Some(number)).with(text);
        stack.receive(segment.frame(), SERVICE, now(2000));
        let answers = replies(&mut stack, now(2000));
        let is_reset = answers.iter().any(|reply| reply.control == TcpControl::Rst);
        assert_eq!(is_reset, !is_there, "port {port}: {answers:?}");
    }
}

#[test]
fn a_guest_that_takes_nothing_costs_a_bounded_amount() {
    let mut stack = stack();
    stack.receive(arp(ArpOperation::Request, GUEST, SERVICE), SERVICE, now(0));
    for round in 0..1000 {
        stack.receive(arp(ArpOperation::Request, GUEST, SERVICE), SERVICE, now(round));
        let port = 2000 + u16::try_from(round).unwrap();
        stack.receive(Segment::new(port, TcpControl::Syn, 0, None).frame(), SERVICE, now(round));
    }
    assert!(stack.wire.outgoing.len() <= MAX_WAITING);
    assert!(stack.connections.len() <= MAX_CONNECTIONS);
    stack.drop_frames();
    assert!(!stack.has_frames());
}

/// Frames in the middle of which something is wrong, thousands of them: none may end the process or leave the
/// stack unable to answer.
#[test]
fn hostile_frames_are_survived() {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    let mut stack = stack();
    let request: &[u8] = b"GET /long HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\n";
    let mut next = connect(&mut stack, 1000, now(0));
    let controls =
        [TcpControl::None, TcpControl::Psh, TcpControl::Syn, TcpControl::Fin, TcpControl::Rst];
    for round in 0..20_000_u64 {
        let port = 1000 + u16::try_from(random() % 8).unwrap();
        let near = |base: i32, random: usize| {
            let distance = [0, 1, -1, 100, -100, 5000, -5000, i32::MAX, i32::MIN];
            base.wrapping_add(distance[random % distance.len()])
        };
        let acknowledged = (random() % 4 > 0).then(|| near(next, random()));
        let segment = Segment {
            to_port: if random() % 16 == 0 { 81 } else { PORT },
            ..Segment::new(
                port,
                controls[random() % controls.len()],
                near(1, random()),
                acknowledged,
            )
        };
        let payload = request.get(..random() % request.len()).unwrap();
        let mut frame = segment.with(payload).frame();
        if random() % 8 == 0 {
            frame = arp(ArpOperation::Reply, GUEST, SERVICE);
        }
        // Some bytes are anything, and sometimes the end is missing.
        for _ in 0..random() % 4 {
            let at = 6 + random() % (frame.len() - 6);
            frame[at] = u8::try_from(random() & 0xff).unwrap();
        }
        if random() % 16 == 0 {
            frame.truncate(random() % frame.len());
        }
        stack.receive(frame, SERVICE, now(round));
        if random() % 4 == 0 {
            while let Some(frame) = stack.take(now(round)) {
                let Ok(frame) = EthernetFrame::new_checked(&frame[..]) else { continue };
                let Ok(ip) = Ipv4Packet::new_checked(frame.payload()) else { continue };
                let Ok(tcp) = TcpPacket::new_checked(ip.payload()) else { continue };
                next = tcp.seq_number().0.wrapping_add(1);
            }
        }
        if random() % 64 == 0 {
            stack.poll(now(round + 100));
        }
    }
    assert!(stack.connections.len() <= MAX_CONNECTIONS);
    while stack.take(now(30_000)).is_some() {}
    stack.receive(arp(ArpOperation::Request, GUEST, SERVICE), SERVICE, now(30_000));
    while stack.take(now(30_000)).is_some() {}
    connect(&mut stack, 5000, now(30_000));
}
