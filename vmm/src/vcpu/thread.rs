//! A vCPU's thread: runs the guest until told to leave it or until the machine ends, and then waits for the next one.
//!
//! A kick is a signal. Its handler sets `immediate_exit` in the run structure of the vCPU on whose thread
//! it arrives, so that a kick just before KVM_RUN is not lost: KVM then returns at once.

#![expect(
    unsafe_code,
    reason = "a kick is a signal, whose handler writes one byte of the run mapping"
)]

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::thread::Builder;

use devices::bus::Effect;
use devices::event::chain;
use devices::fatal;
use devices::metrics::Numbers;
use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::exit::{Exits, run_once};
use super::gate::{Gate, Wish, Work};
use super::{Buses, VmExit};
use crate::affinity::CpuSet;
use crate::boot_trace::{self, Stage};
use crate::end::{EndReason, Ending};
use crate::event_loop::LoopHandle;
use crate::events::ReadySign;
use crate::exit_code::ExitCode;
use crate::memory::mapped;
use crate::readiness;
use crate::seccomp::{Filters, Thread};

thread_local! {
    /// The `immediate_exit` byte of the vCPU that runs on this thread; null elsewhere.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// Installs the handler of the kick signal, once per process, before the first vCPU thread starts.
///
/// # Errors
/// When the signal is not available.
pub fn install_kick_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(Into::into)
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let byte = IMMEDIATE_EXIT.get();
    if !byte.is_null() {
        // SAFETY: the pointer was set by this thread to a byte of its own vCPU's run mapping, and is
        // cleared before that mapping goes away. The kernel reads it at the next KVM_RUN.
        unsafe { byte.write_volatile(1) };
    }
}

/// A vCPU of a machine, and what its exits need.
pub struct VcpuSetup {
    /// The vCPU, its registers set.
    pub fd: VcpuFd,
    /// The devices it can reach.
    pub buses: Buses,
    /// Where it reports that the machine ended.
    pub ending: Ending,
    /// The loop that hears when it has come to wait.
    pub on: LoopHandle,
}

/// A thread that runs one vCPU after the other: that of a machine, and after a reboot that of the next one. It lives as
/// long as the process, so that nobody needs the right to start threads once a guest has run.
#[derive(Clone)]
pub struct VcpuThread {
    gate: Arc<Gate<VcpuSetup>>,
    id: Arc<OnceLock<ThreadId>>,
    exits: Arc<Exits>,
}

/// Process and thread, as the kernel numbers them. pthread_kill(3) would ask for them, and block signals, at each kick.
struct ThreadId {
    process: libc::pid_t,
    thread: libc::c_long,
}

impl ThreadId {
    fn own() -> Self {
        let process = fatal::process();
        // The function of that name need not be in a static program: the standard library does without it, too.
        // SAFETY: takes nothing and cannot fail.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        Self { process, thread }
    }

    fn kick(&self) -> io::Result<()> {
        // SAFETY: takes numbers. The thread lives as long as the process, so its number is nobody else's.
        let result =
            unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, SIGRTMIN()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl VcpuThread {
    /// Starts the thread of vCPU `index`, on CPU `pin` of the host if there is one. It waits for a machine.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(index: u16, pin: Option<u16>, filters: Filters) -> io::Result<Self> {
        let all = Self { gate: Arc::new(Gate::new()), id: Arc::default(), exits: Arc::default() };
        let own = all.clone();
        filters.announce();
        Builder::new().name(format!("vcpu {index}")).spawn(move || {
            own.id.get_or_init(ThreadId::own);
            own.live(index, pin, &filters)
        })?;
        Ok(all)
    }

    /// Why and how often the guest was left.
    #[must_use]
    pub fn exits(&self) -> Numbers {
        self.exits.read()
    }

    /// Runs the guest on `setup` from here on, or once it is resumed.
    pub fn run(&self, setup: VcpuSetup, is_at_rest: bool) {
        self.gate.give(setup, if is_at_rest { Wish::Wait } else { Wish::Run });
    }

    /// Tells the thread to leave its machine and interrupts the guest. It may take until its current exit is served.
    pub fn kick_to_stop(&self) {
        self.gate.ask(Wish::Leave);
        self.kick();
    }

    /// Tells the thread to wait at the next point where the guest can be left, and interrupts the guest. The
    /// loop is woken when it waits.
    pub fn kick_to_pause(&self) {
        self.gate.ask(Wish::Wait);
        self.kick();
    }

    /// Lets a thread that waits run on.
    pub fn resume(&self) {
        self.gate.ask(Wish::Run);
    }

    /// Has `work` done on this thread, which is at rest.
    pub fn hand(&self, work: Work) {
        self.gate.hand(work);
    }

    /// Whether the guest is at rest on this thread: it waits, or has left its machine.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.gate.is_parked() || self.has_left()
    }

    fn kick(&self) {
        // Before it has an id, the thread looks at the gate anyway.
        if let Some(Err(error)) = self.id.get().map(ThreadId::kick) {
            log::error!("vcpu thread cannot be kicked: {error}");
        }
    }

