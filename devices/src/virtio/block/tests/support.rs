//! A device with a driver in front and a temporary file, or a scripted engine, behind.

use std::collections::VecDeque;
use std::fs::File;
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::tempfile::TempFile;

use super::super::config::bit;
use super::super::{Block, BlockControl, BlockOptions, QueueCounters};
use crate::backend::disk::io::{DiskIo, Engine, Op, Outcome, Rings, Started};
use crate::backend::disk::{Disk, DiskOptions};
use crate::memory::{GuestMemory, Segment};
use crate::rate_limiter::tests::FakeClock;
use crate::rate_limiter::{Limiter, Limits};
use crate::test_util::{Buffer, Running, guest_memory};

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;

pub(super) const OK: u8 = 0;
pub(super) const IOERR: u8 = 1;
pub(super) const UNSUPP: u8 = 2;
/// What no device writes: the request was not answered.
pub(super) const NONE: u8 = 0xee;

pub(super) const F_RO: u64 = bit(5);
pub(super) const F_FLUSH: u64 = bit(9);
pub(super) const F_MQ: u64 = bit(12);
pub(super) const F_DISCARD: u64 = bit(13);
pub(super) const F_WRITE_ZEROES: u64 = bit(14);
pub(super) const F_ALL: u64 = F_FLUSH | F_DISCARD | F_WRITE_ZEROES;

/// Where queues, and the headers, statuses and data of requests, lie.
pub(super) const QUEUES: u64 = 0x10_0000;
const HEADERS: u64 = 0x20_0000;
const STATUSES: u64 = 0x28_0000;
pub(super) const DATA: u64 = 0x30_0000;
const MEMORY: usize = 16 << 20;

/// Sectors of the disks in these tests.
pub(super) const SECTORS: u64 = 2048;

/// A device at work.
pub(super) struct Rig {
    pub(super) memory: GuestMemory,
    pub(super) running: Running,
    /// The same disk, seen from the host.
    pub(super) file: File,
    pub(super) counters: Vec<Arc<QueueCounters>>,
    pub(super) control: BlockControl,
    requests: u64,
    _temporary: TempFile,
}

/// A request on the ring: its head, and where its status will be.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    pub(super) head: u32,
    status: u64,
}

pub(super) struct Setup {
    pub(super) engine: Engine,
    pub(super) features: u64,
    pub(super) read_only: bool,
    pub(super) direct: bool,
    pub(super) alignment: Option<u64>,
    pub(super) queues: u16,
    pub(super) limits: Limits,
    pub(super) clock: Option<FakeClock>,
    /// Whether the time of requests is measured.
    pub(super) measured: bool,
    /// A block device to use instead of a temporary file.
    pub(super) device: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            engine: Engine::Sync,
            features: F_ALL,
            read_only: false,
            direct: false,
            alignment: None,
            queues: 1,
            limits: Limits::NONE,
            clock: None,
            measured: false,
            device: None,
        }
    }
}

pub(super) fn temp_disk(sectors: u64) -> TempFile {
    let file = TempFile::new().unwrap();
    file.as_file().set_len(sectors * 512).unwrap();
    file
}

impl Setup {
    pub(super) fn engine(engine: Engine) -> Self {
        Self { engine, ..Self::default() }
    }

    fn limiter(&self) -> Arc<Limiter> {
        match &self.clock {
            Some(clock) => Limiter::with_clock(self.limits, Box::new(clock.clone())),
            None => Limiter::new(self.limits),
        }
    }

    pub(super) fn options(&self, file: &TempFile) -> BlockOptions {
        let options = DiskOptions { read_only: self.read_only, direct: self.direct };
        let path = self.device.as_deref().unwrap_or(file.as_path());
        let mut disk = Disk::open(path, options).unwrap();
        if let Some(alignment) = self.alignment {
            disk.set_alignment(alignment);
        }
        let queues = NonZeroU16::new(self.queues).unwrap();
        BlockOptions {
            id: "disk0".to_owned(),
            serial: Some("serial-1".parse().unwrap()),
            disk: Arc::new(disk),
            queues,
            engine: self.engine,
            rings: Rings::for_queues(queues),
            limiter: self.limiter(),
        }
    }

    pub(super) fn start(&self) -> Rig {
        let file = temp_disk(SECTORS);
        let block = Block::new(self.options(&file));
        self.bring_up(block, file)
    }

