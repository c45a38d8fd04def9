//! Disks: what the user says about one, and what the plan makes of it.
//!
//! No file is opened here, and no format is ever guessed from what a file contains: a guest that can write
//! its disk could otherwise choose how the host reads it.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use devices::rate_limiter::Limits;
use serde::{Deserialize, Serialize, Serializer};

use super::error::ConfigError;
use super::id::{Ids, Kind};
use super::limits;
use super::value::{Part, ValueError, parse_u16, rejoin, split_list};

/// Bytes of a disk's serial number (virtio 1.3, 5.2.6: the answer to `VIRTIO_BLK_T_GET_ID`).
pub const SERIAL_MAX: usize = 20;

/// How the bytes of an image become the bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Byte for byte; also block devices.
    #[default]
    Raw,
}

impl FromStr for DiskFormat {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "raw" => Ok(Self::Raw),
            _ => Err(ValueError::Word { what: "format", text: text.to_owned(), known: "raw" }),
        }
    }
}

/// How a disk's transfers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskEngine {
    /// Plain system calls, one after the other.
    #[default]
    Sync,
    /// Many at once through io_uring; where the host forbids it, plain system calls.
    Uring,
}

impl FromStr for DiskEngine {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "sync" => Ok(Self::Sync),
            "uring" => Ok(Self::Uring),
            _ => Err(ValueError::Word {
                what: "engine",
                text: text.to_owned(),
                known: "sync, uring",
            }),
        }
    }
}

/// Where what the guest writes goes, when the image is to stay as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOverlay {
    /// To a file without a name beside the image, which is gone with the process.
    ThrownAway,
    /// To this file, which is made if it is not there.
    Kept(PathBuf),
}

impl DiskOverlay {
    /// The file, if it has a name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::ThrownAway => None,
            Self::Kept(path) => Some(path),
        }
    }
}

/// As in the configuration file: `true`, or the path.
impl Serialize for DiskOverlay {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::ThrownAway => to.serialize_bool(true),
            Self::Kept(path) => super::plan::path_as_text(path, to),
        }
    }
}

/// Most queues of one disk: one per vCPU is the most that helps, and each costs descriptors.
pub const DISK_QUEUES: std::ops::RangeInclusive<u16> = 1..=64;

/// What the user says about a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskConfig {
    /// The image or block device.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: Option<bool>,
    /// Its name among the disks.
    pub id: Option<String>,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// Its format.
    pub format: Option<DiskFormat>,
    /// How its transfers are made.
    pub engine: Option<DiskEngine>,
    /// Whether transfers bypass the host's page cache.
    pub direct: Option<bool>,
    /// Where writes go, if not to the image.
    pub overlay: Option<DiskOverlay>,
    /// Number of queues.
    pub queues: Option<u16>,
    /// What its requests are limited by.
    pub limits: Limits,
    /// The thread that serves it.
    pub iothread: Option<String>,
    /// Whether it holds the root file system; when nothing is said about any disk, the first one does.
    pub root: Option<bool>,
    /// The GPT partition of the root file system; without it, the whole disk is meant.
    pub partuuid: Option<String>,
}

/// The parts of `--disk`, for its errors.
const FORMS: &str = "path=PATH, readonly, root, id=ID, serial=TEXT, format=raw, engine=sync|uring, direct, snapshot=overlay, overlay=FILE, queues=N, bw=RATE, iops=RATE, burst=TIME, iothread=ID";
const PATH: &str = "path=PATH";
/// The parts that have a value: with one of these, the first part is not a path.
const KEYS: [&str; 12] = [
    "path", "id", "serial", "format", "engine", "snapshot", "overlay", "queues", "bw", "iops",
    "burst", "iothread",
];

