//! Parts of a file as guest memory: mapped, not copied; what the guest writes stays in this process.
//!
//! A mapping shows what others do to the file, which a copy does not. So a read lease is held on it (fcntl(2),
//! F_SETLEASE): it is refused while somebody has the file open for writing, and the kernel lets nobody open or cut it
//! later before this process was told (SIGIO) and has put copies in the place of all pages, for which the machine must be
//! at rest: who cuts a file also takes away what the guest wrote to its pages. Where there is no lease (a file of
//! another user, a network file system), nothing is mapped. What then still takes pages away, such as a disk that
//! fails, ends the process with one line that says so.
//!
//! Discarding such memory (MADV_DONTNEED) would bring the file's contents back, not zeroes.

#![expect(unsafe_code, reason = "mappings over guest memory, leases, a signal handler")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use devices::fatal;
use devices::memory::GuestMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::exit_code::ExitCode;

/// Size of a page of a file.
pub const PAGE: u64 = 4096;

/// What is said when a page is missing.
const KERNEL_PAGE: &str =
    "a page of the kernel's file cannot be read (cut short, or the disk failed)";
/// The same of a snapshot.
pub const SNAPSHOT_PAGE: &str =
    "a page of the snapshot's memory cannot be read (cut short, or the disk failed)";

/// A file with a lease on it, and where parts of it are mapped: address and length in this process.
pub struct MappedFile {
    file: File,
    ranges: Vec<(usize, usize)>,
}

/// The file of the machine that runs. One process has one machine, and its kernel is one file.
static KEPT: Mutex<Option<MappedFile>> = Mutex::new(None);
/// From the first to the last byte that is mapped, for the signal handler.
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
/// Where SIGBUS went before.
static PREVIOUS: OnceLock<fatal::Previous> = OnceLock::new();
static ASKED: AtomicBool = AtomicBool::new(false);
static HANDLED: AtomicBool = AtomicBool::new(false);
/// Whether the file is a snapshot's memory, not a kernel.
static OF_SNAPSHOT: AtomicBool = AtomicBool::new(false);

impl MappedFile {
    /// Takes the lease on `file`, which is open for reading only.
    ///
    /// # Errors
    /// `EAGAIN` while somebody may write to it, `EACCES` when it is another user's, `EINVAL` where there are no
    /// leases.
    pub fn lease(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        // SAFETY: takes a descriptor and numbers.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file, ranges: Vec::new() })
    }

    /// Puts `len` bytes of the file from `offset` on in place of the memory at `address`; all are multiples of
    /// [`PAGE`].
    ///
    /// # Errors
    /// The errno of mmap(2), the memory is as it was then; `EFAULT` when `address` is not RAM.
    pub fn map(
        &mut self,
        memory: &GuestMemory,
        address: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let slice = memory.get_slice(GuestAddress(address), len);
        let slice = slice.map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
        let to = slice.ptr_guard_mut().as_ptr();
        // SAFETY: the range lies in one mapping of guest memory, to whose contents nobody has a reference, and is
        // replaced by one that can be read and written as well. It goes away with the whole.
        let at = unsafe {
            libc::mmap(
                to.cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                self.file.as_raw_fd(),
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping just made; the advice concerns core dumps only.
        unsafe { libc::madvise(at, len, libc::MADV_DONTDUMP) };
        self.ranges.push((at as usize, len));
        Ok(())
    }

    /// Keeps the lease for as long as the machine runs.
    pub fn keep(self) {
        let starts = self.ranges.iter().map(|(start, _)| *start);
        START.store(starts.min().unwrap_or(0), Ordering::Release);
        let ends = self.ranges.iter().map(|(start, len)| start + len);
        END.store(ends.max().unwrap_or(0), Ordering::Release);
        OF_SNAPSHOT.store(false, Ordering::Release);
        handle_bus_errors();
        *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
    }

    /// Ends the lease.
    fn release(self) {
        // SAFETY: takes a descriptor and numbers. It fails where there is no lease any more.
        unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }

    /// Puts copies in the place of all pages; the file does not matter any more then. What is written to them
    /// meanwhile is lost.
    fn make_private(&self) -> io::Result<()> {
        self.ranges.iter().try_for_each(|(start, len)| replace_by_copy(*start, *len))
    }
}

/// The range is one of [`MappedFile::map`].
fn replace_by_copy(start: usize, len: usize) -> io::Result<()> {
    let to = start as *mut libc::c_void;
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let copy = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if copy == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are mappings of `len` bytes that do not overlap. Guest memory has no references, only copies.
    unsafe { std::ptr::copy_nonoverlapping(to.cast::<u8>(), copy.cast::<u8>(), len) };
    // SAFETY: the mapping just made; the advice concerns core dumps only.
    unsafe { libc::madvise(copy, len, libc::MADV_DONTDUMP) };
    const MOVE: libc::c_int = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the copy takes the place of what it is a copy of, in one step: there is always a mapping.
    if unsafe { libc::mremap(copy, len, len, MOVE, to) } == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        // SAFETY: the copy, which nobody knows of.
        unsafe { libc::munmap(copy, len) };
        return Err(error);
    }
    Ok(())
}

/// `memory` is a snapshot's file, of which a page can be missing later.
pub(super) fn expect_missing_pages(memory: &GuestMemory) {
    let ranges = super::ranges(memory);
    START.store(ranges.iter().map(|range| range.start).min().unwrap_or(0), Ordering::Release);
    END.store(ranges.iter().map(|range| range.end).max().unwrap_or(0), Ordering::Release);
    OF_SNAPSHOT.store(true, Ordering::Release);
    handle_bus_errors();
}

/// From the first to the last byte that is, or was, a kernel's file; empty when none was mapped.
pub(super) fn span() -> Range<usize> {
    match OF_SNAPSHOT.load(Ordering::Acquire) {
        true => 0..0,
        false => START.load(Ordering::Acquire)..END.load(Ordering::Acquire),
    }
}

/// Somebody wants to write to the file (SIGIO), and waits.
pub fn ask() {
    ASKED.store(true, Ordering::Release);
}

/// Whether somebody waits, since this was asked last.
#[must_use]
pub fn is_asked() -> bool {
    ASKED.swap(false, Ordering::AcqRel)
}

/// Lets those in who want to write to the file: its pages are ours from here on. The machine is at
/// rest, and with it everybody who writes to its memory, or such a write is lost.
pub fn let_writers_in() {
    let Some(kept) = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    match kept.make_private() {
        Ok(()) => log::info!("the kernel's file is about to change: the guest has a copy"),
        Err(error) => log::error!("the kernel's file changes under the guest: {error}"),
    }
    // It would end with its last descriptor, of which a jail may keep another one.
    kept.release();
}

/// The machine is gone, and its kernel with it: memory of the usual kind, without contents, takes the place of the pages
/// of the file, a kernel's or a snapshot's.
///
/// # Errors
/// The errno of mmap(2).
pub fn give_up(memory: &GuestMemory) -> io::Result<()> {
    if OF_SNAPSHOT.swap(false, Ordering::AcqRel) {
        let mut ranges = super::ranges(memory).into_iter();
        return ranges.try_for_each(|range| replace_by_nothing(range.start, range.len()));
    }
    match KEPT.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(kept) => {
            kept.ranges.iter().try_for_each(|(start, len)| replace_by_nothing(*start, *len))
        }
        None => Ok(()),
    }
}

