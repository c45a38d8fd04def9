//! What guests, clients of the API and files can reach, each as a function of arbitrary bytes that must not panic.
//!
//! A function makes what it needs, lets the bytes decide what happens, and asserts what must hold whatever that was:
//! a device returns each chain at most once and writes only where it was told to, comes to rest, and works after a
//! reset; a text that is accepted means the same when it is written and read again; a complaint is one line. Nothing
//! depends on what ran before. `tests/fuzz.sh` searches for inputs, `tests/replay.rs` runs those that are kept.

pub mod archive;
mod bytes;
mod devices;
mod ram;
mod rig;
mod shadow;
mod texts;

use devices::{balloon, block, console, echo, metadata, net, rng, state, vsock};
use texts::{api, cmdline, config, kernel, overlay, snapshot};

/// Something that bytes are let loose on.
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "queue", run: echo::queue },
    Target { name: "transport", run: echo::transport },
    Target { name: "block", run: block::run },
    Target { name: "net-rx", run: net::receive },
    Target { name: "net-tx", run: net::send },
    Target { name: "console", run: console::run },
    Target { name: "rng", run: rng::run },
    Target { name: "vsock", run: vsock::run },
    Target { name: "balloon", run: balloon::run },
    Target { name: "device-state", run: state::run },
    Target { name: "metadata", run: metadata::run },
    Target { name: "kernel", run: kernel::run },
    Target { name: "overlay", run: overlay::run },
    Target { name: "cmdline", run: cmdline::run },
    Target { name: "config", run: config::run },
    Target { name: "api-body", run: api::body },
    Target { name: "http", run: api::http },
    Target { name: "snapshot", run: snapshot::run },
];

/// The target called `name`.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// A file in memory, without a name.
fn memory_file() -> std::fs::File {
    let place = std::path::Path::new("/dev/shm");
    let file = vmm_sys_util::tempfile::TempFile::new_in(place).expect("a file in memory");
    file.into_file()
}
