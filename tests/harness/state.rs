//! A snapshot's file of state, taken apart and put together: sections, and the structures of KVM in some of them.
//!
//! Written from the description of the format, not from the program under test.

use std::fs;
use std::path::Path;

/// Bytes before the first section.
const HEAD: usize = 48;
/// Bytes before a section's name, and of a structure's.
const SECTION_HEAD: usize = 16;
const PIECE_NAME: usize = 8;

/// A file of state.
#[derive(Debug, Clone)]
pub struct State {
    head: Vec<u8>,
    /// Each with the bytes before its name.
    sections: Vec<(Vec<u8>, String, Vec<u8>)>,
}

impl State {
    /// Reads the file at `path`, which must be whole.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let file = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (head, mut rest) = file.split_at(HEAD);
        let mut sections = Vec::new();
        while !rest.is_empty() {
            let name_len = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
            let len = u64::from_le_bytes(rest[8..SECTION_HEAD].try_into().unwrap()) as usize;
            let (before, behind) = rest.split_at(SECTION_HEAD);
            let (name, behind) = behind.split_at(name_len);
            let (bytes, behind) = behind.split_at(len);
            let name = String::from_utf8(name.to_vec()).unwrap();
            sections.push((before.to_vec(), name, bytes.to_vec()));
            rest = &behind[4..];
        }
        Self { head: head.to_vec(), sections }
    }

    /// Writes it to `path`, with the lengths and checksums of what it has now.
    pub fn write(&self, path: &Path) {
        let mut body = Vec::new();
        for (before, name, bytes) in &self.sections {
            let mut section = before[..8].to_vec();
            section.extend((bytes.len() as u64).to_le_bytes());
            section.extend(name.as_bytes());
            section.extend(bytes);
            let sum = crc32(&section);
            body.extend(section);
            body.extend(sum.to_le_bytes());
        }
        let mut file = self.head[..32].to_vec();
        file.extend(((HEAD + body.len()) as u64).to_le_bytes());
        file.extend([0; 4]);
        let sum = crc32(&file);
        file.extend(sum.to_le_bytes());
        file.extend(body);
        fs::write(path, file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// What the section called `name` holds.
    #[must_use]
    pub fn section(&self, name: &str) -> &[u8] {
        let found = self.sections.iter().find(|(_, it, _)| it == name);
        &found.unwrap_or_else(|| panic!("no section {name}")).2
    }

    /// Has it hold something else.
    pub fn set_section(&mut self, name: &str, bytes: Vec<u8>) {
        let found = self.sections.iter_mut().find(|(_, it, _)| it == name);
        found.unwrap_or_else(|| panic!("no section {name}")).2 = bytes;
    }

    /// The structures of a section, by their names.
    #[must_use]
    pub fn pieces(&self, section: &str) -> Vec<(String, Vec<u8>)> {
        let mut rest = self.section(section);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (name, behind) = rest.split_at(PIECE_NAME);
            let (len, behind) = behind.split_at(4);
            let (piece, behind) =
                behind.split_at(u32::from_le_bytes(len.try_into().unwrap()) as usize);
            let name = String::from_utf8(name.to_vec()).unwrap();
            pieces.push((name.trim_end_matches('\0').to_owned(), piece.to_vec()));
            rest = behind;
        }
        pieces
    }

    /// Has a section hold these.
    pub fn set_pieces(&mut self, section: &str, pieces: &[(String, Vec<u8>)]) {
        let mut bytes = Vec::new();
        for (name, piece) in pieces {
            let mut padded = name.clone().into_bytes();
            padded.resize(PIECE_NAME, 0);
            bytes.extend(padded);
            bytes.extend((piece.len() as u32).to_le_bytes());
            bytes.extend(piece);
        }
        self.set_section(section, bytes);
    }
}

/// CRC-32 (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |rest, byte| {
        let step = |rest: u32| if rest & 1 == 1 { rest >> 1 ^ 0xedb8_8320 } else { rest >> 1 };
        (0..8).fold(rest ^ u32::from(*byte), |rest, _| step(rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scratch, artifacts};

    #[test]
    fn what_is_put_together_again_is_the_same() {
        let kept = artifacts::workspace().join("tests/snapshots/1/state");
        let scratch = Scratch::new();
        let mut state = State::read(&kept);
        let pieces = state.pieces("vcpu 0");
        assert!(pieces.iter().any(|(name, _)| name == "regs"), "{pieces:?}");
        state.set_pieces("vcpu 0", &pieces);
        state.write(&scratch.join("state"));
        assert_eq!(fs::read(kept).unwrap(), fs::read(scratch.join("state")).unwrap());
    }
}
