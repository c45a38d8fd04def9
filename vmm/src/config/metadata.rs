//! The metadata service: what the user says about it, and what the plan makes of it.
//!
//! The file with the metadata is not opened here.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use devices::metadata::{DEFAULT_ADDRESS, DEFAULT_SIZE_LIMIT, Version};
use serde::Serialize;

use super::error::ConfigError;
use super::net::NetPlan;
use super::value::{ValueError, rejoin, split_list};

/// What the user says about the metadata service. Which cards have it is said with the cards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetadataConfig {
    /// The file with the metadata.
    pub path: Option<PathBuf>,
    /// Which requests are answered.
    pub version: Option<Version>,
    /// The service's address.
    pub address: Option<Ipv4Addr>,
    /// Whether values are always plain text.
    pub imds_compat: Option<bool>,
    /// Most bytes of the metadata.
    pub size_limit: Option<usize>,
}

impl MetadataConfig {
    /// This with what `over` says.
    #[must_use]
    pub(super) fn overridden_by(self, over: Self) -> Self {
        Self {
            path: over.path.or(self.path),
            version: over.version.or(self.version),
            address: over.address.or(self.address),
            imds_compat: over.imds_compat.or(self.imds_compat),
            size_limit: over.size_limit.or(self.size_limit),
        }
    }
}

/// The parts of `--metadata` after the path, for its errors.
const FORMS: &str = "v1, v2, address=IP, imds-compat";

/// Reads `PATH[,v1|v2][,address=IP][,imds-compat]`; a comma in the path is doubled.
impl FromStr for MetadataConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let missing = || ValueError::Missing { what: "the metadata's file", form: "PATH" };
        if text.is_empty() {
            return Err(missing());
        }
        let mut metadata = Self::default();
        for (index, part) in split_list(text)?.into_iter().enumerate() {
            if index == 0 {
                metadata.path = Some(rejoin(part).into());
                continue;
            }
            match part.key.as_str() {
                "v1" | "v2" if metadata.version.is_some() => {
                    return Err(ValueError::Form { key: part.key, form: "v1 or v2" });
                }
                "v1" => metadata.version = Some(part.word("v1").map(|()| Version::V1)?),
                "v2" => metadata.version = Some(part.word("v2").map(|()| Version::V2)?),
                "address" => metadata.address = Some(parse_address(&part.value("address=IP")?)?),
                "imds-compat" => {
                    metadata.imds_compat = Some(part.word("imds-compat").map(|()| true)?);
                }
                _ => return Err(ValueError::UnknownPart { text: part.key, known: FORMS }),
            }
        }
        Ok(metadata)
    }
}

/// Reads an IPv4 address.
///
/// # Errors
/// [`ValueError::Ipv4`].
pub(super) fn parse_address(text: &str) -> Result<Ipv4Addr, ValueError> {
    text.parse().map_err(|_| ValueError::Ipv4 { text: text.to_owned() })
}

/// The metadata service of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MetadataPlan {
    /// The file with the metadata; without one there is none at first.
    #[serde(serialize_with = "super::plan::optional_path_as_text")]
    pub path: Option<PathBuf>,
    /// Which requests are answered.
    pub version: Version,
    /// The service's address, unicast.
    pub address: Ipv4Addr,
    /// Whether values are always plain text.
    pub imds_compat: bool,
    /// Most bytes of the metadata as JSON text.
    pub size_limit: usize,
}

/// Resolves the metadata service of a machine with `nets`; none when no card has it.
pub(super) fn resolve(
    config: MetadataConfig,
    nets: &[NetPlan],
) -> Result<Option<MetadataPlan>, ConfigError> {
    if !nets.iter().any(|net| net.metadata) {
        return match config.path {
            Some(path) => Err(ConfigError::MetadataUnreachable { path }),
            None => Ok(None),
        };
    }
    let address = config.address.unwrap_or(DEFAULT_ADDRESS);
    let is_host = !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_broadcast()
        && !address.is_loopback();
    if !is_host {
        return Err(ConfigError::MetadataAddress { address });
    }
    Ok(Some(MetadataPlan {
        path: config.path,
        version: config.version.unwrap_or_default(),
        address,
        imds_compat: config.imds_compat.unwrap_or(false),
        size_limit: config.size_limit.unwrap_or(DEFAULT_SIZE_LIMIT),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NetConfig, net};

    #[test]
    fn every_part_is_read() {
        let only = MetadataConfig { path: Some("m.json".into()), ..MetadataConfig::default() };
        assert_eq!("m.json".parse(), Ok(only));
        assert_eq!(
            "a=b,,c,v2,address=10.0.0.9,imds-compat".parse(),
            Ok(MetadataConfig {
                path: Some("a=b,c".into()),
                version: Some(Version::V2),
                address: Some(Ipv4Addr::new(10, 0, 0, 9)),
                imds_compat: Some(true),
                size_limit: None,
            })
        );
    }

    #[test]
    fn every_mistake_has_its_message() {
        for (text, message) in [
            ("", "the metadata's file is missing: write PATH"),
            ("m,v1,v2", "\"v2\" must be written v1 or v2"),
            ("m,v2=on", "\"v2\" must be written v2"),
            ("m,address", "\"address\" must be written address=IP"),
            (
                "m,address=::1",
                "\"::1\" is not an IPv4 address: write four numbers, such as 169.254.169.254",
            ),
            ("m,imds", "unknown part \"imds\"; known: v1, v2, address=IP, imds-compat"),
        ] {
            assert_eq!(text.parse::<MetadataConfig>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn a_service_needs_a_card_and_an_address() {
        let with = |metadata: &str, net: &str| {
            let nets = net::resolve("vm", vec![net.parse::<NetConfig>().unwrap()]).unwrap();
            resolve(metadata.parse().unwrap(), &nets)
        };
        let plan = with("m,v2", "tap=a,metadata").unwrap().unwrap();
        assert_eq!(
            (plan.version, plan.address, plan.size_limit),
            (Version::V2, DEFAULT_ADDRESS, 51200)
        );
        let nets = net::resolve("vm", vec!["tap=a,metadata".parse().unwrap()]).unwrap();
        assert!(resolve(MetadataConfig::default(), &nets).unwrap().is_some());
        assert!(resolve(MetadataConfig::default(), &[]).unwrap().is_none());
        assert_eq!(
            with("m", "tap=a").unwrap_err().to_string(),
            "metadata \"m\" has no way to the guest: add metadata to a net, as in --net tap=tap0,metadata"
        );
        for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1"] {
            let error = with(&format!("m,address={address}"), "tap=a,metadata").unwrap_err();
            let message = format!(
                "metadata: {address} cannot be the service's address: use one such as 169.254.169.254"
            );
            assert_eq!(error.to_string(), message);
        }
    }
}