/// The range is one of [`MappedFile::map`], or all of a region.
fn replace_by_nothing(start: usize, len: usize) -> io::Result<()> {
    const FLAGS: libc::c_int =
        libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let to = start as *mut libc::c_void;
    // SAFETY: the range is a part of guest memory, to whose contents nobody has a reference.
    let at = unsafe { libc::mmap(to, len, libc::PROT_READ | libc::PROT_WRITE, FLAGS, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping just made; the advice concerns core dumps only.
    unsafe { libc::madvise(at, len, libc::MADV_DONTDUMP) };
    Ok(())
}

/// Why a page of guest memory can be missing, and the status of a process that ends by that; `None` while nothing of
/// it is, or was, a file's.
#[must_use]
pub fn missing_page() -> Option<(&'static str, ExitCode)> {
    (END.load(Ordering::Acquire) != 0).then(|| match OF_SNAPSHOT.load(Ordering::Acquire) {
        true => (SNAPSHOT_PAGE, ExitCode::MemoryLost),
        false => (KERNEL_PAGE, ExitCode::HostFailure),
    })
}

/// Has a missing page end the process with a reason. Call it before, when the machine may come to be mapped later.
pub fn handle_bus_errors() {
    if HANDLED.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: the handler makes async-signal-safe calls only.
    if let Ok(Some(old)) = unsafe { fatal::watch(libc::SIGBUS, on_bus_error) } {
        let _ = PREVIOUS.set(old);
    }
}

/// A page of the file cannot be had. The guest cannot go on without it, so the process says why and ends.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let told = unsafe { &*info };
    // SAFETY: that of a SIGBUS has an address.
    let address = unsafe { told.si_addr() } as usize;
    let (start, end) = (START.load(Ordering::Acquire), END.load(Ordering::Acquire));
    if !(start..end).contains(&address) {
        // Another's fault. Where nobody else was before, it happens again when we return.
        if let Some(old) = PREVIOUS.get() {
            // SAFETY: the arguments are this handler's.
            unsafe { old.pass_on(signal, info, context) };
        }
        return;
    }
    devices::backend::console::restore_now();
    let (what, code) = missing_page().unwrap_or(("a page is missing", ExitCode::HostFailure));
    say("vmm: host failure: ");
    say(what);
    say(", at 0x");
    say_hex(address);
    say("\n");
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code.code().into()) }
}

