//! The files of a snapshot while it is made: under other names until all of it is on disk.
//!
//! A memory file is new for each snapshot, and the state says which one is its own. Both get their names when they are
//! whole, memory first: whoever is killed meanwhile leaves the old snapshot or the new one. What is left of such a one, and
//! memory that no state names, is removed by the next that is made in the same place. Nothing here knows what is in the files.
//!
//! A snapshot in two files of the user's names cannot take the place of an older one in one step: whoever is killed between
//! the two leaves new memory beside old state, which is refused for its id. In a directory that cannot happen.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::container::Id;
use super::record::Record;
use super::{STATE, SnapshotError, working_set};

/// What a memory file's name begins with, before its id.
const MEMORY: &str = "memory-";
/// What the name of a disk's overlay begins with, before the disk's id and the snapshot's.
const OVERLAY: &str = "overlay-";
/// What names begin with until all is done.
const UNDONE: &str = ".undone-";

/// Why something that is there is not replaced.
const NO_FILE: &str = "it is there, and is not a file";

/// Where a snapshot is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a directory of its own, in the place of the one that is there.
    Directory(PathBuf),
    /// In these two files.
    Files {
        /// The state's.
        state: PathBuf,
        /// The memory's.
        memory: PathBuf,
    },
}

impl Place {
    /// The file of the state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(STATE),
            Self::Files { state, .. } => state.clone(),
        }
    }

    /// Only files are replaced: whoever names a device, such as /dev/null, keeps it.
    fn check(&self) -> Result<(), SnapshotError> {
        let refused = |path: &Path, why| Err(SnapshotError::Place { path: path.to_owned(), why });
        let is_other = |path: &Path| fs::metadata(path).is_ok_and(|found| !found.is_file());
        let state = self.state();
        match self {
            Self::Files { memory, .. } if *memory == state => {
                refused(memory, "it is named for both state and memory")
            }
            Self::Files { memory, .. } if is_other(memory) => refused(memory, NO_FILE),
            _ if is_other(&state) => refused(&state, NO_FILE),
            _ => Ok(()),
        }
    }
}

/// See the module. Dropped before it is finished, it leaves nothing behind.
#[derive(Debug)]
pub struct Draft {
    id: Id,
    place: Place,
    state: File,
    memory: Arc<File>,
    /// With the ids of the disks.
    overlays: Vec<(String, File)>,
    is_done: AtomicBool,
}

/// Each is another one.
impl PartialEq for Draft {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Draft {
    /// Makes the files, also one for each of these disks.
    ///
    /// # Errors
    /// [`SnapshotError::Create`], or [`SnapshotError::Place`].
    pub fn begin(place: Place, disks: &[String]) -> Result<Self, SnapshotError> {
        place.check()?;
        let mut id = Id::default();
        let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut id.0));
        random.map_err(|source| SnapshotError::Create { path: "/dev/urandom".into(), source })?;
        remove_left(&place);
        let state = create(&undone(&place.state(), id))?;
        let memory = create(&undone(&memory_of(&place, id), id)).inspect_err(|_| {
            let _ = fs::remove_file(undone(&place.state(), id));
        })?;
        let (memory, is_done) = (Arc::new(memory), AtomicBool::new(false));
        let mut draft = Self { id, place, state, memory, overlays: Vec::new(), is_done };
        for disk in disks {
            let file = create(&undone(&draft.overlay_path(disk), id))?;
            draft.overlays.push((disk.clone(), file));
        }
        Ok(draft)
    }

    /// The snapshot's id.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// Where it will be.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where the memory goes.
    #[must_use]
    pub fn memory(&self) -> &Arc<File> {
        &self.memory
    }

    /// Whether both files are what they are to be.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Where the memory will be.
    #[must_use]
    pub fn memory_path(&self) -> PathBuf {
        memory_of(&self.place, self.id)
    }

    /// Where overlays go, with the ids of their disks.
    #[must_use]
    pub fn overlays(&self) -> &[(String, File)] {
        &self.overlays
    }

    /// Where the overlay of a disk will be.
    #[must_use]
    pub fn overlay_path(&self, disk: &str) -> PathBuf {
        match &self.place {
            Place::Directory(directory) => directory.join(format!("{OVERLAY}{disk}-{}", self.id)),
            Place::Files { state, .. } => {
                let name = state.file_name().unwrap_or_default().to_string_lossy();
                state.with_file_name(format!("{name}.{OVERLAY}{disk}"))
            }
        }
    }

    /// Writes the state, and makes all files what they are to be.
    ///
    /// # Errors
    /// [`SnapshotError::Write`].
    pub fn finish(&self, state: &[u8]) -> Result<(), SnapshotError> {
        let (path, memory) = (self.place.state(), self.memory_path());
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SnapshotError::Write { path, source }
        };
        (&self.state).write_all(state).map_err(failed(&path))?;
        for (disk, file) in &self.overlays {
            let path = self.overlay_path(disk);
            let moved = file.sync_all().and_then(|()| fs::rename(undone(&path, self.id), &path));
            moved.map_err(failed(&path))?;
        }
        self.memory.sync_all().map_err(failed(&memory))?;
        self.state.sync_all().map_err(failed(&path))?;
        fs::rename(undone(&memory, self.id), &memory).map_err(failed(&memory))?;
        sync_directory(&memory).map_err(failed(&memory))?;
        fs::rename(undone(&path, self.id), &path).map_err(failed(&path))?;
        self.is_done.store(true, Ordering::Release);
        // It was another snapshot's.
        let _ = fs::remove_file(working_set::path(&path));
        sync_directory(&path).map_err(failed(&path))?;
        if let Place::Directory(directory) = &self.place {
            let own = own_files(directory);
            remove_free(directory, |name| is_part(name) && !own.contains(&name.into()));
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_done.load(Ordering::Acquire) {
            let overlays = self.overlays.iter().map(|(disk, _)| self.overlay_path(disk));
            for path in [self.place.state(), self.memory_path()].into_iter().chain(overlays) {
                let _ = fs::remove_file(undone(&path, self.id));
            }
        }
    }
}

