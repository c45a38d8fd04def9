//! The tour: what a guest is told and what it does, compared with what the host sees of it.

use std::path::Path;
use std::process::Command;

use harness::network::{GUEST, HOST, PREFIX, Peer, Tap, md5, noise};
use harness::{Machine, Need, Vmm, artifacts};

/// What goes over the network each way.
const TRANSFER: usize = 64 << 20;

/// Takes the tour with a guest on `disk`. Panics where guest and host do not agree.
pub fn take(disk: &Path) {
    let _tap = Tap::new("tap0");
    let vmm = Vmm::new()
        .kernel(artifacts::guest("bzImage"))
        .disk(disk, "")
        .args(["--cpus", "2", "--memory", "512M", "--net", "tap=tap0"])
        .args(["--append", &format!("vmm.ip={GUEST}/{PREFIX}")]);
    let has_jail = Need::Jail.missing().is_none();
    let (vmm, flag) = if has_jail { (vmm.arg("--jail"), " --jail") } else { (vmm, "") };
    let words = "--kernel bzImage --disk rootfs.img --cpus 2 --memory 512M --net tap=tap0";
    super::step(&format!("vmm {words}{flag}"));
    let mut guest = vmm.spawn().booted();
    if let Some(pid) = guest.inside() {
        super::step("what the host sees of the process in the jail");
        show_process(pid);
    }

    super::step("what the guest sees");
    show(&mut guest, "uname -a");
    show(&mut guest, "grep -m1 'model name' /proc/cpuinfo; echo \"$(nproc) processors\"");
    show(&mut guest, "grep -E 'MemTotal|MemFree' /proc/meminfo");
    show(&mut guest, "df -h / | tail -n 1");

    super::step("the network, both ways");
    show(&mut guest, &format!("ping -c 3 {HOST}"));
    let data = noise(TRANSFER);
    let peer = Peer::sending(data.clone());
    let got =
        show(&mut guest, &format!("nc {HOST} {} </dev/null | tee /tmp/data | md5sum", peer.port));
    peer.finish();
    let sent = format!("{}  -", md5(&data));
    println!("   host: {sent}");
    assert_eq!(got, sent, "the guest received something else than the host sent");
    let peer = Peer::receiving();
    show(&mut guest, &format!("nc {HOST} {} </tmp/data", peer.port));
    assert_eq!(peer.finish(), data, "the host received something else than the guest sent");
    println!("   host: {} MiB came back unchanged", TRANSFER >> 20);

    super::step("the disk");
    show(&mut guest, "echo \"written by the guest, $(date)\" >/root/note && cat /root/note");
    let note = guest.shell("cat /root/note");
    super::step("power off");
    let end = guest.power_off();
    println!("   vmm: {}", end.last_line().trim_start_matches("vmm: "));
    let read = read_from_image(disk, "/root/note");
    println!("   host, from rootfs.img: {read}");
    assert_eq!(read, note, "the host finds something else on the disk");
    println!("exit code {}", end.code.unwrap_or(-1));
}

/// Who a process is, what it may, and what files it sees.
fn show_process(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    for line in status.lines() {
        let name = line.split(':').next().unwrap_or_default();
        if ["Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"].contains(&name) {
            println!("   {}", line.replace('\t', " "));
        }
    }
    let files = std::fs::read_dir(format!("/proc/{pid}/root")).map_or(0, Iterator::count);
    println!("   {files} files in its root");
}

/// Runs a command in the guest and shows both, indented.
fn show(guest: &mut Machine, command: &str) -> String {
    println!("   vmm# {command}");
    let output = guest.shell(command);
    output.lines().for_each(|line| println!("   {line}"));
    output
}

fn read_from_image(disk: &Path, file: &str) -> String {
    let path = format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("debugfs")
        .env("PATH", path)
        .args(["-R", &format!("cat {file}")])
        .arg(disk)
        .output()
        .unwrap_or_else(|e| panic!("debugfs: {e}"));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
