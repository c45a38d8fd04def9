//! The balloon as seen from the host: its target, how far the guest followed it, what the guest says of itself.
//!
//! Shared by the device, its handlers and whoever manages the machine; every call returns at once, on any thread.

mod state;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::statistics::Statistics;
use crate::interrupt::Interrupt;
use crate::metrics::Numbers;
use crate::virtio::session::{self, Sessions};

/// Pages of a balloon have 4 KiB (virtio 1.3, 5.5.6), whatever the host's have.
pub(super) const PAGE_SHIFT: u32 = 12;
/// MiB to pages, as a shift.
const MIB_TO_PAGES: u32 = 20 - PAGE_SHIFT;

/// `VIRTIO_BALLOON_CMD_ID_STOP`: no more hints, but those given stand.
const HINT_STOP: u32 = 0;
/// `VIRTIO_BALLOON_CMD_ID_DONE`: the driver may use all pages again.
const HINT_DONE: u32 = 1;
/// The first id that means "hint now".
const HINT_FIRST: u32 = 2;

/// Why the balloon does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BalloonError {
    /// More than the guest has.
    #[error("a balloon of {asked} MiB is larger than the guest's memory of {limit} MiB")]
    TooMuch {
        /// What was asked for.
        asked: u32,
        /// All memory of the guest.
        limit: u64,
    },
    /// The balloon was made without statistics.
    #[error("the balloon has no statistics: it was configured without a polling interval")]
    NoStatistics,
    /// The balloon was made without hinting.
    #[error("the balloon has no free page hinting: it was configured without")]
    NoHinting,
    /// No driver in the guest has taken the balloon over.
    #[error("the guest has no balloon driver running")]
    NoDriver,
    /// The host is out of something.
    #[error("the timer of the balloon's statistics cannot be set")]
    Host(#[source] io::Error),
}

/// How far hinting at free pages has come: ids of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintingStatus {
    /// What the host wants: 0 (stop) and 1 (done) end a run, everything else names one.
    pub host_command: u32,
    /// What the guest works on, 0 when it has come to the end; `None` before it ever began.
    pub guest_command: Option<u32>,
}

/// What the device has done so far, in bytes unless the name says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BalloonCounters {
    /// Given back to the host.
    pub released: u64,
    /// Kept, because a page of the host is larger and the guest gave only a part of it.
    pub partial: u64,
    /// Named by the guest, but not its RAM.
    pub outside: u64,
    /// Beyond what one request may name.
    pub excess: u64,
    /// Kept, because the host refused.
    pub failed: u64,
    /// Pages that the guest put into the balloon.
    pub inflated_pages: u64,
    /// Pages that the guest took back with notice.
    pub deflated_pages: u64,
    /// How often it put some in.
    pub inflations: u64,
    /// How often it took some back.
    pub deflations: u64,
    /// How often it told its statistics.
    pub statistics: u64,
    /// How often it reported free pages.
    pub reports: u64,
    /// Given back to the host because of that.
    pub reported: u64,
    /// How often it hinted at free pages.
    pub hints: u64,
    /// Given back to the host because of that.
    pub hinted: u64,
}

impl BalloonCounters {
    /// The same by names.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        let names = "released partial outside excess failed inflated_bytes deflated_bytes inflations deflations \
                     statistics reports reported hints hinted";
        let bytes = |pages: u64| pages << PAGE_SHIFT;
        Numbers::new(
            names,
            &[
                self.released,
                self.partial,
                self.outside,
                self.excess,
                self.failed,
                bytes(self.inflated_pages),
                bytes(self.deflated_pages),
                self.inflations,
                self.deflations,
                self.statistics,
                self.reports,
                self.reported,
                self.hints,
                self.hinted,
            ],
        )
    }
}

/// The same, as the handlers count.
#[derive(Default)]
pub(super) struct Counting {
    pub(super) released: AtomicU64,
    pub(super) partial: AtomicU64,
    pub(super) outside: AtomicU64,
    pub(super) excess: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) inflated_pages: AtomicU64,
    pub(super) deflated_pages: AtomicU64,
    pub(super) inflations: AtomicU64,
    pub(super) deflations: AtomicU64,
    pub(super) statistics: AtomicU64,
    pub(super) reports: AtomicU64,
    pub(super) reported: AtomicU64,
    pub(super) hints: AtomicU64,
    pub(super) hinted: AtomicU64,
}

/// Adds to one of [`Counting`].
pub(super) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// What a balloon cannot exceed.
pub(super) struct Limits {
    pub(super) memory_mib: u64,
    pub(super) hinting: bool,
}

/// What the device, its handlers and [`BalloonControl`] have in common.
pub(super) struct Shared {
    pub(super) id: String,
    limits: Limits,
    /// `num_pages` of the configuration space.
    target_pages: AtomicU32,
    /// `actual`, which the driver writes.
    actual_pages: AtomicU32,
    hinting: Mutex<Hinting>,
    statistics: Mutex<Statistics>,
    /// Only with statistics.
    poll: Option<Mutex<Poll>>,
    sessions: Sessions,
    pub(super) counting: Counting,
}

