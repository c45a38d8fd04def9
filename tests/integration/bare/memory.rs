//! What stands behind guest memory: a guest cannot tell, its host can.

use std::fs;
use std::path::PathBuf;

use harness::{Need, Puppet, Vmm, artifacts};

crate::suite::tests! { "bare::memory" needs &[Need::Kvm];
    every_backing_is_memory,
    prefaulted_memory_is_there,
    shared_memory_is_a_file,
    reserved_pages_are_used_and_given_back,
    too_few_reserved_pages_are_told_at_the_start,
    a_part_of_a_page_is_refused,
    a_restart_takes_the_same_memory,
}

const BAD_CONFIGURATION: i32 = 152;
const HOST_FAILURE: i32 = 125;
/// Pages of 2 MiB of a puppet, which has 32 MiB.
const PAGES: u64 = 16;

/// A machine without a device, with `--memory memory`.
fn alone(memory: &str) -> Vmm {
    let vmm = Vmm::new().kernel(artifacts::puppet()).args(["--rng", "off", "--cmdline", ""]);
    vmm.args(["--memory", memory])
}

fn puppet(backing: &str) -> Puppet {
    Puppet::start(alone(&format!("32M,{backing}")))
}

/// The first and the last byte, and one that lies where no table and no program is.
fn check(puppet: &Puppet) {
    for address in [0, 0x100_0000, (32 << 20) - 4] {
        puppet.write(4, address, 0x1234_5678 ^ address);
        assert_eq!(puppet.read(4, address), 0x1234_5678 ^ address, "at {address:#x}");
    }
}

fn maps(puppet: &Puppet) -> String {
    let pid = puppet.with_machine(|machine| machine.pid());
    fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap()
}

/// KiB in all lines of `field`.
fn kib(smaps: &str, field: &str) -> u64 {
    let lines = smaps.lines().filter_map(|line| line.strip_prefix(field));
    lines.map(|line| line.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

fn every_backing_is_memory() {
    for backing in
        ["hugepages=off", "hugepages=thp", "prefault", "shared", "shared,prefault,hugepages=thp"]
    {
        let puppet = puppet(backing);
        check(&puppet);
        puppet.finish();
    }
}

fn prefaulted_memory_is_there() {
    let lazy = puppet("hugepages=off");
    assert!(kib(&maps(&lazy), "Rss:") < 16 << 10);
    lazy.finish();
    let puppet = puppet("prefault");
    assert!(kib(&maps(&puppet), "Rss:") >= 32 << 10);
    puppet.finish();
}

fn shared_memory_is_a_file() {
    let puppet = puppet("shared");
    assert!(maps(&puppet).contains("memfd:guest-ram"));
    puppet.finish();
}

fn reserved_pages_are_used_and_given_back() -> Result<(), String> {
    let reserved = Reserved::new(PAGES).map_err(|why| format!("reserved huge pages: {why}"))?;
    for backing in ["hugepages=2M", "hugepages=2M,shared", "hugepages=2M,prefault"] {
        let puppet = puppet(backing);
        check(&puppet);
        let maps = maps(&puppet);
        let huge = kib(&maps, "Private_Hugetlb:") + kib(&maps, "Shared_Hugetlb:");
        let wanted = if backing.contains("prefault") { PAGES << 11 } else { 1 << 11 };
        assert!(huge >= wanted, "{backing}: {huge} KiB in reserved pages");
        puppet.finish();
        // The next machine takes the same pages.
        assert!(reserved.free() >= PAGES, "{backing}: {} of {PAGES} came back", reserved.free());
    }
    Ok(())
}

fn too_few_reserved_pages_are_told_at_the_start() {
    // No host has a tebibyte of them free.
    for backing in ["1T,hugepages=2M", "1T,hugepages=2M,shared", "1T,hugepages=1G"] {
        let end = alone(backing).run();
        let end = end.expect_code(HOST_FAILURE).expect_one_line(&["huge pages of"]);
        let is_told =
            end.stderr.contains("nr_hugepages") || end.stderr.contains("has no huge pages");
        assert!(is_told, "{}", end.story());
    }
}

fn a_part_of_a_page_is_refused() {
    let end = alone("33M,hugepages=2M").run();
    end.expect_code(BAD_CONFIGURATION).expect_one_line(&["33 MiB", "2 MiB", "hugepages="]);
}

fn a_restart_takes_the_same_memory() {
    for backing in ["shared", "hugepages=thp,prefault"] {
        let vmm = alone(&format!("32M,{backing}")).args(["--on-reboot", "restart"]);
        let puppet = Puppet::start(vmm);
        puppet.write(4, 0x100_0000, 0x1234_5678);
        puppet.sync();
        let before = maps(&puppet).lines().filter(|line| line.contains("memfd:")).count();
        let mut machine = puppet.release();
        machine.send("o 1 64 fe\n");
        machine.wait_for("puppet: \n");
        machine.send("r 4 1000000\n");
        machine.wait_for("0\n");
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", machine.pid())).unwrap();
        let after = smaps.lines().filter(|line| line.contains("memfd:")).count();
        assert_eq!(after, before, "mappings of {backing}");
        machine.send("o 1 f4 0\n");
        machine.expect_exit(0);
    }
}

/// Huge pages of 2 MiB that the host has reserved for the time of a test.
struct Reserved {
    before: u64,
}

impl Reserved {
    fn new(pages: u64) -> Result<Self, String> {
        let reserved = Self { before: number("nr_hugepages")? };
        let free = reserved.free();
        if free < pages {
            let enough = reserved.before + pages - free;
            fs::write(file("nr_hugepages"), enough.to_string()).map_err(|e| e.to_string())?;
        }
        match reserved.free() {
            free if free >= pages => Ok(reserved),
            free => Err(format!("the host gives {free} of {pages}")),
        }
    }

    /// Free and promised to nobody.
    fn free(&self) -> u64 {
        let number = |name| number(name).unwrap_or(0);
        number("free_hugepages").saturating_sub(number("resv_hugepages"))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Where it could not be changed, there is nothing to change back.
        let _ = fs::write(file("nr_hugepages"), self.before.to_string());
    }
}

fn file(name: &str) -> PathBuf {
    PathBuf::from("/sys/kernel/mm/hugepages/hugepages-2048kB").join(name)
}

fn number(name: &str) -> Result<u64, String> {
    let text = fs::read_to_string(file(name)).map_err(|error| error.to_string())?;
    text.trim().parse().map_err(|_| format!("{text:?} is no number"))
}
