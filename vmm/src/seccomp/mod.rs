//! What each thread may ask of the kernel: a filter of system calls (seccomp(2)), installed before a guest runs.
//!
//! The rules are in [`tables`]; the program contains the filters that were made of them. Here: which filter a thread
//! gets, and what a violation does. A thread calls [`Filters::confine`] once, before it does anything in a guest's name;
//! it is the last thing that is set up, since nothing can be set up after it.
//!
//! A forbidden call is not made, whoever asks for it. The kernel sends SIGSYS instead, and its handler says which call it
//! was and ends the process. That a compromised thread might keep the handler from its work gains it nothing: the call
//! stays forbidden, and so does the one that would change the handler.

mod custom;
mod names;
mod sys;
pub mod tables;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use devices::fatal;

use custom::Custom;
pub use custom::CustomError;
pub use names::name;

mod compiled {
    include!(concat!(env!("OUT_DIR"), "/filters.rs"));
}

/// What happens to a forbidden system call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// It ends the process, which says what it was
    #[default]
    Kill,
    /// It is made, and the kernel's audit log has a line about it
    Log,
    /// There are no filters
    Off,
}

/// What the user wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// What happens to forbidden calls.
    pub mode: Mode,
    /// A file of filters in place of our own.
    pub file: Option<PathBuf>,
}

/// Why there are no filters.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The user's file.
    #[error("filter file {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CustomError,
    },
    /// The kernel has none, or refuses.
    #[error("this host's kernel refuses a filter of system calls; --seccomp off runs without")]
    Host(#[from] io::Error),
}

/// A kind of thread, each with its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// The main thread.
    Main,
    /// The loop of some devices.
    Io,
    /// A vCPU's.
    Vcpu,
    /// The API's.
    Api,
}

/// The filters of a process.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    mode: Mode,
    custom: Option<Arc<Custom>>,
    has_vsock: bool,
    may_rebuild: bool,
    may_fork: bool,
    others: Arc<Others>,
}

/// The threads besides the main one.
#[derive(Debug, Default)]
struct Others {
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Count {
    announced: usize,
    confined: usize,
    /// Somebody will want to know who they are.
    are_noted: bool,
    /// Their names and numbers.
    noted: Vec<(String, i64)>,
}

impl Others {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the calling thread, if that is wanted.
    fn note(&self) {
        let mut count = self.count();
        if count.are_noted {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            count.noted.push((name, sys::thread_id()));
        }
    }
}

impl Filters {
    /// The filters that the user chose.
    ///
    /// # Errors
    /// [`SeccompError::File`].
    pub fn new(choice: &Choice) -> Result<Self, SeccompError> {
        let read = |path: &PathBuf| {
            let failed = |source| SeccompError::File { path: path.clone(), source };
            Custom::read(path).map(Arc::new).map_err(failed)
        };
        let custom = choice.file.as_ref().map(read).transpose()?;
        Ok(Self { mode: choice.mode, custom, ..Self::default() })
    }

    /// No filters.
    #[must_use]
    pub fn off() -> Self {
        Self { mode: Mode::Off, ..Self::default() }
    }

    /// The same for a machine that has a socket device, or may be built again.
    #[must_use]
    pub fn with(&self, has_vsock: bool, may_rebuild: bool) -> Self {
        Self { has_vsock, may_rebuild, ..self.clone() }
    }

    /// The same for a machine that a copy of its process may save.
    #[must_use]
    pub fn and_forks(self, may_fork: bool) -> Self {
        Self { may_fork, ..self }
    }

    /// Whether they are those of [`tables`], not the user's.
    #[must_use]
    pub fn are_ours(&self) -> bool {
        self.custom.is_none()
    }

    /// Prepares the process: what happens to forbidden calls, and that it gains no rights any more. Call it once, before
    /// there is a thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(&self) -> Result<(), SeccompError> {
        if self.mode != Mode::Off {
            sys::end_on_violation()?;
            #[cfg(feature = "drill")]
            crate::drill::prepare();
            sys::gain_nothing()?;
        }
        Ok(())
    }

    /// Has the threads noted that will confine themselves.
    pub fn note_threads(&self) {
        self.others.count().are_noted = true;
    }

    /// Those that were noted: their names, and their numbers as the kernel has them.
    #[must_use]
    pub fn threads(&self) -> Vec<(String, i64)> {
        self.others.count().noted.clone()
    }

    /// A thread is about to begin that will confine itself.
    pub fn announce(&self) {
        self.others.count().announced += 1;
    }

    /// Waits until all threads that were announced have confined themselves, or could not.
    pub fn wait_for_others(&self) {
        let mut count = self.others.count();
        while count.confined < count.announced {
            count = self.others.changed.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Confines the calling thread for good, which was announced if it is not the main one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn confine(&self, thread: Thread) -> Result<(), SeccompError> {
        if thread != Thread::Main {
            self.others.note();
        }
        let outcome = self.install(thread);
        #[cfg(feature = "drill")]
        crate::drill::run(thread, self.has_vsock, self.may_rebuild);
        if thread != Thread::Main {
            self.others.count().confined += 1;
            self.others.changed.notify_all();
        }
        outcome
    }

    fn install(&self, thread: Thread) -> Result<(), SeccompError> {
        match self.mode {
            Mode::Off => return Ok(()),
            Mode::Kill => sys::install(&self.own_program(thread))?,
            Mode::Log => sys::install(&with_log(&self.own_program(thread)))?,
        }
        Ok(())
    }

    /// The filter of a thread, in which this process has its number.
    fn own_program(&self, thread: Thread) -> Vec<u64> {
        let mut program = self.program(thread).to_vec();
        if self.custom.is_none() {
            put_into(&mut program, tables::PROCESS, fatal::process().unsigned_abs());
            if self.may_fork {
                put_into(&mut program, tables::FORK, libc::SIGCHLD.unsigned_abs());
            }
        }
        program
    }

    /// The filter of a thread, as instructions of the kernel's `struct sock_filter`, for a process without a number.
    #[must_use]
    pub fn program(&self, thread: Thread) -> &[u64] {
        if let Some(custom) = &self.custom {
            return custom.program(thread);
        }
        let [plain, vsock, rebuild, both] = compiled::MAIN;
        let only = |[program]: [&'static [u64]; 1]| program;
        match (thread, self.has_vsock, self.may_rebuild) {
            (Thread::Io, ..) => only(compiled::IO),
            (Thread::Vcpu, ..) => only(compiled::VCPU),
            (Thread::Api, ..) => only(compiled::API),
            (Thread::Main, false, false) => plain,
            (Thread::Main, true, false) => vsock,
            (Thread::Main, false, true) => rebuild,
            (Thread::Main, true, true) => both,
        }
    }
}

/// Puts what is known only now in the place of what stands for it.
fn put_into(program: &mut [u64], unknown: u32, value: u32) {
    let named = program.iter_mut().filter(|it| **it >> 32 == u64::from(unknown));
    named.for_each(|it| *it = *it & 0xffff_ffff | u64::from(value) << 32);
}

/// The same filter, which lets pass what it forbids and has it logged.
fn with_log(program: &[u64]) -> Vec<u64> {
    let action = |action: u32| u64::from(action) << 32 | RETURN;
    let (trap, log) = (action(libc::SECCOMP_RET_TRAP), action(libc::SECCOMP_RET_LOG));
    program.iter().map(|&it| if it == trap { log } else { it }).collect()
}

/// The instruction that returns its operand, which is the upper half.
const RETURN: u64 = (libc::BPF_RET | libc::BPF_K) as u64;

#[cfg(test)]
mod tests;
