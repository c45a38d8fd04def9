//! The `vmm` command: parse, run, say why it ended.

#![no_main]
#![expect(unsafe_code, reason = "the entry that the C library calls")]

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::time::Instant;

use devices::event::chain;
use vmm::boot_trace;
use vmm::cli::{self, Request, Run, SnapshotCommand};
use vmm::config::{ID_DEFAULT, LogPlan};
use vmm::ctl::{self, CtlError};
use vmm::doctor;
use vmm::events;
use vmm::exit_code::ExitCode;
use vmm::jail::{Jail, JailError};
use vmm::jailer;
use vmm::kvm::Flavour;
use vmm::logger;
use vmm::process;
use vmm::run::{Launch, run};
use vmm::seccomp::Filters;
use vmm::snapshot::info::describe;
use vmm::snapshot::merge::merge;

/// The entry of the program; `vmm::process` says why it is not the standard library's.
#[unsafe(no_mangle)]
extern "C" fn main(count: libc::c_int, values: *const *const libc::c_char) -> libc::c_int {
    // SAFETY: called by the C library with its own arguments, once, before there is another thread.
    let code = match unsafe { process::begin(count, values) } {
        Ok(args) => obey(args),
        Err(error) => fail(&error, ExitCode::HostFailure).code(),
    };
    code.into()
}

/// The exit status.
fn obey(args: Vec<OsString>) -> u8 {
    let start = Instant::now();
    let code = match cli::parse(args) {
        Ok(Request::Ctl(request)) => return control(request),
        Ok(Request::Print(text)) => print(&text, ExitCode::PowerOff),
        Ok(Request::Doctor { json }) => {
            let report = doctor::examine();
            print(&if json { report.json() } else { report.text() }, report.exit_code())
        }
        Ok(Request::Snapshot(what)) => snapshot(&what),
        Ok(Request::Jailer(config)) => match jailer::run(&config) {
            Ok(code) => code,
            Err(error) => {
                let code = error.exit_code();
                fail(&error, code)
            }
        },
        Ok(Request::Run(request)) => run_request(request, start),
        Err(error) => fail(&error, ExitCode::BadCommandLine),
    };
    code.code()
}

fn snapshot(what: &SnapshotCommand) -> ExitCode {
    let done = match what {
        SnapshotCommand::Info { snapshot, json } => describe(snapshot, *json),
        SnapshotCommand::Merge { snapshot, directory } => {
            merge(snapshot, directory).map(|()| String::new())
        }
    };
    match done {
        Ok(text) => print(&text, ExitCode::PowerOff),
        Err(error) => {
            let code = error.exit_code();
            fail(&error, code)
        }
    }
}

fn control(request: ctl::Request) -> u8 {
    ctl::run(request).unwrap_or_else(|error| match error {
        CtlError::NoReader => error.exit_code().code(),
        _ => fail(&error, error.exit_code()).code(),
    })
}

fn run_request(mut request: Run, start: Instant) -> ExitCode {
    // Before anything is opened, which a snapshot is at once.
    let is_restored = request.restore.is_some();
    let early = if is_restored { make_jail(&request) } else { Ok(None) };
    let (config, plan, source) = match request.resolve() {
        Ok(resolved) => resolved,
        Err(error) => return fail(&error, ExitCode::BadConfiguration),
    };
    if let (true, Some(plan)) = (request.dry_run, &plan) {
        return print(&plan.json(), ExitCode::PowerOff);
    }
    let jail = match if is_restored { early } else { make_jail(&request) } {
        Ok(jail) => jail,
        Err(error) => {
            let code = error.exit_code();
            return fail(&error, code);
        }
    };
    let (id, log) = match &plan {
        Some(plan) => (plan.id.as_str(), plan.log.clone()),
        None => (config.id.as_deref().unwrap_or(ID_DEFAULT), LogPlan::resolve(&config)),
    };
    if let Err(error) = logger::install(id, &log, request.firecracker.boot_timer) {
        return fail(&error, ExitCode::BadConfiguration);
    }
    let is_awaited = plan.as_ref().is_some_and(|plan| plan.ready.within.is_some());
    match request.events.map(|sink| sink.open()).transpose() {
        Ok(None) if request.api.is_none() && !is_awaited => {}
        Ok(sink) => events::enable(id, sink),
        Err(error) => return fail(&error, ExitCode::BadConfiguration),
    }
    let filters = match Filters::new(&request.seccomp) {
        Ok(filters) => filters,
        Err(error) => return fail(&error, ExitCode::BadConfiguration),
    };
    if request.trace_boot {
        boot_trace::enable(start);
    }
    let launcher = request.firecracker.launcher_times();
    match run(Launch {
        config,
        plan,
        source,
        api: request.api,
        jail,
        begun: start,
        launcher,
        filters,
    }) {
        Ok(ended) => {
            if let Some(timeline) = boot_trace::report() {
                eprint!("{timeline}");
            }
            say(&ended.reason.describe(Flavour::detect()));
            // The kernel takes milliseconds to close a VM; it does so after this process was waited for.
            std::mem::forget(ended.machine);
            ended.reason.exit_code()
        }
        Err(error) => {
            let code = error.exit_code();
            fail(&error, code)
        }
    }
}

fn make_jail(request: &Run) -> Result<Option<Jail>, JailError> {
    let jail = request.jail.clone().map(|jail| Jail::new(jail, request.limits));
    jail.transpose()
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Ok(()) => code,
        // The reader of a pipe had enough, as in `vmm man | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => code,
        Err(error) => fail(&error, ExitCode::HostFailure),
    }
}

fn fail(error: &dyn Error, code: ExitCode) -> ExitCode {
    say(&format!("error: {}", chain(error)));
    code
}

/// One line for the user. With stderr closed there is nobody to tell, and the exit code stands.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "vmm: {line}");
}
