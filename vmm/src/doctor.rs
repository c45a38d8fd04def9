//! `vmm doctor`: can this host run a virtual machine, and if not, what is to be done.
//!
//! Changes nothing on the host. Each check states a fact and, where the fact is not good, one remedy. A check
//! fails only when it keeps every machine from running; what concerns some machines is a warning.

mod host;
mod jail;
mod kvm;
mod memory;
mod net;

use std::fmt::Write;

use serde::Serialize;

use crate::exit_code::ExitCode;
use host::{Host, ThisHost};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Good.
    Ok,
    /// Some machines cannot run, or not well.
    Warn,
    /// No machine can run.
    Fail,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub fact: String,
    /// What to do about it; nothing when there is nothing to do.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, fact: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, fact: fact.into(), remedy: None }
    }

    fn warn(name: &'static str, fact: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, fact: fact.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, fact: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, fact: fact.into(), remedy: Some(remedy.into()) }
    }
}

/// All findings about a host. `Serialize` is the output of `vmm doctor --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether a virtual machine can run at all.
    pub can_run_vm: bool,
    /// Whether an ordinary Linux kernel can run in one.
    pub can_run_linux: bool,
    /// The findings, in the order they were made.
    pub checks: Vec<Check>,
}

/// Examines the host that this process runs on.
#[must_use]
pub fn examine() -> Report {
    examine_host(&ThisHost::new("/"))
}

fn examine_host(host: &dyn Host) -> Report {
    let mut checks = kvm::checks(host);
    checks.extend(net::checks(host));
    checks.extend(memory::checks(host));
    checks.extend(jail::checks(host));
    let can_run_vm = checks.iter().all(|check| check.status != Status::Fail);
    let can_run_linux = can_run_vm && !kvm::is_pvm(host);
    Report { can_run_vm, can_run_linux, checks }
}

impl Report {
    /// The verdict as a status: 0 when a machine can run.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        if self.can_run_vm { ExitCode::PowerOff } else { ExitCode::HostFailure }
    }

    /// The report for people: a line for each finding, one more for its remedy, and the verdict.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &self.checks {
            let Check { name, status, fact, remedy } = check;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:4}  {name:width$}  {fact}", status.name());
            if let Some(remedy) = remedy {
                let _ = writeln!(text, "{:4}  {:width$}  -> {remedy}", "", "");
            }
        }
        text.push_str(match (self.can_run_vm, self.can_run_linux) {
            (true, true) => "This host can run virtual machines.\n",
            (true, false) => {
                "This host can run virtual machines, but not with an ordinary Linux kernel.\n"
            }
            (false, _) => "This host cannot run virtual machines.\n",
        });
        text
    }

    /// The report for programs, with a final newline.
    #[must_use]
    pub fn json(&self) -> String {
        // Strings and numbers under fixed keys: the serializer has nothing to refuse.
        serde_json::to_string_pretty(self).unwrap_or_else(|error| error.to_string()) + "\n"
    }
}

#[cfg(test)]
mod tests;
