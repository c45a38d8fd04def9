//! How a Linux guest ends, and how it is asked to.

use harness::{Need, Scratch, Vmm, base64};
use libtest_mimic::Trial;

use crate::suite::trial;

mod reference {
    use super::*;

    crate::suite::tests! { "linux::lifecycle" needs &[Need::LinuxKvm, Need::Guest];
        reboot,
        reboot_restarts_if_told_so,
        kernel_panic,
        no_root_file_system,
        status_chosen_by_a_command,
        sigterm_presses_the_power_button,
        the_kernel_watches_its_generation,
        a_copy_makes_its_random_numbers_anew,
    }
}

/// All of them.
pub fn tests() -> Vec<Trial> {
    const NEEDS: &[Need] = &[Need::LinuxKvm, Need::Guest, Need::DebianGuest];
    let name = "linux::lifecycle::debian_powers_off_by_its_button";
    let debian = trial(name, NEEDS, debian_powers_off_by_its_button);
    reference::tests().into_iter().chain([debian]).collect()
}

fn running(command: &str) -> Vmm {
    Vmm::linux().args(["--append", &format!("vmm.run64={}", base64(command.as_bytes()))])
}

fn reboot() {
    running("reboot -f").run().expect_code(110);
}

fn reboot_restarts_if_told_so() {
    let mut guest = Vmm::linux().args(["--on-reboot", "restart", "--cpus", "2"]).spawn().booted();
    for _ in 0..2 {
        guest.send("reboot -f\n");
        guest = guest.booted();
    }
    guest.power_off();
}

fn kernel_panic() {
    running("echo c >/proc/sysrq-trigger").run().expect_code(111);
}

fn no_root_file_system() {
    let vmm = Vmm::new().kernel(harness::artifacts::guest("bzImage")).args(["--memory", "128M"]);
    let end = vmm.run().expect_code(111);
    assert!(
        end.stdout.contains("Unable to mount root"),
        "the reason was not shown\n{}",
        end.story()
    );
}

fn status_chosen_by_a_command() {
    running(r"printf '\052' | dd of=/dev/port bs=1 seek=244").run().expect_code(42);
}

fn sigterm_presses_the_power_button() {
    for cpus in ["1", "2"] {
        let guest = Vmm::linux().args(["--grace", "1h", "--cpus", cpus]).spawn().booted();
        guest.signal(libc::SIGTERM);
        guest.expect_exit(0);
    }
}

fn the_kernel_watches_its_generation() {
    let bound = "/sys/bus/*/drivers/vmgenid/VMMV0001:00";
    let check = format!("ls -d {bound} && printf '\\052' | dd of=/dev/port bs=1 seek=244");
    running(&check).run().expect_code(42);
}

/// Two machines that go on from one snapshot are told so: what one of them keeps secret, the other must not find.
fn a_copy_makes_its_random_numbers_anew() {
    const TOLD: &str = "dmesg | grep -q 'crng reseeded due to virtual machine fork'";
    let scratch = Scratch::new();
    let (socket, saved) = (scratch.join("api.sock"), scratch.join("saved"));
    let vmm = Vmm::linux().without_jail().arg("--api-sock").arg(&socket);
    let mut guest = vmm.spawn().booted();
    // Numbers that were not made yet need not be made anew.
    guest.shell("head -c 1 /dev/random | wc -c");
    assert_ne!(guest.try_shell(TOLD).0, 0, "it is nobody's copy");
    Vmm::new().arg("ctl").arg(&socket).arg("snapshot").arg(&saved).run().expect_code(0);
    guest.kill();
    let numbers = [(); 2].map(|()| {
        let mut copy = Vmm::restored(&saved).spawn();
        let wait = format!("for i in $(seq 20); do {TOLD} && break; sleep 0.2; done; {TOLD}");
        copy.shell(&format!("{wait} || {{ cat /proc/interrupts; dmesg | tail -n 5; false; }}"));
        let number = copy.shell("head -c 16 /dev/urandom | md5sum");
        copy.kill();
        number
    });
    assert_ne!(numbers[0], numbers[1]);
}

/// Through the stock kernel's own button driver.
fn debian_powers_off_by_its_button() {
    use harness::artifacts::guest;
    let vmm =
        Vmm::new().kernel(guest("debian-bzImage")).arg("--initrd").arg(guest("debian-initrd.img"));
    let vmm =
        vmm.disk(guest("rootfs.img"), ",readonly").args(["--memory", "256M", "--grace", "1h"]);
    let guest = vmm.spawn().booted();
    guest.signal(libc::SIGTERM);
    guest.expect_exit(0);
}