fn memory_of(place: &Place, id: Id) -> PathBuf {
    match place {
        Place::Directory(directory) => directory.join(format!("{MEMORY}{id}")),
        Place::Files { memory, .. } => memory.clone(),
    }
}

/// The name of a file until it is done.
fn undone(path: &Path, id: Id) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{UNDONE}{id}-{name}"))
}

#[inline(never)]
fn create(path: &Path) -> Result<File, SnapshotError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.map_err(|source| SnapshotError::Create { path: path.to_owned(), source })?;
    // Whoever finds it locked leaves it alone.
    let _ = file.lock();
    Ok(file)
}

/// Removes what killed ones have left of their work at `place`.
fn remove_left(place: &Place) {
    match place {
        Place::Directory(directory) => remove_free(directory, |name| name.starts_with(UNDONE)),
        // The directories are somebody's: only what would have become one of these files.
        Place::Files { state, memory } => {
            for path in [state, memory] {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let is_meant = |found: &str| {
                    let parts = found.strip_prefix(UNDONE).and_then(|it| it.split_once('-'));
                    let (id, rest) = parts.unwrap_or_default();
                    let more = rest.strip_prefix(&*name).map(|more| more.strip_prefix('.'));
                    Id::parse(id).is_some()
                        && (rest == name
                            || more.flatten().is_some_and(|it| it.starts_with(OVERLAY)))
                };
                remove_free(directory_of(path), is_meant);
            }
        }
    }
}

/// The files of memory and of disks that the snapshot in `directory` has there.
fn own_files(directory: &Path) -> Vec<PathBuf> {
    let state = fs::read(directory.join(STATE)).ok().and_then(|it| Record::decode(&it).ok());
    let Some(Record { memory, overlays, .. }) = state else { return Vec::new() };
    let overlays = overlays.into_iter().map(|overlay| overlay.file);
    memory.layers.into_iter().map(|layer| layer.file).chain(overlays).collect()
}

/// Whether a file is called as the memory of some snapshot, or what it has of a disk.
fn is_part(name: &str) -> bool {
    let overlay = name.strip_prefix(OVERLAY).and_then(|rest| rest.rsplit_once('-'));
    let id = name.strip_prefix(MEMORY).or_else(|| overlay.map(|(_, id)| id));
    id.is_some_and(|id| Id::parse(id).is_some())
}

/// Removes the files of `directory` that are called so and that nobody is writing at.
fn remove_free(directory: &Path, is_meant: impl Fn(&str) -> bool) {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_free = || File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if is_meant(&name) && is_free() {
            let _ = fs::remove_file(&path);
        }
    }
}

fn sync_directory(of: &Path) -> io::Result<()> {
    File::open(directory_of(of))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests;
