//! Checks of what network cards need: the tap device, and the right to use one.

use super::Check;
use super::host::{Host, Node};

/// `CAP_NET_ADMIN` in the capability masks of /proc/self/status (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
/// `IFF_TAP` in an interface's `tun_flags` (linux/if_tun.h).
const IFF_TAP: u32 = 0x0002;

const NAME: &str = "tap devices";

/// The check of taps. Never a failure: machines without a network card run anyway.
pub(super) fn checks(host: &dyn Host) -> Vec<Check> {
    vec![match host.open("/dev/net/tun") {
        Node::Opens => check_right(host),
        Node::Missing => Check::warn(
            NAME,
            "/dev/net/tun does not exist: no --net tap=NAME",
            "load the module: sudo modprobe tun (in a container: start it with --device /dev/net/tun)",
        ),
        Node::Denied { mode, .. } => Check::warn(
            NAME,
            format!("this user may not open /dev/net/tun (mode {mode:03o}): no --net tap=NAME"),
            "open it to all, which gives no right by itself: sudo chmod 0666 /dev/net/tun",
        ),
        Node::NotADevice => Check::warn(
            NAME,
            "/dev/net/tun is not a device node: no --net tap=NAME",
            "make it one: sudo rm /dev/net/tun; sudo mknod -m 0666 /dev/net/tun c 10 200",
        ),
        Node::Fails(error) => Check::warn(
            NAME,
            format!("/dev/net/tun does not open: {error}"),
            "load the module: sudo modprobe tun",
        ),
    }]
}

/// With `CAP_NET_ADMIN` any tap can be made; without it, only one that was made for this user.
fn check_right(host: &dyn Host) -> Check {
    if has_net_admin(host) {
        return Check::ok(NAME, "/dev/net/tun opens, and this user may create taps");
    }
    let uid = status_field(host, "Uid")
        .and_then(|ids| ids.split_ascii_whitespace().nth(1).map(str::to_owned));
    let taps: Vec<String> = host
        .list("/sys/class/net")
        .into_iter()
        .filter(|name| is_tap(host, name))
        .filter(|name| owner(host, name) == uid && uid.is_some())
        .collect();
    if taps.is_empty() {
        return Check::warn(
            NAME,
            "/dev/net/tun opens, but this user has no CAP_NET_ADMIN and owns no tap",
            "have one made: sudo ip tuntap add tap0 mode tap vnet_hdr user $USER; sudo ip link set tap0 up \
             (or pass an open one with --net fd=N)",
        );
    }
    Check::ok(NAME, format!("/dev/net/tun opens, and this user owns {}", taps.join(", ")))
}

fn has_net_admin(host: &dyn Host) -> bool {
    status_field(host, "CapEff")
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .is_some_and(|mask| mask >> CAP_NET_ADMIN & 1 == 1)
}

fn is_tap(host: &dyn Host, name: &str) -> bool {
    host.read(&format!("/sys/class/net/{name}/tun_flags"))
        .and_then(|flags| u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).ok())
        .is_some_and(|flags| flags & IFF_TAP != 0)
}

fn owner(host: &dyn Host, name: &str) -> Option<String> {
    host.read(&format!("/sys/class/net/{name}/owner")).map(|uid| uid.trim().to_owned())
}

fn status_field(host: &dyn Host, name: &str) -> Option<String> {
    let status = host.read("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}
