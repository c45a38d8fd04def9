//! A network of its own for each test: a namespace, taps in it, and a peer for the guest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::panic;
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};

use crate::{Random, need};

/// The host's address on [`Tap::new`]'s network.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The guest's address there.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Length of the network's prefix.
pub const PREFIX: u8 = 24;

/// `_IOW('T', 202, int)`
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// `_IOW('T', 203, int)`
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;

/// Why there can be no network of our own; `None` if there can.
#[must_use]
pub fn missing() -> Option<String> {
    if let Some(reason) = need::capability_missing(12, "CAP_NET_ADMIN") {
        return Some(reason);
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        return Some(format!("/dev/net/tun: {error}"));
    }
    static TRIED: OnceLock<Option<String>> = OnceLock::new();
    TRIED
        .get_or_init(|| {
            let tried = thread::spawn(|| own_namespace().err());
            tried.join().ok()?.map(|e| format!("no network namespace: {e}"))
        })
        .clone()
}

/// Lets an ordinary user make networks: moves this process, which may have one thread only, into namespaces in
/// which it has all capabilities. The user's name in it is root.
///
/// # Errors
/// When the host does not allow it.
pub fn become_root_of_namespaces() -> io::Result<()> {
    // SAFETY: takes nothing and cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: takes a number.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) })?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Runs `test` on a thread with a network namespace of its own, which all that it starts share.
pub fn in_own_network<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(|| {
        own_namespace().unwrap_or_else(|e| panic!("network namespace: {e}"));
        set_up("lo").unwrap_or_else(|e| panic!("lo: {e}"));
        test()
    });
    thread.join().unwrap_or_else(|reason| panic::resume_unwind(reason))
}

/// The names of this thread's network interfaces.
#[must_use]
pub fn interfaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let names = table.lines().skip(2).filter_map(|line| line.split(':').next());
    names.map(|name| name.trim().to_owned()).collect()
}

/// A counter of one of this thread's interfaces, such as `"rx_packets"`.
#[must_use]
pub fn interface_counter(interface: &str, counter: &str) -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let column = match counter {
        "rx_bytes" => 0,
        "rx_packets" => 1,
        "tx_packets" => 9,
        "tx_dropped" => 11,
        other => panic!("no counter {other}"),
    };
    let line =
        table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let value = line.and_then(|line| line.split_whitespace().nth(column)?.parse().ok());
    value.unwrap_or_else(|| panic!("no interface {interface}"))
}

/// A tap that outlives its users, removed on drop.
pub struct Tap {
    name: &'static str,
    flags: libc::c_int,
    device: File,
}

