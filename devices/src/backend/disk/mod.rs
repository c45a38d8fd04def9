//! Disks of the host: raw image files and block devices.
//!
//! A [`Disk`] knows the file, its size and what it can do; reading and writing it is the business of an
//! engine ([`io`]). What a file contains is never looked at: every file is a raw image, so that a guest
//! that writes some other format's header into its disk gains nothing.
//!
//! A disk that is being written belongs to one machine: the file is locked for as long as it is open. With an
//! [`overlay`], the file is only read, and any number of machines can have it.

mod error;
mod holder;
pub mod io;
mod overlay;
mod sys;

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::guest_io;
pub use error::DiskError;
pub use holder::Holder;
pub use overlay::{OverlayError, SavedOverlay};

use overlay::Overlay;

/// Bytes of a sector, the unit of every position on a virtio disk (virtio 1.3, 5.2.4).
pub const SECTOR: u64 = 512;

/// How often, and with what pauses, a lock that is in the way is asked for again. A machine that has just
/// ended may hold its lock a moment longer: the kernel tears rings down in the background.
const LOCK_ATTEMPTS: u32 = 12;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How a disk is to be opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// Only for reading; several machines may then share it.
    pub read_only: bool,
    /// Bypasses the host's page cache (`O_DIRECT`).
    pub direct: bool,
}

/// An open disk. Shared by the device and the engines that serve its queues; closed, and unlocked, with
/// the last of them.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    file: File,
    kind: Kind,
    options: DiskOptions,
    sectors: u64,
    logical_block: u32,
    physical_block: u32,
    /// What offsets, lengths and addresses of a transfer must be multiples of; 1 when cached.
    alignment: u64,
    /// Held while a part of a block is replaced by reading, changing and writing all of it.
    partial_write: Mutex<()>,
    /// fallocate(2) cannot punch holes here.
    no_punch: AtomicBool,
    /// fallocate(2) cannot zero ranges here.
    no_zero_range: AtomicBool,
    /// The block device cannot discard.
    no_discard: AtomicBool,
    identity: String,
    /// Takes what is written, so that the file stays as it is.
    overlay: Option<Arc<Overlay>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    BlockDevice,
}

impl Disk {
    /// Opens and locks the disk at `path`.
    ///
    /// A size that is not a multiple of the block size is rounded down, with a warning: the bytes beyond
    /// the last whole block are not shown to the guest and never changed.
    ///
    /// # Errors
    /// [`DiskError`], which says what to do about it.
    pub fn open(path: &Path, options: DiskOptions) -> Result<Self, DiskError> {
        // Asked before opening, because opening can have effects (a FIFO waits for its other end).
        let fail = |e| DiskError::from_open(path, options.read_only, options.direct, e);
        kind_of(path, &path.metadata().map_err(fail)?)?;
        let flags = if options.direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .custom_flags(flags)
            .open(path)
            .map_err(fail)?;
        lock(path, &file, !options.read_only)?;
        Self::from_file(path, file, options)
    }

    /// The image at `path` as a disk that can be written, although the file stays as it is: what is written goes to
    /// the file `kept`, which is made if it is not there, or to one that is gone with the last copy of this disk. The disk
    /// begins with what `saved` has over the image.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_overlaid(
        path: &Path,
        kept: Option<&Path>,
        saved: Option<&SavedOverlay>,
    ) -> Result<Self, DiskError> {
        let base = Self::open(path, DiskOptions { read_only: true, direct: false })?;
        let size = base.sectors * SECTOR;
        let overlay = match kept {
            Some(kept) => Overlay::kept(path, &base.file, size, kept, saved)?,
            None => Overlay::throw_away(path, &base.file, size, saved)?,
        };
        Ok(Self { overlay: Some(Arc::new(overlay)), ..base })
    }

    /// Opens what is to take the place of this disk, in the same way. When `path` leads to the same file
    /// again, its size and blocks are looked at again.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_successor(&self, path: &Path) -> Result<Self, DiskError> {
        let is_same = path
            .metadata()
            .ok()
            .zip(self.file.metadata().ok())
            .is_some_and(|(new, old)| (new.dev(), new.ino()) == (old.dev(), old.ino()));
        if is_same {
            // Opened once more, it would be locked by ourselves.
            return self.look_again();
        }
        match &self.overlay {
            None => Self::open(path, self.options),
            Some(_) => Err(DiskError::OverlayStays { path: self.path.clone() }),
        }
    }

    /// The same disk, its size and blocks looked at again; opens nothing.
    ///
    /// # Errors
    /// [`DiskError`]
    pub fn look_again(&self) -> Result<Self, DiskError> {
        let path = &self.path;
        let file = self.file.try_clone().map_err(DiskError::io(path, "open it again"))?;
        let new = Self::from_file(path, file, self.options)?;
        Ok(match &self.overlay {
            None => new,
            // It is as large as its overlay.
            Some(overlay) => Self { sectors: self.sectors, overlay: Some(overlay.clone()), ..new },
        })
    }

    /// The disk in `file`, which is locked.
    fn from_file(path: &Path, file: File, options: DiskOptions) -> Result<Self, DiskError> {
        // Asked again of what was really opened.
        let metadata = file.metadata().map_err(DiskError::io(path, "inspect it"))?;
        let kind = kind_of(path, &metadata)?;
        let alignment = if options.direct { direct_alignment(path, &file)? } else { 1 };
        let shape = Shape::of(path, &file, kind, &metadata, alignment)?;
        let device = if kind == Kind::BlockDevice { metadata.rdev() } else { metadata.dev() };
        Ok(Self {
            path: path.to_owned(),
            file,
            kind,
            options,
            sectors: shape.sectors,
            logical_block: shape.logical_block,
            physical_block: shape.physical_block,
            alignment,
            partial_write: Mutex::new(()),
            no_punch: AtomicBool::new(false),
            no_zero_range: AtomicBool::new(false),
            no_discard: AtomicBool::new(false),
            identity: format!("{:x}-{device:x}", metadata.ino()),
            overlay: None,
        })
    }

    /// Writes down what an overlay that is kept holds in memory: for the end of the process.
    ///
    /// # Errors
    /// The host's; what was not flushed before may be lost then.
    pub fn keep_overlay(&self) -> std::io::Result<()> {
        self.overlay.as_ref().map_or(Ok(()), |overlay| overlay.flush())
    }

    /// Writes what lies over the image to the empty file `to`, for the snapshot `id`; nothing when it has no overlay.
    /// Nobody writes to the disk meanwhile.
    ///
    /// # Errors
    /// The host's.
    pub fn save_overlay(&self, to: &File, id: [u8; 16]) -> std::io::Result<()> {
        self.overlay.as_ref().map_or(Ok(()), |overlay| overlay.copy_to(to, id))
    }

    /// The path it was opened at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it can only be read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.read_only && self.overlay.is_none()
    }

    /// Whether transfers bypass the host's page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.alignment > 1
    }

    /// The smallest unit that the host transfers at once, in bytes: a power of two, at least 512.
    #[must_use]
    pub fn logical_block(&self) -> u32 {
        self.logical_block
    }

    /// The unit that is best transferred, and can be discarded, as a whole, in bytes: a power of two,
    /// at least the logical block.
    #[must_use]
    pub fn physical_block(&self) -> u32 {
        self.physical_block
    }

    /// Tells this disk from others of this host: inode and device number.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Makes all later transfers obey `alignment`, as a disk with blocks of that size would demand.
    #[cfg(test)]
    pub(crate) fn set_alignment(&mut self, alignment: u64) {
        self.alignment = alignment;
    }
}

