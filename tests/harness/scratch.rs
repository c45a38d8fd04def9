//! A directory of its own for each test, gone when the test ends.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{panic, process, ptr, thread};

/// A fresh directory that is removed with all its contents on drop.
pub struct Scratch {
    path: PathBuf,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Makes the directory, below `TMPDIR`.
    #[must_use]
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// One whose files are in memory, where the host has such a place: for tests that write much and often.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::below(Path::new("/dev/shm")).unwrap_or_else(|_| Self::new())
    }

    fn below(directory: &Path) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short, because the path of a Unix socket has only 108 bytes.
        let path = directory.join(format!("vmm-test-{}-{number}", process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { path })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, contents).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// A file of `len` bytes without a single block.
    pub fn sparse_file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.file(name, "");
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(len).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// A copy of `from`, holes kept as far as the file system can.
    pub fn copy(&self, from: &Path) -> PathBuf {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let to = self.join(&name);
        copy_sparse(from, &to).unwrap_or_else(|e| panic!("copy of {}: {e}", from.display()));
        to
    }

    /// The names in the directory, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}

/// Runs `test` on a thread that finds an empty file system of `bytes` at `directory`, as do the processes that it starts.
/// It is gone with the last of them.
pub fn in_little_space(directory: &Path, bytes: u64, test: impl FnOnce() + Send + 'static) {
    let text = |bytes: &[u8]| CString::new(bytes).expect("no NUL in a path");
    let directory = text(directory.as_os_str().as_bytes());
    let size = text(format!("size={bytes}").as_bytes());
    let thread = thread::spawn(move || {
        // SAFETY: takes a number.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) });
        let (kind, all) = (c"tmpfs", libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: strings that live through the call.
        check(unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), all, ptr::null()) });
        let (kind, size) = (kind.as_ptr(), size.as_ptr().cast());
        // SAFETY: as above; `size` is a string, as this file system wants it.
        check(unsafe { libc::mount(kind, directory.as_ptr(), kind, 0, size) });
        test();
    });
    thread.join().unwrap_or_else(|reason| panic::resume_unwind(reason));
}

#[track_caller]
fn check(result: libc::c_int) {
    assert_eq!(result, 0, "own mounts: {}", io::Error::last_os_error());
}

/// Copies block by block and leaves out those that are all zeros.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom, Write};
    let mut source = fs::File::open(from)?;
    let mut target = fs::File::create(to)?;
    let mut block = vec![0; 64 << 10];
    loop {
        let n = source.read(&mut block)?;
        match block.get(..n) {
            None | Some([]) => break,
            Some(data) if data.iter().all(|&byte| byte == 0) => {
                target.seek(SeekFrom::Current(i64::try_from(n).unwrap_or(0)))?;
            }
            Some(data) => target.write_all(data)?,
        }
    }
    target.set_len(source.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_directory_goes_away_with_everything_in_it() {
        let scratch = Scratch::new();
        scratch.file("a", "1");
        fs::create_dir(scratch.join("b")).unwrap();
        assert_eq!(scratch.names(), ["a", "b"]);
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_copy_is_equal_and_keeps_its_holes() {
        let from = Scratch::new();
        let original = from.sparse_file("disk", 8 << 20);
        let to = Scratch::new();
        let copy = to.copy(&original);
        let metadata = fs::metadata(&copy).unwrap();
        assert_eq!(metadata.len(), 8 << 20);
        assert_eq!(metadata.blocks(), 0);
        assert_eq!(fs::read(copy).unwrap(), fs::read(original).unwrap());
    }
}
