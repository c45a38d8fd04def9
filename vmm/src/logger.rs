//! Where log lines go: stderr or a file, one line each, never blocking and never without bound.
//!
//! A guest can provoke log lines, so they are limited per time, and what was left out is counted. A sink
//! that does not take a line at once (a full pipe) loses that line, not the vCPU's time.

#![expect(unsafe_code, reason = "poll(2) on the sink")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use log::{Log, Metadata, Record};

use crate::config::LogPlan;

/// Lines per [`WINDOW`]; enough for any honest start-up, too little for a guest to fill a disk with.
const LINES: u32 = 100;
/// The time over which lines are counted.
const WINDOW: Duration = Duration::from_secs(5);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("log file {path:?} cannot be opened")]
pub struct LogError {
    /// The file.
    path: PathBuf,
    /// The host's answer.
    #[source]
    source: io::Error,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    id: String,
    sink: RwLock<Sink>,
    /// The line about a guest's boot is written whatever the level is.
    boot_time: bool,
    limit: Mutex<Limit>,
}

/// Where lines go, and which do.
struct Sink {
    /// Standard error without one.
    file: Option<File>,
    /// Each line names the place in the source that it comes from.
    origin: bool,
    /// Only lines of this module and those inside it are written.
    module: Option<String>,
}

struct Limit {
    since: Instant,
    lines: u32,
    /// Since the last line that told of it.
    dropped: u64,
    /// Ever.
    lost: u64,
}

/// Installs the logger; lines carry `id`, so that many machines can share a sink. With `boot_time` the line about a
/// guest's boot is written whatever the level is.
///
/// # Errors
/// [`LogError`] when the file at `path` cannot be opened for appending.
pub fn install(id: &str, plan: &LogPlan, boot_time: bool) -> Result<(), LogError> {
    let file = plan.path.as_deref().map(open).transpose()?;
    let sink = RwLock::new(Sink { file, origin: plan.origin, module: plan.module.clone() });
    let limit = Mutex::new(Limit { since: Instant::now(), lines: 0, dropped: 0, lost: 0 });
    let logger = LOGGER.get_or_init(|| Logger { id: id.to_owned(), sink, boot_time, limit });
    // A second logger can only be installed by a second call, which does not exist.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(plan.level);
    }
    Ok(())
}

/// Sends other lines, or to elsewhere, from now on. What is open stays so.
///
/// # Errors
/// As [`install`]; nothing changes then.
pub fn redirect(plan: &LogPlan) -> Result<(), LogError> {
    let file = plan.path.as_deref().map(open).transpose()?;
    if let Some(logger) = LOGGER.get() {
        let mut sink = logger.sink.write().unwrap_or_else(PoisonError::into_inner);
        sink.file = file.or_else(|| sink.file.take());
        (sink.origin, sink.module) = (plan.origin, plan.module.clone());
    }
    log::set_max_level(plan.level);
    Ok(())
}

/// How many lines were never written: beyond the limit, or because the sink did not take them.
#[must_use]
pub fn lost() -> u64 {
    LOGGER.get().map_or(0, |it| it.limit.lock().unwrap_or_else(PoisonError::into_inner).lost)
}

/// Writes how long a guest took to boot: at the level at which Firecracker does, or whenever that was asked for.
pub fn boot_time(line: &str) {
    match LOGGER.get() {
        Some(logger) if logger.boot_time => {
            logger.write(&format!("vmm[{}] INFO {line}\n", logger.id));
        }
        _ => log::info!("{line}"),
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    // A FIFO without a reader must not hang the start, hence O_NONBLOCK; files ignore it.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| LogError { path: path.to_owned(), source })
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && self.sink().admits(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(dropped) = self.limit.lock().unwrap_or_else(PoisonError::into_inner).admit()
        else {
            return;
        };
        if dropped > 0 {
            self.write(&format!("vmm[{}] WARN {dropped} log lines left out\n", self.id));
        }
        let origin = match (record.file(), record.line()) {
            (Some(file), Some(line)) if self.sink().origin => format!(" {file}:{line}"),
            _ => String::new(),
        };
        self.write(&format!("vmm[{}] {}{origin} {}\n", self.id, record.level(), record.args()));
    }

    fn flush(&self) {}
}

impl Sink {
    /// Whether a line of the module `target` is written.
    fn admits(&self, target: &str) -> bool {
        let Some(module) = self.module.as_deref() else { return true };
        let rest = target.strip_prefix(module);
        rest.is_some_and(|rest| module.is_empty() || rest.is_empty() || rest.starts_with("::"))
    }
}

impl Logger {
    fn sink(&self) -> RwLockReadGuard<'_, Sink> {
        self.sink.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: &str) {
        let sink = self.sink();
        let fd = sink.file.as_ref().map_or(libc::STDERR_FILENO, AsRawFd::as_raw_fd);
        let written = is_writable(fd)
            && match sink.file.as_ref() {
                Some(mut file) => file.write_all(line.as_bytes()).is_ok(),
                None => io::stderr().write_all(line.as_bytes()).is_ok(),
            };
        if !written {
            self.limit.lock().unwrap_or_else(PoisonError::into_inner).drop_one();
        }
    }
}

impl Limit {
    fn drop_one(&mut self) {
        self.dropped += 1;
        self.lost += 1;
    }

    /// Counts a line; `None` when it is one too many, else how many were left out before it.
    fn admit(&mut self) -> Option<u64> {
        let now = Instant::now();
        if now.duration_since(self.since) >= WINDOW {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= LINES {
            self.drop_one();
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

fn is_writable(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd for the whole call, which does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLOUT != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_loss_is_told() {
        let mut limit = Limit { since: Instant::now(), lines: 0, dropped: 0, lost: 0 };
        let admitted = (0..LINES + 50).filter(|_| limit.admit().is_some()).count();
        assert_eq!(admitted, LINES as usize);
        limit.since = Instant::now().checked_sub(WINDOW).unwrap();
        assert_eq!(limit.admit(), Some(50));
        assert_eq!(limit.admit(), Some(0));
    }

    #[test]
    fn a_module_has_those_inside_it_and_no_others() {
        let of = |module: &str| Sink { file: None, origin: false, module: Some(module.to_owned()) };
        for (target, expected) in
            [("vmm::api", true), ("vmm::api::server", true), ("vmm", false), ("vmm::apis", false)]
        {
            assert_eq!(of("vmm::api").admits(target), expected, "{target}");
        }
        assert!(of("").admits("vmm"));
        assert!(Sink { file: None, origin: false, module: None }.admits("vmm"));
    }

    #[test]
    fn a_full_pipe_is_not_writable() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(is_writable(writer.as_raw_fd()));
        writer.write_all(&[0; 65536]).unwrap();
        assert!(!is_writable(writer.as_raw_fd()));
        drop(reader);
    }
}
