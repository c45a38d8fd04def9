//! How a virtual machine ends: the reason, who reports it, and what the user is told.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::exit_code::ExitCode;
use crate::kvm::Flavour;
use crate::memory::mapped;
use crate::vcpu::EmulationFailure;

/// Why a virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reboot,
    /// The guest kernel panicked.
    Panic,
    /// The guest's processor shut down.
    TripleFault,
    /// The guest wrote a status to the debug-exit port.
    GuestExit(u8),
    /// KVM could not run the guest any further.
    Stuck(EmulationFailure),
    /// `--timeout` ran out.
    Timeout(Duration),
    /// The guest was not ready within `--wait-ready`.
    NotReady(Duration),
    /// SIGTERM, and the guest did not power off in time (or a second SIGTERM came).
    Terminated,
    /// Ended from the terminal, or by SIGINT.
    Quit,
    /// A page of the memory file that the machine was restored from is gone.
    MemoryLost,
    /// The host failed; the text says what and why.
    HostFailure(String),
}

impl EndReason {
    /// The status of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::PowerOff => ExitCode::PowerOff,
            Self::Reboot => ExitCode::Reboot,
            Self::Panic => ExitCode::Panic,
            Self::TripleFault => ExitCode::TripleFault,
            Self::GuestExit(code) => ExitCode::guest(*code),
            Self::Stuck(_) => ExitCode::Stuck,
            Self::NotReady(_) => ExitCode::NotReady,
            Self::Timeout(_) => ExitCode::Timeout,
            Self::Terminated => ExitCode::Terminated,
            Self::Quit => ExitCode::Quit,
            Self::MemoryLost => ExitCode::MemoryLost,
            Self::HostFailure(_) => ExitCode::HostFailure,
        }
    }

    /// The reason for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::PowerOff => "power_off",
            Self::Reboot => "reboot",
            Self::Panic => "panic",
            Self::TripleFault => "triple_fault",
            Self::GuestExit(_) => "guest_exit",
            Self::Stuck(_) => "stuck",
            Self::NotReady(_) => "not_ready",
            Self::Timeout(_) => "timeout",
            Self::Terminated => "terminated",
            Self::Quit => "quit",
            Self::MemoryLost => "memory_lost",
            Self::HostFailure(_) => "host_failure",
        }
    }

    /// The last line the user reads.
    #[must_use]
    pub fn describe(&self, flavour: Flavour) -> String {
        match self {
            Self::PowerOff => "guest powered off".to_owned(),
            Self::Reboot => "guest asked for a reboot".to_owned(),
            Self::Panic => "guest kernel panicked".to_owned(),
            Self::TripleFault => "guest triple-faulted".to_owned(),
            Self::GuestExit(code) => format!("guest exited with status {code}"),
            Self::Stuck(failure) if flavour == Flavour::Pvm => format!(
                "guest cannot go on: {failure}; this host's KVM is kvm_pvm, which cannot run an \
                 ordinary kernel (see 'vmm doctor')"
            ),
            Self::Stuck(failure) => format!("guest cannot go on: {failure}"),
            Self::Timeout(limit) => format!("timeout of {limit:?} reached"),
            Self::NotReady(limit) => format!("guest was not ready within {limit:?}"),
            Self::Terminated => "terminated before the guest powered off".to_owned(),
            Self::Quit => "ended by the user".to_owned(),
            Self::MemoryLost => format!("host failure: {}", mapped::SNAPSHOT_PAGE),
            Self::HostFailure(what) => format!("host failure: {what}"),
        }
    }
}

/// Where the end is reported. Clones report to the same place; the first reason stands.
#[derive(Clone)]
pub struct Ending(Arc<Shared>);

struct Shared {
    reason: Mutex<Option<EndReason>>,
    reported: EventFd,
}

impl Ending {
    /// Nothing reported yet.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let reported = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Shared { reason: Mutex::new(None), reported })))
    }

    /// Reports an end; later ones are consequences and are dropped.
    pub fn report(&self, reason: EndReason) {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        // Whoever waits for the end waits for this alone, so a refusal is not the last word.
        if let Err(error) = self.0.reported.write(1).or_else(|_| self.0.reported.write(1)) {
            log::error!("the end of the machine cannot be signalled: {error}");
        }
    }

    /// Forgets the reason: the machine starts again.
    pub fn clear(&self) {
        *self.0.reason.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Nothing to read is as good as having read it.
        let _ = self.0.reported.read();
    }

    /// The reason, once there is one.
    #[must_use]
    pub fn reason(&self) -> Option<EndReason> {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Becomes readable when an end is reported.
impl AsRawFd for Ending {
    fn as_raw_fd(&self) -> RawFd {
        self.0.reported.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands() {
        let ending = Ending::new().unwrap();
        assert_eq!(ending.reason(), None);
        ending.clone().report(EndReason::Panic);
        ending.report(EndReason::Reboot);
        assert_eq!(ending.reason(), Some(EndReason::Panic));
    }

    #[test]
    fn a_stuck_guest_on_kvm_pvm_is_told_that_the_host_is_the_reason() {
        let stuck = EndReason::Stuck(EmulationFailure::default());
        assert!(stuck.describe(Flavour::Pvm).contains("kvm_pvm"));
        assert!(!stuck.describe(Flavour::Hardware).contains("kvm_pvm"));
    }
}
