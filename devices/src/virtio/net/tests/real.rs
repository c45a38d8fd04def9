//! Two cards on real taps of one bridge, in a network of their own: what one driver sends, the kernel
//! shapes as the other driver wants it.

use super::super::features::*;
use super::fake::{BUFFERS, Card, frame};
use crate::backend::net::tap::Tap;
use crate::backend::net::test_network::{in_own_network, ip};
use crate::virtio::feature::{EVENT_IDX, INDIRECT_DESC};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The full path of the calling test.
macro_rules! path {
    ($name:ident) => {
        concat!(module_path!(), "::", stringify!($name))
    };
}

/// What a driver accepts that wants its frames as large as possible.
const LARGE: u64 = MRG_RXBUF | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN;
/// What a driver accepts that leaves work to the host.
const LAZY: u64 = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;

/// Frames come in with this behind the virtio-net header: an experimental type, nobody listens to it.
const TO_CARD: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/// What `wait_for_the_bridge` sends has this type instead: such frames may come late, and mean nothing.
const PROBE: [u8; 2] = [0x88, 0xb6];

type TapCard = Card<Tap>;

/// A card that sends and one that receives, on one bridge.
struct Bridged {
    from: TapCard,
    to: TapCard,
    has_heard_probe: bool,
}

impl Bridged {
    /// The receiving driver accepted `features` and has 256 buffers of 2 KiB.
    fn new(features: u64, mtu: u16) -> Self {
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
        let card = |name: &str, features| {
            let card = Card::with_mtu(Arc::new(Tap::open(name, 1).unwrap()), mtu, features);
            ip(&format!("link set {name} up"));
            card
        };
        let mut from = card("from", LAZY | INDIRECT_DESC);
        let mut to = card("to", features);
        from.restart(LAZY | HOST_USO | INDIRECT_DESC, 256);
        to.restart(features, 256);
        ip("link add bridge type bridge");
        ip(&format!("link set bridge mtu {mtu} up"));
        for name in ["from", "to"] {
            ip(&format!("link set {name} master bridge"));
        }
        let mut both = Self { from, to, has_heard_probe: false };
        both.post(256);
        both.wait_for_the_bridge();
        both
    }

    /// Posts `count` receive buffers.
    fn post(&mut self, count: u16) {
        let queue = &mut self.to.running.queues[0];
        for _ in 0..count {
            let head = queue.next_head();
            queue.add(&[(buffer(head), 2048, true)]);
        }
        assert!(self.to.running.kick(0));
    }

    fn send(&mut self, frame: &[u8]) {
        self.from.put(BUFFERS, frame);
        let len = u32::try_from(frame.len()).unwrap();
        assert!(self.from.give(1, &[(BUFFERS, len, false)]));
        assert_eq!(self.from.used(1).len(), 1);
    }

    /// Takes `count` frames as the receiving driver does: `num_buffers` buffers make one.
    fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut frames = Vec::new();
        while frames.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} frames", frames.len());
            assert!(self.to.run(1));
            frames.extend(self.take_received());
        }
        frames
    }

    /// Sends `last` until it is received, and returns what came before it.
    fn receive_up_to(&mut self, last: &[u8]) -> Vec<Vec<u8>> {
        let mut before = Vec::new();
        loop {
            self.send(last);
            before.extend(self.receive(1));
            if let Some(at) = before.iter().position(|frame| frame[12..] == last[12..]) {
                before.truncate(at);
                return before;
            }
        }
    }

    fn take_received(&mut self) -> Vec<Vec<u8>> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let mut left = 0;
        let used = self.to.used(0);
        for &(head, len) in &used {
            let part = self.to.bytes(buffer(u16::try_from(head).unwrap()), len as usize);
            if left == 0 {
                left = u16::from_le_bytes([part[10], part[11]]);
                frames.push(Vec::new());
            }
            frames.last_mut().unwrap().extend(part);
            left -= 1;
        }
        assert_eq!(left, 0, "a frame is shown whole or not at all");
        self.post(u16::try_from(used.len()).unwrap());
        frames.retain(|frame| {
            let is_probe = frame[24..26] == PROBE;
            self.has_heard_probe |= is_probe;
            // The bridge itself talks about multicast groups.
            frame[18..24] == TO_CARD[6..12] && !is_probe
        });
        frames
    }

    /// A bridge begins to forward some time after its ports come up.
    fn wait_for_the_bridge(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut probe = experimental(60, 0);
        probe[24..26].copy_from_slice(&PROBE);
        self.has_heard_probe = false;
        while !self.has_heard_probe {
            assert!(Instant::now() < deadline, "the bridge does not forward");
            self.send(&probe);
            std::thread::sleep(Duration::from_millis(10));
            assert!(self.to.run(1));
            assert!(self.take_received().is_empty());
        }
    }
}

