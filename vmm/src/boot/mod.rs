//! From files to a guest that can start: find out what the kernel file is, load it and the initrd.
//!
//! Decides where things go in guest memory above 1 MiB; the tables below it are `arch`'s. Every file is
//! read with its size in hand: no header field is believed without a check against it.

mod bzimage;
mod elf;
mod image;
mod initrd;

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use arch::layout;
use devices::guest_io;
use devices::memory::GuestMemory;
use linux_loader::loader::bootparam::setup_header;

pub use initrd::load_initrd;

use crate::config::BootProtocol;
use image::{Kind, identify};

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Where the first vCPU starts.
    pub entry: Entry,
    /// First address above everything that the kernel needs before it has read its memory map.
    pub end: u64,
    /// First address above which this kernel cannot take an initrd.
    pub initrd_limit: u64,
}

/// How a kernel is entered.
#[derive(Debug, Clone, Copy)]
pub enum Entry {
    /// The 64-bit boot protocol (Linux Documentation/arch/x86/boot.rst).
    Linux64 {
        /// Address of the first instruction.
        address: u64,
        /// The setup header of a bzImage; an ELF file has none.
        header: Option<setup_header>,
    },
    /// The PVH protocol (Xen docs/misc/pvh): 32-bit protected mode.
    Pvh {
        /// Address of the first instruction.
        address: u64,
    },
}

/// Why a kernel or an initrd cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be opened or read.
    #[error("{role} {path:?} cannot be read")]
    Read {
        /// "kernel" or "initrd".
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, a socket, a device.
    #[error("{role} {path:?} is {found}, not a file")]
    NotAFile {
        /// "kernel" or "initrd".
        role: &'static str,
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The file is not a kernel that can run here.
    #[error("{role} {path:?} is {found}; {remedy}")]
    WrongFile {
        /// "kernel" or "initrd".
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The file is of the right kind, but broken.
    #[error("{role} {path:?} is damaged: {what}")]
    Damaged {
        /// "kernel" or "initrd".
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file is a kernel, but not for the entry that was asked for.
    #[error("kernel {path:?} has no {wanted} entry; use --boot {instead}")]
    NoEntry {
        /// The file.
        path: PathBuf,
        /// The entry asked for.
        wanted: &'static str,
        /// One that it has.
        instead: &'static str,
    },
    /// It does not fit.
    #[error(
        "{role} {path:?} needs memory up to {needed} MiB, the guest has {available} MiB in one piece; give it more with --memory"
    )]
    TooLarge {
        /// "kernel" or "initrd".
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// MiB, rounded up.
        needed: u64,
        /// MiB.
        available: u64,
    },
}

/// Opens the kernel or initrd, by `role`, that is at `path`.
///
/// # Errors
/// [`BootError::Read`]
pub fn open(role: &'static str, path: &Path) -> Result<File, BootError> {
    File::open(path).map_err(|source| BootError::Read { role, path: path.to_owned(), source })
}

/// Loads the kernel file at `path`, or `file` if it is open already. `may_map`: parts of it may be mapped into `memory`,
/// which has pages of 4 KiB.
///
/// # Errors
/// [`BootError`], one line that says what the file is and what to do.
pub fn load_kernel(
    path: &Path,
    file: Option<&File>,
    choice: BootProtocol,
    memory: &GuestMemory,
    may_map: bool,
) -> Result<Kernel, BootError> {
    let mut source = Source::open("kernel", path, file)?;
    source.may_map = may_map;
    match identify(&source) {
        Kind::BzImage => bzimage::load(&mut source, choice, memory),
        Kind::Elf => elf::load(&mut source, choice, memory),
        Kind::Other { found, remedy } => Err(BootError::WrongFile {
            role: source.role,
            path: path.to_owned(),
            found: found.to_owned(),
            remedy,
        }),
    }
}

/// An open regular file, with the name and role that its errors carry.
struct Source {
    role: &'static str,
    path: PathBuf,
    file: File,
    len: u64,
    /// The file's beginning, which nearly all questions are about.
    head: Vec<u8>,
    /// Whether its pages may become guest memory.
    may_map: bool,
}

/// Bytes of [`Source::head`]: a setup header, the program headers of an ELF file, the superblock of an ext4 image.
const HEAD: usize = 0x440;

impl Source {
    fn open(role: &'static str, path: &Path, file: Option<&File>) -> Result<Self, BootError> {
        let wrap = |source| BootError::Read { role, path: path.to_owned(), source };
        let file = match file {
            None => open(role, path)?,
            // Its position is that of whoever read it before.
            Some(file) => {
                file.try_clone().and_then(|mut file| file.rewind().map(|()| file)).map_err(wrap)?
            }
        };
        let metadata = file.metadata().map_err(wrap)?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a directory" } else { "a special file" };
            return Err(BootError::NotAFile { role, path: path.to_owned(), found });
        }
        let len = metadata.len();
        let mut source =
            Self { role, path: path.to_owned(), file, len, head: Vec::new(), may_map: false };
        let mut head = vec![0; usize::try_from(len).unwrap_or(HEAD).min(HEAD)];
        if !source.read_at(0, &mut head)? {
            return Err(source.damaged("it became shorter while it was read"));
        }
        source.head = head;
        Ok(source)
    }

    /// Fills `to` from `offset`; `false` when the file ends before it is full.
    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<bool, BootError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(known) = self.head.get(start..start.saturating_add(to.len())) {
            to.copy_from_slice(known);
            return Ok(true);
        }
        match guest_io::read_all_at(self.file.as_fd(), to, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn unreadable(&self, source: io::Error) -> BootError {
        BootError::Read { role: self.role, path: self.path.clone(), source }
    }

    fn damaged(&self, what: impl Into<String>) -> BootError {
        BootError::Damaged { role: self.role, path: self.path.clone(), what: what.into() }
    }

    /// The page tables of the 64-bit entry map only so much; a kernel that ends beyond would fault.
    fn check_reach(&self, end: u64) -> Result<(), BootError> {
        if end <= layout::BOOT_MAPPED {
            return Ok(());
        }
        Err(self.damaged(format!("it ends at {end:#x}, beyond the reach of the 64-bit entry")))
    }

    fn no_entry(&self, wanted: &'static str, instead: &'static str) -> BootError {
        BootError::NoEntry { path: self.path.clone(), wanted, instead }
    }

    fn too_large(&self, end: u64, memory: &GuestMemory) -> BootError {
        BootError::TooLarge {
            role: self.role,
            path: self.path.clone(),
            needed: end.div_ceil(1 << 20),
            available: low_memory_end(memory) >> 20,
        }
    }
}

/// End of the RAM that starts at address 0: kernels are loaded there.
fn low_memory_end(memory: &GuestMemory) -> u64 {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    memory.iter().next().map_or(0, GuestMemoryRegion::len)
}

/// Little-endian fields of a header that was read whole; a field beyond it reads as 0.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let end = at.saturating_add(N);
        self.0.get(at..end).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
    }

    fn u8(&self, at: usize) -> u8 {
        u8::from_le_bytes(self.bytes(at))
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

#[cfg(test)]
mod tests;