    /// The same with a scripted engine.
    pub(super) fn start_scripted(&self) -> (Rig, Script) {
        let file = temp_disk(SECTORS);
        let script = Script::default();
        let opened = script.clone();
        let open_io = move |disk: &Arc<Disk>, _, memory: &GuestMemory| -> Box<dyn DiskIo> {
            Box::new(opened.open(disk, memory))
        };
        let block = Block::with_io(self.options(&file), Box::new(open_io));
        (self.bring_up(block, file), script)
    }

    fn bring_up(&self, block: Block, file: TempFile) -> Rig {
        let memory = guest_memory(MEMORY);
        let counters = block.counters().to_vec();
        let control = block.control();
        if self.measured {
            control.measure_times();
        }
        let running = Running::new(Box::new(block), &memory, self.features, QUEUES);
        let path = self.device.as_deref().unwrap_or(file.as_path());
        let host = File::options().read(true).write(true).open(path).unwrap();
        Rig { memory, running, file: host, counters, control, requests: 0, _temporary: file }
    }
}

impl Rig {
    /// The device in another machine, where it is `block` on `file`.
    pub(super) fn copy(&mut self, block: Block, file: TempFile) -> Self {
        let (counters, control) = (block.counters().to_vec(), block.control());
        let running = self.running.copy(Box::new(block));
        let memory = running.memory.clone();
        let host = File::options().read(true).write(true).open(file.as_path()).unwrap();
        let requests = self.requests;
        Self { memory, running, file: host, counters, control, requests, _temporary: file }
    }

    /// Puts a request on the ring: header, `buffers`, status.
    pub(super) fn send(&mut self, kind: u32, sector: u64, buffers: &[Buffer]) -> Sent {
        let (header, status) = self.place(kind, sector);
        let mut chain = vec![(header, 16, false)];
        chain.extend_from_slice(buffers);
        chain.push((status, 1, true));
        let head = self.running.queues[0].add(&chain);
        Sent { head: u32::from(head), status }
    }

    /// Writes a header; returns its address and that of the status, which is set to [`NONE`].
    pub(super) fn place(&mut self, kind: u32, sector: u64) -> (u64, u64) {
        let slot = self.requests % 64;
        self.requests += 1;
        let (header, status) = (HEADERS + 16 * slot, STATUSES + slot);
        self.put(header, &kind.to_le_bytes());
        self.put(header + 4, &[0; 4]);
        self.put(header + 8, &sector.to_le_bytes());
        self.put(status, &[NONE]);
        (header, status)
    }

    /// One request from beginning to end: the status and the used length.
    pub(super) fn ask(&mut self, kind: u32, sector: u64, buffers: &[Buffer]) -> (u8, u32) {
        let sent = self.send(kind, sector, buffers);
        let used = self.finish(1);
        assert_eq!(used[0].0, sent.head);
        (self.status(sent), used[0].1)
    }

    /// Kicks the queue and delivers events until `count` requests were answered.
    pub(super) fn finish(&mut self, count: usize) -> Vec<(u32, u32)> {
        assert!(self.running.kick(0), "the device failed");
        let mut used = self.running.queues[0].take_used();
        for _ in 0..1_000_000 {
            if used.len() >= count {
                break;
            }
            std::thread::yield_now();
            assert!(self.running.host.run(), "the device failed");
            used.extend(self.running.queues[0].take_used());
        }
        assert_eq!(used.len(), count, "answers");
        used
    }

    pub(super) fn status(&self, sent: Sent) -> u8 {
        self.get(sent.status, 1)[0]
    }

