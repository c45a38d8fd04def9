use std::net::UdpSocket;
use std::process::Command;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::super::test_network::{in_own_network, ip};
use super::*;

/// The full path of the calling test.
macro_rules! path {
    ($name:ident) => {
        concat!(module_path!(), "::", stringify!($name))
    };
}

const TAP: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// A tap as somebody else would open it.
fn open_by_hand(name: &str, flags: libc::c_int) -> OwnedFd {
    attach(name, IfReq::named(name).unwrap().with_flags(flags), 1).unwrap().into()
}

/// Brings `name` up at 10.9.0.1 with a neighbour at 10.9.0.2, and nothing else that talks.
fn bring_up(name: &str) {
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    ip(&format!("addr add 10.9.0.1/24 dev {name}"));
    ip(&format!("link set {name} up"));
    ip(&format!("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev {name}"));
}

/// Frames that wait in `queue`.
fn drain(tap: &Tap, queue: usize) -> usize {
    let mut bytes = vec![0; 70_000];
    let mut frames = 0;
    while (&tap.queues[queue]).read(&mut bytes).is_ok() {
        frames += 1;
    }
    frames
}

fn send_flows(ports: std::ops::Range<u16>) {
    for port in ports {
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        socket.send_to(b"frame", ("10.9.0.2", 1000 + port)).unwrap();
    }
}

#[test]
fn impossible_names_are_refused_before_the_kernel_sees_them() {
    for name in ["", ".", "..", "tap/0", "tap 0", "tap%d", "a:b", "0123456789abcdef", "a\0b"] {
        let error = Tap::open(name, 1).unwrap_err();
        assert!(matches!(&error, TapError::Name { name: n } if n == name), "{name}: {error}");
    }
    assert!(IfReq::named("0123456789abcde").is_some());
}

#[test]
fn impossible_numbers_of_queues_are_refused() {
    for queues in [0, 257, u16::MAX] {
        assert!(matches!(Tap::open("tap0", queues), Err(TapError::Queues { .. })));
    }
    assert!(matches!(Tap::from_fds(Vec::new()), Err(TapError::Queues { queues: 0 })));
}

#[test]
fn offloads_become_the_kernel_s_flags() {
    let all = Offloads { checksum: true, tso4: true, tso6: true, ecn: true, uso: true };
    assert_eq!(offload_flags(Offloads::default()), 0);
    assert_eq!(offload_flags(all), 0x6f);
    let tso4 = Offloads { checksum: true, tso4: true, ..Offloads::default() };
    assert_eq!(offload_flags(tso4), 0x3);
}

#[test]
fn messages_name_the_remedy() {
    let permission = |queues| TapError::Permission { name: "tap7".to_owned(), queues }.to_string();
    let command = "`ip tuntap add dev tap7 mode tap user $USER vnet_hdr`";
    assert!(permission(1).ends_with(command), "{}", permission(1));
    assert!(permission(2).ends_with("vnet_hdr multi_queue`"), "{}", permission(2));
    assert!(TapError::NoDriver.to_string().contains("modprobe tun"));
}

#[test]
fn a_tap_is_made_used_by_one_and_gone_when_dropped() {
    in_own_network(path!(a_tap_is_made_used_by_one_and_gone_when_dropped), || {
        let tap = Tap::open("t0", 1).unwrap();
        assert_eq!((tap.name(), tap.queues()), ("t0", 1));
        assert!(ip("-d link show t0").contains("tun type tap pi off vnet_hdr on"));
        assert!(matches!(Tap::open("t0", 1), Err(TapError::Busy { .. })));
        assert!(tap.fd(1).is_none());
        drop(tap);
        assert!(!ip("link").contains("t0"));
        drop(Tap::open("t0", 1).unwrap());
    });
}

#[test]
fn a_persistent_tap_is_attached_to_and_stays() {
    in_own_network(path!(a_persistent_tap_is_attached_to_and_stays), || {
        ip("tuntap add dev t0 mode tap");
        for _ in 0..3 {
            drop(Tap::open("t0", 1).unwrap());
        }
        assert!(ip("link").contains("t0"));
    });
}

#[test]
fn interfaces_of_another_kind_are_refused() {
    in_own_network(path!(interfaces_of_another_kind_are_refused), || {
        ip("tuntap add dev many mode tap multi_queue");
        ip("tuntap add dev one mode tap");
        ip("tuntap add dev ip mode tun");
        for (name, queues) in [("lo", 1), ("many", 1), ("one", 2), ("ip", 1)] {
            let error = Tap::open(name, queues).unwrap_err();
            assert!(matches!(error, TapError::Mismatch { .. }), "{name}: {error}");
        }
        assert_eq!(Tap::open("many", 4).unwrap().queues(), 4);
    });
}

#[test]
fn without_the_right_the_remedy_is_told() {
    in_own_network(path!(without_the_right_the_remedy_is_told), || {
        const UNPRIVILEGED: &str = "TEST_UNPRIVILEGED";
        if std::env::var_os(UNPRIVILEGED).is_some() {
            // In a user namespace of its own, this process has no right over the network it is in.
            let error = Tap::open("t0", 1).unwrap_err();
            assert!(matches!(error, TapError::Permission { .. }), "{error}");
            return;
        }
        let status = Command::new("unshare")
            .arg("--user")
            .arg(std::env::current_exe().unwrap())
            .args([path!(without_the_right_the_remedy_is_told).split_once("::").unwrap().1])
            .args(["--exact", "--test-threads=1"])
            .env(UNPRIVILEGED, "1")
            .status();
        assert!(status.unwrap().success());
    });
}