struct Hinting {
    status: HintingStatus,
    last_id: u32,
    /// Let the driver have its pages back as soon as it has hinted at all.
    done_at_end: bool,
}

/// When the guest is asked for statistics.
struct Poll {
    timer: TimerFd,
    /// Zero means never.
    interval: Duration,
    has_driver: bool,
}

impl Poll {
    /// Starts the interval from now on. This also takes note of a timer that ran out: reading its descriptor
    /// would wait, had somebody set it anew meanwhile.
    fn rearm(&mut self) -> io::Result<()> {
        if self.interval.is_zero() || !self.has_driver {
            return Ok(self.timer.clear()?);
        }
        Ok(self.timer.reset(self.interval, None)?)
    }
}

impl Shared {
    pub(super) fn new(
        id: String,
        limits: Limits,
        interval: Option<Duration>,
    ) -> Result<Arc<Self>, BalloonError> {
        let poll = interval.map(|interval| -> io::Result<_> {
            Ok(Mutex::new(Poll { timer: TimerFd::new()?, interval, has_driver: false }))
        });
        let status = HintingStatus { host_command: HINT_STOP, guest_command: None };
        Ok(Arc::new(Self {
            id,
            limits,
            target_pages: AtomicU32::new(0),
            actual_pages: AtomicU32::new(0),
            hinting: Mutex::new(Hinting { status, last_id: HINT_DONE, done_at_end: true }),
            statistics: Mutex::default(),
            poll: poll.transpose().map_err(BalloonError::Host)?,
            sessions: Sessions::default(),
            counting: Counting::default(),
        }))
    }

    pub(super) fn target_pages(&self) -> u32 {
        self.target_pages.load(Ordering::Acquire)
    }

    pub(super) fn actual_pages(&self) -> u32 {
        self.actual_pages.load(Ordering::Acquire)
    }

    pub(super) fn set_actual_pages(&self, pages: u32) {
        self.actual_pages.store(pages, Ordering::Release);
    }

    /// `free_page_hint_cmd_id` of the configuration space.
    pub(super) fn hint_command(&self) -> u32 {
        lock(&self.hinting).status.host_command
    }

    /// The driver says which command it works on.
    pub(super) fn guest_hints(&self, command: u32) {
        let mut hinting = lock(&self.hinting);
        hinting.status.guest_command = Some(command);
        let is_end = command == HINT_STOP && hinting.status.host_command >= HINT_FIRST;
        if is_end && hinting.done_at_end {
            hinting.status.host_command = HINT_DONE;
            drop(hinting);
            self.sessions.config_changed();
        }
    }

    /// Whether what the driver hints at belongs to the command that the host gave last.
    pub(super) fn is_hint_current(&self) -> bool {
        let status = lock(&self.hinting).status;
        status.host_command >= HINT_FIRST && status.guest_command == Some(status.host_command)
    }

    pub(super) fn take_statistics(&self, statistics: Statistics) {
        count(&self.counting.statistics, 1);
        self.set_statistics(statistics);
    }

    fn set_statistics(&self, statistics: Statistics) {
        *lock(&self.statistics) = statistics;
    }

    /// The descriptor that is ready, once, when the guest is to be asked for statistics.
    pub(super) fn poll_fd(&self) -> Option<RawFd> {
        self.poll.as_ref().map(|poll| lock(poll).timer.as_raw_fd())
    }

    /// The guest is being asked; begins the next interval.
    pub(super) fn polled(&self) {
        if let Err(error) = self.rearm(|_| ()) {
            log::error!("{}: statistics will not be asked for again: {error}", self.id);
        }
    }

    fn rearm(&self, change: impl FnOnce(&mut Poll)) -> io::Result<()> {
        let Some(poll) = &self.poll else { return Ok(()) };
        let mut poll = lock(poll);
        change(&mut poll);
        poll.rearm()
    }
}

/// A driver's time with the device, from `DRIVER_OK` to the reset.
pub(super) struct Session {
    shared: Arc<Shared>,
    _session: Arc<session::Session>,
}

impl Session {
    pub(super) fn begin(shared: Arc<Shared>, interrupt: Interrupt, has_statistics: bool) -> Self {
        // No handler needs to be called: what changes is in the configuration space, or a timer.
        let session = shared.sessions.begin(std::iter::empty(), interrupt);
        if let Err(error) = shared.rearm(|poll| poll.has_driver = has_statistics) {
            log::error!("{}: statistics will not be asked for: {error}", shared.id);
        }
        Self { shared, _session: session }
    }
}

/// What the driver said is void: a guest that boots again has all its memory.
impl Drop for Session {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.set_actual_pages(0);
        let nothing = HintingStatus { host_command: HINT_STOP, guest_command: None };
        lock(&shared.hinting).status = nothing;
        shared.set_statistics(Statistics::default());
        // Disarming a timer cannot fail.
        let _ = shared.rearm(|poll| poll.has_driver = false);
    }
}

/// A hand on the balloon of a machine. Clones are cheap and mean the same balloon.
#[derive(Clone)]
pub struct BalloonControl(Arc<Shared>);

