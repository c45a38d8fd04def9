//! One full snapshot of a diff and of everything before it.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::draft::{Draft, Place};
use super::record::{LayerRecord, Record};
use super::source::Source;
use super::{STATE, SnapshotError};
use crate::config::{Backing, RestoreConfig};
use crate::memory::file::{self, Which};

/// Makes a full snapshot in `directory` of what `snapshot` is.
///
/// # Errors
/// [`SnapshotError`]; what `directory` has stays as it is then.
pub fn merge(snapshot: &Path, directory: &Path) -> Result<(), SnapshotError> {
    let order = RestoreConfig { path: snapshot.to_owned(), ..RestoreConfig::default() };
    let Source { record, layers, overlays, .. } = Source::read(order)?;
    let failed = |source| SnapshotError::Create { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let disks: Vec<_> = overlays.iter().map(|(disk, _)| disk.clone()).collect();
    let draft = Draft::begin(Place::Directory(directory.to_owned()), &disks)?;
    let ram = record.memory.bytes;
    let write = || -> io::Result<()> {
        let memory = file::restore(ram, &layers, Backing::default()).map_err(io::Error::other)?;
        file::write(&memory, Which::All, &layers, draft.memory(), draft.id().0).map(drop)
    };
    write().map_err(|source| SnapshotError::Write { path: draft.memory_path(), source })?;
    for ((_, from), (disk, to)) in overlays.iter().zip(draft.overlays()) {
        let path = draft.overlay_path(disk);
        let copied = from.copy_to(to, draft.id().0);
        copied.map_err(|source| SnapshotError::Write { path, source })?;
    }
    let mut merged = Record { id: draft.id(), ..record };
    let name = |path: PathBuf| path.file_name().map_or_else(|| STATE.into(), PathBuf::from);
    let file = name(draft.memory_path());
    for overlay in &mut merged.overlays {
        overlay.file = name(draft.overlay_path(&overlay.disk));
    }
    merged.memory.layers = vec![LayerRecord { file, id: draft.id().to_string(), pages: None }];
    if let Some(meta) = merged.meta.as_object_mut() {
        meta.insert("kind".to_owned(), json!("full"));
    }
    draft.finish(&merged.encode())
}