    /// The next request works: nothing is stuck.
    pub(super) fn assert_alive(&mut self) {
        self.put(DATA, &[NONE; 512]);
        assert_eq!(self.ask(IN, 1, &[(DATA, 512, true)]), (OK, 513));
        assert_eq!(self.get(DATA, 512), self.on_disk(512, 512));
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(super) fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn on_disk(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    pub(super) fn fill_disk(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).unwrap();
    }

    /// Writes one range of a discard or write-zeroes request at `address`.
    pub(super) fn put_range(&self, address: u64, sector: u64, sectors: u32, flags: u32) {
        self.put(address, &sector.to_le_bytes());
        self.put(address + 8, &sectors.to_le_bytes());
        self.put(address + 12, &flags.to_le_bytes());
    }
}

/// An engine whose operations end when, and how, the test says.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<ScriptState>>);

#[derive(Default)]
pub(super) struct ScriptState {
    /// Started, but not handed to the host yet.
    pub(super) started: Vec<(u16, Op)>,
    pub(super) in_flight: Vec<(u16, Op)>,
    pub(super) ended: VecDeque<(u16, Outcome)>,
    /// Everything that was ever submitted, in order.
    pub(super) submitted: Vec<Op>,
    /// How often `submit` refuses before it works.
    pub(super) refusals: usize,
    /// What `start` answers at once, in order; later operations go in flight.
    pub(super) at_once: VecDeque<Outcome>,
    /// What the driver does whenever `submit` is called.
    pub(super) at_submit: Option<Box<dyn FnMut() + Send>>,
    /// Waiting fails.
    pub(super) cannot_wait: bool,
    pub(super) opened: usize,
    pub(super) dropped: usize,
    /// The disk that later operations are on.
    pub(super) disk: Option<Arc<Disk>>,
    bell: Option<EventFd>,
}

impl Script {
    pub(super) fn lock(&self) -> MutexGuard<'_, ScriptState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the operation at `index` of those in flight.
    pub(super) fn end(&self, index: usize, outcome: Outcome) -> Op {
        let mut state = self.lock();
        let (token, op) = state.in_flight.remove(index);
        state.ended.push_back((token, outcome));
        state.bell.as_ref().unwrap().write(1).unwrap();
        op
    }

    fn open(&self, disk: &Arc<Disk>, _memory: &GuestMemory) -> ScriptedIo {
        let bell = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut state = self.lock();
        state.bell = Some(bell.try_clone().unwrap());
        state.opened += 1;
        state.disk = Some(disk.clone());
        ScriptedIo { script: self.clone(), bell }
    }
}

/// How many bytes `op` is about.
pub(super) fn len_of(op: Op) -> u64 {
    match op {
        Op::Read { len, .. } | Op::Write { len, .. } => len as u64,
        Op::Discard { len, .. } | Op::Zero { len, .. } => len,
        Op::Sync => 0,
    }
}

struct ScriptedIo {
    script: Script,
    bell: EventFd,
}

impl DiskIo for ScriptedIo {
    fn start(&mut self, token: u16, op: Op, _segments: &[Segment]) -> Started {
        let mut state = self.script.lock();
        if let Some(outcome) = state.at_once.pop_front() {
            state.submitted.push(op);
            return Started::Done(outcome);
        }
        let is_taken = |all: &[(u16, Op)]| all.iter().any(|(other, _)| *other == token);
        assert!(!is_taken(&state.started) && !is_taken(&state.in_flight), "token used twice");
        state.started.push((token, op));
        Started::InFlight
    }

    fn submit(&mut self) -> std::io::Result<()> {
        let mut state = self.script.lock();
        if let Some(drive) = &mut state.at_submit {
            drive();
        }
        if state.refusals > 0 {
            state.refusals -= 1;
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        let started = std::mem::take(&mut state.started);
        state.submitted.extend(started.iter().map(|(_, op)| *op));
        state.in_flight.extend(started);
        Ok(())
    }

    fn completed(&mut self) -> Option<(u16, Outcome)> {
        let _ = self.bell.read();
        self.script.lock().ended.pop_front()
    }

    /// Ends the oldest operation with success.
    fn wait(&mut self) -> std::io::Result<()> {
        self.submit()?;
        let mut state = self.script.lock();
        if state.cannot_wait {
            return Err(std::io::Error::from_raw_os_error(libc::EBADF));
        }
        if state.ended.is_empty() {
            assert!(!state.in_flight.is_empty(), "waiting for nothing");
            let (token, op) = state.in_flight.remove(0);
            state.ended.push_back((token, Ok(len_of(op))));
        }
        Ok(())
    }

    fn set_disk(&mut self, disk: Arc<Disk>) {
        let mut state = self.script.lock();
        assert!(state.started.is_empty() && state.in_flight.is_empty(), "changed in flight");
        state.disk = Some(disk);
    }

    fn completion_fd(&self) -> Option<RawFd> {
        Some(self.bell.as_raw_fd())
    }
}

impl Drop for ScriptedIo {
    fn drop(&mut self) {
        self.script.lock().dropped += 1;
    }
}
