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
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};

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

/// Which lines are written, besides those of a level, and what they show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// Each line names the place in the source that it comes from.
    pub origin: bool,
    /// Only lines of this module and those inside it are written.
    pub module: Option<String>,
}

struct Logger {
    id: String,
    lines: Lines,
    file: RwLock<Option<File>>,
    limit: Mutex<Limit>,
}

struct Limit {
    since: Instant,
    lines: u32,
    /// Since the last line that told of it.
    dropped: u64,
    /// Ever.
    lost: u64,
}

/// Installs the logger; lines carry `id`, so that many machines can share a sink.
///
/// # Errors
/// [`LogError`] when the file at `path` cannot be opened for appending.
pub fn install(
    id: &str,
    path: Option<&Path>,
    level: LevelFilter,
    lines: Lines,
) -> Result<(), LogError> {
    let file = RwLock::new(path.map(open).transpose()?);
    let limit = Mutex::new(Limit { since: Instant::now(), lines: 0, dropped: 0, lost: 0 });
    let logger = LOGGER.get_or_init(|| Logger { id: id.to_owned(), lines, file, limit });
    // A second logger can only be installed by a second call, which does not exist.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

/// Sends lines elsewhere from now on, where something is said.
///
/// # Errors
/// As [`install`]; nothing changes then.
pub fn redirect(path: Option<&Path>, level: Option<LevelFilter>) -> Result<(), LogError> {
    let file = path.map(open).transpose()?;
    if let (Some(logger), Some(file)) = (LOGGER.get(), file) {
        *logger.file.write().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }
    if let Some(level) = level {
        log::set_max_level(level);
    }
    Ok(())
}

/// How many lines were never written: beyond the limit, or because the sink did not take them.
#[must_use]
pub fn lost() -> u64 {
    LOGGER.get().map_or(0, |it| it.limit.lock().unwrap_or_else(PoisonError::into_inner).lost)
}

/// Writes how long a guest took to boot, at the level at which Firecracker does.
pub fn boot_time(line: &str) {
    log::info!("{line}");
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
        let module = self.lines.module.as_deref();
        metadata.level() <= log::max_level()
            && module.is_none_or(|module| metadata.target().starts_with(module))
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
            (Some(file), Some(line)) if self.lines.origin => format!(" {file}:{line}"),
            _ => String::new(),
        };
        self.write(&format!("vmm[{}] {}{origin} {}\n", self.id, record.level(), record.args()));
    }

    fn flush(&self) {}
}

impl Logger {
    fn write(&self, line: &str) {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        let fd = file.as_ref().map_or(libc::STDERR_FILENO, AsRawFd::as_raw_fd);
        let written = is_writable(fd)
            && match file.as_ref() {
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
    fn a_full_pipe_is_not_writable() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(is_writable(writer.as_raw_fd()));
        writer.write_all(&[0; 65536]).unwrap();
        assert!(!is_writable(writer.as_raw_fd()));
        drop(reader);
    }
}
