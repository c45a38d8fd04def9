//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, wanted: &str| {
        std::env::var(name).is_ok_and(|value| value.split(',').any(|word| word == wanted))
    };
    // A static program relocates itself. Packed, its relocations are a tenth as long to write down and half as
    // long to apply. A dynamic one is left alone: loaders before glibc 2.36 do not know the packed form.
    if is("CARGO_CFG_TARGET_ENV", "gnu") && is("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
