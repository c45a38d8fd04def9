//! What a snapshot says, between the sections of its file and the machine that it is of.
//!
//! Which section holds what, and in which form, is decided here; nothing is opened, mapped or asked of KVM.

use std::path::PathBuf;

use devices::state::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::container::{Container, ContainerError, Id, Section};
use crate::kvm::state::Pieces;
use crate::memory::file::Run;

/// Kinds of sections.
const CONFIG: &str = "config";
const META: &str = "meta";
const MEMORY: &str = "memory";
const PAGES: &str = "pages";
const VM: &str = "vm";
const VCPU: &str = "vcpu";
const DEVICE: &str = "device";
const OVERLAYS: &str = "overlays";
const KINDS: [&str; 8] = [CONFIG, META, MEMORY, PAGES, VM, VCPU, DEVICE, OVERLAYS];
/// The newest version of a section that is read.
const VERSION: u16 = 1;

/// Why a file of state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// As a file.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Of a later version.
    #[error("its section {name:?}, version {version}, is not known to this version of vmm")]
    Unknown {
        /// The section.
        name: String,
        /// Its version.
        version: u16,
    },
    /// A section is missing, or does not hold what it should.
    #[error("its section {name:?} is missing, or not one of a snapshot")]
    Section {
        /// The section.
        name: String,
    },
}

/// Everything but the contents of memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The snapshot's.
    pub id: Id,
    /// The machine's configuration.
    pub config: Value,
    /// Who made it, when and where; see [`super::host`].
    pub meta: Value,
    /// Bytes of RAM, and where they are.
    pub memory: MemoryRecord,
    /// Interrupt controllers and clock.
    pub vm: Pieces,
    /// Each vCPU.
    pub vcpus: Vec<Pieces>,
    /// Each device by its name.
    pub devices: Vec<(String, State)>,
    /// The files of disks with overlays.
    pub overlays: Vec<OverlayRecord>,
}

/// What memory consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryRecord {
    /// Bytes of RAM.
    pub bytes: u64,
    /// The files, the whole one first.
    pub layers: Vec<LayerRecord>,
}

/// What a disk has over its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRecord {
    /// The disk's id.
    pub disk: String,
    /// The file, beside the state.
    pub file: PathBuf,
}

/// A file with some of the memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Where it is; where the state is, if there is no directory.
    pub file: PathBuf,
    /// The id in its last page, as text.
    pub id: String,
    /// The pages in it; all when nothing is said.
    #[serde(skip)]
    pub pages: Option<Vec<Run>>,
}