impl BalloonControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Asks the guest to make the balloon `mib` MiB large. It follows when it can, or never.
    ///
    /// # Errors
    /// [`BalloonError::TooMuch`].
    pub fn set_target(&self, mib: u32) -> Result<(), BalloonError> {
        let limit = self.0.limits.memory_mib;
        let pages = mib.checked_mul(1 << MIB_TO_PAGES).filter(|_| u64::from(mib) <= limit);
        let pages = pages.ok_or(BalloonError::TooMuch { asked: mib, limit })?;
        if self.0.target_pages.swap(pages, Ordering::AcqRel) != pages {
            self.0.sessions.config_changed();
        }
        Ok(())
    }

    /// The target in MiB.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.0.target_pages() >> MIB_TO_PAGES
    }

    /// The target in pages of 4 KiB.
    #[must_use]
    pub fn target_pages(&self) -> u32 {
        self.0.target_pages()
    }

    /// How large the balloon is, as the driver says, in whole MiB.
    #[must_use]
    pub fn actual(&self) -> u32 {
        self.0.actual_pages() >> MIB_TO_PAGES
    }

    /// The same in pages of 4 KiB.
    #[must_use]
    pub fn actual_pages(&self) -> u32 {
        self.0.actual_pages()
    }

    /// What the guest said last; nothing is known before it was asked for the first time.
    ///
    /// # Errors
    /// [`BalloonError::NoStatistics`].
    pub fn statistics(&self) -> Result<Statistics, BalloonError> {
        self.0.poll.as_ref().ok_or(BalloonError::NoStatistics)?;
        Ok(lock(&self.0.statistics).clone())
    }

    /// How often the guest is asked for statistics; zero means never.
    ///
    /// # Errors
    /// [`BalloonError::NoStatistics`].
    pub fn stats_interval(&self) -> Result<Duration, BalloonError> {
        let poll = self.0.poll.as_ref().ok_or(BalloonError::NoStatistics)?;
        Ok(lock(poll).interval)
    }

    /// Asks the guest for statistics every `interval` from now on; zero means never.
    ///
    /// # Errors
    /// [`BalloonError::NoStatistics`], [`BalloonError::Host`].
    pub fn set_stats_interval(&self, interval: Duration) -> Result<(), BalloonError> {
        self.0.poll.as_ref().ok_or(BalloonError::NoStatistics)?;
        self.0.rearm(|poll| poll.interval = interval).map_err(BalloonError::Host)
    }

    /// Asks the guest for all its free pages, which go back to the host. With `acknowledge` the guest may use
    /// them again as soon as it has come to the end; without it, after [`Self::stop_hinting`].
    ///
    /// # Errors
    /// [`BalloonError::NoHinting`], [`BalloonError::NoDriver`].
    pub fn start_hinting(&self, acknowledge: bool) -> Result<(), BalloonError> {
        self.check_hinting()?;
        let mut hinting = lock(&self.0.hinting);
        // Any other id begins a new run; the reserved ones are left out when the numbers run over.
        hinting.last_id = hinting.last_id.wrapping_add(1).max(HINT_FIRST);
        hinting.status.host_command = hinting.last_id;
        hinting.done_at_end = acknowledge;
        drop(hinting);
        self.0.sessions.config_changed();
        Ok(())
    }

    /// Ends hinting; the guest may use all its pages again.
    ///
    /// # Errors
    /// As [`Self::start_hinting`].
    pub fn stop_hinting(&self) -> Result<(), BalloonError> {
        self.check_hinting()?;
        lock(&self.0.hinting).status.host_command = HINT_DONE;
        self.0.sessions.config_changed();
        Ok(())
    }

    /// How far hinting has come.
    ///
    /// # Errors
    /// As [`Self::start_hinting`].
    pub fn hinting_status(&self) -> Result<HintingStatus, BalloonError> {
        self.check_hinting()?;
        Ok(lock(&self.0.hinting).status)
    }

    /// What the balloon has done since it was made.
    #[must_use]
    pub fn counters(&self) -> BalloonCounters {
        let counting = &self.0.counting;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BalloonCounters {
            released: get(&counting.released),
            partial: get(&counting.partial),
            outside: get(&counting.outside),
            excess: get(&counting.excess),
            failed: get(&counting.failed),
            inflated_pages: get(&counting.inflated_pages),
            deflated_pages: get(&counting.deflated_pages),
            inflations: get(&counting.inflations),
            deflations: get(&counting.deflations),
            statistics: get(&counting.statistics),
            reports: get(&counting.reports),
            reported: get(&counting.reported),
            hints: get(&counting.hints),
            hinted: get(&counting.hinted),
        }
    }

    /// Whether the timer of the statistics runs.
    #[cfg(test)]
    pub(super) fn is_poll_armed(&self) -> bool {
        self.0.poll.as_ref().is_some_and(|poll| lock(poll).timer.is_armed().unwrap_or(false))
    }

    fn check_hinting(&self) -> Result<(), BalloonError> {
        if !self.0.limits.hinting {
            return Err(BalloonError::NoHinting);
        }
        if self.0.sessions.is_present() { Ok(()) } else { Err(BalloonError::NoDriver) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
