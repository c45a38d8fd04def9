//! CPU templates: a user's changes to what CPUID and model-specific registers tell the guest.
//!
//! A template makes processors of different hosts look alike, or hides a feature. It is applied to what the host
//! offers, before [`crate::cpuid::configure`] corrects identifiers, groups and frequencies: those stay true whatever a
//! template says. Reading templates from files is not done here.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};
use std::str::FromStr;

use thiserror::Error;

use crate::cpuid::CpuidEntry;

/// The changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTemplate {
    /// KVM capabilities (`KVM_CAP_*`) that the host must have.
    pub capabilities: Vec<u32>,
    /// Changes to CPUID.
    pub cpuid: Vec<CpuidModifier>,
    /// Changes to model-specific registers, made in this order.
    pub msrs: Vec<MsrModifier>,
}

/// Changes to one answer of CPUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidModifier {
    /// Leaf: EAX of the query.
    pub leaf: u32,
    /// Subleaf: ECX of the query.
    pub subleaf: u32,
    /// The registers, changed in this order.
    pub registers: Vec<(CpuidRegister, Bits<u32>)>,
}

/// Changes to one model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrModifier {
    /// Register number.
    pub index: u32,
    /// What becomes of its bits.
    pub bits: Bits<u64>,
}

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the processor's own register names")]
pub enum CpuidRegister {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Which bits of a register are replaced, and by what: `value` has no bits outside `mask`.
///
/// Its text is `0b` and one of `0`, `1` and `x` (keep) per bit, the highest first; bits that are not written are kept,
/// and `_` may group them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits<T> {
    mask: T,
    value: T,
}

impl<T> Bits<T>
where
    T: Not<Output = T> + BitAnd<Output = T> + BitOr<Output = T>,
{
    /// `old` with the bits replaced.
    #[must_use]
    pub fn apply(self, old: T) -> T {
        old & !self.mask | self.value
    }
}

/// Text that is no bitmap.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BitsError {
    /// Neither `0`, `1`, `x` nor `_`.
    #[error("{text:?} has a {character:?}: write 0b and one of 0, 1 and x (keep) per bit")]
    Character {
        /// The text.
        text: String,
        /// What does not belong there.
        character: char,
    },
    /// Not a single bit.
    #[error("{text:?} has no bits: write 0b and one of 0, 1 and x (keep) per bit")]
    Empty {
        /// The text.
        text: String,
    },
    /// More bits than the register has.
    #[error("{text:?} has {bits} bits, and the register has {width}")]
    TooLong {
        /// The text.
        text: String,
        /// How many it has.
        bits: u32,
        /// How many there are.
        width: u32,
    },
}

impl FromStr for Bits<u32> {
    type Err = BitsError;

    fn from_str(text: &str) -> Result<Self, BitsError> {
        let Bits { mask, value } = parse(text, u32::BITS)?;
        // Both have at most 32 bits by the parser's check.
        let low = |wide: u64| u32::try_from(wide).unwrap_or(u32::MAX);
        Ok(Self { mask: low(mask), value: low(value) })
    }
}

impl FromStr for Bits<u64> {
    type Err = BitsError;

    fn from_str(text: &str) -> Result<Self, BitsError> {
        parse(text, u64::BITS)
    }
}

fn parse(text: &str, width: u32) -> Result<Bits<u64>, BitsError> {
    let mut bits = Bits { mask: 0_u64, value: 0 };
    let mut count = 0;
    for character in text.strip_prefix("0b").unwrap_or(text).chars() {
        let (mask, value) = match character {
            '_' => continue,
            'x' => (0, 0),
            '0' => (1, 0),
            '1' => (1, 1),
            _ => return Err(BitsError::Character { text: text.to_owned(), character }),
        };
        // What is shifted out is refused below.
        bits.mask = bits.mask << 1 | mask;
        bits.value = bits.value << 1 | value;
        count += 1;
    }
    match count {
        0 => Err(BitsError::Empty { text: text.to_owned() }),
        bits if bits > width => Err(BitsError::TooLong { text: text.to_owned(), bits, width }),
        _ => Ok(bits),
    }
}

/// The text that [`FromStr`] reads, from the highest bit that is replaced on.
impl fmt::Display for Bits<u64> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0b")?;
        let width = (u64::BITS - self.mask.leading_zeros()).max(1);
        for bit in (0..width).rev() {
            let (mask, value) = (self.mask >> bit & 1, self.value >> bit & 1);
            f.write_str(if mask == 0 {
                "x"
            } else if value == 0 {
                "0"
            } else {
                "1"
            })?;
        }
        Ok(())
    }
}

impl fmt::Display for Bits<u32> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bits { mask: u64::from(self.mask), value: u64::from(self.value) }.fmt(f)
    }
}

/// A template that this host cannot follow.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// It changes an answer of CPUID that KVM does not give here.
    #[error(
        "this host has no CPUID leaf {leaf:#x} subleaf {subleaf:#x}, which the template changes"
    )]
    NoLeaf {
        /// Leaf.
        leaf: u32,
        /// Subleaf.
        subleaf: u32,
    },
}

impl CpuTemplate {
    /// Changes what KVM supports on this host.
    ///
    /// # Errors
    /// [`TemplateError::NoLeaf`]; `entries` may be changed in part then.
    pub fn apply(&self, entries: &mut [CpuidEntry]) -> Result<(), TemplateError> {
        for modifier in &self.cpuid {
            let CpuidModifier { leaf, subleaf, .. } = *modifier;
            let entry = entries
                .iter_mut()
                .find(|entry| entry.function == leaf && entry.index == subleaf)
                .ok_or(TemplateError::NoLeaf { leaf, subleaf })?;
            for &(register, bits) in &modifier.registers {
                let register = match register {
                    CpuidRegister::Eax => &mut entry.eax,
                    CpuidRegister::Ebx => &mut entry.ebx,
                    CpuidRegister::Ecx => &mut entry.ecx,
                    CpuidRegister::Edx => &mut entry.edx,
                };
                *register = bits.apply(*register);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
