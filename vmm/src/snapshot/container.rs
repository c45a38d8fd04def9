//! The file of a machine's state: sections by name, each with its version and its checksum.
//!
//! ```text
//!   "vmmstate"  format u32  sections u32  id [16]  length of the file u64  reserved u32  CRC-32 u32
//!   then for each section:
//!   length of its name u16  version u16  flags u32  length of what it holds u64  name  what it holds  CRC-32 u32
//! ```
//!
//! All numbers are little-endian, and no byte is outside of a checksum. What a section holds is not looked at here. A
//! reader refuses a section that it does not know, unless the section says that it may be left out; so later versions
//! can add sections without stranding old snapshots.

use std::fmt;

use crc::{CRC_32_ISO_HDLC, Crc};

/// The one of gzip: tells whether bytes are those that were written.
pub(super) static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// What the file begins with.
const MAGIC: &[u8; 8] = b"vmmstate";
/// The format that is written, and the only one so far.
pub const FORMAT: u32 = 1;
/// Bytes before the first section, the checksum included.
const HEAD: usize = 48;
/// Bytes before a section's name.
const SECTION_HEAD: usize = 16;
/// The section may be left out.
const OPTIONAL: u32 = 1;
/// Bytes of a checksum.
const SUM: usize = 4;

/// A name that no other snapshot or memory file has.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// The id that [`fmt::Display`] made `text` of.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_hex.then(|| u128::from_str_radix(text, 16).ok())??;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why bytes are no state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// Something else, or nothing.
    #[error("it is not a snapshot of vmm")]
    Foreign,
    /// Written by a later version.
    #[error("its format is {found}, and this version of vmm reads {FORMAT}")]
    Format {
        /// What it has.
        found: u32,
    },
    /// Not what was written.
    #[error("it is damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: String,
    },
}

/// Some of a machine's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What kind it is, and which of them after a space: "meta", "vcpu 0", "device disk0".
    pub name: String,
    /// The version of what it holds.
    pub version: u16,
    /// Whether a reader that does not know it may do without.
    pub is_optional: bool,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Section {
    /// A section that every reader must know.
    #[must_use]
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), version: 1, is_optional: false, bytes }
    }
}

/// A file of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The snapshot's.
    pub id: Id,
    /// In the order of the file.
    pub sections: Vec<Section>,
}

impl Container {
    /// As the bytes of a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for Section { name, version, is_optional, bytes } in &self.sections {
            let start = body.len();
            // Names are ours and short.
            body.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
            body.extend(version.to_le_bytes());
            body.extend(if *is_optional { OPTIONAL } else { 0 }.to_le_bytes());
            body.extend((bytes.len() as u64).to_le_bytes());
            body.extend(name.as_bytes());
            body.extend(bytes);
            let sum = CRC.checksum(body.get(start..).unwrap_or_default());
            body.extend(sum.to_le_bytes());
        }
        let count = u32::try_from(self.sections.len()).unwrap_or(u32::MAX);
        let mut file = MAGIC.to_vec();
        file.extend(FORMAT.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(self.id.0);
        file.extend(((HEAD + body.len()) as u64).to_le_bytes());
        file.extend([0; 4]);
        let sum = CRC.checksum(&file);
        file.extend(sum.to_le_bytes());
        file.extend(body);
        file
    }

    /// What [`Self::encode`] made these bytes of.
    ///
    /// # Errors
    /// [`ContainerError`] when a single bit is another, or anything is missing or too much.
    pub fn decode(file: &[u8]) -> Result<Self, ContainerError> {
        let mut from = Reader(file);
        if from.take(MAGIC.len()) != Some(MAGIC) {
            return Err(ContainerError::Foreign);
        }
        let read = Head::read(&mut from, file).ok_or_else(|| damaged("its beginning"))?;
        let Head { format, count, id, len, sum_is_right } = read;
        if !sum_is_right {
            return Err(damaged("its beginning"));
        }
        if format != FORMAT {
            return Err(ContainerError::Format { found: format });
        }
        if u64::try_from(file.len()).ok() != Some(len) {
            return Err(damaged(&format!("it has {} bytes of {len}", file.len())));
        }
        // Each has a head at least, so that the list cannot become longer than the file.
        let mut sections = Vec::new();
        for number in 0..count {
            let section = from.section().ok_or_else(|| damaged(&format!("section {number}")))?;
            sections.push(section);
        }
        match from.0 {
            [] => Ok(Self { id, sections }),
            _ => Err(damaged("there is something behind its end")),
        }
    }

    /// What the section called `name` holds, if it is there.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.sections.iter().find(|it| it.name == name).map(|it| it.bytes.as_slice())
    }

    /// The sections of a kind, each with the rest of its name.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let rest = move |it: &'a Section| {
            Some((it.name.strip_prefix(kind)?.strip_prefix(' ')?, it.bytes.as_slice()))
        };
        self.sections.iter().filter_map(rest)
    }
}

struct Head {
    format: u32,
    count: u32,
    id: Id,
    len: u64,
    sum_is_right: bool,
}

impl Head {
    fn read(from: &mut Reader<'_>, file: &[u8]) -> Option<Self> {
        let (format, count) = (from.u32()?, from.u32()?);
        let id = Id(from.array()?);
        let len = from.u64()?;
        let reserved = from.u32()?;
        let sum = CRC.checksum(file.get(..HEAD - SUM)?);
        let sum_is_right = from.u32()? == sum && reserved == 0;
        Some(Self { format, count, id, len, sum_is_right })
    }
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn section(&mut self) -> Option<Section> {
        let before = self.0;
        let (name_len, version, flags, len) = (self.u16()?, self.u16()?, self.u32()?, self.u64()?);
        let name = self.take(name_len.into())?;
        let bytes = self.take(usize::try_from(len).ok()?)?;
        let summed = before.get(..SECTION_HEAD + name.len() + bytes.len())?;
        if self.u32()? != CRC.checksum(summed) || flags & !OPTIONAL != 0 {
            return None;
        }
        let name = str::from_utf8(name).ok()?.to_owned();
        Some(Section { name, version, is_optional: flags & OPTIONAL != 0, bytes: bytes.to_vec() })
    }
}

fn damaged(what: &str) -> ContainerError {
    ContainerError::Damaged { what: what.to_owned() }
}

#[cfg(test)]
mod tests;
