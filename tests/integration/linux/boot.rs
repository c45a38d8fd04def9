//! Kernels of both kinds start by every entry they have, and find the machine that was asked for.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use harness::confine::{self, Confinement};
use harness::{Need, Scratch, Vmm, artifacts};
use libtest_mimic::Trial;

use super::output_of;
use crate::suite::trial;

const REFERENCE: &[Need] = &[Need::LinuxKvm, Need::Guest];
const DEBIAN: &[Need] = &[Need::LinuxKvm, Need::Guest, Need::DebianGuest];

mod machine {
    use super::*;

    crate::suite::tests! { "linux::boot" needs REFERENCE;
        root_disk,
        one_processor_in_32_mib,
        two_processors,
        four_processors_of_two_threads_above_4_gib,
        devices_and_clocks,
        template_hides_a_feature,
        kernel_has_nothing_to_complain_about,
    }
}

/// Every kernel by every entry, then the machines.
pub fn tests() -> Vec<Trial> {
    let kernels = ["bzImage", "bzImage.gzip", "bzImage.xz", "bzImage.zstd"].map(|kernel| {
        trial(format!("linux::boot::{kernel}"), REFERENCE, || reference_boots(kernel, "auto"))
    });
    let entries = ["auto", "linux64", "pvh"].map(|entry| {
        trial(format!("linux::boot::vmlinux_by_{entry}"), REFERENCE, || {
            reference_boots("vmlinux", entry);
        })
    });
    let debian = [("bzImage", "linux64"), ("vmlinux", "linux64"), ("vmlinux", "pvh")];
    let debian = debian.map(|(kernel, entry)| {
        let name = format!("linux::boot::debian_{kernel}_by_{entry}");
        trial(name, DEBIAN, move || debian_boots(kernel, entry))
    });
    let needs = &[Need::LinuxKvm, Need::Guest, Need::Jail, Need::Root];
    let jail = trial("linux::boot::jail_of_an_ordinary_user", needs, jail_of_an_ordinary_user);
    let kinds = kernels.into_iter().chain(entries).chain(debian);
    kinds.chain(machine::tests()).chain([jail]).collect()
}

fn reference_boots(kernel: &str, entry: &str) {
    let vmm =
        Vmm::new().kernel(artifacts::guest(kernel)).args(["--memory", "128M", "--boot", entry]);
    let vmm = vmm.arg("--initrd").arg(artifacts::guest("initramfs.cpio"));
    let text = output_of(vmm, "uname -r; cat /proc/cmdline");
    assert!(text.contains("-vmm") && text.contains("vmm.run64="), "{text}");
}

/// The stock kernel needs its modules from an initrd before it sees any of our devices.
fn debian_boots(kernel: &str, entry: &str) {
    let vmm =
        Vmm::new().kernel(artifacts::guest(&format!("debian-{kernel}"))).args(["--boot", entry]);
    let vmm = vmm.arg("--initrd").arg(artifacts::guest("debian-initrd.img"));
    let vmm = vmm.args(["--memory", "256M"]).disk(artifacts::guest("rootfs.img"), ",readonly");
    let text = output_of(vmm, "uname -v; mount");
    assert!(text.contains("Debian") && text.contains(" on / type ext4 (ro"), "{text}");
}

/// What a newcomer types: a kernel and a disk, nothing else.
fn root_disk() {
    let scratch = Scratch::new();
    let disk = scratch.copy(&artifacts::guest("rootfs.img"));
    let vmm = Vmm::new().kernel(artifacts::guest("bzImage")).disk(&disk, "");
    let mut guest = vmm.spawn().booted();
    assert!(guest.shell("mount").contains(" on / type ext4 (rw"));
    assert_eq!(guest.shell("echo text >/root/file && sync && cat /root/file"), "text");
    guest.power_off();
}

/// What the guest says about its processors: how many, and in which cores and sockets.
const PROCESSORS: &str = "nproc; cd /sys/devices/system/cpu; for c in cpu[0-9]*; do \
    echo $c $(cat $c/topology/physical_package_id $c/topology/core_id $c/topology/thread_siblings_list); done; \
    sed -n 's/^MemTotal: *//p' /proc/meminfo";

#[track_caller]
fn processors(vmm: Vmm) -> (Vec<String>, u64) {
    let text = output_of(vmm, PROCESSORS);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let memory = lines.pop().and_then(|line| line.trim_end_matches(" kB").parse().ok());
    (lines, memory.unwrap_or_else(|| panic!("{text}")))
}

fn one_processor_in_32_mib() {
    let vmm = Vmm::new().kernel(artifacts::guest("vmlinux")).args(["--memory", "32M"]);
    let (processors, memory) = processors(vmm.disk(artifacts::guest("rootfs.img"), ",readonly"));
    assert_eq!(processors, ["1", "cpu0 0 0 0"]);
    assert!(memory < 32 << 10, "{memory} kB");
}