/// Reads `PATH[,readonly][,root][,id=ID][,serial=TEXT][,format=raw][,engine=sync|uring][,direct]
/// [,snapshot=overlay][,overlay=FILE][,queues=N][,bw=RATE][,iops=RATE][,burst=TIME][,iothread=ID]`.
/// The path may also be written `path=PATH` anywhere; a comma in it is doubled.
impl FromStr for DiskConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut disk = Self::default();
        let mut path: Option<String> = None;
        let mut limits = limits::Words::new("iops");
        let missing = || ValueError::Missing { what: "the disk's path", form: PATH };
        if text.is_empty() {
            return Err(missing());
        }
        for (index, part) in split_list(text)?.into_iter().enumerate() {
            if index == 0 && !starts_with_key(&part) {
                path = Some(rejoin(part));
                continue;
            }
            match part.key.as_str() {
                "path" if path.is_some() => return Err(ValueError::Twice { key: part.key }),
                "path" => path = Some(part.value(PATH)?),
                "readonly" => disk.read_only = Some(part.word("readonly").map(|()| true)?),
                "root" => disk.root = Some(part.word("root").map(|()| true)?),
                "id" => disk.id = Some(part.value("id=ID")?),
                "serial" => disk.serial = Some(part.value("serial=TEXT")?),
                "engine" => disk.engine = Some(part.value("engine=sync|uring")?.parse()?),
                "direct" => disk.direct = Some(part.word("direct").map(|()| true)?),
                "snapshot" => match part.value("snapshot=overlay")?.as_str() {
                    "overlay" => {
                        disk.overlay.get_or_insert(DiskOverlay::ThrownAway);
                    }
                    text => {
                        let (what, text) = ("snapshot", text.to_owned());
                        return Err(ValueError::Word { what, text, known: "overlay" });
                    }
                },
                "overlay" => {
                    let file = part.value("overlay=FILE")?;
                    disk.overlay = Some(DiskOverlay::Kept(file.into()));
                }
                "queues" => {
                    disk.queues = Some(parse_u16("queues", &part.value("queues=N")?)?);
                }
                "iothread" => disk.iothread = Some(part.value("iothread=ID")?),
                key if limits.has(key) => limits.take(part)?,
                "format" => disk.format = Some(part.value("format=raw")?.parse()?),
                _ => {
                    return Err(ValueError::UnknownPart { text: part.key, known: FORMS });
                }
            }
        }
        disk.path = path.ok_or_else(missing)?.into();
        disk.limits = limits.limits()?;
        Ok(disk)
    }
}

/// Whether the first part is one of the keys rather than a path that happens to contain "=".
fn starts_with_key(part: &Part) -> bool {
    part.value.is_some() && KEYS.contains(&part.key.as_str())
}

/// A disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskPlan {
    /// Its name, unique among the disks.
    pub id: String,
    /// The image or block device.
    #[serde(serialize_with = "super::plan::path_as_text")]
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// The serial number that the guest sees: printable ASCII, at most [`SERIAL_MAX`] bytes.
    pub serial: String,
    /// Its format.
    pub format: DiskFormat,
    /// How its transfers are made.
    pub engine: DiskEngine,
    /// Whether transfers bypass the host's page cache.
    pub direct: bool,
    /// Where writes go, if not to the image.
    pub overlay: Option<DiskOverlay>,
    /// Number of queues, within [`DISK_QUEUES`].
    pub queues: NonZeroU16,
    /// What its requests are limited by.
    #[serde(serialize_with = "limits::as_json")]
    pub limits: Limits,
    /// The thread that serves it; the main one without a name.
    pub iothread: Option<String>,
}

/// The file system that the kernel is told to mount as its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root {
    /// The GPT partition, when one was named.
    pub(super) partuuid: Option<String>,
    /// Whether it can only be mounted for reading.
    pub(super) read_only: bool,
}

