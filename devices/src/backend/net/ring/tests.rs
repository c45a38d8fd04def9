use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::{Buffers, Segment};
use crate::test_util::guest_memory;

/// Each frame is a datagram of two pieces: its number, and then some bytes that are the same in all.
fn frames(memory: &GuestMemory, count: u32) -> Frames {
    let mut frames = Frames::default();
    for (number, address) in (0..count).zip((0..).step_by(8)) {
        memory.write_obj(number, GuestAddress(address)).unwrap();
        let pieces = [(address, 4), (0x8000, 100)]
            .map(|(at, len)| Segment { address: GuestAddress(at), len });
        frames.push(&Buffers::new(memory, &pieces));
    }
    frames
}

fn new_ring() -> FrameRing {
    FrameRing::open()
        .expect("io_uring, which Linux has had since 5.10 and administrators can forbid")
}

/// What the socket received: the numbers of the frames.
fn received(socket: &UnixDatagram) -> Vec<u32> {
    let mut datagram = [0; 200];
    socket.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| {
        let len = socket.recv(&mut datagram).ok()?;
        assert_eq!(len, 104);
        Some(u32::from_le_bytes(datagram[..4].try_into().unwrap()))
    })
    .collect()
}

fn send(
    ring: &mut FrameRing,
    to: &impl AsFd,
    memory: &GuestMemory,
    frames: &Frames,
) -> Vec<Result<usize, i32>> {
    let mut results = Vec::new();
    ring.send(to.as_fd(), &mut IoVecs::new(), memory, frames, &mut |len, result| {
        let result = result.map_err(|error| error.raw_os_error().unwrap());
        assert!(result.is_err() || result == Ok(len), "whole or not at all");
        results.push(result);
    })
    .expect("the ring goes on");
    results
}

#[test]
fn frames_go_out_in_order_however_many() {
    let memory = guest_memory(0x10000);
    let mut ring = new_ring();
    for count in [1, 2, DEPTH - 1, DEPTH, DEPTH + 1, 3 * DEPTH] {
        // A stream has room for all of them; datagrams would have to be taken meanwhile.
        let (here, mut there) = UnixStream::pair().unwrap();
        let results = send(&mut ring, &here, &memory, &frames(&memory, count));
        assert_eq!(results, vec![Ok(104); count as usize]);
        drop(here);
        let mut bytes = Vec::new();
        there.read_to_end(&mut bytes).unwrap();
        let numbers =
            bytes.chunks(104).map(|frame| u32::from_le_bytes(frame[..4].try_into().unwrap()));
        assert_eq!(numbers.collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    }
}

#[test]
fn what_finds_no_room_is_refused_at_once_and_not_sent_later() {
    let memory = guest_memory(0x10000);
    let mut ring = new_ring();
    let (here, there) = UnixDatagram::pair().unwrap();
    let results = send(&mut ring, &here, &memory, &frames(&memory, 5000));
    assert_eq!(results.len(), 5000);
    let room = results.iter().take_while(|result| result.is_ok()).count();
    assert!(room > 1 && results[room..].iter().all(|result| *result == Err(libc::EAGAIN)));
    let expected: Vec<u32> = (0..u32::try_from(room).unwrap()).collect();
    assert_eq!(received(&there), expected);
    assert_eq!(send(&mut ring, &here, &memory, &frames(&memory, 2)), [Ok(104), Ok(104)]);
    assert_eq!(received(&there), [0, 1]);
}

#[test]
fn one_frame_s_trouble_is_not_another_s() {
    let memory = guest_memory(0x10000);
    let (here, there) = UnixDatagram::pair().unwrap();
    let mut all = frames(&memory, 1);
    let piece = |at, len| Segment { address: GuestAddress(at), len };
    // Too many pieces for a call; not memory; longer than a datagram may be.
    all.push(&Buffers::new(&memory, &[piece(0x8000, 1); 1025]));
    all.push(&Buffers::new(&memory, &[piece(0x10000, 4)]));
    all.push(&Buffers::new(&memory, &[piece(0, 0x8000); 64]));
    let good = frames(&memory, 3);
    all.push(&good.iter(&memory).nth(2).unwrap());
    let results = send(&mut new_ring(), &here, &memory, &all);
    let bad = [Err(libc::EINVAL), Err(libc::EFAULT), Err(libc::EMSGSIZE)];
    assert_eq!(results, [&[Ok(104)][..], &bad, &[Ok(104)]].concat());
    assert_eq!(received(&there), [0, 2]);
}

#[test]
fn a_network_that_is_gone_is_told_for_every_frame() {
    let memory = guest_memory(0x10000);
    let (here, there) = UnixDatagram::pair().unwrap();
    drop(there);
    let results = send(&mut new_ring(), &here, &memory, &frames(&memory, 40));
    // A socket says it once in other words.
    let is_gone = |result: &_| matches!(result, Err(libc::ECONNREFUSED | libc::ENOTCONN));
    assert!(results.len() == 40 && results.iter().all(is_gone), "{results:?}");
}

#[test]
fn the_ring_can_do_nothing_but_send() {
    let mut ring = new_ring();
    let entry = opcode::Nop::new().build();
    // SAFETY: the operation has no pointer.
    unsafe { ring.ring.submission().push(&entry) }.unwrap();
    ring.ring.submit_and_wait(1).unwrap();
    let completion = ring.ring.completion().next().unwrap();
    assert_eq!(completion.result(), -libc::EACCES);
}