fn two_processors() {
    let (processors, memory) = processors(Vmm::linux().args(["--cpus", "2"]));
    assert_eq!(processors, ["2", "cpu0 0 0 0", "cpu1 0 1 1"]);
    assert!((90 << 10..128 << 10).contains(&memory), "{memory} kB");
}

fn four_processors_of_two_threads_above_4_gib() {
    let vmm = Vmm::new().kernel(artifacts::guest("bzImage"));
    let vmm = vmm.arg("--initrd").arg(artifacts::guest("initramfs.cpio"));
    let vmm = vmm.args(["--memory", "4608M", "--cpus", "4,cores=2,threads=2"]);
    let (processors, memory) = processors(vmm);
    assert_eq!(processors, ["4", "cpu0 0 0 0-1", "cpu1 0 0 0-1", "cpu2 0 1 2-3", "cpu3 0 1 2-3"]);
    assert!((4300 << 10..4608 << 10).contains(&memory), "{memory} kB");
}

/// The template takes RDRAND away: bit 30 of leaf 1's ECX.
fn template_hides_a_feature() {
    let scratch = Scratch::new();
    let template = r#"{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0,
        "modifiers": [{"register": "ecx", "bitmap": "0bx0xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}]}]}"#;
    let file = scratch.file("template.json", template.as_bytes());
    let flags = |vmm: Vmm| {
        let mut guest = vmm.spawn().booted();
        let flags = guest.shell("grep -m 1 flags /proc/cpuinfo");
        guest.power_off();
        flags.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let mut expected = flags(Vmm::linux());
    assert!(expected.iter().any(|flag| flag == "rdrand"), "no RDRAND to take away: {expected:?}");
    expected.retain(|flag| flag != "rdrand");
    assert_eq!(flags(Vmm::linux().arg("--cpu-template").arg(file)), expected);
}

fn devices_and_clocks() {
    let mut guest = Vmm::linux().spawn().booted();
    assert_eq!(guest.shell("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0");
    assert_eq!(guest.shell("dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c"), "256");
    let clock = guest.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
    assert!(["kvm-clock", "tsc"].contains(&clock.as_str()), "{clock}");
    assert_eq!(guest.shell("grep -c x2apic /proc/cpuinfo"), "1");
    assert!(guest.shell("grep flags /proc/cpuinfo").contains(" hypervisor "));
    let devices = guest.shell("ls /sys/bus/virtio/devices");
    assert_eq!(devices.split_whitespace().count(), 2, "console and entropy: {devices}");
    // Time passes as it does here: a second of sleep is no tenth and no ten.
    let slept = guest.shell(
        "a=$(cut -d. -f1 /proc/uptime); sleep 2; b=$(cut -d. -f1 /proc/uptime); echo $((b-a))",
    );
    assert!(["2", "3"].contains(&slept.as_str()), "two seconds of sleep took {slept}");
    guest.power_off();
}

fn kernel_has_nothing_to_complain_about() {
    // Messages of the levels "warning" and worse; "hrtimer" complains about the speed of the host.
    let warnings = "dmesg -r | grep '^<[0-4]>' | grep -v 'hrtimer: interrupt took' || true";
    let text = output_of(Vmm::linux().args(["--cpus", "2"]), warnings);
    // There is no PCI, and the kernel was told so.
    const EXPECTED: [&str; 2] =
        ["PCI: Fatal: No config space access function found", "PCI: System does not support PCI"];
    let complaints = text.lines().filter(|line| !EXPECTED.iter().any(|known| line.contains(known)));
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0]);
}

/// Who is in the device's group and has no other right needs nothing else for a guest that writes to its disk.
fn jail_of_an_ordinary_user() {
    const USER: u32 = 1000;
    const GROUP: u32 = 4242;
    let scratch = Scratch::new();
    let kvm = confine::kvm_for_group(&scratch, GROUP).expect("a device for a group");
    let disk = scratch.copy(&artifacts::guest("rootfs.img"));
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&disk, Some(USER), Some(USER)).unwrap();
    let vmm = Vmm::new()
        .kernel(artifacts::guest("bzImage"))
        .disk(&disk, "")
        .args(["--jail", "--memory", "128M"])
        .confined(Confinement::Replaced { path: "/dev/kvm".into(), by: kvm })
        .confined(Confinement::User { id: USER, group: GROUP });
    let mut guest = vmm.spawn().booted();
    let pid = guest.inside().expect("a process inside");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    assert_eq!(line("Uid:"), Some("\t1000\t1000\t1000\t1000"), "{status}");
    assert_eq!(line("CapEff:"), Some("\t0000000000000000"), "{status}");
    assert_eq!(fs::read_dir(format!("/proc/{pid}/root")).unwrap().count(), 0, "the root has files");
    assert_eq!(guest.shell("echo kept >/root/note && sync && cat /root/note"), "kept");
    guest.power_off();
}
