//! Receive buffers that are off the ring but hold nothing yet.
//!
//! Each becomes one packet: a header, then data. Several are filled by one read, which goes to their data
//! parts only. Those that are never used go back to the ring.

use vm_memory::{GuestAddress, GuestMemoryError};

use super::packet::{HEADER_LEN, Header};
use crate::memory::{Buffers, GuestMemory, Segment};
use crate::virtio::queue::{Chain, Fault, Queue, QueueError};

/// Most bytes of data in one packet, however large the buffer: Linux takes no more.
const MAX_DATA: u32 = 64 << 10;
/// Most pieces that one read goes to; the kernel takes 1024.
const MAX_SEGMENTS: usize = 512;

/// Buffers in the order in which they will be used.
#[derive(Default)]
pub(super) struct Posted {
    chains: Vec<PostedChain>,
    /// Where the headers go, then where the data goes: the segments of all chains one after the other.
    headers: Vec<Segment>,
    data: Vec<Segment>,
    data_len: usize,
    room: Vec<Segment>,
    scratch: Chain,
}

struct PostedChain {
    head: u16,
    data_len: usize,
    header_segments: usize,
    data_segments: usize,
}

impl Posted {
    /// Takes chains off `queue` until their data parts hold `wanted` bytes, no more can be had, or there are
    /// as many as one read may fill. Returns whether any were taken.
    pub(super) fn gather(&mut self, queue: &mut Queue, wanted: usize) -> Result<bool, QueueError> {
        let before = self.chains.len();
        while (self.chains.is_empty() || self.data_len < wanted)
            && self.data.len() < MAX_SEGMENTS
            && queue.pop(&mut self.scratch)?
        {
            let to = self.scratch.writable(queue.memory());
            if to.len() <= HEADER_LEN {
                let what = "a receive buffer must hold a header and data";
                return Err(queue.fault(Fault::Protocol(what)));
            }
            let (headers, data) = (self.headers.len(), self.data.len());
            split(to.segments(), &mut self.headers, &mut self.data);
            let data_len = Buffers::new(queue.memory(), self.data.get(data..).unwrap_or_default());
            let data_len = data_len.len();
            self.data_len += data_len;
            self.chains.push(PostedChain {
                head: self.scratch.head(),
                data_len,
                header_segments: self.headers.len() - headers,
                data_segments: self.data.len() - data,
            });
        }
        Ok(self.chains.len() > before)
    }

    /// Whether there is no buffer.
    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Chooses the first `limit` bytes of room for data, or all there are, for [`Self::room`].
    pub(super) fn choose(&mut self, limit: usize) {
        self.room.clear();
        let mut left = limit;
        for segment in &self.data {
            let len = u32::try_from(left).unwrap_or(u32::MAX).min(segment.len);
            if len == 0 {
                break;
            }
            self.room.push(Segment { len, ..*segment });
            left -= len as usize;
        }
    }

    /// The room for data that was chosen.
    pub(super) fn room<'a>(&'a self, memory: &'a GuestMemory) -> Buffers<'a> {
        Buffers::new(memory, &self.room)
    }

    /// How many of `left` bytes of data lie in the first chain, whatever else does.
    pub(super) fn first_len(&self, left: usize) -> usize {
        self.chains.first().map_or(0, |chain| chain.data_len.min(left))
    }

    /// Completes the first chain with a header; its data is in place. Returns its head and the bytes
    /// written.
    pub(super) fn complete(
        &mut self,
        memory: &GuestMemory,
        header: &Header,
    ) -> Result<Option<(u16, u32)>, GuestMemoryError> {
        let Some(chain) = self.chains.first() else { return Ok(None) };
        let segments = self.headers.get(..chain.header_segments).unwrap_or_default();
        Buffers::new(memory, segments).write_at(0, &header.to_bytes())?;
        let written = u32::try_from(HEADER_LEN).unwrap_or(0).saturating_add(header.len);
        let used = (chain.head, written);
        self.data_len -= chain.data_len;
        self.headers.drain(..chain.header_segments);
        self.data.drain(..chain.data_segments);
        self.chains.remove(0);
        Ok(Some(used))
    }

    /// Puts every chain back on the available ring.
    pub(super) fn give_back(&mut self, queue: &mut Queue) {
        for _ in self.chains.drain(..) {
            queue.unpop();
        }
        self.headers.clear();
        self.data.clear();
        self.data_len = 0;
    }
}

/// Sorts the pieces of one chain: the first [`HEADER_LEN`] bytes are the header's, up to [`MAX_DATA`] after them
/// the data's.
fn split(segments: &[Segment], headers: &mut Vec<Segment>, data: &mut Vec<Segment>) {
    let mut left = u32::try_from(HEADER_LEN).unwrap_or(0);
    let mut data_left = MAX_DATA;
    for segment in segments {
        let len = segment.len.min(left);
        left -= len;
        if len > 0 {
            headers.push(Segment { len, ..*segment });
        }
        let data_len = (segment.len - len).min(data_left);
        data_left -= data_len;
        if data_len > 0 {
            // The whole segment is RAM, so this is within 64 bits.
            let address = GuestAddress(segment.address.0.saturating_add(u64::from(len)));
            data.push(Segment { address, len: data_len });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(address: u64, len: u32) -> Segment {
        Segment { address: GuestAddress(address), len }
    }

    #[test]
    fn a_header_ends_where_it_ends_however_the_buffer_is_cut() {
        for (pieces, headers, data) in [
            (vec![(0x1000, 100)], vec![(0x1000, 44)], vec![(0x102c, 56)]),
            (vec![(0x1000, 44), (0x2000, 56)], vec![(0x1000, 44)], vec![(0x2000, 56)]),
            (vec![(0x1000, 40), (0x2000, 60)], vec![(0x1000, 40), (0x2000, 4)], vec![(0x2004, 56)]),
            (
                vec![(0x1000, 1), (0x2000, 42), (0x3000, 1), (0x4000, 1), (0x5000, 9)],
                vec![(0x1000, 1), (0x2000, 42), (0x3000, 1)],
                vec![(0x4000, 1), (0x5000, 9)],
            ),
            (
                vec![(0x1000, 45), (0x2_0000, 0xffff), (0x4_0000, 5)],
                vec![(0x1000, 44)],
                vec![(0x102c, 1), (0x2_0000, 0xffff)],
            ),
        ] {
            let list = |pieces: Vec<(u64, u32)>| -> Vec<Segment> {
                pieces.into_iter().map(|(address, len)| segment(address, len)).collect()
            };
            let (mut found_headers, mut found_data) = (Vec::new(), Vec::new());
            split(&list(pieces), &mut found_headers, &mut found_data);
            assert_eq!((found_headers, found_data), (list(headers), list(data)));
        }
    }
}
