//! Why a disk cannot be opened, in words that name the file, the cause and the remedy.

use std::io;
use std::path::{Path, PathBuf};

use super::holder::Holder;
use super::overlay::OverlayError;

/// Who has a disk when the kernel does not tell.
const UNKNOWN: &str = "another process, probably a running virtual machine";

/// Why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is nothing at the path.
    #[error(
        "disk {path:?}: there is no such file; create one with 'truncate -s 1G FILE', or correct the path"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Neither a regular file nor a block device.
    #[error("disk {path:?} is {what}; a disk is a raw image file or a block device")]
    NotADisk {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Not a whole sector fits.
    #[error(
        "disk {path:?} has {size} bytes, less than one block of {block}; give it a size with 'truncate -s 1G FILE'"
    )]
    Empty {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The smallest size in bytes.
        block: u64,
    },
    /// It may be read, but a writable disk was asked for.
    #[error(
        "disk {path:?} cannot be written; add ',readonly' to attach it read-only, or make it writable"
    )]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// It may not even be read.
    #[error(
        "disk {path:?} may not be opened; give this user access to the file and its directories"
    )]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Another virtual machine has it.
    #[error(
        "disk {path:?} is in use by {}; stop that one, use a copy, or attach it ',readonly' everywhere",
        .holder.as_ref().map_or_else(|| UNKNOWN.to_owned(), Holder::to_string)
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Whose lock it is, where the kernel tells.
        holder: Option<Holder>,
    },
    /// The file system cannot bypass the page cache.
    #[error("disk {path:?} does not support direct I/O; leave ',direct' out")]
    NoDirect {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The file for what is written cannot be used.
    #[error("overlay {path:?} cannot be used")]
    Overlay {
        /// The overlay, or the image that it would be of.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: OverlayError,
    },
    /// There is no place for the file that takes what is written.
    #[error("an overlay cannot be made in {path:?}; say where with ',overlay=FILE'")]
    OverlayPlace {
        /// The directory.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// What was written belongs to one image.
    #[error("disk {path:?} has an overlay, so that no other image can take its place")]
    OverlayStays {
        /// The image.
        path: PathBuf,
    },
    /// Anything else.
    #[error("disk {path:?}: cannot {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

impl DiskError {
    /// What `error` of open(2) means for `path`.
    pub(super) fn from_open(path: &Path, read_only: bool, direct: bool, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Self::Missing { path },
            Some(libc::EINVAL) if direct => Self::NoDirect { path, source },
            Some(libc::EROFS | libc::ETXTBSY) if !read_only => Self::NotWritable { path, source },
            Some(libc::EACCES | libc::EPERM) if !read_only && is_readable(&path) => {
                Self::NotWritable { path, source }
            }
            Some(libc::EACCES | libc::EPERM) => Self::Forbidden { path, source },
            _ => Self::Io { path, doing: "open it", source },
        }
    }

    /// A failure while `doing` something with `path`, for `map_err`.
    pub(super) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, doing, source }
    }
}

fn is_readable(path: &Path) -> bool {
    std::fs::File::open(path).is_ok()
}
