//! One section of a configuration by itself, as a request brings it: the body of a request is the value that
//! stands behind the section's key in a file.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{FileError, keys, parse_json};
use crate::config::{MetadataConfig, VmConfig};

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
    /// `mmds-config`
    Metadata,
    /// `entropy`
    Entropy,
    /// `serial`
    Serial,
    /// `logger`
    Logger,
    /// `metrics`
    Metrics,
}

/// What a configuration is to say from now on in one of its sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    section: Section,
    /// A configuration with nothing but that section.
    said: VmConfig,
    /// For the metadata service: the cards that have it.
    cards: Vec<String>,
}

impl Change {
    /// Reads `text`, the JSON value of `section`.
    ///
    /// # Errors
    /// [`FileError`], with places relative to the section.
    pub fn parse(section: Section, text: &[u8]) -> Result<Self, FileError> {
        let (key, is_list) = section.place();
        let (open, close) = if is_list { ("[", "]") } else { ("", "") };
        // One value and nothing after it, so that what is put around it means what it says.
        parse_json::<IgnoredAny>(text)?;
        let before = format!("{{\"{key}\":{open}");
        let whole = [before.as_bytes(), text, close.as_bytes(), b"}"].concat();
        let root: keys::Root =
            parse_json(&whole).map_err(|error| moved(error, before.len(), section))?;
        let relative = |error| relative(error, section);
        if section == Section::Metadata {
            // Its cards are said elsewhere.
            let (cards, metadata) = root.into_metadata().map_err(relative)?;
            let said = VmConfig { metadata, ..VmConfig::default() };
            return Ok(Self { section, said, cards });
        }
        let said = root.into_config().map_err(relative)?;
        Ok(Self { section, said, cards: Vec::new() })
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
    ///
    /// # Errors
    /// The name of a network card that is meant and not there.
    pub fn put_into(self, config: &mut VmConfig) -> Result<(), String> {
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
                config.track_dirty = said.track_dirty;
            }
            Section::CpuConfig => config.cpu_template = said.cpu_template,
            Section::Drive => replace(&mut config.disks, said.disks, |disk| disk.id.as_deref()),
            Section::NetworkInterface => {
                let mut nets = said.nets;
                // The service was given to the name.
                for net in &mut nets {
                    net.metadata = config.nets.iter().any(|it| it.id == net.id && it.metadata);
                }
                replace(&mut config.nets, nets, |net| net.id.as_deref());
            }
            Section::Vsock => config.vsock = said.vsock,
            Section::Balloon => config.balloon = said.balloon,
            Section::Metadata => {
                if let Err(index) = config.give_metadata_to(&self.cards) {
                    return Err(self.cards.into_iter().nth(index).unwrap_or_default());
                }
                let MetadataConfig { version, address, imds_compat, .. } = said.metadata;
                let old = std::mem::take(&mut config.metadata);
                config.metadata = MetadataConfig { version, address, imds_compat, ..old };
            }
            Section::Entropy => config.rng = said.rng,
            Section::Serial => config.serial = said.serial,
            Section::Logger => {
                config.log_path = said.log_path.or_else(|| config.log_path.take());
                config.level = said.level.or(config.level);
                config.log_origin = said.log_origin.or(config.log_origin);
                config.log_module = said.log_module.or_else(|| config.log_module.take());
            }
            Section::Metrics => config.metrics = said.metrics,
        }
        Ok(())
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

impl Section {
    /// The key that it has in a file, and whether that is the key of a list of such.
    fn place(self) -> (&'static str, bool) {
        match self {
            Self::BootSource => ("boot-source", false),
            Self::MachineConfig => ("machine-config", false),
            Self::CpuConfig => ("cpu-config", false),
            Self::Drive => ("drives", true),
            Self::NetworkInterface => ("network-interfaces", true),
            Self::Vsock => ("vsock", false),
            Self::Balloon => ("balloon", false),
            Self::Metadata => ("mmds-config", false),
            Self::Entropy => ("entropy", false),
            Self::Serial => ("serial", false),
            Self::Logger => ("logger", false),
            Self::Metrics => ("metrics", false),
        }
    }

    /// The place in a file of what an error is about.
    fn prefix(self) -> String {
        let (key, is_list) = self.place();
        format!("{key}{}", if is_list { "[0]" } else { "" })
    }
}

/// An error in the text that was made around a section's, told of the section's own.
fn moved(error: FileError, before: usize, section: Section) -> FileError {
    let FileError::Shape { line, column, what } = error else { return error };
    let column = if line == 1 { column.saturating_sub(before) } else { column };
    let prefix = section.prefix();
    let inner = what.strip_prefix(&prefix).map(|rest| rest.trim_start_matches(['.', ':', ' ']));
    let what = inner.map_or_else(|| what.clone(), str::to_owned);
    FileError::Shape { line, column, what }
}

/// Takes the section's place out of an error's: there is only one.
fn relative(error: FileError, section: Section) -> FileError {
    let prefix = section.prefix();
    let cut = |key: String| match key.strip_prefix(&prefix).and_then(|it| it.strip_prefix('.')) {
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
