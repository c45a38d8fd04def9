//! Snapshots of a Linux guest at work: what it computes, reads and tells does not depend on where it goes on.

use std::fs;
use std::path::{Path, PathBuf};

use harness::api::Api;
use harness::{Machine, Need, Scratch, Vmm};

use super::scaled;

crate::suite::tests! { "linux::snapshot" needs &[Need::LinuxKvm, Need::Guest];
    a_guest_at_work_goes_on_anywhere,
}

/// Saves the machine that serves its API in `scratch`.
#[track_caller]
fn save(scratch: &Scratch, name: &str) -> PathBuf {
    let directory = scratch.join(name);
    let _ = Api::at(&scratch.join("api.sock"));
    let ctl = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot").arg(&directory);
    ctl.run().expect_code(0);
    directory
}

fn go_on(directory: &Path, scratch: &Scratch) -> Machine {
    let _ = fs::remove_file(scratch.join("api.sock"));
    let vmm = Vmm::restored(directory).without_jail();
    let guest = vmm.arg("--api-sock").arg(scratch.join("api.sock")).spawn();
    let _ = Api::at(&scratch.join("api.sock"));
    guest
}

fn number(guest: &mut Machine, command: &str) -> u64 {
    let text = guest.shell(command);
    text.trim().parse().unwrap_or_else(|error| panic!("{command}: {text:?}: {error}"))
}

/// The disk is read and hashed all the time, and each round is counted; a file in memory and one of its hashes stay.
const WORK: &str = "dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null; sha256sum /tmp/data >/tmp/sums; \
                    sha256sum /dev/vda >>/tmp/sums; \
                    (n=0; while :; do sha256sum -c -s /tmp/sums || echo bad >>/tmp/bad; n=$((n+1)); echo $n >/tmp/new; mv /tmp/new /tmp/n; done) & true";

fn a_guest_at_work_goes_on_anywhere() {
    let scratch = Scratch::new();
    let contents: Vec<u8> =
        (0..512 * 1024_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let disk = scratch.file("disk", contents);
    let vmm =
        Vmm::linux().args(["--cpus", "2"]).disk(&disk, ",engine=uring,readonly").without_jail();
    let mut guest = vmm.arg("--api-sock").arg(scratch.join("api.sock")).spawn().booted();
    guest.shell(WORK);
    let mut rounds = 0;
    let mut uptime = 0;
    for generation in 0..scaled(100).max(3) {
        // At a moment that nobody has chosen: the guest is in the midst of its work.
        let saved = save(&scratch, &format!("saved-{}", generation % 2));
        guest.kill();
        guest = go_on(&saved, &scratch);
        let now = number(&mut guest, "cut -d. -f1 /proc/uptime");
        assert!((uptime..uptime + 300).contains(&now), "{now} after {uptime}");
        uptime = now;
        let before = number(&mut guest, "cat /tmp/n 2>/dev/null || echo 0");
        assert!(before >= rounds, "{before} after {rounds}");
        rounds = number(
            &mut guest,
            &format!(
                "while [ $(cat /tmp/n 2>/dev/null || echo 0) -le {before} ]; do sleep 0.1; done; cat /tmp/n"
            ),
        );
    }
    assert_eq!(guest.shell("cat /tmp/bad 2>/dev/null || echo none"), "none");
    // Two that go on from the same moment are not the same: their kernels were told.
    guest.shell("head -c 16 /dev/urandom | od -An -tx1 >/dev/null");
    let saved = save(&scratch, "last");
    guest.kill();
    let random = [0, 1].map(|_| {
        let mut guest = go_on(&saved, &scratch);
        let random = guest.shell("sleep 1; head -c 16 /dev/urandom | od -An -tx1");
        assert_eq!(guest.shell("sha256sum -c -s /tmp/sums && echo whole"), "whole");
        guest.power_off();
        random
    });
    assert_ne!(random[0], random[1]);
}
