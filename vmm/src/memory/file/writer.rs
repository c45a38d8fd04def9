//! Memory that is written by a process of its own while the machine goes on.
//!
//! A fork has the memory as it is at that moment: of what the guest writes to from then on, the kernel gives it a copy,
//! page by page. So the guest stands still for as long as a fork takes, and not for as long as writing does.
//!
//! The process that forks has other threads, and any of them may hold a lock at that moment, the heap's for one. What
//! runs in the child therefore obeys the rule of signal handlers: it allocates nothing, takes no lock, logs nothing, and
//! ends without running anything of the process. All that it needs was made before. It keeps one descriptor, the file's,
//! so that locks of disks, taps and the machine itself end when the machine does. It has the filter of system calls of
//! the thread that forked, and so may execute nothing.
//!
//! It ends when it has written all, when it is told to, or when it finds the machine's process gone. Its status is an
//! errno, or 0. Where the host runs out of memory, the kernel is asked to end it before the machine.

#![expect(unsafe_code, reason = "clone(2), wait4(2), tgkill(2) as raw calls")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use devices::fatal;
use devices::memory::GuestMemory;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::contents::{Contents, write_trailer};
use super::{Layer, PAGE_MAP, PAGE_SIZE, Which};
use crate::jail::sys::{close_range, exit_now};
use crate::memory::region_error;

/// How much the kernel would rather end a process than others when memory runs out (proc(5)): most of all.
const OOM_SCORE: (&str, &[u8]) = ("/proc/self/oom_score_adj", b"1000");

/// The process that writes, from the machine's side.
#[derive(Debug, Clone)]
pub struct Writer {
    process: libc::pid_t,
    stop: Arc<Stop>,
}

/// Each is another one.
impl PartialEq for Writer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.stop, &other.stop)
    }
}

impl Writer {
    /// Begins to write all of `memory`, which is at rest, is [copied by a fork](super::is_copied_by_fork) and was mapped
    /// from `under`, to the empty file `to`, as [`super::write`] would. The memory may change from here on.
    ///
    /// # Errors
    /// The host's: there is no process then.
    pub fn start(
        memory: &GuestMemory,
        under: &[Layer],
        to: &File,
        id: [u8; 16],
    ) -> io::Result<Self> {
        write_trailer(memory, to, id)?;
        let mut contents = Contents::of(memory, Which::All, under)?;
        let stop = Stop::new()?;
        let machine = fatal::process();
        let process = fork()?;
        if process == 0 {
            let done = work(&mut contents, to, || stop.is_set() || !is_there(machine));
            exit_now(status(&done));
        }
        Ok(Self { process, stop: Arc::new(stop) })
    }

    /// Has it end as soon as it looks up.
    pub fn stop(&self) {
        self.stop.set();
    }

    /// What came of it, once it has ended; `None` until then. It is gone when that has been asked once.
    pub fn end(&self) -> Option<io::Result<()>> {
        let mut status = 0;
        // SAFETY: the call writes one int. The process is a child of this one that nobody else waits for.
        let done = unsafe { libc::waitpid(self.process, &raw mut status, libc::WNOHANG) };
        match done {
            0 => None,
            ..0 => Some(Err(io::Error::last_os_error())),
            _ => Some(judge(status)),
        }
    }
}

/// The number of the child; 0 in the child.
fn fork() -> io::Result<libc::pid_t> {
    const FLAGS: libc::c_long = libc::SIGCHLD as libc::c_long;
    const NONE: libc::c_long = 0;
    // SAFETY: as fork(2): no memory is shared, and the child, which goes on with a copy of everything on this thread
    // alone, obeys the rule of this module.
    let process = unsafe { libc::syscall(libc::SYS_clone, FLAGS, NONE, NONE, NONE, NONE) };
    match libc::pid_t::try_from(process) {
        Ok(process) if process >= 0 => Ok(process),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the child does.
fn work(contents: &mut Contents, to: &File, is_over: impl Fn() -> bool) -> io::Result<()> {
    close_all_but(to.as_raw_fd());
    let (path, most) = OOM_SCORE;
    if let Ok(mut file) = File::options().write(true).open(path) {
        // It is a wish.
        let _ = file.write(most);
    }
    // Its own: that of the machine tells what the machine has by now.
    let page_map = File::open(PAGE_MAP).ok();
    contents.find(page_map.as_ref())?;
    let mut goes_on = || match is_over() {
        true => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
        false => Ok(()),
    };
    contents.write(to, &mut goes_on)
}

fn close_all_but(kept: RawFd) {
    // Fails before Linux 5.9: they are closed at the end then.
    if kept > 0 {
        let _ = close_range(0, kept - 1);
    }
    let _ = close_range(kept.saturating_add(1), RawFd::MAX);
}

/// Whether there is still a process of this number.
fn is_there(process: libc::pid_t) -> bool {
    // SAFETY: takes numbers; signal 0 is none.
    unsafe { libc::syscall(libc::SYS_tgkill, process, process, 0) == 0 }
}

/// The status of the child.
fn status(done: &io::Result<()>) -> libc::c_int {
    match done {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().filter(|it| (1..=255).contains(it)).unwrap_or(libc::EIO),
    }
}

/// What a status of wait4(2) says.
fn judge(status: libc::c_int) -> io::Result<()> {
    if !libc::WIFEXITED(status) {
        let signal = libc::WTERMSIG(status);
        let what = format!("the process that wrote it was killed (signal {signal})");
        return Err(io::Error::other(what));
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        libc::ECANCELED => {
            Err(io::Error::other("it was given up: somebody changes the kernel's file"))
        }
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// A word that both processes have.
#[derive(Debug)]
struct Stop(MmapRegion);

impl Stop {
    fn new() -> io::Result<Self> {
        let mapping = MmapRegionBuilder::new(PAGE_SIZE)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_ANONYMOUS)
            .build();
        mapping.map(Self).map_err(region_error)
    }

    fn set(&self) {
        // The page has room for it.
        let _ = self.0.as_volatile_slice().store(1_u32, 0, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        !matches!(self.0.as_volatile_slice().load::<u32>(0, Ordering::Acquire), Ok(0))
    }
}

#[cfg(test)]
mod tests;
