//! Which pages a machine touched after it had gone on from a snapshot: recorded once, read ahead for all that go on later.
//!
//! ```text
//!   "vmmpages"  format  runs  id of the snapshot [16]  bytes of RAM
//!   then for each run: first page  pages
//!   CRC-32
//! ```
//!
//! All numbers are little-endian and have 64 bits; the runs ascend and are apart. The file lies beside that of the state. It is advice: one
//! that is damaged, or another snapshot's, is not used, and none says anything about memory that is not there. What is
//! behind its end is the rest of a longer one. Which pages those are is asked of
//! `crate::memory::file`, and `crate::memory::ahead` has them read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::SnapshotError;
use super::container::{CRC, Id};
use super::source::read_at_most;
use crate::memory::file::{PAGE, Run};

const MAGIC: &[u8; 8] = b"vmmpages";
const FORMAT: u64 = 1;
/// Bytes before the id, before the first run, of a run, and of the checksum.
const HEAD_FIXED: usize = 24;
const HEAD: usize = 48;
const RUN: usize = 16;
const SUM: usize = 8;
/// Most runs: each is a call when a machine goes on, and those of a guest that wrote all over its memory are no news.
const RUNS_MAX: usize = 16 << 10;
/// Pages between two runs that are read along: they take a disk less time than another start.
const GAP: u64 = 8;

/// Why a file says nothing about a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkingSetError {
    /// The host does not give it.
    #[error("cannot be read")]
    Unreadable,
    /// Not what was written, or by another version.
    #[error("is damaged, or of another version")]
    Damaged,
    /// Of another snapshot.
    #[error("is another snapshot's")]
    Foreign,
}

/// Where the working set of the snapshot is whose state is the file `state`.
#[must_use]
pub fn path(state: &Path) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(".working-set");
    path.into()
}

/// A file that is to say which pages a machine touches.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    file: File,
    id: Id,
}

impl Recording {
    /// Makes the file for the snapshot `id`, or takes the one that is there, which stays as it is until something is
    /// written.
    ///
    /// # Errors
    /// [`SnapshotError::Create`].
    pub fn begin(path: PathBuf, id: Id) -> Result<Self, SnapshotError> {
        let mut options = File::options();
        match options.write(true).create(true).truncate(false).open(&path) {
            Ok(file) => Ok(Self { path, file, id }),
            Err(source) => Err(SnapshotError::Create { path, source }),
        }
    }

    /// Writes that of `ram` bytes, the pages `touched` were touched; they ascend.
    ///
    /// # Errors
    /// The host's; what is there is not used then.
    pub fn finish(&self, ram: u64, mut touched: Vec<Run>) -> io::Result<()> {
        compact(&mut touched);
        // By one call, so that of two at the same time one is whole; from the beginning, where the file still is.
        (&self.file).write_all(&encode(self.id, ram, &touched))
    }
}

/// A file in which nothing was written is of no use.
impl Drop for Recording {
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|file| file.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads what was recorded in the file at `path` for the snapshot `id`, of `ram` bytes; nothing when nobody recorded it.
///
/// # Errors
/// [`WorkingSetError`].
pub fn read(path: &Path, id: Id, ram: u64) -> Result<Vec<Run>, WorkingSetError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(|_| WorkingSetError::Unreadable)?,
    };
    let most = (HEAD + RUNS_MAX * RUN + SUM) as u64;
    let bytes = read_at_most(file, most).map_err(|_| WorkingSetError::Unreadable)?;
    match bytes.as_slice() {
        // Somebody began to record.
        [] => Ok(Vec::new()),
        bytes => decode(bytes, id, ram),
    }
}

/// Not more than [`RUNS_MAX`], with what lies between those that are close.
fn compact(runs: &mut Vec<Run>) {
    let mut gap = GAP;
    loop {
        runs.dedup_by(|next, last| {
            let is_close = next.first.saturating_sub(last.first + last.count) <= gap;
            if is_close {
                last.count = next.first + next.count - last.first;
            }
            is_close
        });
        if runs.len() <= RUNS_MAX {
            return;
        }
        gap = gap.saturating_mul(2);
    }
}

fn encode(id: Id, ram: u64, runs: &[Run]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([FORMAT.to_le_bytes(), (runs.len() as u64).to_le_bytes()].as_flattened());
    bytes.extend(id.0);
    bytes.extend(ram.to_le_bytes());
    bytes.extend(runs.iter().flat_map(|run| [run.first, run.count]).flat_map(u64::to_le_bytes));
    let sum = CRC.checksum(&bytes);
    bytes.extend(u64::from(sum).to_le_bytes());
    bytes
}

fn decode(file: &[u8], id: Id, ram: u64) -> Result<Vec<Run>, WorkingSetError> {
    let Parsed { head, runs } = parse(file).ok_or(WorkingSetError::Damaged)?;
    if head != [&id.0[..], &ram.to_le_bytes()].concat() {
        return Err(WorkingSetError::Foreign);
    }
    let mut end = 0;
    for run in &runs {
        let next = run.first.checked_add(run.count).filter(|next| *next <= ram / PAGE);
        match next {
            Some(next) if run.first >= end && run.count > 0 => end = next,
            _ => return Err(WorkingSetError::Damaged),
        }
    }
    Ok(runs)
}

struct Parsed<'a> {
    /// Id and bytes of RAM.
    head: &'a [u8],
    runs: Vec<Run>,
}

/// `None` when it was not written so, or has another checksum.
fn parse(file: &[u8]) -> Option<Parsed<'_>> {
    let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let [magic, format, count, _, _, _, rest @ ..] = file.as_chunks().0 else { return None };
    let count = usize::try_from(number(count)).ok().filter(|it| *it <= RUNS_MAX)?;
    let (runs, rest) = rest.split_at_checked(2 * count)?;
    let sum = CRC.checksum(file.get(..HEAD + count * RUN)?);
    if magic != MAGIC || number(format) != FORMAT || number(rest.first()?) != u64::from(sum) {
        return None;
    }
    let run = |[first, count]: &[[u8; 8]; 2]| Run { first: number(first), count: number(count) };
    let runs = runs.as_chunks().0.iter().map(run).collect();
    Some(Parsed { head: file.get(HEAD_FIXED..HEAD)?, runs })
}

#[cfg(test)]
mod tests;
