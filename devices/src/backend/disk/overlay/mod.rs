//! What was written to a disk whose image stays as it is: a file beside the image, in [`format`].
//!
//! Either it is thrown away with the process, or kept at a path of its own. Of a kept one, the table is written when
//! the guest flushes, after the data that it names and before the answer: whenever the process is killed or the host
//! loses power, what was flushed is there, and nothing names what was not written. Clusters are given out from the
//! start of the file to its end; one that is not needed any more keeps its place and gives its space back.
//!
//! What a snapshot holds of a disk is such a file too. A machine that goes on from it has a new overlay over that one, which
//! is only read, and which any number of machines can have.
//!
//! This knows where bytes are; moving them is [`super::io`]'s.

mod copy;
mod format;
mod table;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DiskError, lock, sys};
use crate::guest_io;
use format::{AS_BASE, Header, ZEROES};
use table::Table;

/// Bytes at either end of an image that its fingerprint is made of.
const FINGERPRINT: u64 = 64 << 10;

/// Why a file cannot be an overlay of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// No overlay at all.
    #[error("it is not an overlay; name a new file, or an overlay that this program made")]
    NotOne,
    /// Of a later program.
    #[error("it has format {found}, of a later version of this program")]
    Version {
        /// The format.
        found: u64,
    },
    /// The header contradicts itself.
    #[error("its header is damaged")]
    Damaged,
    /// The image has another size than the one that the overlay is of.
    #[error("it belongs to an image of {overlay} bytes, and this one has {image}")]
    Size {
        /// What the overlay says.
        overlay: u64,
        /// The image's.
        image: u64,
    },
    /// The image is another one, or was changed.
    #[error("it belongs to another image, or the image was changed since")]
    OtherBase,
    /// It is to begin with what a snapshot has, and has something already.
    #[error("it is there already; a machine that goes on from a snapshot needs a new file")]
    NotNew,
    /// A disk beyond what the table can hold.
    #[error("a disk of {size} bytes is too large for one")]
    TooLarge {
        /// Its size.
        size: u64,
    },
}

/// Where some bytes of the disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the image, where they are on the disk.
    Base,
    /// Nowhere: they are zeroes.
    Zeroes,
    /// In the overlay's file at this position.
    Data(u64),
    /// In the file of the overlay under this one.
    Under(u64),
}

impl Place {
    /// The place of what is `bytes` further on.
    fn plus(self, bytes: u64) -> Self {
        match self {
            Self::Data(at) => Self::Data(at + bytes),
            Self::Under(at) => Self::Under(at + bytes),
            other => other,
        }
    }
}

/// What a snapshot holds of a disk.
#[derive(Debug, Clone)]
pub struct SavedOverlay {
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading.
    pub file: Arc<File>,
}

impl SavedOverlay {
    /// The snapshot that it is a part of; zero if of none.
    ///
    /// # Errors
    /// The host's, and a file that is too short.
    pub fn snapshot(&self) -> io::Result<[u8; 16]> {
        let mut id = [0; 16];
        guest_io::read_all_at(self.file.as_fd(), &mut id, format::SNAPSHOT).map(|()| id)
    }

    /// Copies it to the empty file `to`, as a part of the snapshot `id`.
    ///
    /// # Errors
    /// The host's.
    pub fn copy_to(&self, to: &File, id: [u8; 16]) -> io::Result<()> {
        copy::copy_file(&self.file, to)?;
        guest_io::write_all_at(to.as_fd(), &id, format::SNAPSHOT)
    }
}

/// An overlay. Shared by the engines of a disk's queues.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) file: Arc<File>,
    header: Header,
    /// Where it is kept, if it is.
    kept: Option<PathBuf>,
    /// The file has a table.
    has_table: bool,
    /// Where what is not here may be, before it is the image's. Its file is only read.
    under: Option<Box<Self>>,
    map: Mutex<Map>,
}

/// Which cluster is where. While somebody holds it, no other cluster is given out.
#[derive(Debug)]
pub(super) struct Map {
    table: Table,
    /// Data clusters that were given out.
    used: u64,
}

impl Overlay {
    /// A new one for the image at `path`, thrown away at the end: a file without a name, where the image is.
    pub(super) fn throw_away(
        path: &Path,
        base: &File,
        size: u64,
        saved: Option<&SavedOverlay>,
    ) -> Result<Self, DiskError> {
        let header = header(path, base, size)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = nameless(path, directory)
            .map_err(|source| DiskError::OverlayPlace { path: directory.to_owned(), source })?;
        let under = saved.map(|saved| Self::saved(saved, header)).transpose()?.map(Box::new);
        let mut overlay = Self::at_start(file.into(), header);
        overlay.under = under;
        Ok(overlay)
    }

