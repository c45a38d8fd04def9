use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use devices::rate_limiter::Rate;

use super::*;

fn tap(name: &str) -> NetConfig {
    NetConfig::new(NetSource::Tap(name.to_owned()))
}

fn refusal(nets: Vec<NetConfig>) -> String {
    resolve("vm", nets).unwrap_err().to_string()
}

#[test]
fn every_part_is_read() {
    assert_eq!("tap=tap0".parse(), Ok(tap("tap0")));
    assert_eq!(
        "fd=9,mac=02:00:00:00:00:01,mtu=1400,id=lan".parse(),
        Ok(NetConfig {
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: Some(1400),
            id: Some("lan".to_owned()),
            ..NetConfig::new(NetSource::Fds(vec![9]))
        })
    );
    let limits = Limits { bandwidth: Rate::new(1 << 20, Duration::from_millis(100), 0), ops: None };
    assert_eq!(
        "tap=t,queues=4,bw=10M,iothread=io0".parse(),
        Ok(NetConfig {
            queues: Some(4),
            rx_limits: limits,
            tx_limits: limits,
            iothread: Some("io0".to_owned()),
            ..tap("t")
        })
    );
    assert_eq!("fd=5:6".parse(), Ok(NetConfig::new(NetSource::Fds(vec![5, 6]))));
}

#[test]
fn every_mistake_has_its_message() {
    for (text, message) in [
        ("", "the other end of the net is missing: write tap=NAME or fd=N"),
        ("mtu=1500", "the other end of the net is missing: write tap=NAME or fd=N"),
        ("tap", "\"tap\" must be written tap=NAME"),
        ("tap=", "\"tap\" must be written tap=NAME"),
        ("tap=a,fd=3", "\"fd\" must be written tap=NAME or fd=N"),
        ("fd=x", "fd: \"x\" is not a whole number from 0 to 65535"),
        ("fd=-1", "fd: \"-1\" is not a whole number from 0 to 65535"),
        ("tap=a,mtu=65536", "mtu: \"65536\" is not a whole number from 0 to 65535"),
        ("tap=a,tap=b", "\"tap\" is given twice"),
        (
            "tap0",
            "unknown part \"tap0\"; did you mean \"tap\"?; \
             known: tap=NAME, fd=N[:N...], mac=MAC, mtu=N, id=ID, queues=N, bw=RATE, pps=RATE, \
             burst=TIME, iothread=ID, metadata",
        ),
        ("fd=3:", "fd: \"\" is not a whole number from 0 to 65535"),
        (
            "tap=a,pps=0",
            "pps: \"0\" is not a rate: write a whole number above 0 per second, such as 500 or 5k",
        ),
        ("tap=a,burst=1s", "burst is nothing by itself: give bw or pps as well"),
    ] {
        assert_eq!(text.parse::<NetConfig>().unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn mtus_have_limits() {
    let with = |mtu| NetConfig { mtu: Some(mtu), ..tap("a") };
    for mtu in [68, 1500, 65521] {
        assert_eq!(resolve("vm", vec![with(mtu)]).unwrap()[0].mtu, Some(mtu));
    }
    for mtu in [0, 67] {
        let message = format!("net net0: mtu {mtu} is not possible: use 68 to 65521");
        assert_eq!(refusal(vec![with(mtu)]), message);
    }
}

#[test]
fn tap_names_are_the_kernels() {
    assert!(resolve("vm", vec![tap("tap-0.vlan_1234")]).is_ok());
    for name in ["", ".", "..", "a b", "a/b", "a:b", "tap%d", "a\n", "sixteen-bytes-xx"] {
        let message = refusal(vec![tap(name)]);
        assert!(message.contains("cannot be a tap's name"), "{name}: {message}");
    }
}

#[test]
fn descriptors_must_be_open_and_not_the_terminals() {
    let file = File::open("/dev/null").unwrap();
    let with = |fd| NetConfig::new(NetSource::Fds(vec![fd]));
    let plans = resolve("vm", vec![with(file.as_raw_fd())]).unwrap();
    assert_eq!(plans[0].source, NetSource::Fds(vec![file.as_raw_fd()]));
    assert_eq!(plans[0].queues, 1);
    for fd in 0..=2 {
        assert!(refusal(vec![with(fd)]).contains("pass the tap as 3 or higher"));
    }
    // Above the limit of descriptors that a test process has.
    assert!(refusal(vec![with(65000)]).contains("is not open"));
}

#[test]
fn queues_are_counted() {
    let files = [File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap()];
    let fds: Vec<_> = files.iter().map(|file| file.as_raw_fd()).collect();
    let (tap, on) = (tap("a"), NetConfig::new(NetSource::Fds(fds.clone())));
    let with = |net: &NetConfig, queues| NetConfig { queues, ..net.clone() };
    let planned = |net| resolve("vm", vec![net]).unwrap()[0].queues;
    assert_eq!([None, Some(1), Some(64)].map(|said| planned(with(&tap, said))), [1, 1, 64]);
    assert_eq!([None, Some(2)].map(|said| planned(with(&on, said))), [2, 2]);
    for queues in [0, 65] {
        let message = refusal(vec![with(&tap, Some(queues))]);
        assert_eq!(message, format!("net net0: {queues} queues are not possible: use 1 to 64"));
    }
    assert_eq!(
        refusal(vec![with(&on, Some(3))]),
        "net net0: 3 queues and 2 descriptors do not fit: leave out queues=, each descriptor is one"
    );
    let [first, second] = fds[..] else { panic!("two files") };
    let twice = NetConfig::new(NetSource::Fds(vec![first, first]));
    assert!(refusal(vec![twice]).ends_with("is named twice: each queue needs its own"));
    let shared = [vec![first], vec![second, first]].map(|fds| NetConfig::new(NetSource::Fds(fds)));
    assert_eq!(
        refusal(shared.to_vec()),
        format!("net net0 and net net1 both use descriptor {first}: give each its own")
    );
}

#[test]
fn nothing_is_shared() {
    assert_eq!(
        refusal(vec![tap("a"), tap("a")]),
        "net net0 and net net1 both use tap a: give each its own"
    );
    let mac = |name| NetConfig { mac: Some([2; 6]), ..tap(name) };
    assert_eq!(
        refusal(vec![mac("a"), mac("b")]),
        "net net0 and net net1 both have the address 02:02:02:02:02:02: set mac= on one of them"
    );
    let id = |name| NetConfig { id: Some("x".to_owned()), ..tap(name) };
    assert_eq!(refusal(vec![id("a"), id("b")]), "two nets have the id \"x\": give each its own");
}

#[test]
fn generated_addresses_are_stable_local_and_distinct() {
    let generate =
        |machine, id, tap: &str| generate_mac(machine, id, &NetSource::Tap(tap.to_owned()));
    // A contract: an address that changes with the version would change leases and firewall rules.
    assert_eq!(format_mac(&generate("vm", "net0", "tap0")), "02:f6:0d:01:e0:3e");
    let mut macs = Vec::new();
    for machine in ["vm", "vm1", "v"] {
        for id in ["net0", "net1", "mnet0"] {
            macs.extend(["tap0", "tap1", ""].map(|tap| generate(machine, id, tap)));
        }
    }
    assert!(macs.iter().all(|mac| mac[0] == 0x02));
    macs.sort_unstable();
    macs.dedup();
    assert_eq!(macs.len(), 27);
}
