//! Structures as bytes with names: what a section of a snapshot holds of KVM.

use std::io;

use super::StateError;

/// Bytes of a name.
pub(super) const NAME: usize = 8;

/// Structures by name, in the order in which they were got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// Whose they are, such as "vcpu 0".
    pub(super) of: String,
    pub(super) all: Vec<(String, Vec<u8>)>,
}

impl Pieces {
    /// As bytes: for each its name, padded with zeroes, its length (32 bits, little-endian), itself.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, piece) in &self.all {
            let mut padded = [0; NAME];
            padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
            bytes.extend(padded);
            bytes.extend(u32::try_from(piece.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(piece);
        }
        bytes
    }

    /// What [`Self::encode`] made of the state of `of`; `None` when it cannot have been that.
    #[must_use]
    pub fn decode(of: &str, mut bytes: &[u8]) -> Option<Self> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (name, rest) = bytes.split_first_chunk::<NAME>()?;
            let (len, rest) = rest.split_first_chunk::<4>()?;
            let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
            let (piece, rest) = rest.split_at_checked(len)?;
            let name = str::from_utf8(name).ok()?.trim_end_matches('\0');
            all.push((name.to_owned(), piece.to_owned()));
            bytes = rest;
        }
        Some(Self { of: of.to_owned(), all })
    }

    /// Names and lengths in bytes.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.all.iter().map(|(name, piece)| (name.as_str(), piece.len()))
    }

    /// The structure called `name`, if it is there.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.all.iter().find(|(it, _)| it == name).map(|(_, piece)| piece.as_slice())
    }

    pub(super) fn need(&self, name: &'static str) -> Result<&[u8], StateError> {
        self.find(name).ok_or_else(|| self.missing(name))
    }

    pub(super) fn missing(&self, name: &'static str) -> StateError {
        StateError::Missing { of: self.of.clone(), name }
    }

    pub(super) fn refused(&self, name: &'static str) -> impl FnOnce(io::Error) -> StateError {
        move |source| StateError::Set { of: self.of.clone(), name, source }
    }

    pub(super) fn check_names(&self, known: impl Fn(&str) -> bool) -> Result<(), StateError> {
        match self.all.iter().find(|(name, _)| !known(name)) {
            Some((name, _)) => Err(StateError::Unknown { of: self.of.clone(), name: name.clone() }),
            None => Ok(()),
        }
    }
}