impl Record {
    /// The sections of a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers under fixed keys: the serializer has nothing to refuse.
        let json = |value: &Value| value.to_string().into_bytes();
        let mut sections = vec![
            Section::new(META, json(&self.meta)),
            Section::new(CONFIG, json(&self.config)),
            Section::new(MEMORY, serde_json::to_vec(&self.memory).unwrap_or_default()),
        ];
        for (index, layer) in self.memory.layers.iter().enumerate() {
            if let Some(runs) = &layer.pages {
                let numbers = runs.iter().flat_map(|run| [run.first, run.count]);
                let bytes = numbers.flat_map(u64::to_le_bytes).collect();
                sections.push(Section::new(format!("{PAGES} {index}"), bytes));
            }
        }
        sections.push(Section::new(VM, self.vm.encode()));
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            sections.push(Section::new(format!("{VCPU} {index}"), vcpu.encode()));
        }
        for (id, state) in &self.devices {
            let bytes = serde_json::to_vec(state).unwrap_or_default();
            sections.push(Section::new(format!("{DEVICE} {id}"), bytes));
        }
        if !self.overlays.is_empty() {
            sections.push(Section::new(OVERLAYS, json(&overlays_to_json(&self.overlays))));
        }
        Container { id: self.id, sections }.encode()
    }

    /// What [`Self::encode`] made these bytes of.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(file: &[u8]) -> Result<Self, RecordError> {
        let from = Container::decode(file)?;
        for Section { name, version, is_optional, .. } in &from.sections {
            let kind = name.split(' ').next().unwrap_or_default();
            if (!KINDS.contains(&kind) || *version > VERSION) && !is_optional {
                return Err(RecordError::Unknown { name: name.clone(), version: *version });
            }
        }
        let mut memory: MemoryRecord = parse(&from, MEMORY)?;
        for (index, layer) in memory.layers.iter_mut().enumerate() {
            layer.pages = pages(&from, &format!("{PAGES} {index}"))?;
        }
        let fits = |run: &Run| {
            run.first.checked_add(run.count).is_some_and(|end| end <= memory.bytes >> 12)
        };
        let mut all = memory.layers.iter();
        let is_whole = all.next().is_some_and(|first| first.pages.is_none())
            && all.all(|layer| layer.pages.as_ref().is_some_and(|runs| runs.iter().all(fits)));
        if !is_whole {
            return Err(wrong(MEMORY));
        }
        let mut vcpus = Vec::new();
        while let Some(bytes) = from.find(&format!("{VCPU} {}", vcpus.len())) {
            let name = format!("{VCPU} {}", vcpus.len());
            vcpus.push(Pieces::decode(&name, bytes).ok_or_else(|| wrong(&name))?);
        }
        if vcpus.is_empty() || from.all(VCPU).count() != vcpus.len() {
            return Err(wrong(VCPU));
        }
        let device = |(id, bytes): (&str, &[u8])| {
            let state = serde_json::from_slice(bytes);
            let state = state.map_err(|_| wrong(&format!("{DEVICE} {id}")))?;
            Ok((id.to_owned(), state))
        };
        Ok(Self {
            id: from.id,
            config: parse(&from, CONFIG)?,
            meta: parse(&from, META)?,
            vm: from
                .find(VM)
                .and_then(|bytes| Pieces::decode("the machine", bytes))
                .ok_or_else(|| wrong(VM))?,
            vcpus,
            overlays: match from.find(OVERLAYS) {
                Some(_) => overlays_of(&parse(&from, OVERLAYS)?).ok_or_else(|| wrong(OVERLAYS))?,
                None => Vec::new(),
            },
            devices: from.all(DEVICE).map(device).collect::<Result<_, RecordError>>()?,
            memory,
        })
    }
}

/// As they are in the file, and shown.
pub(super) fn overlays_to_json(overlays: &[OverlayRecord]) -> Value {
    let one = |it: &OverlayRecord| json!({ "disk": it.disk, "file": it.file.to_string_lossy() });
    overlays.iter().map(one).collect()
}

fn overlays_of(said: &Value) -> Option<Vec<OverlayRecord>> {
    let one = |it: &Value| {
        let text = |key| it.get(key)?.as_str();
        Some(OverlayRecord { disk: text("disk")?.to_owned(), file: text("file")?.into() })
    };
    said.as_array()?.iter().map(one).collect()
}

fn parse<T: for<'de> Deserialize<'de>>(from: &Container, name: &str) -> Result<T, RecordError> {
    let bytes = from.find(name).unwrap_or_default();
    serde_json::from_slice(bytes).map_err(|_| wrong(name))
}

fn pages(from: &Container, name: &str) -> Result<Option<Vec<Run>>, RecordError> {
    let Some(bytes) = from.find(name) else { return Ok(None) };
    let (numbers, []) = bytes.as_chunks::<8>() else { return Err(wrong(name)) };
    let (pairs, []) = numbers.as_chunks::<2>() else { return Err(wrong(name)) };
    let run = |[first, count]: &[[u8; 8]; 2]| Run {
        first: u64::from_le_bytes(*first),
        count: u64::from_le_bytes(*count),
    };
    Ok(Some(pairs.iter().map(run).collect()))
}

fn wrong(name: &str) -> RecordError {
    RecordError::Section { name: name.to_owned() }
}

#[cfg(test)]
mod tests;
