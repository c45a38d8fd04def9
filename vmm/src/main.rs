//! The `vmm` command: parse, run, say why it ended.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use devices::event::chain;
use vmm::boot_trace;
use vmm::cli::{self, Request, Run};
use vmm::doctor;
use vmm::exit_code::ExitCode;
use vmm::kvm::Flavour;
use vmm::logger;
use vmm::run::run;

fn main() -> std::process::ExitCode {
    let start = Instant::now();
    let code = match cli::parse(std::env::args_os()) {
        Ok(Request::Print(text)) => print(&text, ExitCode::PowerOff),
        Ok(Request::Doctor { json }) => {
            let report = doctor::examine();
            print(&if json { report.json() } else { report.text() }, report.exit_code())
        }
        Ok(Request::Run(request)) => run_request(request, start),
        Err(error) => fail(&error, ExitCode::BadCommandLine),
    };
    code.into()
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
    let written = std::io::stdout().lock().write_all(text.as_bytes());
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