    /// Whether the thread has left its machine, by itself or as it was told.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.gate.has_left()
    }

    /// What was given to [`Self::run`], once the thread has left it.
    #[must_use]
    pub fn take_back(&self) -> Option<VcpuSetup> {
        self.gate.take_back()
    }

    /// With panic = "abort" a thread cannot end by panicking either.
    fn live(&self, index: u16, pin: Option<u16>, filters: &Filters) -> ! {
        let prepared = prepare(index, pin, filters);
        loop {
            let mut setup = self.gate.next();
            match &prepared {
                Ok(()) => run(&mut setup, &self.gate, &self.exits),
                Err(what) => setup.ending.report(EndReason::HostFailure(what.clone())),
            }
            let on = setup.on.clone();
            self.gate.leave(setup);
            // Whoever waits for this thread to come to rest need not wait any more.
            if self.gate.wish() == Wish::Wait {
                on.wake();
            }
        }
    }
}

fn prepare(index: u16, pin: Option<u16>, filters: &Filters) -> Result<(), String> {
    let pinned = pin.map_or(Ok(()), |cpu| {
        let failed = |error| format!("vcpu {index} cannot be put on CPU {cpu}: {error}");
        CpuSet::new(&[cpu]).pin_this_thread().map_err(failed)
    });
    filters.confine(Thread::Vcpu).map_err(|error| format!("vcpu {index}: {}", chain(&error)))?;
    pinned
}

fn run(setup: &mut VcpuSetup, gate: &Gate<VcpuSetup>, exits: &Exits) {
    let VcpuSetup { fd, buses, ending, on } = setup;
    IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
    boot_trace::mark(Stage::FirstRun);
    let reason = loop {
        let outcome = match gate.wish() {
            Wish::Run => run_once(fd, buses, exits),
            Wish::Wait => match settle(fd, buses, exits) {
                Some(reason) => break Some(reason),
                None => {
                    gate.park(|| on.wake());
                    if gate.wish() == Wish::Run {
                        tell_clock(fd);
                    }
                    continue;
                }
            },
            Wish::Leave => break None,
        };
        if matches!(outcome, VmExit::Interrupted) {
            fd.set_kvm_immediate_exit(0);
        }
        if let Some(reason) = meaning(outcome) {
            break Some(reason);
        }
    };
    if let Some(reason) = reason {
        ending.report(reason);
    }
    IMMEDIATE_EXIT.set(ptr::null_mut());
}

/// Completes the access under way without running the guest any further: KVM finishes an instruction that
/// exited when it is entered again (KVM API, KVM_RUN), and with `immediate_exit` does no more than that.
fn settle(fd: &mut VcpuFd, buses: &Buses, exits: &Exits) -> Option<EndReason> {
    let reason = loop {
        fd.set_kvm_immediate_exit(1);
        let exit = run_once(fd, buses, exits);
        if matches!(exit, VmExit::Interrupted) {
            break None;
        }
        if let Some(reason) = meaning(exit) {
            break Some(reason);
        }
    };
    fd.set_kvm_immediate_exit(0);
    reason
}

/// Tells the guest that it stood still, so that its watchdogs do not take that for a hang. A guest that does
/// not use the paravirtual clock cannot be told, which KVM reports as an error.
fn tell_clock(fd: &VcpuFd) {
    if let Err(error) = fd.kvmclock_ctrl() {
        log::debug!("the guest's clock is not told of the pause: {error}");
    }
}

/// What an exit means for the machine; `None` while it goes on.
fn meaning(exit: VmExit) -> Option<EndReason> {
    match exit {
        VmExit::Continue | VmExit::Interrupted => None,
        VmExit::Effect(Effect::Booted) => {
            log::info!("the guest's userspace runs");
            readiness::announce(ReadySign::BootTimer);
            None
        }
        VmExit::Effect(Effect::PowerOff) => Some(EndReason::PowerOff),
        VmExit::Effect(Effect::Reset) => Some(EndReason::Reboot),
        VmExit::Effect(Effect::Panic) => Some(EndReason::Panic),
        VmExit::Effect(Effect::Exit(code)) => Some(EndReason::GuestExit(code)),
        VmExit::Shutdown => Some(EndReason::TripleFault),
        VmExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN) => Some(EndReason::PowerOff),
        VmExit::SystemEvent(KVM_SYSTEM_EVENT_RESET) => Some(EndReason::Reboot),
        VmExit::SystemEvent(_) => Some(EndReason::Panic),
        VmExit::Stuck(failure) => Some(EndReason::Stuck(failure)),
        VmExit::Failed(error)
            if error.raw_os_error() == Some(libc::EFAULT)
                && let Some((what, code)) = mapped::missing_page() =>
        {
            Some(match code {
                ExitCode::MemoryLost => EndReason::MemoryLost,
                _ => EndReason::HostFailure(what.to_owned()),
            })
        }
        VmExit::Failed(error) => Some(EndReason::HostFailure(format!("KVM_RUN failed: {error}"))),
    }
}
