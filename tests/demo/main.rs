//! `make demo`: a guest to look around in. On a terminal it ends in the guest's shell; otherwise it takes a tour that
//! shows the disk and the network at work from both sides.
//!
//! Where this host's /dev/kvm cannot run Linux, everything happens in the AMD-V machine: the program sends itself there.

mod tour;

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use harness::{Scratch, artifacts, network};

/// Set in the machine, so that nothing is looked for there.
const INSIDE: &str = "VMM_DEMO_INSIDE";

fn main() -> ExitCode {
    match demo() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> io::Result<ExitCode> {
    if env::var_os(INSIDE).is_none() {
        prepare()?;
        if !linux_runs_here()? {
            return send_into_machine();
        }
    }
    let scratch = Scratch::new();
    let disk = scratch.copy(&artifacts::guest("rootfs.img"));
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        return shell(&disk);
    }
    // An ordinary user has no network of its own but in namespaces. Nothing else runs in this process yet.
    if network::missing().is_some() {
        network::become_root_of_namespaces()?;
    }
    network::in_own_network(move || tour::take(&disk));
    Ok(ExitCode::SUCCESS)
}

/// Builds what is missing: vmm, the kernel and the disk.
fn prepare() -> io::Result<()> {
    step("building vmm and finding the guest");
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.arg("--no-print-directory").arg("--quiet").arg(target);
        succeed(make.current_dir(artifacts::workspace()).stdout(io::stderr()))
    };
    ["build", "kernel", "rootfs"].into_iter().try_for_each(make)
}

fn linux_runs_here() -> io::Result<bool> {
    let asked = resource("machine/can-run-linux.sh").output()?;
    let reason = String::from_utf8_lossy(&asked.stderr).into_owned();
    let is_direct = asked.stdout.starts_with(b"direct");
    if is_direct {
        println!("This host's /dev/kvm runs Linux: no detour.");
    } else {
        let reason =
            reason.trim().split_once(": ").map_or_else(|| reason.trim(), |(_, reason)| reason);
        println!("Linux cannot run on this host's KVM: {reason}.");
        println!(
            "So the demo runs in the AMD-V machine, where everything takes 20 to 50 times longer."
        );
    }
    Ok(is_direct)
}

/// Runs this program, vmm and the guest in the machine.
fn send_into_machine() -> io::Result<ExitCode> {
    let mut machine = resource("machine/run.sh");
    let mut give = |host: &Path, name: &str| {
        machine.arg("--file").arg(format!("{}:{name}", host.display()));
    };
    give(&env::current_exe()?, "/bin/demo");
    give(&artifacts::vmm(), "/bin/vmm");
    give(&artifacts::guest("bzImage"), "/guest/bzImage");
    give(&artifacts::guest("rootfs.img"), "/guest/rootfs.img");
    give(&find_debugfs()?, "/bin/debugfs");
    machine.args(["--timeout", if io::stdin().is_terminal() { "86400" } else { "900" }]);
    for variable in
        ["VMM=/bin/vmm", "VMM_GUEST_DIR=/guest", "VMM_DEMO_INSIDE=1", "VMM_TEST_PATIENCE=300"]
    {
        machine.args(["--env", variable]);
    }
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        machine.arg("--interactive");
    }
    let status = machine.args(["--", "demo"]).status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Becomes vmm, on this terminal.
fn shell(disk: &Path) -> io::Result<ExitCode> {
    println!(
        "Starting a guest; its shell follows. `exit` powers it off, Ctrl-A x ends it at once.\n"
    );
    let status = Command::new(artifacts::vmm())
        .arg("--kernel")
        .arg(artifacts::guest("bzImage"))
        .arg("--disk")
        .arg(disk)
        .status()?;
    println!("vmm ended with {status}");
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// The tool that reads a file out of a disk image without mounting it.
fn find_debugfs() -> io::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/sbin".into(), "/usr/sbin".into()]);
    let found = places.map(|place| place.join("debugfs")).find(|program| program.exists());
    found.ok_or_else(|| io::Error::other("no debugfs: install e2fsprogs"))
}

fn resource(script: &str) -> Command {
    Command::new(artifacts::workspace().join("resources").join(script))
}

fn succeed(command: &mut Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}

fn step(what: &str) {
    println!("== {what}");
}
