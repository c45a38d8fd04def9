//! How the program is linked, and its filters of system calls.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

#[expect(dead_code, unreachable_pub, reason = "the program uses the rest")]
#[path = "src/seccomp/tables.rs"]
mod tables;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/seccomp/tables.rs");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("filters.rs"), filters()?)?;
    link();
    Ok(())
}

/// The compiled filters, as constants.
fn filters() -> Result<String, seccompiler::BackendError> {
    let mut text = String::new();
    for (name, thread) in
        [("MAIN", tables::MAIN), ("IO", tables::IO), ("VCPU", tables::VCPU), ("API", tables::API)]
    {
        // Only the main thread's depends on how the machine was started.
        let cases = if thread == tables::MAIN { 4 } else { 1 };
        let _ = writeln!(text, "pub(super) static {name}: [&[u64]; {cases}] = [");
        for case in 0..cases {
            let program = compile(thread, case & 1 != 0, case & 2 != 0)?;
            // As the kernel has an instruction: code, two jumps, operand.
            let words = program.iter().map(|it| {
                u64::from(it.code)
                    | u64::from(it.jt) << 16
                    | u64::from(it.jf) << 24
                    | u64::from(it.k) << 32
            });
            let _ = writeln!(text, "    &{:?},", words.collect::<Vec<_>>());
        }
        text.push_str("];\n");
    }
    Ok(text)
}

fn compile(
    thread: tables::Threads,
    vsock: bool,
    rebuild: bool,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut whole = Vec::new();
    for row in tables::ROWS.iter().filter(|row| row.is_for(thread, vsock, rebuild)) {
        let chain = rules.entry(row.call).or_default();
        if row.tests.is_empty() {
            whole.push(row.call);
        } else {
            chain.push(SeccompRule::new(
                row.tests.iter().map(condition).collect::<Result<_, _>>()?,
            )?);
        }
    }
    // A call without conditions passes, whatever else is said of it.
    whole.into_iter().for_each(|call| drop(rules.insert(call, Vec::new())));
    let (trap, allow) = (SeccompAction::Trap, SeccompAction::Allow);
    SeccompFilter::new(rules, trap, allow, TargetArch::x86_64)?.try_into()
}

fn condition(
    &(argument, test): &tables::Test,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let (len, operator, value) = match test {
        tables::Is::Int(value) => (Dword, SeccompCmpOp::Eq, value.into()),
        tables::Is::Process => (Dword, SeccompCmpOp::Eq, tables::PROCESS.into()),
        tables::Is::Fork => (Qword, SeccompCmpOp::Eq, tables::FORK.into()),
        tables::Is::Long(value) => (Qword, SeccompCmpOp::Eq, value),
        tables::Is::Without(mask) => (Qword, SeccompCmpOp::MaskedEq(mask), 0),
    };
    SeccompCondition::new(argument, len, operator, value)
}

fn link() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=no-unwinding.ld");
    let is = |name: &str, wanted: &str| {
        env::var(name).is_ok_and(|value| value.split(',').any(|word| word == wanted))
    };
    // A dynamic program is left alone: loaders before glibc 2.36 do not know packed relocations.
    if !is("CARGO_CFG_TARGET_ENV", "gnu") || !is("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        return;
    }
    let link = |argument: &str| println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    // A static program relocates itself. Packed, its relocations are a tenth as long to write down and half as
    // long to apply.
    link("-z,pack-relative-relocs");
    if is("PROFILE", "release") {
        // Functions that are the same are there once.
        link("--icf=all");
        link("--no-eh-frame-hdr");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("no-unwinding.ld");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