    /// The one at `kept`, which is made if it is not there, for the image at `path`. With `saved` it must be new, and
    /// begins with a copy of that.
    pub(super) fn kept(
        path: &Path,
        base: &File,
        size: u64,
        kept: &Path,
        saved: Option<&SavedOverlay>,
    ) -> Result<Self, DiskError> {
        let expected = header(path, base, size)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let open = options.open(kept);
        let file = open.map_err(|e| DiskError::from_open(kept, false, false, e))?;
        super::kind_of(kept, &file.metadata().map_err(DiskError::io(kept, "inspect it"))?)?;
        lock(kept, &file, true)?;
        let len = file.metadata().map_err(DiskError::io(kept, "inspect it"))?.len();
        if let Some(saved) = saved {
            if len != 0 {
                return Err(DiskError::Overlay { path: kept.into(), source: OverlayError::NotNew });
            }
            let copied = Self::saved(saved, expected)?.copy_to(&file, [0; 16]);
            copied.and_then(|()| file.sync_all()).map_err(DiskError::io(kept, "write it"))?;
        } else if len == 0 {
            let made = guest_io::write_all_at(file.as_fd(), &expected.to_bytes(), 0)
                .and_then(|()| file.set_len(expected.data(0)))
                .and_then(|()| file.sync_all());
            made.map_err(DiskError::io(kept, "write it"))?;
        }
        let mut overlay = Self::with_table(kept, file.into(), expected)?;
        overlay.kept = Some(kept.to_owned());
        Ok(overlay)
    }

    /// That of a snapshot, which nobody writes to meanwhile.
    fn saved(saved: &SavedOverlay, expected: Header) -> Result<Self, DiskError> {
        lock(&saved.path, &saved.file, false)?;
        Self::with_table(&saved.path, saved.file.clone(), expected)
    }

    /// The one in a file at `path`, which must have this header.
    fn with_table(path: &Path, file: Arc<File>, expected: Header) -> Result<Self, DiskError> {
        let unfit = |source| DiskError::Overlay { path: path.to_owned(), source };
        let len = file.metadata().map_err(DiskError::io(path, "inspect it"))?.len();
        let mut bytes = [0; 40];
        guest_io::read_all_at(file.as_fd(), &mut bytes, 0)
            .map_err(|_| unfit(OverlayError::NotOne))?;
        let header = Header::read(&bytes).map_err(unfit)?;
        if header.size != expected.size {
            let (overlay, image) = (header.size, expected.size);
            return Err(unfit(OverlayError::Size { overlay, image }));
        }
        if header != expected {
            return Err(unfit(OverlayError::OtherBase));
        }
        let mut overlay = Self::at_start(file, header);
        overlay.has_table = true;
        // What was given out and never named is not given out again; nobody knows how much of it there is.
        let behind_table = len.saturating_sub(header.data(0));
        overlay.map_mut().used = behind_table.div_ceil(header.cluster());
        Ok(overlay)
    }

    fn at_start(file: Arc<File>, header: Header) -> Self {
        let map = Mutex::new(Map { table: Table::new(header.clusters()), used: 0 });
        Self { file, header, kept: None, has_table: false, under: None, map }
    }

    /// The file of the overlay under this one.
    pub(super) fn file_under(&self) -> io::Result<&File> {
        let under = self.under.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(&under.file)
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        self.header.cluster()
    }

