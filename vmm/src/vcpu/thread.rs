//! A vCPU's thread: runs the guest until told to stop or until the machine ends.
//!
//! A kick is a signal. Its handler sets `immediate_exit` in the run structure of the vCPU on whose thread
//! it arrives, so that a kick just before KVM_RUN is not lost: KVM then returns at once.

#![expect(unsafe_code, reason = "the kick handler writes one byte of the run mapping")]

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::bus::Effect;
use devices::metrics::Numbers;
use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::exit::{Exits, run_once};
use super::gate::{Gate, Wish};
use super::{Buses, VmExit};
use crate::affinity::CpuSet;
use crate::boot_trace::{self, Stage};
use crate::end::{EndReason, Ending};
use crate::event_loop::LoopHandle;
use crate::events::ReadySign;
use crate::memory::mapped;
use crate::readiness;

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

/// What a vCPU thread needs.
pub struct VcpuSetup {
    /// Number of this vCPU, from 0.
    pub index: u16,
    /// The vCPU, its registers set.
    pub fd: VcpuFd,
    /// The CPU of the host that it stays on.
    pub pin: Option<u16>,
    /// The devices it can reach.
    pub buses: Buses,
    /// Where it reports that the machine ended.
    pub ending: Ending,
    /// The loop that hears when it has come to wait.
    pub on: LoopHandle,
}

/// A running vCPU thread.
pub struct VcpuHandle {
    gate: Arc<Gate>,
    exits: Arc<Exits>,
    thread: JoinHandle<()>,
}

impl VcpuHandle {
    /// Starts the thread of `setup`; the guest runs from here on.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(setup: VcpuSetup) -> io::Result<Self> {
        let gate = Arc::new(Gate::new());
        let exits: Arc<Exits> = Arc::default();
        let own = (gate.clone(), exits.clone());
        let thread = Builder::new()
            .name(format!("vcpu {}", setup.index))
            .spawn(move || run(setup, &own.0, &own.1))?;
        Ok(Self { gate, exits, thread })
    }

    /// Why and how often the guest was left.
    #[must_use]
    pub fn exits(&self) -> Numbers {
        self.exits.read()
    }

    /// Tells the thread to stop and interrupts the guest. It may take until its current exit is served.
    pub fn kick_to_stop(&self) {
        self.gate.ask(Wish::End);
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

    /// Whether the guest is at rest on this thread: it waits, or has ended.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.gate.is_parked() || self.is_finished()
    }

    fn kick(&self) {
        if let Err(error) = self.thread.kill(SIGRTMIN()) {
            log::error!("vcpu thread cannot be kicked: {error}");
        }
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread's end.
    pub fn join(self) {
        // With panic = "abort" a thread cannot end by panicking.
        let _ = self.thread.join();
    }
}

fn run(setup: VcpuSetup, gate: &Gate, exits: &Exits) {
    let VcpuSetup { index, mut fd, pin, buses, ending, on } = setup;
    if let Some(cpu) = pin
        && let Err(error) = CpuSet::new(&[cpu]).pin_this_thread()
    {
        let what = format!("vcpu {index} cannot be put on CPU {cpu}: {error}");
        return ending.report(EndReason::HostFailure(what));
    }
    IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
    boot_trace::mark(Stage::FirstRun);
    let reason = loop {
        let outcome = match gate.wish() {
            Wish::Run => run_once(&mut fd, &buses, exits),
            Wish::Wait => match settle(&mut fd, &buses, exits) {
                Some(reason) => break Some(reason),
                None => {
                    gate.park(|| on.wake());
                    if gate.wish() == Wish::Run {
                        tell_clock(&fd);
                    }
                    continue;
                }
            },
            Wish::End => break None,
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
    // Whoever waits for this thread to come to rest need not wait any more.
    if gate.wish() == Wish::Wait {
        on.wake();
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
            if error.raw_os_error() == Some(libc::EFAULT) && mapped::is_in_use() =>
        {
            let what = "a page of guest memory is missing: was the kernel's file cut short?";
            Some(EndReason::HostFailure(what.to_owned()))
        }
        VmExit::Failed(error) => Some(EndReason::HostFailure(format!("KVM_RUN failed: {error}"))),
    }
}
