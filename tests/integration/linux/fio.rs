//! fio in a Linux guest: what it writes with random block sizes, many at a time from several processes, it reads back and
//! compares with the checksums in the data.

use harness::{Need, Scratch, Vmm, artifacts};

crate::suite::tests! { "linux::fio" needs &[Need::LinuxKvm, Need::Guest, Need::Fio];
    verifies_what_it_writes,
}

/// What all runs have in common: two processes with a half of the disk each, 32 requests at a time, from one sector to
/// 64 KiB, past the guest's page cache.
const JOB: &str = "--ioengine=libaio --iodepth=32 --direct=1 --thread --numjobs=2 --size=4m --offset_increment=4m \
    --rw=randwrite --bsrange=512-64k --verify=crc32c --verify_fatal=1 --verify_state_save=0 --group_reporting \
    --output-format=terse --terse-version=3";

fn verifies_what_it_writes() {
    let scratch = Scratch::new();
    let disk = |name| scratch.sparse_file(name, 8 << 20);
    let vmm = Vmm::linux().args(["--cpus", "2"]).disk(artifacts::guest("fio.img"), ",readonly");
    let vmm = vmm.disk(disk("sync"), ",queues=2,engine=sync");
    let mut guest = vmm.disk(disk("uring"), ",queues=2,engine=uring").spawn().booted();
    guest.shell("mount -t ext4 -o ro /dev/vda /mnt");
    assert_eq!(guest.shell("ls /sys/block/vdb/mq /sys/block/vdc/mq | grep -c '^[01]$'"), "4");
    for disk in ["vdb", "vdc"] {
        let result = guest.shell(&format!("/mnt/fio --name={disk} --filename=/dev/{disk} {JOB}"));
        let line = result.lines().find(|line| line.contains(";fio-")).unwrap_or(&result);
        let field = |index| line.split(';').nth(index).unwrap_or_default().parse::<u64>();
        // Terse output, version 3: the error code, and KiB read and written.
        assert_eq!(field(4), Ok(0), "{disk}: {result}");
        assert_eq!(field(5), Ok(8192), "{disk} is read as a whole: {result}");
        assert_eq!(field(46), Ok(8192), "{disk} is written as a whole: {result}");
    }
    guest.power_off();
}
