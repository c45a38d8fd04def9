//! All tests that run the `vmm` binary, in one program: `integration [FILTER]`.
//!
//! Three groups, by what they need of the host: `cli::` nothing, `bare::` a /dev/kvm of any kind, `linux::` a
//! /dev/kvm that runs ordinary kernels. A test whose needs are not met is ignored, with the reason.

mod bare;
mod cli;
mod linux;
mod suite;

use std::panic;
use std::process::ExitCode;

use harness::{artifacts, network};
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Networks need capabilities, which an ordinary user has in namespaces only. Where the host refuses, the
    // tests that need them say so.
    if !suite::is_root() {
        let _ = network::become_root_of_namespaces();
    }
    // The reason of a failure is printed with the test's name; here only the place is missing.
    panic::set_hook(Box::new(|info| {
        if let Some(location) = info.location() {
            eprintln!("failed at {location}");
        }
    }));
    let tests = [cli::tests(), bare::tests(), linux::tests()].into_iter().flatten().collect();
    let conclusion = libtest_mimic::run(&arguments, tests);
    artifacts::clean_up();
    conclusion.exit_code()
}