/// Async-signal-safe.
fn say(text: &str) {
    // SAFETY: `text` is readable for its whole length. With stderr closed there is nobody to tell.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

/// Async-signal-safe.
fn say_hex(number: usize) {
    const DIGITS: &str = "0123456789abcdef";
    let mut shift = usize::BITS;
    let mut begun = false;
    while shift > 0 {
        shift -= 4;
        let digit = number >> shift & 15;
        begun |= digit != 0 || shift == 0;
        if let (true, Some(digit)) = (begun, DIGITS.get(digit..=digit)) {
            say(digit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;

    use devices::test_util::skipped;
    use vm_memory::Bytes;

    use super::*;
    use crate::config::Backing;
    use crate::memory::reserve;
    use crate::test_dir::TestDir;

    const MIB: u64 = 1 << 20;

    fn file_of(dir: &TestDir, byte: u8) -> File {
        let path = dir.path().join("file");
        fs::write(&path, vec![byte; 1 << 20]).unwrap();
        File::open(path).unwrap()
    }

    #[test]
    fn the_guest_reads_the_file_and_writes_only_its_own_memory() {
        let dir = TestDir::new();
        let memory = reserve(32 * MIB, Backing::default()).unwrap();
        let Ok(mut mapped) = MappedFile::lease(&file_of(&dir, 7)) else {
            return skipped("memory::mapped::the_guest_reads…", "no leases on this file system");
        };
        mapped.map(&memory, 2 * MIB, PAGE, MIB - PAGE).unwrap();
        let read = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
        let edges = [2 * MIB - 1, 2 * MIB, 3 * MIB - PAGE - 1, 3 * MIB - PAGE].map(read);
        assert_eq!(edges, [0, 7, 7, 0]);
        memory.write_obj(9_u8, GuestAddress(2 * MIB)).unwrap();
        assert!(fs::read(dir.path().join("file")).unwrap().iter().all(|byte| *byte == 7));
        // What lies outside of memory stays as it is.
        assert!(mapped.map(&memory, 32 * MIB - PAGE, 0, 2 * PAGE).is_err());
    }

    #[test]
    fn no_lease_while_somebody_writes_and_no_writer_during_a_lease() {
        let dir = TestDir::new();
        let file = file_of(&dir, 7);
        let writer = || {
            let mut options = OpenOptions::new();
            // Without O_NONBLOCK it would wait.
            options.write(true).custom_flags(libc::O_NONBLOCK).open(dir.path().join("file"))
        };
        let open = writer().unwrap();
        let busy = MappedFile::lease(&file).err().unwrap();
        drop(open);
        let leased = match MappedFile::lease(&file) {
            Ok(leased) => leased,
            Err(error) => return skipped("memory::mapped::no_lease_while…", &error.to_string()),
        };
        assert_eq!(busy.raw_os_error(), Some(libc::EAGAIN));
        // The test has SIGIO's default action, which ends it, so nobody is told.
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        let refused = writer().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EWOULDBLOCK));
        drop((leased, file));
        assert!(writer().is_ok());
    }

    #[test]
    fn copies_stay_when_the_file_goes() {
        let dir = TestDir::new();
        let memory = reserve(32 * MIB, Backing::default()).unwrap();
        let file = file_of(&dir, 7);
        let mut mapped = MappedFile { file: file.try_clone().unwrap(), ranges: Vec::new() };
        mapped.map(&memory, 2 * MIB, 0, MIB).unwrap();
        memory.write_obj(9_u8, GuestAddress(2 * MIB)).unwrap();
        mapped.make_private().unwrap();
        fs::write(dir.path().join("file"), []).unwrap();
        let read = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
        assert_eq!([2 * MIB, 2 * MIB + 1, 3 * MIB - 1].map(read), [9, 7, 7]);
    }

    #[test]
    fn a_missing_page_ends_the_process_with_a_reason() {
        let dir = TestDir::new();
        let memory = reserve(32 * MIB, Backing::default()).unwrap();
        let file = file_of(&dir, 7);
        let mut mapped = MappedFile { file: file.try_clone().unwrap(), ranges: Vec::new() };
        mapped.map(&memory, 2 * MIB, 0, MIB).unwrap();
        fs::write(dir.path().join("file"), []).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        // SAFETY: the child makes async-signal-safe calls, and touches memory, until the handler ends it.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: two descriptors that are open.
            unsafe { libc::dup2(writer.as_raw_fd(), libc::STDERR_FILENO) };
            mapped.keep();
            let _ = memory.read_obj::<u8>(GuestAddress(2 * MIB));
            // SAFETY: ends the child; reached only when no page is missing.
            unsafe { libc::_exit(1) };
        }
        drop(writer);
        let said = io::read_to_string(reader).unwrap();
        let mut status = 0;
        // SAFETY: `status` is a valid place; the child is ours.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert!(libc::WIFEXITED(status), "{status:#x}: {said}");
        assert_eq!(libc::WEXITSTATUS(status), i32::from(ExitCode::HostFailure.code()), "{said}");
        assert!(said.contains("kernel's file cannot be read") && said.contains("at 0x"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}
