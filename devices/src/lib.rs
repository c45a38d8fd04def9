//! What the guest talks to, and the host side behind it.
//!
//! This crate does not know KVM, command lines or guest addresses: a device sees offsets, guest memory,
//! its queues and an interrupt it can raise. The `vmm` crate decides where a device lives and on which
//! event loop its queues are served.
//!
//! Reading order: [`bus`] (how an access reaches a device), [`virtio::device`] (the contract every virtio
//! device fulfils), [`virtio::rng`] (the smallest one), [`virtio::transport`] (the status machine), [`state`]
//! (how a device goes on elsewhere).

pub mod backend;
pub mod bus;
pub mod event;
pub mod fatal;
pub mod guest_io;
pub mod interrupt;
pub mod legacy;
pub mod memory;
pub mod metadata;
pub mod metrics;
pub mod platform;
pub mod rate_limiter;
pub mod state;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
pub mod virtio;
