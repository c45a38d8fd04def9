//! One request (virtio 1.3, 5.2.6): parsed once, then carried out step by step.
//!
//! A [`Request`] says which operation comes next and takes note of how it ended; it never calls an
//! engine. Header and data are read as one stream, since a driver may cut a request into descriptors
//! wherever it likes (2.7.4.2); the status is the last byte that the device may write.

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::config::{MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZERO_RANGES, MAX_ZERO_SECTORS};
use crate::backend::disk::SECTOR;
use crate::backend::disk::io::{Op, Outcome};
use crate::memory::Buffers;
use crate::virtio::queue::Fault;

/// Length of the header: type, a reserved word, first sector.
const HEADER: usize = 16;
/// Length of one range of a discard or write-zeroes request: first sector, sectors, flags.
const RANGE: usize = 16;
/// Length of a device's serial number.
pub(super) const ID_LEN: usize = 20;
/// How often an operation that the host broke off without progress is begun again.
const MAX_RETRIES: u8 = 16;

/// How a request ended (virtio 1.3, 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl Status {
    /// The byte that the driver reads.
    pub(super) fn byte(self) -> u8 {
        let value = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        value.to_le_bytes()[0]
    }
}

/// What requests are measured against.
pub(super) struct Rules {
    /// Size of the disk.
    pub sectors: u64,
    pub read_only: bool,
    /// Whether the driver accepted DISCARD.
    pub discard: bool,
    /// Whether the driver accepted WRITE_ZEROES.
    pub write_zeroes: bool,
    /// Whether writes must be durable when they complete, because the driver will never flush.
    pub write_through: bool,
    /// The serial number.
    pub id: [u8; ID_LEN],
}

/// What is asked for, as far as counting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
    GetId,
    /// Nothing that could be carried out.
    Refused,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Request {
    kind: Kind,
    stage: Stage,
    /// Bytes moved between the disk and the buffer, or written to the buffer by GET_ID.
    moved: usize,
    retries: u8,
    /// Bytes that the host reads or writes for it, as far as limits count them.
    cost: u64,
}

/// What remains to be done.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Data at `offset` of the disk.
    Transfer { offset: u64, left: usize },
    /// The rest of a range, and the ranges from `next` on.
    Clear { range: Range, next: u32, count: u32 },
    /// Making it durable.
    Sync,
    /// Nothing.
    Over(Status),
}

#[derive(Debug, Clone, Copy)]
struct Range {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// What to do next with a request.
#[derive(Debug)]
pub(super) enum Step {
    /// Have an engine carry this out, then call [`Request::advance`].
    Do(Op),
    /// Tell the driver.
    Answer(Status),
}

impl Request {
    /// What the driver asks for in `readable` and `writable`. Whatever is wrong with it is an answer,
    /// as long as there is room for one.
    ///
    /// # Errors
    /// [`Fault`] when there is no room for the status, or memory is not accessible.
    pub(super) fn parse(
        readable: &Buffers<'_>,
        writable: &Buffers<'_>,
        rules: &Rules,
    ) -> Result<Self, Fault> {
        let Some(data_in) = writable.len().checked_sub(1) else {
            return Err(Fault::Protocol("a request needs a byte for its status"));
        };
        let mut header = [0; HEADER];
        if readable.read_at(0, &mut header)? < HEADER {
            return Ok(Self::over(Kind::Refused, Status::IoError));
        }
        let (kind, _, sector) = split(header);
        let data_out = readable.len() - HEADER;
        let request = match kind {
            VIRTIO_BLK_T_IN => Self::transfer(Kind::Read, sector, data_in, rules),
            VIRTIO_BLK_T_OUT => Self::transfer(Kind::Write, sector, data_out, rules),
            VIRTIO_BLK_T_FLUSH if rules.read_only => Self::over(Kind::Flush, Status::Ok),
            VIRTIO_BLK_T_FLUSH => Self::new(Kind::Flush, Stage::Sync),
            VIRTIO_BLK_T_GET_ID => Self::get_id(writable, data_in, rules)?,
            VIRTIO_BLK_T_DISCARD => Self::clear(Kind::Discard, readable, data_out, rules)?,
            VIRTIO_BLK_T_WRITE_ZEROES => Self::clear(Kind::WriteZeroes, readable, data_out, rules)?,
            _ => Self::over(Kind::Refused, Status::Unsupported),
        };
        Ok(request)
    }