    /// Which cluster is where, for the caller alone.
    pub(super) fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&mut self) -> &mut Map {
        self.map.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the bytes from `offset` on are, and how many of `len` (at least one) are there in a row.
    pub(super) fn run(&self, map: &mut Map, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let size = self.cluster();
        let first = offset / size;
        let place = self.place(map, first)?.plus(offset % size);
        let mut run = size - offset % size;
        while run < len && self.place(map, (offset + run) / size)? == place.plus(run) {
            run += size;
        }
        Ok((place, run.min(len)))
    }

    fn place(&self, map: &mut Map, cluster: u64) -> io::Result<Place> {
        let Map { table, used } = map;
        let entry = table.get(cluster, |page, bytes| match self.has_table {
            true => guest_io::read_all_at(self.file.as_fd(), bytes, Header::table_page(page)),
            // The file has only data.
            false => Ok(()),
        })?;
        match (entry, &self.under) {
            (AS_BASE, None) => Ok(Place::Base),
            (AS_BASE, Some(under)) => match under.place(&mut under.map(), cluster)? {
                Place::Data(at) => Ok(Place::Under(at)),
                other => Ok(other),
            },
            (ZEROES, _) => Ok(Place::Zeroes),
            (entry, _) => {
                let number = format::data_cluster(entry).filter(|number| number < used);
                let damaged = || io::Error::other("the overlay's table names what is not there");
                Ok(Place::Data(self.header.data(number.ok_or_else(damaged)?)))
            }
        }
    }

    /// Where the data of `count` clusters from `cluster` on is to be written, before [`Self::settle`]. What can fail
    /// for want of space fails here or there, and not when the guest flushes.
    pub(super) fn claim(&self, map: &mut Map, cluster: u64, count: u64) -> io::Result<u64> {
        for cluster in cluster..cluster + count {
            self.place(map, cluster)?;
            self.make_room(map, cluster)?;
        }
        Ok(self.header.data(map.used))
    }

    /// The data of `count` clusters from `cluster` on is where [`Self::claim`] said.
    pub(super) fn settle(&self, map: &mut Map, cluster: u64, count: u64) -> io::Result<()> {
        for cluster in cluster..cluster + count {
            let entry = format::data_entry(map.used).ok_or(io::ErrorKind::StorageFull)?;
            map.table.set(cluster, entry);
            map.used += 1;
        }
        Ok(())
    }

    /// `count` clusters from `cluster` on, which have no data here, are all zeroes from now on.
    pub(super) fn make_zero(&self, map: &mut Map, cluster: u64, count: u64) -> io::Result<()> {
        for cluster in cluster..cluster + count {
            self.make_room(map, cluster)?;
            map.table.set(cluster, ZEROES);
        }
        Ok(())
    }

    /// Gives the space of `len` bytes of whole data clusters back, from `at` in the file on; they read as zeroes.
    pub(super) fn clear_data(&self, at: u64, len: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match sys::fallocate(&self.file, mode, at, len) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let size = usize::try_from(self.cluster()).map_err(io::Error::other)?;
                let zeroes = vec![0; size];
                (at..at + len)
                    .step_by(size)
                    .try_for_each(|at| guest_io::write_all_at(self.file.as_fd(), &zeroes, at))
            }
            result => result,
        }
    }

    fn make_room(&self, map: &mut Map, cluster: u64) -> io::Result<()> {
        if self.kept.is_none() {
            return Ok(());
        }
        map.table.make_room(cluster, |page, bytes| self.write_table(page, bytes))
    }

    fn write_table(&self, page: u64, bytes: &[u8]) -> io::Result<()> {
        guest_io::write_all_at(self.file.as_fd(), bytes, Header::table_page(page))
    }

    /// Makes everything that was written so far durable. What will be thrown away need not be.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.kept.is_none() {
            return Ok(());
        }
        let mut map = self.map();
        // First what the table is to name.
        self.file.sync_data()?;
        if map.table.write_changes(|page, bytes| self.write_table(page, bytes))? {
            self.file.sync_data()?;
            map.table.is_written();
        }
        Ok(())
    }
}

/// What was not flushed is not lost when the process ends in good order.
impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            log::error!("overlay {:?}: what was not flushed is lost: {error}", self.kept);
        }
    }
}

/// The header of an overlay of `base`.
fn header(path: &Path, base: &File, size: u64) -> Result<Header, DiskError> {
    let fingerprint = fingerprint(base, size).map_err(DiskError::io(path, "read it"))?;
    Header::new(size, fingerprint)
        .map_err(|source| DiskError::Overlay { path: path.to_owned(), source })
}

/// Tells an image from others by its ends.
fn fingerprint(base: &File, size: u64) -> io::Result<u64> {
    let len = usize::try_from(size.min(FINGERPRINT)).unwrap_or(0);
    let mut bytes = vec![0; 2 * len];
    let (start, end) = bytes.split_at_mut(len);
    guest_io::read_all_at(base.as_fd(), start, 0)?;
    guest_io::read_all_at(base.as_fd(), end, size - len as u64)?;
    Ok(format::checksum(&bytes))
}

/// A file without a name in `directory`.
fn nameless(disk: &Path, directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let unnamed = options.clone().custom_flags(libc::O_TMPFILE).open(directory);
    match unnamed {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            // This file system has no such files: one that loses its name at once.
            let name = disk.file_name().unwrap_or_default().to_string_lossy();
            let path = directory.join(format!(".{name}.overlay-{}", std::process::id()));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests;