fn buffer(head: u16) -> u64 {
    BUFFERS + 0x10_0000 + 2048 * u64::from(head)
}

/// A frame of `len` bytes behind an empty header that no protocol claims.
fn experimental(len: usize, seed: usize) -> Vec<u8> {
    let mut bytes = frame(len, seed);
    bytes[12..26].copy_from_slice(&TO_CARD);
    bytes
}

/// An IPv4 packet of protocol `protocol` with `payload` bytes behind a transport header of `transport`
/// bytes, its checksum left to the host: the field holds the pseudo-header's sum only.
fn unfinished(protocol: u8, transport: usize, checksum_at: usize, payload: usize) -> Vec<u8> {
    let mut bytes = frame(14 + 20 + transport + payload, 1);
    let total = u16::try_from(20 + transport + payload).unwrap();
    bytes[12..24].copy_from_slice(&TO_CARD[..12]);
    bytes[24..26].copy_from_slice(&[8, 0]);
    let [t, u] = total.to_be_bytes();
    let packet = &mut bytes[26..];
    packet[..20].copy_from_slice(&[
        0x45, 0, t, u, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2,
    ]);
    let sum = checksum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..20 + transport].fill(0);
    packet[20..24].copy_from_slice(&[0x80, 1, 0x80, 2]);
    if protocol == 6 {
        // Data offset 5, ACK and PSH.
        packet[32..34].copy_from_slice(&[0x50, 0x18]);
    } else {
        packet[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    }
    let pseudo = !checksum(&pseudo_header(packet), 0);
    packet[20 + checksum_at..22 + checksum_at].copy_from_slice(&pseudo.to_be_bytes());
    // NEEDS_CSUM from the transport header on.
    bytes[0] = 1;
    bytes[6] = 34;
    bytes[8] = u8::try_from(checksum_at).unwrap();
    bytes
}

/// Lets the host segment `bytes` into payloads of `size`.
fn to_segment(mut bytes: Vec<u8>, kind: u8, headers: u8, size: u16) -> Vec<u8> {
    bytes[1] = kind;
    bytes[2] = headers;
    bytes[4..6].copy_from_slice(&size.to_le_bytes());
    bytes
}

fn pseudo_header(packet: &[u8]) -> Vec<u8> {
    let len = u16::from_be_bytes([packet[2], packet[3]]) - 20;
    let [a, b] = len.to_be_bytes();
    [&packet[12..20], &[0, packet[9], a, b]].concat()
}

/// The internet checksum of `bytes`, from `start` on.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Whether the transport checksum of a received frame is complete and right.
fn is_sound(frame: &[u8]) -> bool {
    let packet = &frame[26..];
    let pseudo = u32::from(!checksum(&pseudo_header(packet), 0));
    checksum(&packet[20..], pseudo) == 0
}

/// The payloads of received frames, put together in order.
fn payload(frames: &[Vec<u8>], transport: usize) -> Vec<u8> {
    frames.iter().flat_map(|f| f[12 + 14 + 20 + transport..].to_vec()).collect()
}

