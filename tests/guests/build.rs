//! Compiles the bare-metal guests, and the floor of the benchmarks, with the host's C compiler.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

/// Those of all programs: no library, no start files.
const FLAGS: &[&str] = &[
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pic",
    "-fno-asynchronous-unwind-tables",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-nostdlib",
    "-static",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
];

/// Those of programs that run bare: at fixed places, without anything of a processor but its general registers.
const BARE: &[&str] = &["-fcf-protection=none", "-mgeneral-regs-only", "-mno-red-zone"];

fn main() {
    let puppet = ["puppet/puppet.c", "puppet/link.ld"];
    guest("puppet32.elf", &["-m32", "-Os"], &[&["puppet/pvh.S"], &puppet[..]].concat());
    guest("puppet64.elf", &["-m64", "-Os"], &[&["puppet/linux64.S"], &puppet[..]].concat());
    let bench = ["entry.S", "bench.c", "block.c", "net.c", "vsock.c", "link.ld", "bench.h"];
    let bench = bench.map(|name| format!("bench/{name}"));
    guest("bench.elf", &["-m64", "-O2"], &bench.each_ref().map(String::as_str));
    guest("first.elf", &["-m64", "-Os"], &["bench/first.S", "bench/link.ld"]);
    compile("floor", &["-m64", "-O2"], &["floor/floor.c"]);
}

fn guest(name: &str, flags: &[&str], files: &[&str]) {
    compile(name, &[flags, BARE].concat(), files);
}

fn compile(name: &str, flags: &[&str], files: &[&str]) {
    let source =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("guests");
    let output = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(name);
    let compiler = env::var_os("CC").unwrap_or_else(|| "gcc".into());
    let mut command = Command::new(&compiler);
    command.args(flags).args(FLAGS);
    for file in files {
        let path = source.join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("ld") => drop(command.arg("-T").arg(path)),
            Some("h") => {}
            _ => drop(command.arg(path)),
        }
    }
    let status = command.arg("-o").arg(&output).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{} {name}: {status}", compiler.display())),
        Err(error) => fail(&format!(
            "the bare-metal guests need a C compiler, {} cannot be run: {error}",
            compiler.display()
        )),
    }
}

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    exit(1)
}