#[test]
fn a_descriptor_is_checked_before_it_is_used() {
    in_own_network(path!(a_descriptor_is_checked_before_it_is_used), || {
        for path in ["/dev/null", TUN_DEVICE] {
            let file = File::options().read(true).write(true).open(path).unwrap();
            let error = Tap::from_fd(file.into()).unwrap_err();
            assert!(matches!(error, TapError::NotTap { .. }), "{path}: {error}");
        }
        for (flags, expected) in [
            (TAP & !libc::IFF_VNET_HDR, "IFF_VNET_HDR"),
            (TAP & !libc::IFF_TAP | libc::IFF_TUN, "IFF_TAP"),
        ] {
            let error = Tap::from_fd(open_by_hand("t0", flags)).unwrap_err();
            assert!(
                matches!(&error, TapError::Form { missing, .. } if *missing == expected),
                "{error}"
            );
        }
        let many = |name| open_by_hand(name, TAP | libc::IFF_MULTI_QUEUE);
        let error = Tap::from_fds(vec![many("t0"), many("t1")]).unwrap_err();
        assert!(matches!(error, TapError::Mixed { .. }), "{error}");
        let tap = Tap::from_fds(vec![many("t0"), many("t0")]).unwrap();
        assert_eq!((tap.name(), tap.queues()), ("t0", 2));
    });
}

#[test]
fn a_descriptor_that_blocks_is_made_not_to() {
    in_own_network(path!(a_descriptor_that_blocks_is_made_not_to), || {
        let fd = open_by_hand("t0", TAP);
        // SAFETY: F_SETFL takes an int and touches no memory.
        assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_RDWR) }, 0);
        let tap = Tap::from_fd(fd).unwrap();
        bring_up("t0");
        let error = (&tap.queues[0]).read(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn the_mtu_is_set_where_the_name_is_known() {
    in_own_network(path!(the_mtu_is_set_where_the_name_is_known), || {
        let tap = Tap::open("t0", 1).unwrap();
        for mtu in [68, 9000, 65521] {
            tap.set_mtu(mtu).unwrap();
            assert!(ip("link show t0").contains(&format!("mtu {mtu} ")));
        }
        let handed_over = Tap::from_fd(open_by_hand("t1", TAP)).unwrap();
        let error = handed_over.set_mtu(9000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    });
}

#[test]
fn frames_begin_with_a_header_of_12_bytes() {
    in_own_network(path!(frames_begin_with_a_header_of_12_bytes), || {
        let tap = Tap::open("t0", 1).unwrap();
        bring_up("t0");
        send_flows(0..1);
        let mut bytes = [0xaa; 200];
        let len = (&tap.queues[0]).read(&mut bytes).unwrap();
        // Ethernet, IPv4, UDP and the five bytes of `frame`.
        assert_eq!(len, 12 + 14 + 20 + 8 + 5);
        assert_eq!(bytes[12..18], [2, 0, 0, 0, 0, 2], "the neighbour's address");
        assert_eq!(bytes[len - 5..len], *b"frame");
    });
}

#[test]
fn frames_of_another_shape_are_dropped() {
    in_own_network(path!(frames_of_another_shape_are_dropped), || {
        let tap = Tap::open("t0", 1).unwrap();
        bring_up("t0");
        let checksum = Offloads { checksum: true, ..Offloads::default() };
        tap.set_offloads(checksum).unwrap();
        send_flows(0..5);
        tap.set_offloads(checksum).unwrap();
        assert_eq!(drain(&tap, 0), 5, "nothing changed");
        send_flows(0..5);
        tap.set_offloads(Offloads::default()).unwrap();
        assert_eq!(drain(&tap, 0), 0);
        send_flows(0..5);
        assert_eq!(drain(&tap, 0), 5);
    });
}

#[test]
fn only_active_queues_get_frames_and_are_heard_of() {
    in_own_network(path!(only_active_queues_get_frames_and_are_heard_of), || {
        let tap = Tap::open("t0", 4).unwrap();
        bring_up("t0");
        let epoll = Epoll::new().unwrap();
        for queue in 0..4_u64 {
            let fd = tap.queues[usize::try_from(queue).unwrap()].as_raw_fd();
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, queue);
            epoll.ctl(ControlOperation::Add, fd, event).unwrap();
        }
        for active in [1, 4, 2, 4, 1] {
            tap.set_active_queues(active).unwrap();
            // News of the change itself.
            let mut events = [EpollEvent::default(); 8];
            epoll.wait(0, &mut events).unwrap();
            send_flows(0..100);
            let count = epoll.wait(0, &mut events).unwrap();
            let mut heard_of: Vec<_> = events[..count].iter().map(EpollEvent::data).collect();
            heard_of.sort_unstable();
            let expected: Vec<_> = (0..u64::from(active)).collect();
            assert_eq!(heard_of, expected);
            let frames: Vec<_> = (0..4).map(|queue| drain(&tap, queue)).collect();
            assert_eq!(frames.iter().sum::<usize>(), 100, "{frames:?}");
            assert!(frames[usize::from(active)..].iter().all(|&n| n == 0));
        }
    });
}

#[test]
fn a_deleted_tap_answers_with_errors() {
    in_own_network(path!(a_deleted_tap_answers_with_errors), || {
        let tap = Tap::open("t0", 2).unwrap();
        ip("link del t0");
        let read = (&tap.queues[0]).read(&mut [0; 64]).unwrap_err();
        assert_eq!(read.raw_os_error(), Some(libc::EBADFD));
        assert!(tap.set_active_queues(1).is_err());
        assert!(tap.set_offloads(Offloads::default()).is_err());
        assert!(tap.set_mtu(1500).is_err());
    });
}
