//! The network card as Linux uses it, with a peer on the host's side of the tap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use harness::api::Api;
use harness::network::{
    GUEST, HOST, PREFIX, Peer, Tap, in_own_network, interface_counter, interfaces, md5, noise,
};
use harness::{Machine, Need, Scratch, Vmm};
use libtest_mimic::Trial;
use serde_json::json;

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
        own("linux::net::metadata", metadata),
        own("linux::net::pauses_lose_nothing", pauses_lose_nothing),
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

/// The machine is paused all the time while the network and a disk are busy.
fn pauses_lose_nothing() {
    let _tap = Tap::new("tap0");
    let scratch = Scratch::new();
    let contents = noise(scaled(16 << 20));
    let disk = scratch.file("disk", &contents);
    let address = format!("vmm.ip={GUEST}/{PREFIX}");
    let vmm =
        Vmm::linux().disk(disk, ",readonly").args(["--net", "tap=tap0", "--append", &address]);
    let socket = scratch.join("api.sock");
    let mut guest = vmm.arg("--api-sock").arg(&socket).spawn().booted();
    let pauses = Pauses::begin(Api::at(&socket));
    guest.shell("md5sum </dev/vda >/tmp/sum & true");
    while pauses.so_far() < 100 {
        transfer(&mut guest, scaled(16 << 20));
    }
    assert_eq!(guest.shell("wait; cat /tmp/sum"), format!("{}  -", md5(&contents)), "the disk");
    pauses.end();
    guest.power_off();
}

/// Somebody who pauses a machine and lets it go on, all the time.
struct Pauses {
    thread: thread::JoinHandle<()>,
    count: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
}

impl Pauses {
    /// The guest must get somewhere between two pauses, also on an emulated processor.
    const RUN: Duration = Duration::from_millis(5);
    const REST: Duration = Duration::from_millis(2);

    fn begin(api: Api) -> Self {
        let (count, is_over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, over) = (count.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                api.patch("/vm", &json!({ "state": "Paused" }));
                thread::sleep(Self::REST);
                api.patch("/vm", &json!({ "state": "Resumed" }));
                counter.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Self::RUN);
            }
        });
        Self { thread, count, is_over }
    }

    fn so_far(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
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

fn metadata() {
    const SERVICE: &str = "169.254.169.254";
    let _tap = Tap::new("tap0");
    let scratch = Scratch::new();
    let long = "0123456789".repeat(4000);
    let text = format!(
        r#"{{ "latest": {{ "meta-data": {{ "name": "vm-1", "tags": {{}} }}, "long": "{long}" }} }}"#
    );
    let file = scratch.file("metadata.json", text).display().to_string();
    let address = format!("vmm.ip={GUEST}/{PREFIX}");
    let vmm = Vmm::linux().args(["--net", "tap=tap0,metadata", "--append", &address]);
    let mut guest = vmm.args(["--metadata", &format!("{file},v2")]).spawn().booted();
    guest.shell(&format!("ip route add {SERVICE} dev eth0"));
    let before = interface_counter("tap0", "rx_packets");

    // Programs that know nothing of tokens get nothing.
    let (status, _) = guest.try_shell(&format!("wget -q -O- http://{SERVICE}/latest"));
    assert_ne!(status, 0, "an answer without a token");
    let request =
        "PUT /latest/api/token HTTP/1.0\\r\\nX-metadata-token-ttl-seconds: 60\\r\\n\\r\\n";
    guest.shell(&format!("token=$(printf '{request}' | nc {SERVICE} 80 | tail -n 1)"));
    let get = |path: &str| {
        format!("wget -q -O- --header \"X-aws-ec2-metadata-token: $token\" http://{SERVICE}{path}")
    };
    assert_eq!(guest.shell(&get("/latest/meta-data")), "name\ntags/");
    assert_eq!(guest.shell(&get("/latest/meta-data/name")), "vm-1");
    let sum = guest.shell(&format!("{} | md5sum", get("/latest/long")));
    assert_eq!(sum, format!("{}  -", md5(long.as_bytes())));
    let json = get("/latest/meta-data")
        .replace("--header", "--header 'Accept: application/json' --header");
    assert_eq!(guest.shell(&json), r#"{"name":"vm-1","tags":{}}"#);

    // The host's network heard nothing of it, but for what a guest says by itself, and is there all the same.
    let frames = interface_counter("tap0", "rx_packets") - before;
    assert!(frames < 10, "{frames} frames on the host's side");
    guest.shell(&format!("ping -c 2 {HOST}"));
    guest.power_off();
}
