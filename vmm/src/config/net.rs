//! Network cards: what the user says about one, and what the plan makes of it.
//!
//! No tap is opened here. A descriptor is only looked at, never used: it belongs to whoever builds the card.

use std::os::fd::RawFd;
use std::path::Path;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::error::ConfigError;
use super::id::{Ids, Kind};
use super::value::{Part, ValueError, parse_mac, parse_u16, split_list};

/// MTUs that a card can have: from IPv4's smallest to what a tap can have with its 14 bytes of Ethernet header
/// (virtio 1.3, 5.1.4.1, would allow 65535).
pub const MTU: std::ops::RangeInclusive<u16> = 68..=65521;
/// Bytes of an interface's name (Linux, `IFNAMSIZ` less the NUL).
pub const TAP_NAME_MAX: usize = 15;

/// Where a card's frames go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetSource {
    /// The tap interface of this name.
    Tap(String),
    /// A tap that the parent process opened and left to us as this descriptor.
    Fd(RawFd),
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
}

/// The parts of `--net`, for its errors.
const FORMS: &str = "tap=NAME, fd=N, mac=MAC, mtu=N, id=ID";
const SOURCE: &str = "tap=NAME or fd=N";

/// Reads `tap=NAME|fd=N[,mac=MAC][,mtu=N][,id=ID]`.
impl FromStr for NetConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let missing = || ValueError::Missing { what: "the other end of the net", form: SOURCE };
        if text.is_empty() {
            return Err(missing());
        }
        let (mut source, mut mac, mut mtu, mut id) = (None, None, None, None);
        for part in split_list(text)? {
            match part.key.as_str() {
                "tap" | "fd" if source.is_some() => {
                    return Err(ValueError::Form { key: part.key, form: SOURCE });
                }
                "tap" => source = Some(NetSource::Tap(part.value("tap=NAME")?)),
                "fd" => source = Some(NetSource::Fd(parse_fd(part)?)),
                "mac" => mac = Some(parse_mac(&part.value("mac=MAC")?)?),
                "mtu" => mtu = Some(parse_u16("mtu", &part.value("mtu=N")?)?),
                "id" => id = Some(part.value("id=ID")?),
                _ => {
                    return Err(ValueError::UnknownPart { text: part.key, known: FORMS });
                }
            }
        }
        Ok(Self { source: source.ok_or_else(missing)?, mac, mtu, id })
    }
}

fn parse_fd(part: Part) -> Result<RawFd, ValueError> {
    // More than 65535 descriptors in a process that has just been started are nobody's intention.
    parse_u16("fd", &part.value("fd=N")?).map(RawFd::from)
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
}

/// Resolves the network cards of the machine called `machine`.
pub(super) fn resolve(machine: &str, nets: Vec<NetConfig>) -> Result<Vec<NetPlan>, ConfigError> {
    let mut ids = Ids::new(Kind::Net, nets.iter().map(|net| net.id.as_deref()))?;
    let mut plans: Vec<NetPlan> = Vec::with_capacity(nets.len());
    for net in nets {
        let id = ids.take(net.id);
        check_source(&id, &net.source)?;
        if let Some(mtu) = net.mtu.filter(|mtu| !MTU.contains(mtu)) {
            return Err(ConfigError::Mtu { id, mtu });
        }
        let mac = net.mac.unwrap_or_else(|| generate_mac(machine, &id, &net.source));
        for other in &plans {
            if other.source == net.source {
                let (first, what) = (other.id.clone(), describe(&net.source));
                return Err(ConfigError::SharedNet { first, second: id, what });
            }
            if other.mac == mac {
                let (first, mac) = (other.id.clone(), format_mac(&mac));
                return Err(ConfigError::SharedMac { first, second: id, mac });
            }
        }
        plans.push(NetPlan { id, source: net.source, mac, mtu: net.mtu });
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
        NetSource::Fd(fd @ ..=2) => {
            return Err(ConfigError::StandardFd { id: id.to_owned(), fd: *fd });
        }
        NetSource::Fd(fd) if !is_open(*fd) => {
            return Err(ConfigError::ClosedFd { id: id.to_owned(), fd: *fd });
        }
        NetSource::Fd(_) => {}
    }
    Ok(())
}

/// Whether this process has a descriptor `fd`. Without a /proc to look at it is taken as open; using it will
/// tell.
fn is_open(fd: RawFd) -> bool {
    let all = Path::new("/proc/self/fd");
    all.join(fd.to_string()).symlink_metadata().is_ok() || !all.exists()
}

fn describe(source: &NetSource) -> String {
    match source {
        NetSource::Tap(name) => format!("tap {name}"),
        NetSource::Fd(fd) => format!("descriptor {fd}"),
    }
}

/// An address that stays the same from run to run, and differs between machines: the names of the machine
/// and of the card go in, and that of the tap, which no two machines share, even when neither has a name.
fn generate_mac(machine: &str, id: &str, source: &NetSource) -> [u8; 6] {
    let tap = match source {
        NetSource::Tap(name) => name.as_str(),
        NetSource::Fd(_) => "",
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

fn format_mac(mac: &[u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn mac_as_text<S: Serializer>(mac: &[u8; 6], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format_mac(mac))
}

#[cfg(test)]
mod tests;
