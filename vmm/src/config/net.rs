//! Network cards: what the user says about one, and what the plan makes of it.
//!
//! No tap is opened here. A descriptor is only looked at, never used: it belongs to whoever builds the card.

use std::os::fd::RawFd;
use std::path::Path;
use std::str::FromStr;

use devices::rate_limiter::Limits;
use serde::{Serialize, Serializer};

use super::error::ConfigError;
use super::id::{Ids, Kind};
use super::limits;
use super::value::{Part, ValueError, parse_mac, parse_u16, split_list};

/// MTUs that a card can have: from IPv4's smallest to what a tap can have with its 14 bytes of Ethernet header
/// (virtio 1.3, 5.1.4.1, would allow 65535).
pub const MTU: std::ops::RangeInclusive<u16> = 68..=65521;
/// Bytes of an interface's name (Linux, `IFNAMSIZ` less the NUL).
pub const TAP_NAME_MAX: usize = 15;

/// Queue pairs of a card: one per vCPU is the most that helps, and each costs descriptors.
pub const NET_QUEUES: std::ops::RangeInclusive<u16> = 1..=64;

/// Where a card's frames go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetSource {
    /// The tap interface of this name.
    Tap(String),
    /// A tap that the parent process opened and left to us: a descriptor for each of its queues.
    Fds(Vec<RawFd>),
}

/// What the user says about a network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// Where its frames go.
    pub source: NetSource,
    /// Its address.
    pub mac: Option<[u8; 6]>,
    /// The MTU that the guest is told.
    pub mtu: Option<u16>,
    /// Its name among the network cards.
    pub id: Option<String>,
    /// Number of queue pairs.
    pub queues: Option<u16>,
    /// What frames towards the guest are limited by.
    pub rx_limits: Limits,
    /// What frames from the guest are limited by.
    pub tx_limits: Limits,
    /// The thread that serves it.
    pub iothread: Option<String>,
    /// Whether the guest reaches the metadata service by it.
    pub metadata: bool,
}

impl NetConfig {
    /// A card on `source`, otherwise as usual.
    #[must_use]
    pub fn new(source: NetSource) -> Self {
        Self {
            source,
            mac: None,
            mtu: None,
            id: None,
            queues: None,
            rx_limits: Limits::NONE,
            tx_limits: Limits::NONE,
            iothread: None,
            metadata: false,
        }
    }
}

/// The parts of `--net`, for its errors.
const FORMS: &str = "tap=NAME, fd=N[:N...], mac=MAC, mtu=N, id=ID, queues=N, bw=RATE, pps=RATE, burst=TIME, iothread=ID, metadata";
const SOURCE: &str = "tap=NAME or fd=N";

/// Reads `tap=NAME|fd=N[:N...][,mac=MAC][,mtu=N][,id=ID][,queues=N][,bw=RATE][,pps=RATE][,burst=TIME]
/// [,iothread=ID][,metadata]`. The limits are for each direction by itself.
impl FromStr for NetConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let missing = || ValueError::Missing { what: "the other end of the net", form: SOURCE };
        if text.is_empty() {
            return Err(missing());
        }
        let mut source = None;
        // What it is on is not known before the last part.
        let mut net = Self::new(NetSource::Fds(Vec::new()));
        let mut limits = limits::Words::new("pps");
        for part in split_list(text)? {
            match part.key.as_str() {
                "tap" | "fd" if source.is_some() => {
                    return Err(ValueError::Form { key: part.key, form: SOURCE });
                }
                "tap" => source = Some(NetSource::Tap(part.value("tap=NAME")?)),
                "fd" => source = Some(NetSource::Fds(parse_fds(part)?)),
                "mac" => net.mac = Some(parse_mac(&part.value("mac=MAC")?)?),
                "mtu" => net.mtu = Some(parse_u16("mtu", &part.value("mtu=N")?)?),
                "id" => net.id = Some(part.value("id=ID")?),
                "queues" => net.queues = Some(parse_u16("queues", &part.value("queues=N")?)?),
                "iothread" => net.iothread = Some(part.value("iothread=ID")?),
                "metadata" => net.metadata = part.word("metadata").map(|()| true)?,
                key if limits.has(key) => limits.take(part)?,
                _ => {
                    return Err(ValueError::UnknownPart { text: part.key, known: FORMS });
                }
            }
        }
        let limits = limits.limits()?;
        (net.rx_limits, net.tx_limits) = (limits, limits);
        Ok(Self { source: source.ok_or_else(missing)?, ..net })
    }
}

fn parse_fds(part: Part) -> Result<Vec<RawFd>, ValueError> {
    // More than 65535 descriptors in a process that has just been started are nobody's intention.
    let numbers = part.value("fd=N")?;
    numbers.split(':').map(|number| parse_u16("fd", number).map(RawFd::from)).collect()
}

/// A network card of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetPlan {
    /// Its name, unique among the network cards.
    pub id: String,
    /// Where its frames go.
    pub source: NetSource,
    /// Its address: unicast, and unlike that of any other card of the machine.
    #[serde(serialize_with = "mac_as_text")]
    pub mac: [u8; 6],
    /// The MTU that the guest is told, within [`MTU`].
    pub mtu: Option<u16>,
    /// Number of queue pairs, within [`NET_QUEUES`]; with descriptors, that of descriptors.
    pub queues: u16,
    /// What frames towards the guest are limited by.
    #[serde(serialize_with = "limits::as_json")]
    pub rx_limits: Limits,
    /// What frames from the guest are limited by.
    #[serde(serialize_with = "limits::as_json")]
    pub tx_limits: Limits,
    /// The thread that serves it; the main one without a name.
    pub iothread: Option<String>,
    /// Whether the guest reaches the metadata service by it.
    pub metadata: bool,
}

