//! The exit statuses of `vmm`: the one table behind the code, `--help` and the documentation.
//!
//! Does not decide when a machine ends; it only numbers the ends. 1 to 99 belong to the guest, everything
//! that `vmm` itself reports is above, so that a test in the guest and a fault of the host are never mixed up.

use std::fmt::Write;

/// Highest status that a guest can choose.
const GUEST_MAX: u8 = 99;

/// How a run of `vmm` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// 0: the guest powered itself off, or chose 0.
    PowerOff,
    /// 1 to 99: the guest wrote this value to the debug-exit port 0xf4. Make it with [`ExitCode::guest`].
    Guest(u8),
    /// 110: the guest rebooted, and `--on-reboot` says that this is the end.
    Reboot,
    /// 111: the guest's kernel panicked and said so through pvpanic.
    Panic,
    /// 112: a vCPU triple-faulted.
    TripleFault,
    /// 113: the guest cannot go on: KVM could not enter or emulate it.
    Stuck,
    /// 115: `vmm ctl`: the machine refused.
    Refused,
    /// 116: `vmm ctl`: nobody listens at the socket.
    NoMachine,
    /// 117: `vmm ctl`: the connection broke, or the answer is not one of a machine.
    BrokenConnection,
    /// 118: `vmm ctl wait`: its `--timeout` was reached.
    WaitedInVain,
    /// 123: the guest was not ready within `--wait-ready`.
    NotReady,
    /// 124: `--timeout` was reached (the number of coreutils' `timeout`).
    Timeout,
    /// 125: the host failed: no KVM, no memory, no descriptors.
    HostFailure,
    /// 130: ended by the user: Ctrl-A x on the terminal, or SIGINT (128 + 2).
    Quit,
    /// 134: a panic, which is a fault of `vmm` itself (128 + SIGABRT).
    Bug,
    /// 143: ended by SIGTERM (128 + 15), after the grace period or by a second SIGTERM.
    Terminated,
    /// 148: a thread made a system call that its filter forbids (Firecracker's number).
    Violation,
    /// 149: a page of a snapshot's memory file is gone while its guest runs (Firecracker's number).
    MemoryLost,
    /// 152: the configuration asks for something that cannot be: a value, a file that is missing, wrong or in
    /// use (Firecracker's number).
    BadConfiguration,
    /// 153: the command line cannot be read (Firecracker's number).
    BadCommandLine,
}

impl ExitCode {
    /// The status for `value`, written by the guest to the debug-exit port: 0 is a power-off, values above
    /// 99 count as 99.
    #[must_use]
    pub const fn guest(value: u8) -> Self {
        match value {
            0 => Self::PowerOff,
            1..=GUEST_MAX => Self::Guest(value),
            _ => Self::Guest(GUEST_MAX),
        }
    }

    /// The status that the parent process sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::PowerOff => 0,
            // The variant is public; a value that did not come through `guest` is clamped here.
            Self::Guest(value) => {
                if value > GUEST_MAX {
                    GUEST_MAX
                } else {
                    value
                }
            }
            Self::Reboot => 110,
            Self::Panic => 111,
            Self::TripleFault => 112,
            Self::Stuck => 113,
            Self::Refused => 115,
            Self::NoMachine => 116,
            Self::BrokenConnection => 117,
            Self::WaitedInVain => 118,
            Self::NotReady => 123,
            Self::Timeout => 124,
            Self::HostFailure => 125,
            Self::Quit => 130,
            Self::Bug => 134,
            Self::Terminated => 143,
            Self::Violation => 148,
            Self::MemoryLost => 149,
            Self::BadConfiguration => 152,
            Self::BadCommandLine => 153,
        }
    }
}

/// One line of the table: the statuses `first..=last` and what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Lowest status of the row.
    pub first: u8,
    /// Highest status of the row; mostly the same.
    pub last: u8,
    /// What it says about the run.
    pub meaning: &'static str,
}

impl Row {
    const fn of(code: ExitCode, meaning: &'static str) -> Self {
        Self { first: code.code(), last: code.code(), meaning }
    }

    /// "110", or "1-99".
    #[must_use]
    pub fn range(&self) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        }
    }
}

/// Every status, ascending.
pub const TABLE: &[Row] = &[
    Row::of(ExitCode::PowerOff, "the guest powered off"),
    Row {
        first: ExitCode::guest(1).code(),
        last: ExitCode::guest(u8::MAX).code(),
        meaning: "chosen by the guest: the byte it wrote to I/O port 0xf4 (above 99: 99)",
    },
    Row::of(ExitCode::Reboot, "the guest rebooted (with --on-reboot exit)"),
    Row::of(ExitCode::Panic, "the guest kernel panicked (reported through pvpanic)"),
    Row::of(ExitCode::TripleFault, "the guest triple-faulted"),
    Row::of(ExitCode::Stuck, "the guest cannot go on (KVM could not enter or emulate it)"),
    Row::of(ExitCode::Refused, "vmm ctl: the machine refused"),
    Row::of(ExitCode::NoMachine, "vmm ctl: nobody listens at the socket"),
    Row::of(ExitCode::BrokenConnection, "vmm ctl: the connection broke, or no machine answered"),
    Row::of(ExitCode::WaitedInVain, "vmm ctl wait: --timeout was reached"),
    Row::of(ExitCode::NotReady, "the guest was not ready within --wait-ready"),
    Row::of(ExitCode::Timeout, "--timeout was reached"),
    Row::of(ExitCode::HostFailure, "the host failed (no KVM, no memory); 'vmm doctor' helps"),
    Row::of(ExitCode::Quit, "ended from the terminal (Ctrl-A x) or by SIGINT"),
    Row::of(ExitCode::Bug, "vmm itself failed (a panic); the line above says where"),
    Row::of(ExitCode::Terminated, "ended by SIGTERM, after --grace or by a second SIGTERM"),
    Row::of(ExitCode::Violation, "a thread made a forbidden system call (see --seccomp)"),
    Row::of(ExitCode::MemoryLost, "a page of the snapshot's memory file is gone"),
    Row::of(
        ExitCode::BadConfiguration,
        "bad configuration (a value, or a file that is missing, wrong or in use)",
    ),
    Row::of(ExitCode::BadCommandLine, "bad command line"),
];

/// The table as the lines of `--help`.
#[must_use]
pub fn help_table() -> String {
    TABLE.iter().fold(String::new(), |mut text, row| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>5}  {}", row.range(), row.meaning);
        text
    })
}

#[cfg(test)]
mod tests;
