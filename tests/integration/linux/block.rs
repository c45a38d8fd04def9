//! Disks as Linux sees them, and what of it reaches the host's files.

use std::fs;
use std::os::unix::fs::MetadataExt;

use harness::network::{md5, noise};
use harness::{Need, Scratch, Vmm, artifacts};

use super::scaled;

crate::suite::tests! { "linux::block" needs &[Need::LinuxKvm, Need::Guest];
    three_disks,
    disk_with_queues_and_limits_on_a_thread,
    fsync_survives_the_death_of_vmm,
}

fn three_disks() {
    let scratch = Scratch::new();
    let contents = noise(scaled(16 << 20));
    let read_only = scratch.file("read-only", &contents);
    let data = scratch.sparse_file("data", 64 << 20);
    let vmm = Vmm::linux().disk(&read_only, ",readonly").disk(&data, ",serial=data-disk-1");
    let mut guest = vmm.disk(scratch.sparse_file("odd", 1000 * 512), "").spawn().booted();

    assert_eq!(guest.shell("cat /sys/block/vdb/serial"), "data-disk-1");
    assert_eq!(
        guest.shell("cat /sys/block/vd?/size"),
        format!("{}\n131072\n1000", contents.len() / 512)
    );
    assert_eq!(guest.shell("cat /sys/block/vda/ro /sys/block/vdb/ro"), "1\n0");

    assert_eq!(guest.shell("md5sum </dev/vda"), format!("{}  -", md5(&contents)));
    let (status, _) = guest.try_shell("echo overwritten >/dev/vda");
    assert_ne!(status, 0, "a read-only disk was written");

    let count = contents.len() >> 16;
    guest.shell(&format!("dd if=/dev/vda of=/dev/vdb bs=64k count={count} conv=fsync 2>/dev/null"));
    let written = fs::read(&data).unwrap();
    assert!(
        written.starts_with(&contents),
        "what was written and synced is not in the host's file"
    );

    let before = fs::metadata(&data).unwrap().blocks();
    guest.shell("blkdiscard /dev/vdb");
    let after = fs::metadata(&data).unwrap().blocks();
    assert!(after < before / 8, "{before} blocks before the discard, {after} after it");
    assert_eq!(guest.shell("head -c 65536 /dev/vdb | tr -d '\\0' | wc -c"), "0");
    guest.power_off();
    assert_eq!(fs::read(read_only).unwrap(), contents);
}

fn disk_with_queues_and_limits_on_a_thread() {
    let scratch = Scratch::new();
    let contents = noise(scaled(16 << 20));
    let disk = scratch.file("disk", &contents);
    let options = ",engine=uring,queues=2,bw=64M,iops=2k,burst=50ms,iothread=io0";
    let vmm = Vmm::linux().args(["--cpus", "2", "--iothread", "io0"]);
    let mut guest = vmm.disk(&disk, options).spawn().booted();
    assert_eq!(guest.shell("ls /sys/block/vda/mq | wc -l"), "2");
    assert_eq!(guest.shell("md5sum </dev/vda"), format!("{}  -", md5(&contents)));
    let half = contents.len() / 2;
    let count = half >> 12;
    guest.shell(&format!("dd if=/dev/zero of=/dev/vda bs=4k count={count} conv=fsync 2>/dev/null"));
    let written = fs::read(&disk).unwrap();
    assert!(written[..half].iter().all(|&byte| byte == 0), "what was written");
    assert!(written[half..] == contents[half..], "the rest");
    guest.power_off();
}

fn fsync_survives_the_death_of_vmm() {
    let scratch = Scratch::new();
    let disk = scratch.copy(&artifacts::guest("rootfs.img"));
    let boot = || Vmm::new().kernel(artifacts::guest("bzImage")).disk(&disk, "").spawn().booted();
    let mut guest = boot();
    guest.shell(
        "dd if=/dev/urandom of=/root/kept bs=64k count=16 conv=fsync 2>/dev/null; sync /root",
    );
    let sum = guest.shell("md5sum /root/kept");
    guest.kill();
    let mut guest = boot();
    assert_eq!(guest.shell("md5sum /root/kept"), sum);
    guest.power_off();
}