/// Resolves the disks. The one with the root file system comes first, whatever its place among the flags, so
/// that the root is `/dev/vda` in every guest.
pub(super) fn resolve(
    disks: Vec<DiskConfig>,
) -> Result<(Vec<DiskPlan>, Option<Root>), ConfigError> {
    let root_index = find_root(&disks)?;
    let mut ids = Ids::new(Kind::Disk, disks.iter().map(|disk| disk.id.as_deref()))?;
    let mut plans = Vec::with_capacity(disks.len());
    let mut root = None;
    for (index, mut disk) in disks.into_iter().enumerate() {
        let id = ids.take(disk.id.take());
        let is_root = root_index == Some(index);
        if let Some(partuuid) = &disk.partuuid {
            check_partuuid(&id, partuuid, is_root)?;
        }
        check_overlay(&id, &disk)?;
        let plan = DiskPlan {
            overlay: disk.overlay,
            serial: serial(&id, disk.serial)?,
            queues: queues(&id, disk.queues)?,
            engine: disk.engine.unwrap_or_default(),
            direct: disk.direct.unwrap_or(false),
            id,
            path: disk.path,
            read_only: disk.read_only.unwrap_or(false),
            format: disk.format.unwrap_or_default(),
            limits: disk.limits,
            iothread: disk.iothread,
        };
        if is_root {
            root = Some(Root { partuuid: disk.partuuid, read_only: plan.read_only });
            plans.insert(0, plan);
        } else {
            plans.push(plan);
        }
    }
    Ok((plans, root))
}

/// The disk that says it is the root, else the first one unless it says that it is not.
fn find_root(disks: &[DiskConfig]) -> Result<Option<usize>, ConfigError> {
    let mut claims = disks.iter().enumerate().filter(|(_, disk)| disk.root == Some(true));
    match (claims.next(), claims.next()) {
        (Some((_, first)), Some((_, second))) => {
            Err(ConfigError::TwoRoots { first: first.path.clone(), second: second.path.clone() })
        }
        (Some((index, _)), None) => Ok(Some(index)),
        (None, _) => Ok(disks.first().filter(|disk| disk.root.is_none()).map(|_| 0)),
    }
}

/// An overlay is written by system calls through the page cache.
fn check_overlay(id: &str, disk: &DiskConfig) -> Result<(), ConfigError> {
    let clash = [
        ("readonly", disk.read_only == Some(true)),
        ("direct", disk.direct == Some(true)),
        ("engine=uring", disk.engine == Some(DiskEngine::Uring)),
    ];
    match clash.into_iter().find(|(_, clashes)| *clashes && disk.overlay.is_some()) {
        Some((word, _)) => Err(ConfigError::DiskOverlay { id: id.to_owned(), word }),
        None => Ok(()),
    }
}

fn queues(id: &str, queues: Option<u16>) -> Result<NonZeroU16, ConfigError> {
    let queues = queues.unwrap_or(1);
    NonZeroU16::new(queues)
        .filter(|queues| DISK_QUEUES.contains(&queues.get()))
        .ok_or_else(|| ConfigError::DiskQueues { id: id.to_owned(), queues })
}

/// The serial number: the user's, or as much of the id as fits, so that `/dev/disk/by-id` tells disks apart.
fn serial(id: &str, serial: Option<String>) -> Result<String, ConfigError> {
    let Some(serial) = serial else {
        // An id is ASCII, so its characters are its bytes.
        return Ok(id.chars().take(SERIAL_MAX).collect());
    };
    let printable = serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if serial.is_empty() || serial.len() > SERIAL_MAX || !printable {
        return Err(ConfigError::DiskSerial { id: id.to_owned(), serial });
    }
    Ok(serial)
}

/// A partition's id ends up on the kernel command line, where a space or a quote would end it.
fn check_partuuid(id: &str, partuuid: &str, is_root: bool) -> Result<(), ConfigError> {
    if !is_root {
        return Err(ConfigError::PartuuidWithoutRoot { id: id.to_owned() });
    }
    // "/PARTNROFF=1" may follow the UUID (Linux, Documentation/admin-guide/kernel-parameters, "root=").
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'=');
    if partuuid.is_empty() || !partuuid.bytes().all(fits) {
        return Err(ConfigError::Partuuid { id: id.to_owned(), partuuid: partuuid.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
