//! Packets of sockets, as a guest writes and reads them (virtio 1.3, 5.10.6): written apart from the product's own
//! parser, whose mistakes it would share otherwise. It checks nothing and corrects nothing.

/// Operations of packets (virtio 1.3, 5.10.6).
pub mod op {
    /// Opens a connection.
    pub const REQUEST: u16 = 1;
    /// Accepts it.
    pub const RESPONSE: u16 = 2;
    /// Ends it, or refuses it.
    pub const RESET: u16 = 3;
    /// No more will be received or sent.
    pub const SHUTDOWN: u16 = 4;
    /// Carries data.
    pub const READ_WRITE: u16 = 5;
    /// Tells of room.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for room.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// The guest's address in tests.
pub const GUEST_CID: u64 = 3;
/// The host's.
pub const HOST_CID: u64 = 2;
/// The guest's port where a test has only one connection.
pub const GUEST_PORT: u32 = 1000;
/// The host's port there.
pub const HOST_PORT: u32 = 52;

/// The header of a packet; the fields have the names that the specification gives them.
#[expect(missing_docs, reason = "the specification says it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

/// From the guest, with plenty of room.
impl Default for Header {
    fn default() -> Self {
        Self {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: GUEST_PORT,
            dst_port: HOST_PORT,
            len: 0,
            kind: 1,
            op: 0,
            flags: 0,
            buf_alloc: 1 << 20,
            fwd_cnt: 0,
        }
    }
}

impl Header {
    /// The bytes in memory.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        [
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
        ]
        .concat()
    }

    /// What the first 44 of `bytes` say.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        Self {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }
}