    /// What is asked for.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes that count towards a limit: those of reads and writes, and of zeroes, which a host may have to
    /// write like data.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    /// Bytes of data moved so far.
    pub(super) fn moved(&self) -> usize {
        self.moved
    }

    /// Bytes written to the device-writable part by the time the request is answered.
    pub(super) fn written(&self) -> u32 {
        let data = match self.kind {
            Kind::Read | Kind::GetId => self.moved,
            _ => 0,
        };
        // A chain is at most 4 GiB long.
        u32::try_from(data).map_or(u32::MAX, |data| data.saturating_add(1))
    }

    /// What comes next; `readable` is what the request was parsed from. The guest may have changed it
    /// since, so what is read again is checked again.
    ///
    /// # Errors
    /// [`Fault`] when memory is not accessible any more.
    pub(super) fn next(&mut self, readable: &Buffers<'_>, rules: &Rules) -> Result<Step, Fault> {
        loop {
            self.stage = match self.stage {
                Stage::Transfer { left: 0, .. } => self.after_change(rules),
                Stage::Transfer { offset, left } if self.kind == Kind::Read => {
                    return Ok(Step::Do(Op::Read { offset, start: self.moved, len: left }));
                }
                Stage::Transfer { offset, left } => {
                    let start = HEADER + self.moved;
                    return Ok(Step::Do(Op::Write { offset, start, len: left }));
                }
                Stage::Clear { range: Range { len: 0, .. }, next, count } if next < count => {
                    match read_range(self.kind, readable, next, rules)? {
                        Ok(range) => Stage::Clear { range, next: next + 1, count },
                        Err(status) => Stage::Over(status),
                    }
                }
                Stage::Clear { range: Range { len: 0, .. }, .. } => self.after_change(rules),
                Stage::Clear { range: Range { offset, len, unmap }, .. } => {
                    return Ok(Step::Do(match self.kind {
                        Kind::Discard => Op::Discard { offset, len },
                        _ => Op::Zero { offset, len, unmap },
                    }));
                }
                Stage::Sync => return Ok(Step::Do(Op::Sync)),
                Stage::Over(status) => return Ok(Step::Answer(status)),
            };
        }
    }

    /// Takes note of how the operation of the last [`Self::next`] ended.
    ///
    /// # Errors
    /// The host's failure, which ends the request; the driver sees an I/O error.
    pub(super) fn advance(&mut self, outcome: Outcome) -> io::Result<()> {
        let result = outcome.and_then(|done| self.progress(done));
        match result {
            Ok(()) => self.retries = 0,
            Err(error) if is_transient(&error) && self.retries < MAX_RETRIES => self.retries += 1,
            Err(error) => {
                self.stage = Stage::Over(Status::IoError);
                return Err(error);
            }
        }
        Ok(())
    }

    fn progress(&mut self, done: u64) -> io::Result<()> {
        let no_progress = || {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the disk ends before its size says"))
        };
        match &mut self.stage {
            Stage::Transfer { .. } | Stage::Clear { .. } if done == 0 => return no_progress(),
            Stage::Transfer { offset, left } => {
                let done = usize::try_from(done).unwrap_or(*left).min(*left);
                *left -= done;
                *offset += done as u64;
                self.moved += done;
            }
            Stage::Clear { range, .. } => {
                let done = done.min(range.len);
                range.len -= done;
                range.offset += done;
            }
            Stage::Sync => self.stage = Stage::Over(Status::Ok),
            Stage::Over(_) => {}
        }
        Ok(())
    }

    /// What follows the last byte of a transfer or range.
    fn after_change(&self, rules: &Rules) -> Stage {
        if rules.write_through && self.kind != Kind::Read {
            Stage::Sync
        } else {
            Stage::Over(Status::Ok)
        }
    }

    fn new(kind: Kind, stage: Stage) -> Self {
        Self { kind, stage, moved: 0, retries: 0, cost: 0 }
    }

