//! The few words of ACPI machine language (ACPI 6.5, chapter 20) that describe devices, appended to
//! one buffer as they come.
//!
//! This is no general encoder: no arithmetic, no fields, no control flow beyond one comparison. It
//! exists because encoders that nest objects copy every level into the next, at eight times the
//! instructions.

/// A name segment.
pub(super) type Segment = [u8; 4];

const NAME_OP: u8 = 0x08;
const BYTE_PREFIX: u8 = 0x0a;
const DWORD_PREFIX: u8 = 0x0c;
const STRING_PREFIX: u8 = 0x0d;
const ARG0_OP: u8 = 0x68;
const NOTIFY_OP: u8 = 0x86;
const EQUAL_OP: u8 = 0x93;

/// An object that holds others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Block {
    Scope,
    Device,
    Method,
    If,
    Buffer,
    Package,
}

/// A block being written: where its length goes.
#[derive(Debug)]
#[must_use = "a block has no length until it is closed"]
pub(super) struct Open(usize);

/// A device's identifier.
#[derive(Clone, Copy, Debug)]
pub(super) enum Id {
    /// "PNP" and four hexadecimal digits, in compressed form.
    Pnp(u16),
    /// Any other, spelled out.
    Text(&'static str),
}

/// What a device occupies (ACPI 6.5, 6.4).
#[derive(Clone, Copy, Debug)]
pub(super) enum Resource {
    /// I/O ports.
    Ports { first: u16, count: u8 },
    /// Memory-mapped registers.
    Window { base: u32, len: u32 },
    /// An interrupt of its own: edge-triggered, as the host signals pulses, and active high.
    Edge { gsi: u32 },
}

/// Code under construction.
#[derive(Debug)]
pub(super) struct Code {
    bytes: Vec<u8>,
}

impl Code {
    /// Room for `bytes` bytes without growing.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// The finished code.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Begins a block: what follows is inside, until it is closed.
    pub(super) fn open(&mut self, block: Block) -> Open {
        self.raw(match block {
            Block::Scope => &[0x10],
            Block::Device => &[0x5b, 0x82],
            Block::Method => &[0x14],
            Block::If => &[0xa0],
            Block::Buffer => &[0x11],
            Block::Package => &[0x12],
        });
        let open = Open(self.bytes.len());
        self.raw(&[0]);
        open
    }

    /// Ends a block by writing its length, which counts itself (20.2.4). One byte was left for it;
    /// a longer one moves what is inside.
    #[expect(clippy::needless_pass_by_value, reason = "a block is closed once")]
    pub(super) fn close(&mut self, open: Open) {
        let Open(at) = open;
        let content = self.bytes.len() - at - 1;
        let more = if content < (1 << 6) - 1 {
            0
        } else if content < (1 << 12) - 2 {
            1
        } else {
            2
        };
        let length = content + 1 + more;
        let lead = if more == 0 { length } else { (more << 6) | (length & 0xf) };
        let byte = |value: usize| u8::try_from(value & 0xff).unwrap_or(0);
        if let Some(first) = self.bytes.get_mut(at) {
            *first = byte(lead);
        }
        for position in (0..more).rev() {
            self.bytes.insert(at + 1, byte(length >> (4 + 8 * position)));
        }
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Starts the definition of a name; its value follows.
    pub(super) fn name(&mut self, name: &Segment) {
        self.raw(&[NAME_OP]);
        self.raw(name);
    }

    /// A number, in a short form if it has one.
    pub(super) fn integer(&mut self, value: u32) {
        match u8::try_from(value) {
            Ok(value @ ..=1) => self.raw(&[value]),
            Ok(value) => self.raw(&[BYTE_PREFIX, value]),
            Err(_) => {
                self.raw(&[DWORD_PREFIX]);
                self.raw(&value.to_le_bytes());
            }
        }
    }

    /// `_HID`.
    pub(super) fn id(&mut self, id: Id) {
        self.name(b"_HID");
        match id {
            Id::Pnp(number) => {
                let [high, low] = number.to_be_bytes();
                self.raw(&[DWORD_PREFIX, 0x41, 0xd0, high, low]);
            }
            Id::Text(text) => {
                self.raw(&[STRING_PREFIX]);
                self.raw(text.as_bytes());
                self.raw(&[0]);
            }
        }
    }

    /// `_CRS`.
    pub(super) fn resources(&mut self, resources: &[Resource]) {
        const END: [u8; 2] = [0x79, 0]; // checksum not used
        self.name(b"_CRS");
        let buffer = self.open(Block::Buffer);
        let sizes = resources.iter().map(|resource| resource.size());
        self.integer(sizes.sum::<u32>() + 2);
        for resource in resources {
            resource.append_to(self);
        }
        self.raw(&END);
        self.close(buffer);
    }

    /// In a method: `if (Arg0 == value) Notify(object, event)`.
    pub(super) fn notify_if_arg0_is(&mut self, value: u32, object: &Segment, event: u8) {
        let condition = self.open(Block::If);
        self.raw(&[EQUAL_OP, ARG0_OP]);
        self.integer(value);
        self.raw(&[NOTIFY_OP]);
        self.raw(object);
        self.integer(event.into());
        self.close(condition);
    }
}

impl Resource {
    /// Length of the descriptor in bytes.
    fn size(&self) -> u32 {
        match self {
            Resource::Ports { .. } => 8,
            Resource::Window { .. } => 12,
            Resource::Edge { .. } => 9,
        }
    }

    fn append_to(&self, code: &mut Code) {
        match *self {
            Resource::Ports { first, count } => {
                let [low, high] = first.to_le_bytes();
                // Decodes 16 bits; from and to the same address, which is aligned to 1.
                code.raw(&[0x47, 1, low, high, low, high, 1, count]);
            }
            Resource::Window { base, len } => {
                code.raw(&[0x86, 9, 0, 1]); // writable
                code.raw(&base.to_le_bytes());
                code.raw(&len.to_le_bytes());
            }
            Resource::Edge { gsi } => {
                code.raw(&[0x89, 6, 0, 0b0011, 1]); // consumer, edge, active high, exclusive; one
                code.raw(&gsi.to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests;
