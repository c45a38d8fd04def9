//! Feature bits of a network card (virtio 1.3, 5.1.3) and what they mean to the host.

use crate::backend::net::Offloads;

/// The host completes checksums of sent frames.
pub(super) const CSUM: u64 = 1 << 0;
/// The driver accepts frames without a complete checksum.
pub(super) const GUEST_CSUM: u64 = 1 << 1;
/// The driver may change the `GUEST_*` offloads by a command.
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// The device says which MTU to use.
pub(super) const MTU: u64 = 1 << 3;
/// The device has an address.
pub(super) const MAC: u64 = 1 << 5;
/// The driver accepts unsegmented TCP over IPv4.
pub(super) const GUEST_TSO4: u64 = 1 << 7;
/// The driver accepts unsegmented TCP over IPv6.
pub(super) const GUEST_TSO6: u64 = 1 << 8;
/// The driver accepts unsegmented TCP with congestion marks.
pub(super) const GUEST_ECN: u64 = 1 << 9;
/// The host segments TCP over IPv4.
pub(super) const HOST_TSO4: u64 = 1 << 11;
/// The host segments TCP over IPv6.
pub(super) const HOST_TSO6: u64 = 1 << 12;
/// The host segments TCP with congestion marks.
pub(super) const HOST_ECN: u64 = 1 << 13;
/// A received frame may be spread over several buffers.
pub(super) const MRG_RXBUF: u64 = 1 << 15;
/// The configuration space tells whether the link is up.
pub(super) const STATUS: u64 = 1 << 16;
/// There is a queue for commands.
pub(super) const CTRL_VQ: u64 = 1 << 17;
/// There are several queue pairs.
pub(super) const MQ: u64 = 1 << 22;
/// The driver accepts unsegmented UDP over IPv4.
pub(super) const GUEST_USO4: u64 = 1 << 54;
/// The driver accepts unsegmented UDP over IPv6.
pub(super) const GUEST_USO6: u64 = 1 << 55;
/// The host segments UDP.
pub(super) const HOST_USO: u64 = 1 << 56;

/// What every card offers.
pub(super) const ALWAYS: u64 = CSUM
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | GUEST_CSUM
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | MRG_RXBUF
    | STATUS
    | CTRL_VQ
    | CTRL_GUEST_OFFLOADS;
/// What a card offers whose backend understands unsegmented UDP.
pub(super) const USO: u64 = HOST_USO | GUEST_USO4 | GUEST_USO6;

/// The features that the command for offloads switches; its bits are the features' own.
pub(super) const SWITCHABLE: u64 =
    GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_USO4 | GUEST_USO6;

/// What the host may leave undone for a driver that accepted `features`. One that accepted a feature
/// without those that it depends on (virtio 1.3, 5.1.3.1) does not get it.
pub(super) fn offloads(features: u64) -> Offloads {
    let has = |wanted: u64| features & wanted == wanted;
    let checksum = has(GUEST_CSUM);
    let tso4 = checksum && has(GUEST_TSO4);
    let tso6 = checksum && has(GUEST_TSO6);
    Offloads {
        checksum,
        tso4,
        tso6,
        ecn: (tso4 || tso6) && has(GUEST_ECN),
        // The host does not tell the two apart.
        uso: checksum && has(GUEST_USO4 | GUEST_USO6),
    }
}
