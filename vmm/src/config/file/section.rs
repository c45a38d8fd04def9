//! One section of a configuration by itself, as a request brings it: the body of a request is the value that
//! stands behind the section's key in a file.

use serde_json::{Map, Value};

use super::{FileError, keys, parse_json};
use crate::config::VmConfig;

/// A part of a configuration that is said as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `boot-source`
    BootSource,
    /// `machine-config`
    MachineConfig,
    /// `cpu-config`
    CpuConfig,
    /// One of `drives`
    Drive,
    /// One of `network-interfaces`
    NetworkInterface,
    /// `vsock`
    Vsock,
    /// `balloon`
    Balloon,
    /// `entropy`
    Entropy,
    /// `serial`
    Serial,
    /// `logger`
    Logger,
}

/// What a configuration is to say from now on in one of its sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    section: Section,
    /// A configuration with nothing but that section.
    said: VmConfig,
}

impl Change {
    /// Reads `text`, the JSON value of `section`.
    ///
    /// # Errors
    /// [`FileError`], with places relative to the section.
    pub fn parse(section: Section, text: &[u8]) -> Result<Self, FileError> {
        let mut root = keys::Root::default();
        match section {
            Section::BootSource => root.boot_source = Some(parse_json(text)?),
            Section::MachineConfig => root.machine_config = Some(parse_json(text)?),
            Section::CpuConfig => root.cpu_config = Some(parse_json(text)?),
            Section::Drive => root.drives = Some(vec![parse_json(text)?]),
            Section::NetworkInterface => root.network_interfaces = Some(vec![parse_json(text)?]),
            Section::Vsock => root.vsock = Some(parse_json(text)?),
            Section::Balloon => root.balloon = Some(parse_json(text)?),
            Section::Entropy => root.entropy = Some(parse_json(text)?),
            Section::Serial => root.serial = Some(parse_json(text)?),
            Section::Logger => root.logger = Some(parse_json(text)?),
        }
        let said = root.into_config().map_err(|error| relative(error, section))?;
        Ok(Self { section, said })
    }

    /// Reads a `machine-config` that leaves out what is to stay as `config` has it.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of_machine(patch: &Map<String, Value>, config: &VmConfig) -> Result<Self, FileError> {
        let mut whole = super::machine_config(config);
        if let Value::Object(whole) = &mut whole {
            whole.extend(patch.clone());
        }
        Self::parse(Section::MachineConfig, whole.to_string().as_bytes())
    }

    /// Which section changes.
    #[must_use]
    pub fn section(&self) -> Section {
        self.section
    }

    /// The configuration with nothing in it but the changed section.
    #[must_use]
    pub fn said(&self) -> &VmConfig {
        &self.said
    }

    /// The name of the device that the section is about.
    #[must_use]
    pub fn device_id(&self) -> Option<&str> {
        let disk = self.said.disks.first().and_then(|disk| disk.id.as_deref());
        disk.or_else(|| self.said.nets.first().and_then(|net| net.id.as_deref()))
    }

    /// Makes `config` say it: a device takes the place of the one of its name.
    pub fn put_into(self, config: &mut VmConfig) {
        let said = self.said;
        match self.section {
            Section::BootSource => {
                config.kernel = said.kernel;
                config.initrd = said.initrd;
                config.boot = said.boot;
                config.cmdline = said.cmdline;
                config.append = said.append;
            }
            Section::MachineConfig => {
                config.cpus = said.cpus;
                config.memory_bytes = said.memory_bytes;
                config.backing = said.backing;
            }
            Section::CpuConfig => config.cpu_template = said.cpu_template,
            Section::Drive => replace(&mut config.disks, said.disks, |disk| disk.id.as_deref()),
            Section::NetworkInterface => {
                replace(&mut config.nets, said.nets, |net| net.id.as_deref());
            }
            Section::Vsock => config.vsock = said.vsock,
            Section::Balloon => config.balloon = said.balloon,
            Section::Entropy => config.rng = said.rng,
            Section::Serial => config.serial = said.serial,
            Section::Logger => {
                config.log_path = said.log_path.or_else(|| config.log_path.take());
                config.level = said.level.or(config.level);
            }
        }
    }
}

/// Puts each of `new` in the place of the one with its name, or at the end.
fn replace<T>(all: &mut Vec<T>, new: Vec<T>, id: impl Fn(&T) -> Option<&str>) {
    for one in new {
        match all.iter_mut().find(|other| id(other) == id(&one)) {
            Some(place) => *place = one,
            None => all.push(one),
        }
    }
}

/// Takes the section's place out of an error's: there is only one.
fn relative(error: FileError, section: Section) -> FileError {
    let prefix = match section {
        Section::BootSource => "boot-source",
        Section::MachineConfig => "machine-config",
        Section::CpuConfig => "cpu-config",
        Section::Drive => "drives[0]",
        Section::NetworkInterface => "network-interfaces[0]",
        Section::Vsock => "vsock",
        Section::Balloon => "balloon",
        Section::Entropy => "entropy",
        Section::Serial => "serial",
        Section::Logger => "logger",
    };
    let cut = |key: String| match key.strip_prefix(prefix).and_then(|it| it.strip_prefix('.')) {
        Some(rest) => rest.to_owned(),
        None => key.trim_end_matches("[0]").to_owned(),
    };
    match error {
        FileError::Value { key, source } => FileError::Value { key: cut(key), source },
        FileError::Unsupported { key, why } => FileError::Unsupported { key: cut(key), why },
        FileError::Keys { key, what } => FileError::Keys { key: cut(key), what },
        other => other,
    }
}

#[cfg(test)]
mod tests;
