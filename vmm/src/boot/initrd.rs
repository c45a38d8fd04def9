//! The initial RAM disk: read whole into the top of low memory.

use std::fs::File;
use std::path::Path;

use devices::memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, Kernel, Source, low_memory_end};

/// The initrd starts on a page, as Linux frees it by pages.
const PAGE: u64 = 4096;

/// Loads the file at `path`, or `file` if it is open already, as high as the kernel can take it, above the kernel; returns its range.
///
/// # Errors
/// [`BootError`] when it cannot be read or does not fit.
pub fn load_initrd(
    path: &Path,
    file: Option<&File>,
    kernel: &Kernel,
    memory: &GuestMemory,
) -> Result<arch::Range, BootError> {
    let mut source = Source::open("initrd", path, file)?;
    if source.len == 0 {
        return Err(BootError::WrongFile {
            role: source.role,
            path: path.to_owned(),
            found: "empty".to_owned(),
            remedy: "pass a cpio archive, compressed or not",
        });
    }
    let top = low_memory_end(memory).min(kernel.initrd_limit);
    let start = top.checked_sub(source.len).map(|start| start / PAGE * PAGE);
    let start = start
        .filter(|&start| start >= kernel.end)
        .ok_or_else(|| source.too_large(kernel.end.saturating_add(source.len), memory))?;
    let len = usize::try_from(source.len).unwrap_or(usize::MAX);
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut source.file, len)
        .map_err(|e| source.unreadable(std::io::Error::other(e)))?;
    Ok(arch::Range { start, len: source.len })
}
