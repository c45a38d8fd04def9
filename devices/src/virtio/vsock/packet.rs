//! The header of a vsock packet (virtio 1.3, 5.10.6), from and to bytes.
//!
//! A packet is a stream of bytes over its chain: how the driver cut it into descriptors means nothing.

use vm_memory::GuestMemoryError;

use crate::memory::Buffers;

/// Bytes of a header.
pub(super) const HEADER_LEN: usize = 44;
/// The host's address (virtio 1.3, 5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// Streams of bytes, the one type there is here (virtio 1.3, 5.10.6).
pub(super) const TYPE_STREAM: u16 = 1;

/// What a packet is for (`VIRTIO_VSOCK_OP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Grants it.
    Response = 2,
    /// Refuses or ends it.
    Reset = 3,
    /// Half of it is over: see [`Directions`].
    Shutdown = 4,
    /// Data.
    ReadWrite = 5,
    /// Tells how much room there is.
    CreditUpdate = 6,
    /// Asks for that.
    CreditRequest = 7,
}

impl Op {
    const ALL: [Self; 7] = [
        Self::Request,
        Self::Response,
        Self::Reset,
        Self::Shutdown,
        Self::ReadWrite,
        Self::CreditUpdate,
        Self::CreditRequest,
    ];

    /// The operation with this number.
    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|op| *op as u16 == number)
    }
}

/// Directions of a connection that are over, as `flags` of a shutdown says it: seen from the sender of the
/// packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Directions(u32);

impl Directions {
    /// It will not receive any more.
    pub(super) const RECEIVE: Self = Self(1);
    /// It will not send any more.
    pub(super) const SEND: Self = Self(2);
    /// Both.
    pub(super) const BOTH: Self = Self(3);

    /// Those that `flags` of a packet names; unknown bits mean nothing.
    pub(super) fn from_flags(flags: u32) -> Self {
        Self(flags & Self::BOTH.0)
    }

    /// As `flags` of a packet.
    pub(super) fn flags(self) -> u32 {
        self.0
    }

    /// These and those.
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The ports of a connection. Both addresses are always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    /// On the host.
    pub(super) host: u32,
    /// In the guest.
    pub(super) guest: u32,
}

/// A header, with nothing believed yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of data after the header.
    pub(super) len: u32,
    /// Type of socket.
    pub(super) kind: u16,
    /// Number of the operation.
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Bytes that the sender has room for, in total.
    pub(super) buf_alloc: u32,
    /// Bytes that have left that room, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

impl Header {
    /// The header at the beginning of a packet; `None` when the packet is too short to have one.
    pub(super) fn read(packet: &Buffers<'_>) -> Result<Option<Self>, GuestMemoryError> {
        let mut bytes = [0; HEADER_LEN];
        let count = packet.read_at(0, &mut bytes)?;
        Ok((count == HEADER_LEN).then(|| Self::from_bytes(&bytes)))
    }

    /// The operation; `None` for a number that has no meaning.
    pub(super) fn op(&self) -> Option<Op> {
        Op::from_number(self.op)
    }

    /// The ports, in a packet from the guest.
    pub(super) fn ports(&self) -> Ports {
        Ports { host: self.dst_port, guest: self.src_port }
    }

    /// The reset that answers this packet.
    pub(super) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }

    pub(super) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            src_cid: u64::from_le_bytes(fields.take()),
            dst_cid: u64::from_le_bytes(fields.take()),
            src_port: u32::from_le_bytes(fields.take()),
            dst_port: u32::from_le_bytes(fields.take()),
            len: u32::from_le_bytes(fields.take()),
            kind: u16::from_le_bytes(fields.take()),
            op: u16::from_le_bytes(fields.take()),
            flags: u32::from_le_bytes(fields.take()),
            buf_alloc: u32::from_le_bytes(fields.take()),
            fwd_cnt: u32::from_le_bytes(fields.take()),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let fields = [
            &self.src_cid.to_le_bytes()[..],
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        let mut bytes = [0; HEADER_LEN];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

/// The fields not taken yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
mod tests;
