//! When a guest counts as ready: what is looked for on its consoles, and how long it may take.
//!
//! The other signs need no words here: the boot timer is always there, and the port for `READY=1` is the socket
//! device's.

use std::time::Duration;

use serde::Serialize;

use super::console::ConsoleTarget;
use super::error::ConfigError;

/// Bytes of a pattern: a line of a terminal or two.
pub const PATTERN_MAX: usize = 256;

/// What the user says about readiness, and what the plan has of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Ready {
    /// Text of a console that tells it, 1 to [`PATTERN_MAX`] bytes in a plan.
    pub pattern: Option<String>,
    /// How long it may take from each start of the guest, above zero in a plan; longer is the end of the run.
    #[serde(rename = "within_ms", serialize_with = "super::plan::optional_milliseconds")]
    pub within: Option<Duration>,
}

impl Ready {
    /// This with what `over` says.
    pub(super) fn overridden_by(self, over: Self) -> Self {
        Self { pattern: over.pattern.or(self.pattern), within: over.within.or(self.within) }
    }
}

/// Checks that there can be such a guest.
pub(super) fn resolve(
    ready: Ready,
    consoles: (&ConsoleTarget, &ConsoleTarget),
) -> Result<Ready, ConfigError> {
    if ready.within.is_some_and(|time| time.is_zero()) {
        return Err(ConfigError::NoTimeToBeReady);
    }
    if let Some(pattern) = &ready.pattern {
        if !(1..=PATTERN_MAX).contains(&pattern.len()) {
            return Err(ConfigError::ReadyPattern { len: pattern.len() });
        }
        if consoles == (&ConsoleTarget::Off, &ConsoleTarget::Off) {
            return Err(ConfigError::ReadyWithoutConsole);
        }
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Ready {
        Ready { pattern: Some(text.to_owned()), within: None }
    }

    #[test]
    fn a_pattern_has_limits_and_needs_a_console() {
        use ConsoleTarget::{Off, Stdio};
        let check = |text: &str, consoles| {
            resolve(pattern(text), consoles).map_err(|error| error.to_string())
        };
        for good in ["x", "login:", &"x".repeat(PATTERN_MAX)] {
            assert_eq!(check(good, (&Off, &Stdio)), Ok(pattern(good)));
        }
        for (text, consoles, message) in [
            ("", (&Stdio, &Stdio), "a ready pattern of 0 bytes cannot be: use 1 to 256"),
            (
                &"x".repeat(PATTERN_MAX + 1),
                (&Stdio, &Stdio),
                "a ready pattern of 257 bytes cannot be: use 1 to 256",
            ),
            (
                "x",
                (&Off, &Off),
                "a ready pattern needs a console to appear on: give --console or --serial a target",
            ),
        ] {
            assert_eq!(check(text, consoles), Err(message.to_owned()));
        }
    }

    #[test]
    fn no_time_is_refused() {
        let ready = Ready { pattern: None, within: Some(Duration::ZERO) };
        let error = resolve(ready, (&ConsoleTarget::Off, &ConsoleTarget::Off)).unwrap_err();
        assert!(error.to_string().starts_with("--wait-ready 0"), "{error}");
    }
}