#[test]
fn frames_of_all_sizes_pass_unchanged() {
    in_own_network(path!(frames_of_all_sizes_pass_unchanged), || {
        // As large as a tap can have it, so that segmentation plays no part.
        for features in [LARGE, LARGE | EVENT_IDX] {
            let mut both = Bridged::new(features, 65521);
            for (seed, len) in
                [60, 61, 1500, 1514, 2036, 2037, 9014, 40_000, 65_535].iter().enumerate()
            {
                let sent = experimental(*len, seed);
                both.send(&sent);
                let received = both.receive(1).remove(0);
                assert!(received[12..] == sent[12..], "{len} bytes");
                assert_eq!(received[..10], [0; 10]);
            }
            drop(both);
            ip("link del bridge");
        }
    });
}

#[test]
fn many_frames_in_one_kick_arrive_in_order() {
    in_own_network(path!(many_frames_in_one_kick_arrive_in_order), || {
        let mut both = Bridged::new(LARGE, 1500);
        let rejected = both.from.counters.tx_rejected.get();
        // Every tenth has a header that the kernel refuses.
        let is_good = |seed: &usize| seed % 10 != 9;
        for (at, seed) in (BUFFERS..).step_by(0x1000).zip(0..200) {
            let mut bytes = experimental(60 + seed, seed);
            if !is_good(&seed) {
                bytes[1] = 0x7f;
            }
            both.from.put(at, &bytes);
            let len = u32::try_from(bytes.len()).unwrap();
            both.from.running.queues[1].add(&[(at, len, false)]);
        }
        assert!(both.from.running.kick(1));
        assert!(both.from.run(5));
        assert_eq!(both.from.used(1).len(), 200);
        assert_eq!(both.from.counters.tx_rejected.get(), rejected + 20);
        let received = both.receive(180);
        for (received, seed) in received.iter().zip((0..200).filter(is_good)) {
            assert!(received[12..] == experimental(60 + seed, seed)[12..], "frame {seed}");
        }
    });
}

#[test]
fn checksums_are_completed_only_for_a_driver_that_wants_it() {
    in_own_network(path!(checksums_are_completed_only_for_a_driver_that_wants_it), || {
        for (features, flags) in [(MRG_RXBUF, 0), (0, 0), (GUEST_CSUM, 1)] {
            let mut both = Bridged::new(features, 1500);
            both.send(&unfinished(17, 8, 6, 1000));
            let received = both.receive(1).remove(0);
            assert_eq!(received[0], flags);
            assert_eq!(is_sound(&received), flags == 0);
            drop(both);
            ip("link del bridge");
        }
    });
}

#[test]
fn tcp_is_segmented_only_for_a_driver_that_wants_it() {
    in_own_network(path!(tcp_is_segmented_only_for_a_driver_that_wants_it), || {
        let whole = unfinished(6, 20, 16, 60_000);
        let sent = to_segment(whole.clone(), 1, 54, 1448);
        for (features, count) in [(LARGE, 1), (MRG_RXBUF | GUEST_CSUM, 42), (0, 42)] {
            let mut both = Bridged::new(features, 1500);
            both.send(&sent);
            let received = both.receive(count);
            assert_eq!(received.len(), count);
            assert!(payload(&received, 20) == whole[12 + 54..]);
            if count == 1 {
                assert_eq!(received[0][..6], [1, 1, 54, 0, 0xa8, 5]);
            } else {
                assert!(received.iter().all(|f| f[1] == 0 && f.len() <= 12 + 1514));
            }
            if features == 0 {
                assert!(received.iter().all(|f| f[0] == 0 && is_sound(f)));
            }
            drop(both);
            ip("link del bridge");
        }
    });
}