impl Tap {
    /// The tap `name`, up, with the address [`HOST`].
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let tap = Self::without_address(name);
        tap.join();
        tap
    }

    /// The same, for several queues.
    #[must_use]
    pub fn with_queues(name: &'static str) -> Self {
        let tap = Self::made(name, libc::IFF_MULTI_QUEUE);
        tap.join();
        tap
    }

    /// The tap `name`, down.
    #[must_use]
    pub fn without_address(name: &'static str) -> Self {
        Self::made(name, 0)
    }

    fn made(name: &'static str, flags: libc::c_int) -> Self {
        let device = make_tap(name, flags).unwrap_or_else(|e| panic!("tap {name}: {e}"));
        Self { name, flags, device }
    }

    /// Gives it the address [`HOST`] and brings it up.
    fn join(&self) {
        let name = self.name;
        set_address(name, HOST, PREFIX).unwrap_or_else(|e| panic!("address of {name}: {e}"));
        set_up(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// One more queue of it, for a process to inherit.
    #[must_use]
    pub fn open_queue(&self) -> File {
        let device = File::options().read(true).write(true).open("/dev/net/tun");
        let device = device.unwrap_or_else(|e| panic!("/dev/net/tun: {e}"));
        attach(&device, self.name, self.flags).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        device
    }

    /// Changes the longest frame.
    pub fn set_mtu(&self, mtu: i32) {
        let mut request = request(self.name);
        request.ifr_ifru.ifru_mtu = mtu;
        interface_ioctl(libc::SIOCSIFMTU, &mut request).unwrap_or_else(|e| panic!("mtu: {e}"));
    }

    /// Changes how many frames wait for a slow reader.
    ///
    /// # Errors
    /// The host's: only the real root may.
    pub fn set_queue_len(&self, frames: i32) -> io::Result<()> {
        let mut request = request(self.name);
        request.ifr_ifru.ifru_metric = frames;
        interface_ioctl(libc::SIOCSIFTXQLEN, &mut request)
    }

    /// Removes the interface while somebody uses it.
    pub fn delete(&self) {
        delete_interface(self.name).unwrap_or_else(|e| panic!("removal of {}: {e}", self.name));
    }

    /// Sends a frame of `len` bytes of payload to whoever listens on the other side of the tap.
    pub fn send_broadcast(&self, len: usize) {
        let socket = std::net::UdpSocket::bind((HOST, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(&vec![0x5a; len], ("10.77.0.255", 9)).unwrap_or_else(|e| panic!("{e}"));
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Opened again, because the descriptor that made it was closed for vmm to take its place.
        let attached = attach(&self.device, self.name, self.flags);
        if attached.is_ok() {
            // SAFETY: the request takes a number. It fails only when the tap is gone already.
            unsafe { libc::ioctl(self.device.as_raw_fd(), TUNSETPERSIST, 0) };
        }
    }
}

/// A TCP server that takes one connection.
pub struct Peer<T> {
    /// Where it listens.
    pub port: u16,
    thread: JoinHandle<io::Result<T>>,
}

impl Peer<Vec<u8>> {
    /// Takes everything that the client sends.
    #[must_use]
    pub fn receiving() -> Self {
        Self::serving(|mut client| {
            let mut data = Vec::new();
            client.read_to_end(&mut data)?;
            Ok(data)
        })
    }
}

impl Peer<()> {
    /// Sends `data` and closes.
    #[must_use]
    pub fn sending(data: Vec<u8>) -> Self {
        Self::serving(move |mut client| client.write_all(&data))
    }
}

impl<T: Send + 'static> Peer<T> {
    fn serving(serve: impl FnOnce(TcpStream) -> io::Result<T> + Send + 'static) -> Self {
        let listener = TcpListener::bind((HOST, 0)).unwrap_or_else(|e| panic!("{HOST}: {e}"));
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || serve(listener.accept()?.0));
        Self { port, thread }
    }

    /// Waits until the connection is over.
    pub fn finish(self) -> T {
        let served = self.thread.join().unwrap_or_else(|reason| panic::resume_unwind(reason));
        served.unwrap_or_else(|e| panic!("peer: {e}"))
    }
}

/// Bytes without a pattern that a compressor or a stuck buffer could reproduce.
#[must_use]
pub fn noise(len: usize) -> Vec<u8> {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        data.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    data.truncate(len);
    data
}

/// What the command `md5sum` prints for `data` (RFC 1321). Every guest has that command.
#[must_use]
pub fn md5(data: &[u8]) -> String {
    const SHIFTS: [[u32; 4]; 4] =
        [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let mut constants = [0_u32; 64];
    for (step, constant) in (1_u32..).zip(&mut constants) {
        *constant = (f64::from(step).sin().abs() * 4_294_967_296.0) as u32;
    }
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let mut add = |block: &[u8]| {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| block[4 * at + byte]));
        let [mut a, mut b, mut c, mut d] = state;
        for step in 0..64 {
            let (mixed, at) = match step / 16 {
                0 => (b & c | !b & d, step),
                1 => (d & b | !d & c, 5 * step + 1),
                2 => (b ^ c ^ d, 3 * step + 5),
                _ => (c ^ (b | !d), 7 * step),
            };
            let sum =
                a.wrapping_add(mixed).wrapping_add(constants[step]).wrapping_add(word(at % 16));
            let turned = b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4]));
            (a, b, c, d) = (d, turned, b, c);
        }
        for (total, part) in state.iter_mut().zip([a, b, c, d]) {
            *total = total.wrapping_add(part);
        }
    };
    let whole = data.chunks_exact(64);
    let mut rest = whole.remainder().to_vec();
    whole.for_each(&mut add);
    rest.push(0x80);
    rest.resize((rest.len() + 8).next_multiple_of(64) - 8, 0);
    rest.extend_from_slice(&(8 * data.len() as u64).to_le_bytes());
    rest.chunks_exact(64).for_each(&mut add);
    state.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
}

