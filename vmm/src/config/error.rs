//! Why a configuration cannot become a plan: what, which, and how to put it right, in one line each.

use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::cmdline::CMDLINE_MAX;
use super::console::SOCKET_PATH_MAX;
use super::disk::SERIAL_MAX;
use super::file::FileError;
use super::id::ID_MAX;
use super::net::{NET_QUEUES, TAP_NAME_MAX};
use super::plan::{MEMORY_MAX, MEMORY_MIN};
use super::ready::PATTERN_MAX;
use super::vsock::GUEST_CIDS;

/// Why a configuration cannot become a plan.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// What a configuration file and the flags beside it say cannot be built.
    #[error("config file {path:?}")]
    WithFile {
        /// The file.
        path: PathBuf,
        /// What cannot be.
        source: Box<ConfigError>,
    },
    /// A snapshot that cannot be gone on from.
    #[error(transparent)]
    Snapshot(Box<crate::snapshot::SnapshotError>),
    /// Both a snapshot and a file that describe the machine.
    #[error(
        "--restore and --config-file exclude each other: the snapshot says what the machine is"
    )]
    RestoreAndFile,
    /// Nothing to boot.
    #[error(
        "no kernel: add --kernel PATH (a bzImage or an ELF vmlinux), as in 'vmm --kernel bzImage --disk rootfs.img'; see 'vmm --help'"
    )]
    NoKernel,
    /// The configuration file is not one.
    #[error("config file {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// The CPU template is not one.
    #[error("CPU template {path:?}")]
    CpuTemplate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// A path of no characters.
    #[error("the path of {what} is empty")]
    EmptyPath {
        /// Whose path.
        what: String,
    },
    /// One file for two purposes, one of which writes.
    #[error(
        "{path:?} is used as {first} and as {second}, and {writer} is written: use two files, or make both read-only"
    )]
    SharedPath {
        /// The file.
        path: PathBuf,
        /// One use.
        first: String,
        /// The other use.
        second: String,
        /// Which of them writes.
        writer: String,
    },
    /// A name that is not one.
    #[error("{what}: {id:?} cannot be an id: use 1 to {ID_MAX} of the characters A-Z a-z 0-9 _ -")]
    Id {
        /// Whose name.
        what: &'static str,
        /// The name.
        id: String,
    },
    /// Two devices of a kind with one name.
    #[error("two {kind}s have the id {id:?}: give each its own")]
    DuplicateId {
        /// The kind.
        kind: &'static str,
        /// The name.
        id: String,
    },
    /// More devices than there is room for.
    #[error(
        "{count} virtio devices are too many: {max} fit; remove a disk or a net, or say --rng off"
    )]
    TooManyDevices {
        /// How many the configuration has.
        count: usize,
        /// How many fit.
        max: usize,
    },
    /// No vCPU, too many, or parts that do not give the whole.
    #[error("cpus")]
    Cpus(#[from] arch::TopologyError),
    /// Not one CPU for each vCPU.
    #[error(
        "cpus: pin names {named} CPUs for {count} vCPUs: name one for each, such as pin=0:1 or pin=0-1"
    )]
    PinCount {
        /// How many were named.
        named: usize,
        /// How many vCPUs there are.
        count: u16,
    },
    /// A device is to be served by a thread that does not exist.
    #[error(
        "{device}: there is no iothread {id:?}{}",
        near.as_ref().map_or_else(|| format!(": add --iothread {id}"), |near| format!("; did you mean {near:?}?"))
    )]
    UnknownIoThread {
        /// The device.
        device: String,
        /// The thread's name.
        id: String,
        /// The name of a thread that looks like it.
        near: Option<String>,
    },
    /// A thread would have nothing to do.
    #[error("iothread {id} serves no device: give a disk or a net iothread={id}, or remove it")]
    UnusedIoThread {
        /// The thread.
        id: String,
    },
    /// Too little memory to boot anything in.
    #[error(
        "{} of memory is too little: give at least {} MiB, such as --memory 512M",
        readable(*bytes), MEMORY_MIN >> 20
    )]
    MemoryTooSmall {
        /// What was asked for.
        bytes: u64,
    },
    /// More memory than can be addressed.
    #[error("{} of memory is too much: {} TiB are the limit", readable(*bytes), MEMORY_MAX >> 40)]
    MemoryTooLarge {
        /// What was asked for.
        bytes: u64,
    },
    /// A fraction of a MiB.
    #[error("{bytes} bytes of memory are not a whole number of MiB")]
    MemoryUneven {
        /// What was asked for.
        bytes: u64,
    },
    /// Memory of which a part would be left without a page.
    #[error(
        "{} of memory is not a whole number of pages of {}: change --memory, or take other pages with hugepages=",
        readable(*bytes), readable(*page)
    )]
    MemoryPages {
        /// What was asked for.
        bytes: u64,
        /// Size of the pages.
        page: u64,
    },
    /// More taken from the guest than it has.
    #[error(
        "a balloon of {} does not fit into {} of memory: make it smaller",
        readable(*bytes), readable(*memory_bytes)
    )]
    BalloonTooLarge {
        /// What was asked for.
        bytes: u64,
        /// The guest's memory.
        memory_bytes: u64,
    },
    /// A fraction of a MiB.
    #[error("a balloon of {} is not a whole number of MiB", readable(*bytes))]
    BalloonUneven {
        /// What was asked for.
        bytes: u64,
    },
    /// Metadata that no card leads to.
    #[error(
        "metadata {path:?} has no way to the guest: add metadata to a net, as in --net tap=tap0,metadata"
    )]
    MetadataUnreachable {
        /// The file with the metadata.
        path: PathBuf,
    },
    /// An address that no host has.
    #[error("metadata: {address} cannot be the service's address: use one such as 169.254.169.254")]
    MetadataAddress {
        /// What was given.
        address: Ipv4Addr,
    },
    /// Two disks claim the root file system.
    #[error("{first:?} and {second:?} are both the root disk: keep one")]
    TwoRoots {
        /// The first one.
        first: PathBuf,
        /// The second one.
        second: PathBuf,
    },
    /// A serial number that does not fit.
    /// What an overlay cannot do.
    #[error("disk {id}: {word} and an overlay do not go together: leave one of them out")]
    DiskOverlay {
        /// The disk.
        id: String,
        /// What was asked for besides.
        word: &'static str,
    },
    /// A number of queues that no disk has.
    #[error("disk {id}: {queues} queues are not possible: use 1 to 64")]
    DiskQueues {
        /// The disk.
        id: String,
        /// The number.
        queues: u16,
    },
    /// A serial number that a guest cannot be shown.
    #[error(
        "disk {id}: serial {serial:?} does not fit: use 1 to {SERIAL_MAX} printable ASCII characters"
    )]
    DiskSerial {
        /// The disk.
        id: String,
        /// The serial number.
        serial: String,
    },
    /// A partition named on a disk that is not the root.
    #[error(
        "disk {id}: partuuid names the root partition, but this is not the root disk: remove it"
    )]
    PartuuidWithoutRoot {
        /// The disk.
        id: String,
    },
    /// A partition's id with characters that would end the word on the command line.
    #[error("disk {id}: {partuuid:?} is not a partuuid: use letters, digits and dashes")]
    Partuuid {
        /// The disk.
        id: String,
        /// What was given.
        partuuid: String,
    },
    /// A number of queue pairs that no card has.
    #[error("net {id}: {queues} queues are not possible: use {} to {}", NET_QUEUES.start(), NET_QUEUES.end())]
    NetQueues {
        /// The network card.
        id: String,
        /// The number.
        queues: usize,
    },
    /// As many descriptors as queues are needed.
    #[error(
        "net {id}: {queues} queues and {fds} descriptors do not fit: leave out queues=, each descriptor is one"
    )]
    FdQueues {
        /// The network card.
        id: String,
        /// The number of queues.
        queues: u16,
        /// The number of descriptors.
        fds: usize,
    },
    /// An MTU that no card has.
    #[error("net {id}: mtu {mtu} is not possible: use 68 to 65521")]
    Mtu {
        /// The network card.
        id: String,
        /// What was given.
        mtu: u16,
    },
    /// A name that no interface has.
    #[error(
        "net {id}: {name:?} cannot be a tap's name: use 1 to {TAP_NAME_MAX} characters without spaces and / : %"
    )]
    TapName {
        /// The network card.
        id: String,
        /// What was given.
        name: String,
    },
    /// Standard input, output or error.
    #[error("net {id}: descriptor {fd} is the terminal's: pass the tap as 3 or higher")]
    StandardFd {
        /// The network card.
        id: String,
        /// The descriptor.
        fd: RawFd,
    },
    /// The parent did not leave this descriptor open.
    #[error("net {id}: descriptor {fd} is not open: start vmm with it, without close-on-exec")]
    ClosedFd {
        /// The network card.
        id: String,
        /// The descriptor.
        fd: RawFd,
    },
    /// One descriptor for two queues.
    #[error("net {id}: descriptor {fd} is named twice: each queue needs its own")]
    RepeatedFd {
        /// The network card.
        id: String,
        /// The descriptor.
        fd: RawFd,
    },
    /// One tap for two cards.
    #[error("net {first} and net {second} both use {what}: give each its own")]
    SharedNet {
        /// The first card.
        first: String,
        /// The second card.
        second: String,
        /// The tap or descriptor.
        what: String,
    },
    /// One address for two cards.
    #[error("net {first} and net {second} both have the address {mac}: set mac= on one of them")]
    SharedMac {
        /// The first card.
        first: String,
        /// The second card.
        second: String,
        /// The address.
        mac: String,
    },
    /// An address that no guest has.
    #[error(
        "vsock: the guest cannot have the address {cid}: use {} to {}",
        GUEST_CIDS.start(), GUEST_CIDS.end()
    )]
    GuestCid {
        /// What was given.
        cid: u32,
    },
    /// A socket's path that the kernel cannot take.
    #[error(
        "{flag}: socket path {path:?} is longer than {SOCKET_PATH_MAX} bytes: use a shorter one"
    )]
    SocketPath {
        /// vsock, console or serial.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A command line that the kernel would cut off.
    #[error("the kernel command line has {len} bytes, {CMDLINE_MAX} fit: shorten it")]
    CmdlineLength {
        /// Its length.
        len: usize,
    },
    /// A command line with a character that it cannot have.
    #[error("the kernel command line contains the control character {character:?}: remove it")]
    CmdlineCharacter {
        /// The character.
        character: char,
    },
    /// A limit for a process that is not in a cgroup of its own.
    #[error("{flag} is a limit of a jail: add --jail")]
    LimitWithoutJail {
        /// The flag.
        flag: &'static str,
    },
    /// No time to run in.
    #[error("a timeout of 0 leaves no time to run: leave it out for no limit")]
    NoTime,
    /// No time to become ready in.
    #[error("--wait-ready 0 leaves no time to be ready: leave it out for no limit")]
    NoTimeToBeReady,
    /// A text that nobody can look for.
    #[error("a ready pattern of {len} bytes cannot be: use 1 to {PATTERN_MAX}")]
    ReadyPattern {
        /// Its length.
        len: usize,
    },
    /// A text that cannot appear.
    #[error("a ready pattern needs a console to appear on: give --console or --serial a target")]
    ReadyWithoutConsole,
}

/// Bytes as a number of the largest unit that leaves no rest.
fn readable(bytes: u64) -> String {
    let unit = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(
        || format!("{bytes} bytes"),
        |(shift, name)| format!("{} {name}", bytes >> shift),
    )
}
