//! The balloon with Linux's driver: what the guest frees, or must do without, is the host's.

use std::thread;
use std::time::{Duration, Instant};

use harness::api::Api;
use harness::{Machine, Need, Scratch, Vmm, artifacts, patience};
use serde_json::json;

crate::suite::tests! { "linux::balloon" needs &[Need::LinuxKvm, Need::Guest];
    freed_memory_returns_to_the_host,
    the_guest_gives_up_what_it_is_asked_for,
    memory_comes_back_before_processes_die,
}

const MIB: u64 = 1 << 20;

fn linux(memory: &str, balloon: &str) -> Vmm {
    let vmm = Vmm::new().kernel(artifacts::guest("bzImage")).arg("--initrd");
    let vmm = vmm.arg(artifacts::guest("initramfs.cpio"));
    vmm.args(["--memory", memory, "--balloon", balloon])
}

fn guest(memory: &str, balloon: &str) -> Machine {
    linux(memory, balloon).spawn().booted()
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
    let mut returned = 0;
    wait_until("the file's memory is back", || {
        let now = full.saturating_sub(guest.guest_memory(192 * MIB));
        if now > returned {
            println!("{now} of {filled} bytes came back");
            returned = now;
        }
        now >= filled / 10 * 9
    });
    guest.power_off();
}

fn the_guest_gives_up_what_it_is_asked_for() {
    let asked = 96 * MIB;
    let scratch = Scratch::new();
    let vmm = linux("192M", "0,stats=1s").arg("--api-sock").arg(scratch.join("api.sock"));
    let mut guest = vmm.spawn().booted();
    let api = Api::at(&scratch.join("api.sock"));
    // Nearly every page was in use once, so that what the balloon takes is there to be given back.
    guest.shell("mount -t tmpfs -o size=100% none /mnt");
    guest.shell("dd if=/dev/zero of=/mnt/file bs=1M count=148 2>/dev/null; rm /mnt/file");
    let full = guest.guest_memory(192 * MIB);
    let total = total_kib(&mut guest);
    api.patch("/balloon", &json!({ "amount_mib": asked / MIB }));
    wait_until("the balloon has its size", || {
        api.get("/balloon/statistics")["actual_mib"] == asked / MIB
    });
    let returned = full - guest.guest_memory(192 * MIB);
    println!("{returned} of {asked} bytes came back");
    assert!(returned >= asked / 10 * 9, "{returned} of {asked} bytes came back");
    assert_eq!((total - total_kib(&mut guest)) << 10, asked);
    wait_until("the guest says how much it has", || {
        api.get("/balloon/statistics")["total_memory"].as_u64().is_some_and(|all| all < 100 * MIB)
    });
    // What the guest gets back it can use.
    api.patch("/balloon", &json!({ "amount_mib": 0 }));
    wait_until("the balloon is empty", || api.get("/balloon/statistics")["actual_mib"] == 0);
    assert_eq!(total_kib(&mut guest), total);
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
