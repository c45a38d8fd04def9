//! Where the programs and guests are that the tests use.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::scratch::Scratch;

const PUPPET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/puppet32.elf"));
const PUPPET_64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/puppet64.elf"));

/// The `vmm` under test: `VMM`, or what `make build` makes.
#[must_use]
pub fn vmm() -> PathBuf {
    let built = || target().join("x86_64-unknown-linux-gnu/release/vmm");
    env::var_os("VMM").map_or_else(built, PathBuf::from)
}

/// The `vmm` that attacks itself, which `VMM_DRILL_PROGRAM` names; `tests/run.sh` builds it.
#[must_use]
pub fn drill() -> Option<PathBuf> {
    env::var_os("VMM_DRILL_PROGRAM").map(PathBuf::from)
}

/// The guest file `name`: in `VMM_GUEST_DIR`, or where `make guests` puts it.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    let made = || workspace().join("target/guest");
    env::var_os("VMM_GUEST_DIR").map_or_else(made, PathBuf::from).join(name)
}

/// The 32-bit puppet, entered by PVH.
#[must_use]
pub fn puppet() -> PathBuf {
    unpacked().join("puppet32.elf")
}

/// The 64-bit puppet, entered by the Linux protocol.
#[must_use]
pub fn puppet_64() -> PathBuf {
    unpacked().join("puppet64.elf")
}

/// The guest of the benchmarks that drives a device, entered by PVH. It stays where the build put it.
#[must_use]
pub fn bench_guest() -> PathBuf {
    concat!(env!("OUT_DIR"), "/bench.elf").into()
}

/// The guest of the benchmarks that writes one byte and halts.
#[must_use]
pub fn first_guest() -> PathBuf {
    concat!(env!("OUT_DIR"), "/first.elf").into()
}

/// The program that does the least that runs a guest.
#[must_use]
pub fn floor() -> PathBuf {
    concat!(env!("OUT_DIR"), "/floor").into()
}

/// The workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("/"))
}

/// Removes what this module wrote; for the end of the process.
pub fn clean_up() {
    if let Some(path) = UNPACKED.get() {
        // Nobody is left to be told.
        let _ = fs::remove_dir_all(path);
    }
}

static UNPACKED: OnceLock<PathBuf> = OnceLock::new();

fn unpacked() -> &'static Path {
    UNPACKED.get_or_init(|| {
        let scratch = Scratch::new();
        scratch.file("puppet32.elf", PUPPET);
        scratch.file("puppet64.elf", PUPPET_64);
        let path = scratch.path().to_owned();
        // Lives as long as the process.
        std::mem::forget(scratch);
        path
    })
}

fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
