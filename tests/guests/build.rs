//! Compiles the bare-metal guests with the host's C compiler; the harness carries the results.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const FLAGS: &[&str] = &[
    "-Os",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pic",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-mgeneral-regs-only",
    "-mno-red-zone",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-nostdlib",
    "-static",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
];

fn main() {
    compile("puppet32.elf", "-m32", "pvh.S");
    compile("puppet64.elf", "-m64", "linux64.S");
}

fn compile(name: &str, width: &str, entry: &str) {
    let source =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("guests/puppet");
    let output = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(name);
    let files = [source.join(entry), source.join("puppet.c"), source.join("link.ld")];
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let compiler = env::var_os("CC").unwrap_or_else(|| "gcc".into());
    let [entry, code, script] = &files;
    let status = Command::new(&compiler)
        .arg(width)
        .args(FLAGS)
        .arg("-T")
        .args([script, entry, code])
        .arg("-o")
        .arg(&output)
        .status();
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
