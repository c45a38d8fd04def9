//! Tests with Linux guests. Booting one costs most of the time in an emulated machine, so a test asks a guest
//! everything that belongs together.

mod balloon;
mod block;
mod boot;
mod console;
mod fio;
mod lifecycle;
mod net;
mod snapshot;
mod snapshot_load;
mod vsock;

use harness::{Vmm, base64};
use libtest_mimic::Trial;

/// All of them.
pub fn tests() -> Vec<Trial> {
    let lists = [
        boot::tests(),
        block::tests(),
        balloon::tests(),
        net::tests(),
        console::tests(),
        fio::tests(),
        lifecycle::tests(),
        snapshot::tests(),
        snapshot_load::tests(),
        vsock::tests(),
    ];
    lists.into_iter().flatten().collect()
}

/// Boots the guest of `vmm` to run `command` and nothing else; its output. The guest must power off.
#[track_caller]
fn output_of(vmm: Vmm, command: &str) -> String {
    // The exit code of a command in the guest is not the machine's, so it is a mark in the output.
    let script = format!("echo '<'; {{ {command}\n}} && echo '>'");
    let end = vmm.args(["--append", &format!("vmm.run64={}", base64(script.as_bytes()))]).run();
    let end = end.expect_code(0);
    let text = end.stdout.replace("\r\n", "\n");
    let inner = text.split_once("<\n").and_then(|(_, rest)| rest.rsplit_once(">\n"));
    let (inner, _) = inner.unwrap_or_else(|| panic!("`{command}` failed\n{}", end.story()));
    inner.to_owned()
}

/// How much a test does that does much of something: less where the guest is slow.
fn scaled(full: usize) -> usize {
    let is_small = std::env::var("VMM_TEST_SCALE").is_ok_and(|scale| scale == "small");
    if is_small { full / 32 } else { full }
}