/// Resolves the network cards of the machine called `machine`.
pub(super) fn resolve(machine: &str, nets: Vec<NetConfig>) -> Result<Vec<NetPlan>, ConfigError> {
    let mut ids = Ids::new(Kind::Net, nets.iter().map(|net| net.id.as_deref()))?;
    let mut plans: Vec<NetPlan> = Vec::with_capacity(nets.len());
    for net in nets {
        let id = ids.take(net.id);
        check_source(&id, &net.source)?;
        let queues = queues(&id, net.queues, &net.source)?;
        if let Some(mtu) = net.mtu.filter(|mtu| !MTU.contains(mtu)) {
            return Err(ConfigError::Mtu { id, mtu });
        }
        let mac = net.mac.unwrap_or_else(|| generate_mac(machine, &id, &net.source));
        for other in &plans {
            if let Some(what) = shared_end(&other.source, &net.source) {
                let first = other.id.clone();
                return Err(ConfigError::SharedNet { first, second: id, what });
            }
            if other.mac == mac {
                let (first, mac) = (other.id.clone(), format_mac(&mac));
                return Err(ConfigError::SharedMac { first, second: id, mac });
            }
        }
        plans.push(NetPlan {
            id,
            source: net.source,
            mac,
            mtu: net.mtu,
            queues,
            rx_limits: net.rx_limits,
            tx_limits: net.tx_limits,
            iothread: net.iothread,
            metadata: net.metadata,
        });
    }
    Ok(plans)
}

fn check_source(id: &str, source: &NetSource) -> Result<(), ConfigError> {
    match source {
        NetSource::Tap(name) => {
            // What the kernel refuses in a name, and "%", which it would take as a pattern.
            let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
            let special = matches!(name.as_str(), "" | "." | "..");
            if special || name.len() > TAP_NAME_MAX || name.chars().any(bad) {
                return Err(ConfigError::TapName { id: id.to_owned(), name: name.clone() });
            }
        }
        NetSource::Fds(fds) => {
            for (index, &fd) in fds.iter().enumerate() {
                let id = || id.to_owned();
                if fd <= 2 {
                    return Err(ConfigError::StandardFd { id: id(), fd });
                }
                if !is_open(fd) {
                    return Err(ConfigError::ClosedFd { id: id(), fd });
                }
                if fds.iter().take(index).any(|&other| other == fd) {
                    return Err(ConfigError::RepeatedFd { id: id(), fd });
                }
            }
        }
    }
    Ok(())
}

/// The number of queue pairs: with descriptors, each is one.
fn queues(id: &str, said: Option<u16>, source: &NetSource) -> Result<u16, ConfigError> {
    let queues = match source {
        NetSource::Tap(_) => usize::from(said.unwrap_or(1)),
        NetSource::Fds(fds) => match said {
            Some(queues) if usize::from(queues) != fds.len() => {
                return Err(ConfigError::FdQueues { id: id.to_owned(), queues, fds: fds.len() });
            }
            _ => fds.len(),
        },
    };
    u16::try_from(queues)
        .ok()
        .filter(|queues| NET_QUEUES.contains(queues))
        .ok_or_else(|| ConfigError::NetQueues { id: id.to_owned(), queues })
}

/// Whether this process has a descriptor `fd`. Without a /proc to look at it is taken as open; using it will
/// tell.
fn is_open(fd: RawFd) -> bool {
    let all = Path::new("/proc/self/fd");
    all.join(fd.to_string()).symlink_metadata().is_ok() || !all.exists()
}

/// What two cards both use.
fn shared_end(one: &NetSource, other: &NetSource) -> Option<String> {
    match (one, other) {
        (NetSource::Tap(one), NetSource::Tap(other)) => {
            (one == other).then(|| format!("tap {one}"))
        }
        (NetSource::Fds(one), NetSource::Fds(other)) => {
            one.iter().find(|fd| other.contains(fd)).map(|fd| format!("descriptor {fd}"))
        }
        _ => None,
    }
}

/// An address that stays the same from run to run, and differs between machines: the names of the machine
/// and of the card go in, and that of the tap, which no two machines share, even when neither has a name.
fn generate_mac(machine: &str, id: &str, source: &NetSource) -> [u8; 6] {
    let tap = match source {
        NetSource::Tap(name) => name.as_str(),
        NetSource::Fds(_) => "",
    };
    // FNV-1a over 64 bits, with a separator that no name contains.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in [machine, "\0", id, "\0", tap].into_iter().flat_map(str::bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // FNV leaves the last bytes of its input mostly in the low bits; the fold brings in the high ones.
    let [_, _, _, b, c, d, e, f] = (hash ^ (hash >> 32)).to_be_bytes();
    // 0x02: locally administered, unicast (IEEE 802).
    [0x02, b, c, d, e, f]
}

pub(super) fn format_mac(mac: &[u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn mac_as_text<S: Serializer>(mac: &[u8; 6], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format_mac(mac))
}

#[cfg(test)]
mod tests;