    fn over(kind: Kind, status: Status) -> Self {
        Self::new(kind, Stage::Over(status))
    }

    fn transfer(kind: Kind, sector: u64, len: usize, rules: &Rules) -> Self {
        let bytes = len as u64;
        let is_allowed = kind == Kind::Read || !rules.read_only;
        if is_allowed && bytes.is_multiple_of(SECTOR) && is_on_disk(sector, bytes / SECTOR, rules) {
            let stage = Stage::Transfer { offset: sector * SECTOR, left: len };
            return Self { cost: bytes, ..Self::new(kind, stage) };
        }
        Self::over(Kind::Refused, Status::IoError)
    }

    /// Writes the serial number at once: it needs no disk.
    fn get_id(to: &Buffers<'_>, room: usize, rules: &Rules) -> Result<Self, Fault> {
        if room < ID_LEN {
            return Ok(Self::over(Kind::Refused, Status::IoError));
        }
        let moved = to.write_at(0, &rules.id)?;
        Ok(Self { moved, ..Self::over(Kind::GetId, Status::Ok) })
    }

    fn clear(kind: Kind, readable: &Buffers<'_>, len: usize, rules: &Rules) -> Result<Self, Fault> {
        let (is_accepted, most) = match kind {
            Kind::Discard => (rules.discard, MAX_DISCARD_RANGES),
            _ => (rules.write_zeroes, MAX_ZERO_RANGES),
        };
        let refused = |status| Ok(Self::over(Kind::Refused, status));
        if rules.read_only {
            return refused(Status::IoError);
        }
        if !is_accepted {
            return refused(Status::Unsupported);
        }
        let count = u32::try_from(len / RANGE).unwrap_or(u32::MAX);
        if len == 0 || !len.is_multiple_of(RANGE) || count > most {
            return refused(Status::IoError);
        }
        // All of them before the first is touched: a request is refused as a whole.
        let mut zeroed: u64 = 0;
        for index in 0..count {
            match read_range(kind, readable, index, rules)? {
                Ok(range) if kind == Kind::WriteZeroes => zeroed += range.len,
                Ok(_) => {}
                Err(status) => return refused(status),
            }
        }
        let nothing = Range { offset: 0, len: 0, unmap: false };
        let stage = Stage::Clear { range: nothing, next: 0, count };
        Ok(Self { cost: zeroed, ..Self::new(kind, stage) })
    }
}

/// Reads and checks range `index` of a discard or write-zeroes request (virtio 1.3, 5.2.6).
fn read_range(
    kind: Kind,
    readable: &Buffers<'_>,
    index: u32,
    rules: &Rules,
) -> Result<Result<Range, Status>, Fault> {
    let mut bytes = [0; RANGE];
    readable.read_at(HEADER + RANGE * index as usize, &mut bytes)?;
    // The same words as the header's, in another order.
    let bytes: [u8; RANGE] =
        std::array::from_fn(|i| bytes.get((i + 8) % RANGE).copied().unwrap_or(0));
    let (sectors, flags, sector) = split(bytes);
    let (known_flags, most) = match kind {
        Kind::Discard => (0, MAX_DISCARD_SECTORS),
        _ => (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, MAX_ZERO_SECTORS),
    };
    if flags & !known_flags != 0 {
        return Ok(Err(Status::Unsupported));
    }
    let sectors_wide = u64::from(sectors);
    if sectors > most || !is_on_disk(sector, sectors_wide, rules) {
        return Ok(Err(Status::IoError));
    }
    Ok(Ok(Range { offset: sector * SECTOR, len: sectors_wide * SECTOR, unmap: flags != 0 }))
}

fn is_on_disk(sector: u64, count: u64, rules: &Rules) -> bool {
    sector.checked_add(count).is_some_and(|end| end <= rules.sectors)
}

/// Two little-endian words and a long.
fn split(bytes: [u8; 16]) -> (u32, u32, u64) {
    let all = u128::from_le_bytes(bytes);
    let word = |shift: u32| u32::try_from(all >> shift & 0xffff_ffff).unwrap_or(0);
    (word(0), word(32), u64::try_from(all >> 64).unwrap_or(0))
}

/// Broken off rather than failed: asking again may well do.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