/// Size and block sizes of a disk.
struct Shape {
    sectors: u64,
    logical_block: u32,
    physical_block: u32,
}

impl Shape {
    fn of(
        path: &Path,
        file: &File,
        kind: Kind,
        metadata: &Metadata,
        alignment: u64,
    ) -> Result<Self, DiskError> {
        let (size, logical, physical) = match kind {
            Kind::Regular => (metadata.len(), 512, u32::try_from(metadata.blksize()).unwrap_or(0)),
            Kind::BlockDevice => (
                sys::device_size(file).map_err(DiskError::io(path, "ask for its size"))?,
                sys::device_logical_block(file)
                    .map_err(DiskError::io(path, "ask for its blocks"))?,
                // Only good advice, so no reason to fail.
                sys::device_physical_block(file).unwrap_or(0),
            ),
        };
        let logical_block = logical.max(u32::try_from(alignment).unwrap_or(512));
        let block = u64::from(logical_block);
        let usable = size - size % block;
        if usable == 0 {
            return Err(DiskError::Empty { path: path.to_owned(), size, block });
        }
        if usable != size {
            log::warn!(
                "disk {path:?}: its last {} bytes are not a whole block of {block} and stay hidden",
                size - usable
            );
        }
        let is_sane = physical.is_power_of_two() && (logical_block..=1 << 16).contains(&physical);
        Ok(Self {
            sectors: usable / SECTOR,
            logical_block,
            physical_block: if is_sane { physical } else { logical_block },
        })
    }
}

fn kind_of(path: &Path, metadata: &Metadata) -> Result<Kind, DiskError> {
    let file_type = metadata.file_type();
    let what = if file_type.is_file() {
        return Ok(Kind::Regular);
    } else if file_type.is_block_device() {
        return Ok(Kind::BlockDevice);
    } else if file_type.is_dir() {
        "a directory"
    } else if file_type.is_char_device() {
        "a character device"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else {
        "a socket"
    };
    Err(DiskError::NotADisk { path: path.to_owned(), what })
}

fn lock(path: &Path, file: &File, exclusive: bool) -> Result<(), DiskError> {
    for attempt in 1.. {
        match sys::lock(file, exclusive).map_err(|e| (e.raw_os_error(), e)) {
            Ok(()) => {
                holder::sign(file);
                break;
            }
            Err((Some(libc::EAGAIN | libc::EACCES), _)) if attempt < LOCK_ATTEMPTS => {
                // Waits by the call that every thread waits by; a shorter pause does no harm.
                std::thread::park_timeout(LOCK_PAUSE);
            }
            Err((Some(libc::EAGAIN | libc::EACCES), _)) => {
                return Err(DiskError::InUse { path: path.to_owned(), holder: holder::find(file) });
            }
            Err((_, error)) => {
                // Some network file systems have no locks; a disk there is still worth having.
                log::warn!("disk {path:?} cannot be locked against a second writer: {error}");
                break;
            }
        }
    }
    Ok(())
}

/// The alignment that direct I/O on `file` demands, found by trying: statx(2) tells only on new kernels
/// and only for some file systems.
fn direct_alignment(path: &Path, file: &File) -> Result<u64, DiskError> {
    const LARGEST: usize = 4096;
    let mut buffer = vec![0; 2 * LARGEST];
    let start = buffer.as_ptr().align_offset(LARGEST);
    for size in [512, 1024, 2048, LARGEST] {
        // Memory no better aligned than the size, so that the answer holds for addresses as well.
        let from = start + size % LARGEST;
        let to = buffer.get_mut(from..from + size).unwrap_or_default();
        match guest_io::read_at(file.as_fd(), to, 0) {
            Ok(_) => return Ok(size as u64),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(DiskError::io(path, "read it")(error)),
        }
    }
    let source = std::io::Error::from_raw_os_error(libc::EINVAL);
    Err(DiskError::NoDirect { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
