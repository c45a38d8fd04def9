//! How the program is linked.

use std::env;
use std::path::Path;

fn main() {
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
