//! The bytes that a packet socket takes: a virtio header (virtio 1.3, 5.1.6, without the number of buffers) and a frame.
//! The guest makes the same ones by itself.

/// Payload of one TCP segment.
pub const SEGMENT: u16 = 1448;
const VIRTIO: usize = 10;
const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;
/// IEEE 802: for experiments, so that nobody takes such a frame.
const LOCAL_EXPERIMENT: [u8; 2] = [0x88, 0xb5];
/// Of nobody on the host, so that it drops what it gets.
const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

/// A frame of `size` bytes that means nothing.
pub fn plain(size: usize) -> Vec<u8> {
    let mut message = vec![0; VIRTIO + size];
    let frame = &mut message[VIRTIO..];
    frame[..12].copy_from_slice(&ADDRESSES);
    frame[12..14].copy_from_slice(&LOCAL_EXPERIMENT);
    message
}

/// A frame of `size` bytes, up to 65549, that is to be cut into TCP segments, their checksums to be computed.
pub fn segments(size: usize) -> Vec<u8> {
    let mut message = plain(size);
    let (header, frame) = message.split_at_mut(VIRTIO);
    // Flags: a checksum is needed. Type: TCP over IPv4.
    header[..2].copy_from_slice(&[1, 1]);
    let fields = [(ETHERNET + IP + TCP) as u16, SEGMENT, (ETHERNET + IP) as u16, 16];
    for (at, field) in header[2..].chunks_exact_mut(2).zip(fields) {
        at.copy_from_slice(&field.to_le_bytes());
    }
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[ETHERNET..];
    ip[0] = 0x45;
    let len = u16::try_from(size - ETHERNET).expect("a packet of IPv4");
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    ip[8] = 64;
    ip[9] = 6;
    // Data offset: five words.
    ip[IP + 12] = 0x50;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_size_and_a_header_before_it() {
        let message = plain(60);
        assert_eq!(message.len(), 70);
        assert_eq!(message[..10], [0; 10]);
        assert_eq!(message[22..24], [0x88, 0xb5]);
    }

    #[test]
    fn segments_say_where_their_checksum_is_and_how_long_they_are() {
        let message = segments(65214);
        assert_eq!(message[..10], [1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0]);
        assert_eq!(message[24], 0x45);
        assert_eq!(message[26..28], (65214_u16 - 14).to_be_bytes());
        assert_eq!(message[56], 0x50);
    }
}
