//! The `vmm` command: parse, run, say why it ended.

#![no_main]
#![expect(unsafe_code, reason = "the entry that the C library calls")]

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::time::Instant;

use devices::event::chain;
use vmm::boot_trace;
use vmm::cli::{self, Request, Run};
use vmm::doctor;
use vmm::exit_code::ExitCode;
use vmm::kvm::Flavour;
use vmm::logger;
use vmm::process;
use vmm::run::run;

/// The entry of the program; `vmm::process` says why it is not the standard library's.
#[unsafe(no_mangle)]
extern "C" fn main(count: libc::c_int, values: *const *const libc::c_char) -> libc::c_int {
    // SAFETY: called by the C library with its own arguments, once, before there is another thread.
    let code = match unsafe { process::begin(count, values) } {
        Ok(args) => obey(args),
        Err(error) => fail(&error, ExitCode::HostFailure),
    };
    code.code().into()
}

fn obey(args: Vec<OsString>) -> ExitCode {
    let start = Instant::now();
    match cli::parse(args) {
        Ok(Request::Print(text)) => print(&text, ExitCode::PowerOff),
        Ok(Request::Doctor { json }) => {
            let report = doctor::examine();
            print(&if json { report.json() } else { report.text() }, report.exit_code())
        }
        Ok(Request::Run(request)) => run_request(request, start),
        Err(error) => fail(&error, ExitCode::BadCommandLine),
    }
}

fn run_request(request: Run, start: Instant) -> ExitCode {
    let (dry_run, trace) = (request.dry_run, request.trace_boot);
    let plan = match request.plan() {
        Ok(plan) => plan,
        Err(error) => return fail(&error, ExitCode::BadConfiguration),
    };
    if dry_run {
        return print(&plan.json(), ExitCode::PowerOff);
    }
    if let Err(error) = logger::install(&plan.id, plan.log.path.as_deref(), plan.log.level) {
        return fail(&error, ExitCode::BadConfiguration);
    }
    if trace {
        boot_trace::enable(start);
    }
    match run(&plan) {
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
