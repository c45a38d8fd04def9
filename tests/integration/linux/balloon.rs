//! The balloon with Linux's driver: what the guest frees, or must do without, is the host's.

use std::thread;
use std::time::{Duration, Instant};

use harness::{Machine, Need, Vmm, artifacts, patience};

crate::suite::tests! { "linux::balloon" needs &[Need::LinuxKvm, Need::Guest];
    freed_memory_returns_to_the_host,
    the_guest_gives_up_what_it_is_asked_for,
    memory_comes_back_before_processes_die,
}

const MIB: u64 = 1 << 20;

fn guest(memory: &str, balloon: &str) -> Machine {
    let vmm = Vmm::new().kernel(artifacts::guest("bzImage")).arg("--initrd");
    let vmm = vmm.arg(artifacts::guest("initramfs.cpio"));
    vmm.args(["--memory", memory, "--balloon", balloon]).spawn().booted()
}

/// Looks until `is_done`; `what` is for whoever waits in vain.
#[track_caller]
fn wait_until(what: &str, mut is_done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !is_done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn total_kib(guest: &mut Machine) -> u64 {
    let text = guest.shell("awk '/MemTotal/ { print $2 }' /proc/meminfo");
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn freed_memory_returns_to_the_host() {
    let filled = 64 * MIB;
    let mut guest = guest("192M", "0,reporting");
    guest.shell("mount -t tmpfs -o size=90% none /mnt");
    let before = guest.guest_memory(192 * MIB);
    guest.shell("dd if=/dev/zero of=/mnt/file bs=1M count=64 2>/dev/null");
    let full = guest.guest_memory(192 * MIB);
    // Some of the file lies where the guest was before.
    assert!(full >= before + filled / 4 * 3, "{full} bytes in use, {before} before the file");
    guest.shell("rm /mnt/file");
    wait_until("the file's memory is back", || {
        full.saturating_sub(guest.guest_memory(192 * MIB)) >= filled / 10 * 9
    });
    guest.power_off();
}

fn the_guest_gives_up_what_it_is_asked_for() {
    let mut guest = guest("192M", "64M,stats=1s");
    wait_until("64 of 192 MiB are gone", || total_kib(&mut guest) < 128 * 1024);
    guest.power_off();
}

fn memory_comes_back_before_processes_die() {
    let mut guest = guest("160M", "120M,deflate-on-oom");
    // `tail` keeps all of it, which is more than the balloon leaves.
    let held = 48 * MIB;
    let count = guest.shell(&format!("head -c {held} /dev/zero | tail -c {held} | wc -c"));
    assert_eq!(count, held.to_string());
    let complaints = guest.shell("dmesg | grep -ci 'out of memory' || true");
    assert_eq!(complaints, "0");
    guest.power_off();
}
