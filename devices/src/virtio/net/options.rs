//! What a user says about a network card, parsed once.

use std::fmt;
use std::str::FromStr;

/// What is wrong with an option of a network card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not six bytes in hexadecimal.
    #[error("`{text}` is not an address of the form 52:54:00:12:34:56")]
    MacForm {
        /// What was given.
        text: String,
    },
    /// An address that no card can have.
    #[error("{mac} is not a card's address: it must not be zero, and its first byte must be even")]
    MacGroup {
        /// What was given.
        mac: MacAddress,
    },
    /// Below what IPv4 needs, or above what Ethernet and a tap can carry.
    #[error("mtu {mtu} is out of range: {} to {}", Mtu::MIN, Mtu::MAX)]
    Mtu {
        /// What was given.
        mtu: u16,
    },
}

/// The Ethernet address of a card: unicast, not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address with these bytes.
    ///
    /// # Errors
    /// [`NetError::MacGroup`] when it is zero, multicast or broadcast.
    pub fn new(bytes: [u8; 6]) -> Result<Self, NetError> {
        let mac = Self(bytes);
        let [first, ..] = bytes;
        if first & 1 == 1 || bytes == [0; 6] {
            return Err(NetError::MacGroup { mac });
        }
        Ok(mac)
    }

    /// The address as it goes over the wire.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = NetError;

    /// Six pairs of hexadecimal digits between colons.
    fn from_str(text: &str) -> Result<Self, NetError> {
        let bad = || NetError::MacForm { text: text.to_owned() };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        match parts.next() {
            Some(_) => Err(bad()),
            None => Self::new(bytes),
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The largest packet without the Ethernet header, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtu(u16);

impl Mtu {
    /// The least that IPv4 and virtio (1.3, 5.1.4.1) allow.
    pub const MIN: u16 = 68;
    /// The most that a tap takes: 64 KiB with the Ethernet header.
    pub const MAX: u16 = 65521;

    /// An MTU of `mtu` bytes.
    ///
    /// # Errors
    /// [`NetError::Mtu`] when it is not in [`Self::MIN`]`..=`[`Self::MAX`].
    pub fn new(mtu: u16) -> Result<Self, NetError> {
        if (Self::MIN..=Self::MAX).contains(&mtu) {
            return Ok(Self(mtu));
        }
        Err(NetError::Mtu { mtu })
    }

    /// The number of bytes.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests;
