//! libFuzzer on one target: `VMM_FUZZ_TARGET=NAME fuzz [libFuzzer's arguments]`. `tests/fuzz.sh` builds and runs it.

#![no_main]

use std::sync::OnceLock;

use fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&Target> = OnceLock::new();

fuzz_target!(init: {
    let name = std::env::var("VMM_FUZZ_TARGET").unwrap_or_default();
    let found = fuzz::target(&name);
    let known: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
    let target = found.unwrap_or_else(|| panic!("VMM_FUZZ_TARGET is none of {}", known.join(", ")));
    let _ = TARGET.set(target);
}, |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(data);
    }
});
