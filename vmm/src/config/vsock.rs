//! The socket device: what the user says about it, and what the plan makes of it.
//!
//! Nothing is listened on here.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use super::console::SOCKET_PATH_MAX;
use super::error::ConfigError;
use super::value::{ValueError, parse_u32, split_list};

/// Addresses that a guest can have: 0 to 2 have meanings of their own, and the last one means any (virtio 1.3,
/// 5.10.4).
pub const GUEST_CIDS: std::ops::RangeInclusive<u32> = 3..=u32::MAX - 1;
/// The guest's address when nothing is said. Machines may share one: a socket's path tells them apart.
pub(super) const GUEST_CID_DEFAULT: u32 = 3;

/// What the user says about the socket device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's address.
    pub guest_cid: Option<u32>,
    /// The Unix socket through which programs of the host reach the guest.
    pub socket: PathBuf,
    /// A port of the host at which the guest says that it is ready.
    pub ready_port: Option<u32>,
}

const FORMS: &str = "cid=N, ready=PORT, socket=PATH";

/// Reads `socket=PATH[,cid=N][,ready=PORT]`.
impl FromStr for VsockConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let missing = || ValueError::Missing { what: "the socket's path", form: "socket=PATH" };
        if text.is_empty() {
            return Err(missing());
        }
        let (mut guest_cid, mut socket, mut ready_port) = (None, None, None);
        for part in split_list(text)? {
            match part.key.as_str() {
                "cid" => guest_cid = Some(parse_u32("cid", &part.value("cid=N")?)?),
                "ready" => ready_port = Some(parse_u32("ready", &part.value("ready=PORT")?)?),
                "socket" => socket = Some(part.value("socket=PATH")?.into()),
                _ => return Err(ValueError::UnknownPart { text: part.key, known: FORMS }),
            }
        }
        Ok(Self { guest_cid, socket: socket.ok_or_else(missing)?, ready_port })
    }
}

/// The socket device of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VsockPlan {
    /// The guest's address, within [`GUEST_CIDS`].
    pub guest_cid: u32,
    /// Where programs of the host reach the guest, at most [`SOCKET_PATH_MAX`] bytes; those that the guest
    /// reaches listen at this path with `_PORT` added.
    #[serde(serialize_with = "super::plan::path_as_text")]
    pub socket: PathBuf,
    /// The port at which this process itself listens, for the guest to say that it is ready.
    pub ready_port: Option<u32>,
}

/// Resolves the socket device.
pub(super) fn resolve(config: VsockConfig) -> Result<VsockPlan, ConfigError> {
    let guest_cid = config.guest_cid.unwrap_or(GUEST_CID_DEFAULT);
    if !GUEST_CIDS.contains(&guest_cid) {
        return Err(ConfigError::GuestCid { cid: guest_cid });
    }
    let socket = config.socket;
    if socket.as_os_str().as_bytes().len() > SOCKET_PATH_MAX {
        return Err(ConfigError::SocketPath { flag: "vsock", path: socket });
    }
    Ok(VsockPlan { guest_cid, socket, ready_port: config.ready_port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vsock(guest_cid: Option<u32>) -> VsockConfig {
        VsockConfig { guest_cid, socket: "v.sock".into(), ready_port: None }
    }

    #[test]
    fn every_part_is_read() {
        assert_eq!("socket=v.sock".parse(), Ok(vsock(None)));
        assert_eq!("cid=4294967294,socket=v.sock".parse(), Ok(vsock(Some(4_294_967_294))));
        let comma = VsockConfig { socket: "a,b".into(), ..vsock(None) };
        assert_eq!("socket=a,,b".parse(), Ok(comma));
        let ready = VsockConfig { ready_port: Some(52), ..vsock(None) };
        assert_eq!("socket=v.sock,ready=52".parse(), Ok(ready));
    }

    #[test]
    fn every_mistake_has_its_message() {
        for (text, message) in [
            ("", "the socket's path is missing: write socket=PATH"),
            ("cid=3", "the socket's path is missing: write socket=PATH"),
            ("socket=", "\"socket\" must be written socket=PATH"),
            ("cid=x,socket=v", "cid: \"x\" is not a whole number from 0 to 4294967295"),
            (
                "cid=4294967296,socket=v",
                "cid: \"4294967296\" is not a whole number from 0 to 4294967295",
            ),
            ("socket=a,socket=b", "\"socket\" is given twice"),
            (
                "sokcet=v",
                "unknown part \"sokcet\"; did you mean \"socket\"?; known: cid=N, ready=PORT, socket=PATH",
            ),
        ] {
            assert_eq!(text.parse::<VsockConfig>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn the_address_has_a_default_and_limits() {
        let cid = |cid| resolve(vsock(cid)).map(|plan| plan.guest_cid);
        assert_eq!(cid(None).unwrap(), 3);
        for good in [3, 1000, u32::MAX - 1] {
            assert_eq!(cid(Some(good)).unwrap(), good);
        }
        for bad in [0, 1, 2, u32::MAX] {
            let message =
                format!("vsock: the guest cannot have the address {bad}: use 3 to 4294967294");
            assert_eq!(cid(Some(bad)).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_path_has_the_kernels_limit() {
        let with = |len| VsockConfig { socket: "s".repeat(len).into(), ..vsock(None) };
        assert!(resolve(with(SOCKET_PATH_MAX)).is_ok());
        let error = resolve(with(SOCKET_PATH_MAX + 1)).unwrap_err();
        assert!(error.to_string().starts_with("vsock: socket path"), "{error}");
    }
}
