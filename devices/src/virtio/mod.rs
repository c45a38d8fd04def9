//! Virtio devices (virtio 1.3): the contract, the queues, the transports and the devices.
//!
//! Only "modern" virtio with split rings is spoken; there is no legacy interface.

pub mod balloon;
pub mod block;
pub mod console;
pub mod device;
mod linger;
pub mod net;
pub mod queue;
pub mod rng;
mod session;
pub mod transport;
pub mod vsock;

/// What kind of device the driver finds (virtio 1.3, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceType(pub u32);

impl DeviceType {
    /// Network card.
    pub const NET: Self = Self(1);
    /// Block device.
    pub const BLOCK: Self = Self(2);
    /// Console.
    pub const CONSOLE: Self = Self(3);
    /// Entropy source.
    pub const RNG: Self = Self(4);
    /// Sockets.
    pub const VSOCK: Self = Self(19);
    /// Memory balloon.
    pub const BALLOON: Self = Self(5);
}

/// Feature bits that every transport offers or knows (virtio 1.3, section 6).
pub mod feature {
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say at which index they want to be notified.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows virtio 1.0 or later; always required.
    pub const VERSION_1: u64 = 1 << 32;
    /// What the transport adds to each device's own features.
    pub const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}