#[test]
fn udp_is_segmented_only_for_a_driver_that_wants_it() {
    in_own_network(path!(udp_is_segmented_only_for_a_driver_that_wants_it), || {
        let whole = unfinished(17, 8, 6, 50_000);
        let sent = to_segment(whole.clone(), 5, 42, 1400);
        for (features, count) in [(LARGE | GUEST_USO4 | GUEST_USO6, 1), (LARGE, 36)] {
            let mut both = Bridged::new(features, 1500);
            if both.from.running.transport.offered_features() & HOST_USO == 0 {
                return;
            }
            both.send(&sent);
            let received = both.receive(count);
            assert!(payload(&received, 8) == whole[12 + 42..]);
            if count == 1 {
                assert_eq!(received[0][..6], [1, 5, 42, 0, 0x78, 5]);
            }
            drop(both);
            ip("link del bridge");
        }
    });
}

#[test]
fn headers_that_make_no_sense_are_rejected_by_the_kernel() {
    in_own_network(path!(headers_that_make_no_sense_are_rejected_by_the_kernel), || {
        let mut both = Bridged::new(LARGE, 1500);
        let rejected = both.from.counters.tx_rejected.get();
        let packet = unfinished(6, 20, 16, 60_000);
        let cases = [
            // No size, unknown kind, checksum and headers beyond the frame.
            to_segment(packet.clone(), 1, 54, 0),
            to_segment(packet.clone(), 0x7f, 54, 1448),
            {
                let mut bytes = to_segment(packet.clone(), 1, 54, 1448);
                bytes[6..10].copy_from_slice(&[0xff; 4]);
                bytes
            },
        ];
        for bytes in &cases {
            both.send(bytes);
        }
        assert_eq!(both.from.counters.tx_rejected.get(), rejected + cases.len() as u64);
        both.send(&experimental(60, 1));
        assert_eq!(both.receive(1)[0][12..], experimental(60, 1)[12..]);
    });
}

#[test]
fn a_stalled_driver_resumes_after_a_flood() {
    in_own_network(path!(a_stalled_driver_resumes_after_a_flood), || {
        let mut both = Bridged::new(LARGE | EVENT_IDX, 1500);
        // The receiving driver is gone and comes back with empty rings; the tap fills up.
        both.to.restart(LARGE | EVENT_IDX, 256);
        for seed in 0..5000 {
            both.send(&experimental(60, seed));
            assert!(seed % 50 != 0 || both.to.run(1));
        }
        let dropped = both.to.counters.rx_no_buffer.get();
        both.post(256);
        // What the tap kept is about what the kernel's queue of 1000 holds, in order.
        for (seed, received) in both.receive(900).iter().enumerate() {
            assert!(received[12..] == experimental(60, seed)[12..], "frame {seed}");
        }
        assert_eq!(both.to.counters.rx_no_buffer.get(), dropped);
        both.receive_up_to(&experimental(61, 77));
    });
}

#[test]
fn a_guest_outlives_its_interface() {
    in_own_network(path!(a_guest_outlives_its_interface), || {
        let mut both = Bridged::new(LARGE, 1500);
        ip("link set from down");
        both.send(&experimental(60, 1));
        assert_eq!(both.from.counters.tx_errors.get(), 1);
        ip("link set from up");
        both.wait_for_the_bridge();

        ip("link del from");
        both.send(&experimental(60, 1));
        assert!(both.from.run(3), "the device lives on");
        let mut link = [0xaa; 2];
        both.from.running.transport.read_config(6, &mut link);
        assert_eq!(link, [0, 0]);
        both.send(&experimental(60, 1));
    });
}

#[test]
fn a_driver_that_shrinks_its_wishes_gets_no_old_frames() {
    in_own_network(path!(a_driver_that_shrinks_its_wishes_gets_no_old_frames), || {
        let mut both = Bridged::new(LARGE, 1500);
        both.to.restart(LARGE, 256);
        both.send(&to_segment(unfinished(6, 20, 16, 60_000), 1, 54, 1448));
        both.to.restart(0, 256);
        both.post(256);
        let before = both.receive_up_to(&experimental(61, 3));
        assert!(before.iter().all(|frame| frame[1] == 0), "nothing is left to segment");
    });
}
