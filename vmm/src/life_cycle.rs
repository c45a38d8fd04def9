//! The phases of a machine's life, and what may be asked of it in which.
//!
//! ```text
//!                  start              pause
//!   Not started ──────────▶ Running ─────────▶ Paused
//!        │                   │   ▲               │
//!        │                   │   └───────────────┤ resume
//!        │ end               │ end               │ end
//!        └───────────────────┴──────▶ Ended ◀────┘
//! ```
//!
//! A reset leads from Running or Paused to Running: the machine is built again. Nothing here does anything; the
//! owner of the machine (`crate::run`) takes the steps.

use std::fmt;

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It can be configured, and has no memory and no vCPUs.
    NotStarted,
    /// The guest runs.
    Running,
    /// The guest stands still, and so do its devices.
    Paused,
    /// There is nothing left to ask.
    Ended,
}

/// The words of Firecracker's API.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "Not started",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Ended => "Ended",
        })
    }
}

/// When a request makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// In any phase of a machine that has not ended.
    Any,
    /// As long as the machine is being configured.
    BeforeStart,
    /// Once it runs, paused or not.
    AfterStart,
}

/// A request came in the wrong phase. The first two texts are what Firecracker's clients look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PhaseError {
    /// It needs a running machine.
    #[error("The requested operation is not supported before starting the microVM.")]
    BeforeStart,
    /// It is about the configuration, which is fixed by now.
    #[error("The requested operation is not supported after starting the microVM.")]
    AfterStart,
    /// The machine is gone.
    #[error("the machine has ended")]
    Ended,
}

impl Phase {
    /// Whether a request that makes sense `when` makes sense now.
    ///
    /// # Errors
    /// [`PhaseError`] when it does not.
    pub fn permits(self, when: When) -> Result<(), PhaseError> {
        match (self, when) {
            (Self::Ended, _) => Err(PhaseError::Ended),
            (_, When::Any)
            | (Self::NotStarted, When::BeforeStart)
            | (Self::Running | Self::Paused, When::AfterStart) => Ok(()),
            (Self::NotStarted, When::AfterStart) => Err(PhaseError::BeforeStart),
            (Self::Running | Self::Paused, When::BeforeStart) => Err(PhaseError::AfterStart),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_its_phases() {
        use Phase::{Ended, NotStarted, Paused, Running};
        for (when, permitted) in [
            (When::Any, vec![NotStarted, Running, Paused]),
            (When::BeforeStart, vec![NotStarted]),
            (When::AfterStart, vec![Running, Paused]),
        ] {
            for phase in [NotStarted, Running, Paused, Ended] {
                let is_permitted = phase.permits(when).is_ok();
                assert_eq!(is_permitted, permitted.contains(&phase), "{when:?} while {phase}");
            }
        }
    }

    #[test]
    fn a_refusal_says_which_side_of_the_start_it_is() {
        let before = Phase::NotStarted.permits(When::AfterStart).unwrap_err().to_string();
        let after = Phase::Paused.permits(When::BeforeStart).unwrap_err().to_string();
        assert!(before.contains(" before "), "{before}");
        assert!(after.contains(" after "), "{after}");
        assert_eq!(Phase::Ended.permits(When::Any), Err(PhaseError::Ended));
    }
}
