//! The network card as Linux uses it, with a peer on the host's side of the tap.

use harness::network::{
    GUEST, HOST, PREFIX, Peer, Tap, in_own_network, interface_counter, interfaces, md5, noise,
};
use harness::{Machine, Need, Vmm};
use libtest_mimic::Trial;

use super::scaled;
use crate::suite::trial;

const NEEDS: &[Need] = &[Need::LinuxKvm, Need::Guest, Need::Network];

/// All of them, each in a network of its own.
pub fn tests() -> Vec<Trial> {
    let own = |name, test: fn()| trial(name, NEEDS, move || in_own_network(test));
    vec![
        own("linux::net::both_ways", both_ways),
        own("linux::net::jumbo_frames", jumbo_frames),
        own("linux::net::two_queues_with_limits_on_a_thread", two_queues_with_limits_on_a_thread),
        own("linux::net::tap_made_by_vmm_is_gone_afterwards", tap_made_by_vmm),
    ]
}

fn guest_on(net: &str) -> Machine {
    let address = format!("vmm.ip={GUEST}/{PREFIX}");
    Vmm::linux().args(["--net", net, "--append", &address]).spawn().booted()
}

fn both_ways() {
    let _tap = Tap::new("tap0");
    let mut guest = guest_on("tap=tap0,mac=02:00:00:00:00:42");
    assert_eq!(guest.shell("cat /sys/class/net/eth0/address"), "02:00:00:00:00:42");
    guest.shell(&format!("ping -c 2 {HOST}"));
    transfer(&mut guest, scaled(64 << 20));
    guest.power_off();
}

fn two_queues_with_limits_on_a_thread() {
    let _tap = Tap::with_queues("tap0");
    let address = format!("vmm.ip={GUEST}/{PREFIX}");
    let net = "tap=tap0,queues=2,bw=256M,pps=1M,iothread=net";
    let vmm = Vmm::linux().args(["--cpus", "2", "--append", &address]);
    let mut guest = vmm.args(["--net", net, "--iothread", "net"]).spawn().booted();
    for direction in ["rx", "tx"] {
        let count = format!("ls -d /sys/class/net/eth0/queues/{direction}-* | wc -l");
        assert_eq!(guest.shell(&count), "2", "{direction}");
    }
    guest.shell(&format!("ping -c 2 {HOST}"));
    transfer(&mut guest, scaled(16 << 20));
    guest.power_off();
}

/// Sends `len` bytes to the guest, and as many back.
fn transfer(guest: &mut Machine, len: usize) {
    let data = noise(len);
    let peer = Peer::sending(data.clone());
    let sum = guest.shell(&format!("nc {HOST} {} </dev/null | md5sum", peer.port));
    peer.finish();
    assert_eq!(sum, format!("{}  -", md5(&data)), "host to guest");

    let peer = Peer::receiving();
    let count = data.len() >> 16;
    guest.shell(&format!("dd if=/dev/urandom of=/tmp/data bs=64k count={count} 2>/dev/null"));
    guest.shell(&format!("nc {HOST} {} </tmp/data", peer.port));
    let received = peer.finish();
    let sum = guest.shell("md5sum </tmp/data");
    assert_eq!(sum, format!("{}  -", md5(&received)), "guest to host");
}

fn jumbo_frames() {
    let tap = Tap::new("tap0");
    tap.set_mtu(9000);
    let mut guest = guest_on("tap=tap0,mtu=9000");
    assert_eq!(guest.shell("cat /sys/class/net/eth0/mtu"), "9000");
    guest.shell(&format!("ping -c 1 {HOST}"));
    let before = interface_counter("tap0", "rx_packets");
    guest.shell(&format!("ping -c 3 -s 8900 {HOST}"));
    let frames = interface_counter("tap0", "rx_packets") - before;
    // In pieces of 1500 bytes it would be six times as many.
    assert!((3..10).contains(&frames), "{frames} frames for three pings");
    guest.power_off();
}

fn tap_made_by_vmm() {
    let guest = guest_on("tap=made0");
    assert!(interfaces().contains(&"made0".to_owned()), "{:?}", interfaces());
    guest.power_off();
    assert_eq!(interfaces(), ["lo"]);
}