fn own_namespace() -> io::Result<()> {
    // SAFETY: takes a number; concerns this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

fn make_tap(name: &str, flags: libc::c_int) -> io::Result<File> {
    let open = || File::options().read(true).write(true).open("/dev/net/tun");
    let device = open()?;
    attach(&device, name, flags)?;
    // SAFETY: the request takes a number.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETPERSIST, 1) })?;
    // A tap has one user; this descriptor is closed here, a fresh one is kept to remove the tap.
    open()
}

fn attach(device: &File, name: &str, more: libc::c_int) -> io::Result<()> {
    let mut request = request(name);
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request reads and fills an ifreq.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) })
}

fn set_address(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mask = Ipv4Addr::from_bits(u32::MAX << (32 - prefix));
    for (ioctl, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
        let mut request = request(name);
        let mut bytes = [0; 14];
        for (to, from) in bytes.iter_mut().skip(2).zip(value.octets()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_addr =
            libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: bytes };
        interface_ioctl(ioctl, &mut request)?;
    }
    Ok(())
}

/// Brings an interface of this thread's network up.
///
/// # Errors
/// When there is no such interface.
pub fn set_up(name: &str) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    interface_ioctl(libc::SIOCSIFFLAGS, &mut request)
}

/// Asks the kernel by netlink, which has no other way to remove a tap that is in use (rtnetlink(7)).
fn delete_interface(name: &str) -> io::Result<()> {
    const RTM_DELLINK: u16 = 17;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    let text = std::ffi::CString::new(name)?;
    // SAFETY: reads a string that lives through the call.
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    // SAFETY: takes numbers.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(socket)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    let mut socket = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(socket) };
    let mut message = Vec::new();
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&RTM_DELLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    // Sequence number and port, then the family and type of ifinfomsg.
    message.extend_from_slice(&[0; 12]);
    message.extend_from_slice(&index.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    socket.write_all(&message)?;
    let mut reply = [0; 256];
    let _ = socket.read(&mut reply)?;
    let [a, b, c, d] = reply[16..20] else { unreachable!("four bytes") };
    match i32::from_ne_bytes([a, b, c, d]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

fn interface_ioctl(number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all interface requests read or fill an ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), number, std::ptr::from_mut(request)) })
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq of zeros is valid: an empty name and numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "{name} is too long for an interface");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_agrees_with_the_command() {
        assert_eq!(md5(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(md5(b"abc"), "900150983cd24fb0d6963f7d28e17f72");
        // Lengths around the end of a block, where the padding needs another one or not.
        assert_eq!(md5(&[b'a'; 55]), "ef1772b6dff9a122358552954ad0df65");
        assert_eq!(md5(&[b'a'; 56]), "3b0c8ac703f828b04c6c197006d17218");
        assert_eq!(md5(&[b'a'; 64]), "014842d480b571495a4a0363793f7367");
    }

    #[test]
    fn noise_has_the_length_asked_for_and_no_short_period() {
        let data = noise(1001);
        assert_eq!(data.len(), 1001);
        assert_ne!(data[..500], data[500..1000]);
    }
}
