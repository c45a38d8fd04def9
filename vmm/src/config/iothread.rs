//! Threads that serve devices: what the user says about them, and which device is whose.

use std::str::FromStr;

use serde::Serialize;

use super::disk::DiskPlan;
use super::error::ConfigError;
use super::id::{Ids, Kind};
use super::nearest::nearest;
use super::net::NetPlan;
use super::value::{ValueError, parse_cpu_list, split_list};

/// What the user says about a thread; also what a plan has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IoThread {
    /// Its name, by which devices refer to it.
    pub id: String,
    /// The CPUs of the host that it may run on; empty for all that this process has.
    pub pin: Vec<u16>,
}

const FORM: &str = "ID[,pin=CPUS]";

/// Reads `ID[,pin=CPUS]`.
impl FromStr for IoThread {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let missing = || ValueError::Missing { what: "the iothread's id", form: FORM };
        if text.is_empty() {
            return Err(missing());
        }
        let mut parts = split_list(text)?.into_iter();
        let id = parts.next().filter(|part| part.value.is_none()).ok_or_else(missing)?.key;
        let mut pin = Vec::new();
        for part in parts {
            match part.key.as_str() {
                "pin" => pin = parse_cpu_list(&part.value("pin=CPUS")?)?,
                _ => return Err(ValueError::UnknownPart { text: part.key, known: "pin=CPUS" }),
            }
        }
        Ok(Self { id, pin })
    }
}

/// Checks that every thread has a name of its own and a device, and every device's thread exists.
pub(super) fn resolve(
    threads: Vec<IoThread>,
    disks: &[DiskPlan],
    nets: &[NetPlan],
) -> Result<Vec<IoThread>, ConfigError> {
    Ids::new(Kind::IoThread, threads.iter().map(|thread| Some(thread.id.as_str())))?;
    let disks = disks.iter().map(|disk| (Kind::Disk, &disk.id, &disk.iothread));
    let nets = nets.iter().map(|net| (Kind::Net, &net.id, &net.iothread));
    let mut used: Vec<&str> = Vec::new();
    for (kind, device, wanted) in disks.chain(nets) {
        let Some(wanted) = wanted else { continue };
        if !threads.iter().any(|thread| thread.id == *wanted) {
            return Err(ConfigError::UnknownIoThread {
                device: format!("{} {device}", kind.name()),
                id: wanted.clone(),
                near: nearest(wanted, threads.iter().map(|thread| thread.id.as_str()))
                    .map(str::to_owned),
            });
        }
        used.push(wanted);
    }
    if let Some(idle) = threads.iter().find(|thread| !used.contains(&thread.id.as_str())) {
        return Err(ConfigError::UnusedIoThread { id: idle.id.clone() });
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Plan, VmConfig};

    fn read(text: &str) -> Result<IoThread, String> {
        text.parse::<IoThread>().map_err(|error| error.to_string())
    }

    fn plan(threads: &[&str], disks: &[&str], nets: &[&str]) -> Result<Plan, String> {
        let config = VmConfig {
            kernel: Some("bzImage".into()),
            iothreads: threads.iter().map(|text| text.parse().unwrap()).collect(),
            disks: disks.iter().map(|text| text.parse().unwrap()).collect(),
            nets: nets.iter().map(|text| text.parse().unwrap()).collect(),
            ..VmConfig::default()
        };
        Plan::resolve(config).map_err(|error| error.to_string())
    }

    #[test]
    fn every_part_is_read() {
        assert_eq!(read("io0"), Ok(IoThread { id: "io0".to_owned(), pin: Vec::new() }));
        let pinned = IoThread { id: "fast".to_owned(), pin: vec![0, 2, 3, 4, 9] };
        assert_eq!(read("fast,pin=0:2-4:9"), Ok(pinned));
    }

    #[test]
    fn mistakes_of_form() {
        for (text, message) in [
            ("", "the iothread's id is missing: write ID[,pin=CPUS]"),
            ("id=a", "the iothread's id is missing: write ID[,pin=CPUS]"),
            ("a,pin", "\"pin\" must be written pin=CPUS"),
            ("a,pins=1", "unknown part \"pins\"; did you mean \"pin\"?; known: pin=CPUS"),
            ("a,pin=x", "pin: \"x\" is not a list of CPUs"),
            ("a,pin=1-", "pin: \"1-\" is not a list of CPUs"),
            ("a,pin=3-1", "pin: \"3-1\" is not a list of CPUs"),
            ("a,pin=0::1", "pin: \"0::1\" is not a list of CPUs"),
            ("a,pin=8192", "pin: \"8192\" is not a list of CPUs"),
            ("a,pin=0-99999999999999999999", "pin: \"0-99999999999999999999\" is not a list"),
        ] {
            let refusal = read(text).unwrap_err();
            assert!(refusal.starts_with(message), "{text}: {refusal}");
        }
    }

    #[test]
    fn devices_and_threads_belong_together() {
        let plan = plan(&["a", "b,pin=0"], &["d.img,iothread=b"], &["tap=t,iothread=a"]).unwrap();
        assert_eq!(plan.disks[0].iothread.as_deref(), Some("b"));
        assert_eq!(plan.nets[0].iothread.as_deref(), Some("a"));
        assert_eq!(plan.iothreads[1], IoThread { id: "b".to_owned(), pin: vec![0] });
    }

    #[test]
    fn threads_that_are_missing_and_threads_without_a_device() {
        for (threads, disks, nets, message) in [
            (
                &["io0"][..],
                &["d.img,iothread=io1"][..],
                &[][..],
                "disk disk0: there is no iothread \"io1\"; did you mean \"io0\"?",
            ),
            (
                &[],
                &[],
                &["tap=t,iothread=x"],
                "net net0: there is no iothread \"x\": add --iothread x",
            ),
            (
                &["a", "b"],
                &["d.img,iothread=a"],
                &[],
                "iothread b serves no device: give a disk or a net iothread=b, or remove it",
            ),
            (&["a", "a"], &[], &[], "two iothreads have the id \"a\": give each its own"),
            (&["a b"], &[], &[], "iothread: \"a b\" cannot be an id"),
        ] {
            let refusal = plan(threads, disks, nets).unwrap_err();
            assert!(refusal.starts_with(message), "{refusal}");
        }
    }
}
