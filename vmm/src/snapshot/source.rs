//! A snapshot that a machine is to go on from: read and checked as a whole before anything is built.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::backend::disk::SavedOverlay;

use super::container::Id;
use super::record::{LayerRecord, OverlayRecord, Record};
use super::working_set::{self, Recording, WorkingSetError};
use super::{STATE, SnapshotError, overrides};
use crate::config::{RestoreConfig, VmConfig};
use crate::memory::file::{self, Layer, Run};

/// Most bytes of a file of state. A diff of a machine of 1 TiB may have that many.
const STATE_MAX: u64 = 256 << 20;

/// A snapshot, its files open.
#[derive(Debug)]
pub struct Source {
    /// How to go on.
    pub order: RestoreConfig,
    /// What it says.
    pub record: Record,
    /// Its memory, the whole file first; none where another process provides it.
    pub layers: Vec<Layer>,
    /// What its disks have over their images, by id.
    pub overlays: Vec<(String, SavedOverlay)>,
    /// The pages that such a machine will touch, if somebody recorded them and they are wanted.
    pub working_set: Result<Vec<Run>, WorkingSetError>,
    /// Where it is to be recorded.
    pub recording: Option<Recording>,
}

impl Source {
    /// Reads and checks all files.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read(order: RestoreConfig) -> Result<Self, SnapshotError> {
        let path = if order.path.is_dir() { order.path.join(STATE) } else { order.path.clone() };
        let mut record = read_record(&path)?;
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        let directory = std::path::absolute(directory)
            .map_err(|source| SnapshotError::Read { path: path.clone(), source })?;
        if let (Some(memory), Some(last)) = (&order.memory, record.memory.layers.last_mut()) {
            memory.clone_into(&mut last.file);
            // That of the process, not of the state.
            if let Ok(whole) = std::path::absolute(memory) {
                last.file = whole;
            }
        }
        let mut layers = Vec::new();
        for layer in &mut record.memory.layers {
            layer.file = directory.join(&layer.file);
            if order.provider.is_none() {
                layers.push(open_layer(layer, record.memory.bytes)?);
            }
        }
        let open = |it: &OverlayRecord| {
            let path = directory.join(&it.file);
            open_overlay(path, record.id).map(|overlay| (it.disk.clone(), overlay))
        };
        let overlays = record.overlays.iter().map(open).collect::<Result<_, _>>()?;
        let beside = working_set::path(&path);
        let mut recording = None;
        let mut working_set = Ok(Vec::new());
        if order.record {
            recording = Some(Recording::begin(beside, record.id)?);
        } else if order.provider.is_none() && !order.no_prefetch {
            working_set = working_set::read(&beside, record.id, record.memory.bytes);
        }
        Ok(Self { order, record, layers, overlays, working_set, recording })
    }

    /// The machine's configuration, with what `over` says of its host's resources.
    ///
    /// # Errors
    /// [`SnapshotError::Config`], [`SnapshotError::Override`].
    pub fn config(&self, over: VmConfig) -> Result<VmConfig, SnapshotError> {
        let text = self.record.config.to_string();
        let config = VmConfig::from_json(text.as_bytes()).map_err(SnapshotError::Config)?;
        overrides::apply(config, over)
    }
}

/// Reads a file of state.
///
/// # Errors
/// [`SnapshotError`].
pub fn read_record(path: &Path) -> Result<Record, SnapshotError> {
    let failed = |source| SnapshotError::Read { path: path.to_owned(), source };
    let bytes = File::open(path).and_then(|file| read_at_most(file, STATE_MAX)).map_err(failed)?;
    Record::decode(&bytes).map_err(|source| SnapshotError::Record { path: path.to_owned(), source })
}

fn open_overlay(path: PathBuf, id: Id) -> Result<SavedOverlay, SnapshotError> {
    let failed = |source| SnapshotError::Read { path: path.clone(), source };
    let file = Arc::new(File::open(&path).map_err(failed)?);
    let overlay = SavedOverlay { path: path.clone(), file };
    // One that is too short is none either.
    match overlay.snapshot() {
        Ok(found) if found == id.0 => Ok(overlay),
        _ => Err(SnapshotError::Overlay { path }),
    }
}

/// The first `most` bytes of a file, or all.
pub(super) fn read_at_most(file: File, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map(|_| bytes)
}

fn open_layer(layer: &LayerRecord, ram: u64) -> Result<Layer, SnapshotError> {
    let path = &layer.file;
    let file =
        File::open(path).map_err(|source| SnapshotError::Read { path: path.clone(), source })?;
    let id = Id::parse(&layer.id).unwrap_or_default();
    file::check(&file, ram, id.0)
        .map_err(|source| SnapshotError::Memory { path: path.clone(), source })?;
    Ok(Layer { file: Arc::new(file), pages: layer.pages.clone() })
}
