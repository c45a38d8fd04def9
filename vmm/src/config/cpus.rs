//! Processors: how many, and how they are arranged.

use std::str::FromStr;

use arch::Topology;
use serde::Serialize;

use super::error::ConfigError;
use super::value::{ValueError, parse_cpu_list, parse_u16, split_list};

/// What the user says about the processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpusConfig {
    /// vCPUs in all.
    pub count: u16,
    /// Cores in each socket.
    pub cores: Option<u16>,
    /// Threads in each core.
    pub threads: Option<u16>,
    /// Sockets.
    pub sockets: Option<u16>,
    /// The host's CPU for each vCPU; empty when the host's scheduler decides.
    pub pin: Vec<u16>,
}

impl CpusConfig {
    /// `count` vCPUs, arranged as usual.
    #[must_use]
    pub const fn new(count: u16) -> Self {
        Self { count, cores: None, threads: None, sockets: None, pin: Vec::new() }
    }
}

/// Reads `N[,cores=N][,threads=N][,sockets=N][,pin=CPUS]`.
impl FromStr for CpusConfig {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut parts = split_list(text)?.into_iter();
        let count = match parts.next() {
            Some(part) if part.value.is_none() => parse_u16("cpus", &part.key)?,
            _ => {
                return Err(ValueError::Missing {
                    what: "the number of cpus",
                    form: "N[,cores=N][,threads=N][,sockets=N][,pin=CPUS]",
                });
            }
        };
        let mut cpus = Self::new(count);
        for part in parts {
            let known = "cores=N, threads=N, sockets=N, pin=CPUS";
            let (what, form, field) = match part.key.as_str() {
                "cores" => ("cores", "cores=N", &mut cpus.cores),
                "threads" => ("threads", "threads=N", &mut cpus.threads),
                "sockets" => ("sockets", "sockets=N", &mut cpus.sockets),
                "pin" => {
                    cpus.pin = parse_cpu_list(&part.value("pin=CPUS")?)?;
                    continue;
                }
                _ => {
                    return Err(ValueError::UnknownPart { text: part.key, known });
                }
            };
            *field = Some(parse_u16(what, &part.value(form)?)?);
        }
        Ok(cpus)
    }
}

/// The processors of the machine; `count` is the product of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cpus {
    /// vCPUs in all, 1 to [`arch::MAX_CPUS`].
    pub count: u16,
    /// Cores in each socket.
    pub cores: u16,
    /// Threads in each core.
    pub threads: u16,
    /// Sockets.
    pub sockets: u16,
    /// The host's CPU for each vCPU, or empty.
    pub pin: Vec<u16>,
}

/// Resolves the processors: one vCPU when nothing is said; one thread in each core and all cores in one
/// socket, unless told otherwise.
pub(super) fn resolve(cpus: Option<CpusConfig>) -> Result<Cpus, ConfigError> {
    let CpusConfig { count, cores, threads, sockets, pin } = cpus.unwrap_or(CpusConfig::new(1));
    let topology = Topology::new(count, cores, threads, sockets)?;
    if !pin.is_empty() && pin.len() != usize::from(count) {
        return Err(ConfigError::PinCount { named: pin.len(), count });
    }
    Ok(Cpus {
        count,
        cores: topology.cores_per_socket(),
        threads: topology.threads_per_core(),
        sockets: topology.sockets(),
        pin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Cpus, String> {
        let config = text.parse::<CpusConfig>().map_err(|error| error.to_string())?;
        resolve(Some(config)).map_err(|error| match error {
            ConfigError::Cpus(error) => error.to_string(),
            error => error.to_string(),
        })
    }

    #[test]
    fn topologies() {
        for (text, expected) in [
            ("1", (1, 1, 1, 1)),
            ("4", (4, 4, 1, 1)),
            ("254", (254, 254, 1, 1)),
            ("4,threads=2", (4, 2, 2, 1)),
            ("8,cores=2,threads=2", (8, 2, 2, 2)),
            ("8,sockets=2", (8, 4, 1, 2)),
            ("12,cores=3,threads=2,sockets=2", (12, 3, 2, 2)),
        ] {
            let cpus = read(text).unwrap();
            assert_eq!((cpus.count, cpus.cores, cpus.threads, cpus.sockets), expected, "{text}");
        }
        assert_eq!(resolve(None).unwrap().count, 1);
    }

    #[test]
    fn impossible_topologies_name_their_numbers() {
        let message = read("6,cores=4,threads=1").unwrap_err();
        assert!(message.contains("6 CPUs") && message.contains("4 cores"), "{message}");
        for text in [
            "3,threads=2",
            "4,cores=0",
            "4,threads=0",
            "4,sockets=0",
            "4,cores=2,threads=2,sockets=2",
            "4,cores=65535,threads=65535",
            "4,cores=65535,threads=65535,sockets=65535",
        ] {
            assert!(read(text).unwrap_err().contains("do not multiply"), "{text}");
        }
    }

    #[test]
    fn counts_have_limits() {
        for text in ["0", "255", "65535"] {
            assert!(read(text).unwrap_err().contains("between 1 and 254"), "{text}");
        }
        for text in ["65536", "-1", "+1", "1.5", "x"] {
            assert!(read(text).unwrap_err().contains("not a whole number"), "{text}");
        }
    }

    #[test]
    fn each_vcpu_can_have_a_cpu_of_the_host() {
        for (text, pin) in [
            ("2,pin=0:1", &[0, 1][..]),
            ("3,pin=4-6", &[4, 5, 6]),
            ("4,threads=2,pin=7:0-1:7", &[7, 0, 1, 7]),
            ("1", &[]),
        ] {
            assert_eq!(read(text).unwrap().pin, pin, "{text}");
        }
        assert_eq!(
            read("2,pin=0-2").unwrap_err(),
            "cpus: pin names 3 CPUs for 2 vCPUs: name one for each, such as pin=0:1 or pin=0-1"
        );
        assert!(read("2,pin=0").unwrap_err().contains("pin names 1 CPUs for 2 vCPUs"));
        assert!(read("2,pin=0;1").unwrap_err().contains("is not a list of CPUs"));
        assert!(read("2,pin").unwrap_err().contains("pin=CPUS"));
    }

    #[test]
    fn malformed_lists() {
        assert!(read("cores=2").unwrap_err().contains("number of cpus"));
        assert!(read("4,core=2").unwrap_err().contains("did you mean \"cores\"?"));
        assert!(read("4,cores").unwrap_err().contains("cores=N"));
        assert!(read("4,cores=1,cores=2").unwrap_err().contains("twice"));
        assert!(read("4,").unwrap_err().contains("empty part"));
        assert!(read("").unwrap_err().contains("empty part"));
    }
}
