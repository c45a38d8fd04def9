//! The metadata service: what the host tells a guest about itself, by HTTP at an address that only the guest
//! sees.
//!
//! ```text
//!   guest ── frames ──▶ MetadataNet ── all others ──▶ tap
//!                            │ to 169.254.169.254
//!                            ▼
//!                       Stack (TCP/IP) ──▶ Service (HTTP, tokens) ──▶ MetadataStore (JSON) ◀── the host
//! ```
//!
//! [`MetadataNet`] stands in front of a card's backend and keeps the frames for the service's address; they
//! never reach the host's network. The protocol is that of Firecracker's MMDS, versions 1 and 2, which is close
//! enough to EC2's for the tools of that. A card without the service has none of this in its way.

mod http;
mod net;
mod stack;
mod store;
mod sys;
mod token;

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use net::MetadataNet;
pub use store::{MetadataStore, StoreError};

use token::Tokens;

/// Where guests expect the service.
pub const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Bytes of the metadata, as JSON text, unless the user allows more or less.
pub const DEFAULT_SIZE_LIMIT: usize = 51200;

/// Which requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Version {
    /// All; a token may be got and shown, but nobody looks at it.
    #[default]
    V1,
    /// Those with a valid token. A program that can be tricked into fetching a page cannot be tricked into
    /// getting one first.
    V2,
}

/// How the service behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Which requests are answered.
    pub version: Version,
    /// Whether values are always plain text as EC2 gives it, even to who asks for JSON.
    pub imds_compat: bool,
}

/// The service of one machine: the same data, by the same tokens, on each of its cards.
pub struct Service {
    options: ServiceOptions,
    store: MetadataStore,
    tokens: Mutex<Tokens>,
    random: File,
}

impl Service {
    /// A service for what is in `store`.
    ///
    /// # Errors
    /// When the host has no /dev/urandom, without which tokens could be guessed.
    pub fn new(options: ServiceOptions, store: MetadataStore) -> io::Result<Self> {
        let random = File::open("/dev/urandom")?;
        Ok(Self { options, store, tokens: Mutex::default(), random })
    }

    /// What the service tells.
    #[must_use]
    pub fn store(&self) -> &MetadataStore {
        &self.store
    }

    /// Random bytes.
    fn random<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        (&self.random).read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A new token that is valid for `ttl` from `now` on, which counts from any moment that stays the same.
    fn make_token(&self, now: Duration, ttl: Duration) -> io::Result<String> {
        let secret = self.random()?;
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tokens.add(secret, now, ttl))
    }

    fn is_token_valid(&self, now: Duration, token: &[u8]) -> bool {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).is_valid(token, now)
    }
}
