//! A Linux guest whose disk, network, sockets and serial line are all busy, saved at moments that nobody has chosen: it goes
//! on from each as if there had been none.
//!
//! The machine rests before it is saved and does not go on in its old process, so that the world outside has seen exactly
//! what the copy remembers: connections over the network stay, and no byte is said twice or missing.

use std::env;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::api::Api;
use harness::network::{GUEST, HOST, PREFIX, Tap, in_own_network, md5, noise};
use harness::{Machine, Need, Random, Scratch, Vmm};
use libtest_mimic::Trial;
use serde_json::json;

use super::scaled;
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    const NEEDS: &[Need] = &[Need::LinuxKvm, Need::Guest, Need::Network];
    let test = || in_own_network(saved_under_load);
    vec![trial("linux::snapshot::saved_under_load", NEEDS, test)]
}

/// Snapshots, if nobody says how many with `VMM_TEST_SNAPSHOTS`.
const SNAPSHOTS: usize = 128;
/// Bytes that come over the network and over a socket at a time, often in the midst of a snapshot.
const PIECE: usize = 96 << 10;
/// Longest time between a sign of progress and the next snapshot.
const LONGEST: u64 = 400;
/// Where programs of the host listen for the guest.
const VSOCK_PORT: u32 = 52;
/// What is busy, each in a loop of its own that counts its rounds in /tmp/n.NAME.
const LOADS: [&str; 4] = ["disk", "net", "vsock", "serial"];

fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// The loops, in the words of the guest's shell, whose lines are short. What is wrong is a line in /tmp/bad.
fn load(port: u16, sum: &str) -> [String; 4] {
    let count = |name: &str| format!("echo $n >/tmp/.{name}; mv /tmp/.{name} /tmp/n.{name}");
    let of_host = format!("[ \"$(md5sum <$f)\" = '{sum}  -' ]");
    let size = format!("[ $(wc -c <$f) = {PIECE} ]");
    let loops = [
        // Written, and read back from the disk itself.
        format!(
            "yes $n | head -c 32768 >/tmp/w; dd if=/tmp/w of=/dev/vda bs=32k seek=$((n % 16)) conv=fsync 2>/dev/null; \
             echo 1 >/proc/sys/vm/drop_caches; \
             dd if=/dev/vda bs=32k skip=$((n % 16)) count=1 2>/dev/null | cmp -s - /tmp/w || echo disk $n >>/tmp/bad; {}",
            count("disk")
        ),
        format!(
            "f=/tmp/f.net; nc {HOST} {port} </dev/null >$f; {of_host} || echo net $n $(wc -c <$f) >>/tmp/bad; {}",
            count("net")
        ),
        // A connection ends with the process at its other end; what comes whole must be right.
        format!(
            "f=/tmp/f.vsock; vsock connect 2 {VSOCK_PORT} </dev/null >$f 2>/dev/null; \
             {size} && {{ {of_host} || echo vsock $n >>/tmp/bad; {}; }}",
            count("vsock")
        ),
        format!("echo \"@$n\" >/dev/ttyS0; usleep 2000; {}", count("serial")),
    ];
    loops.map(|it| format!("(n=0; while :; do n=$((n+1)); {it}; done) & true"))
}

/// Waits until each has done one round that was begun after this, and gives the rounds.
#[track_caller]
fn progress(guest: &mut Machine, before: [u64; 4]) -> [u64; 4] {
    let each = LOADS.iter().zip(before);
    let each = each.map(|(name, before)| {
        format!("until [ $(cat /tmp/n.{name}) -gt {} ]; do usleep 20000; done; ", before + 1)
    });
    let names = LOADS.map(|name| format!(" /tmp/n.{name}")).concat();
    let said = guest.shell(&format!("{}cat{names}", each.collect::<String>()));
    let numbers: Vec<u64> = said.split_whitespace().map(|it| it.parse().unwrap()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{said:?}"))
}

/// Gives `data` to everybody who comes.
fn serve<S: Write + Send + 'static>(
    accept: impl Fn() -> std::io::Result<S> + Send + 'static,
    data: Vec<u8>,
) {
    thread::spawn(move || {
        while let Ok(mut client) = accept() {
            // It may go at any time.
            let data = data.clone();
            thread::spawn(move || drop(client.write_all(&data)));
        }
    });
}

fn serial(scratch: &Scratch, number: usize) -> String {
    format!("file={}", scratch.join(&format!("serial-{number}")).display())
}

fn go_on(saved: &Path, scratch: &Scratch, number: usize) -> Machine {
    for name in ["api.sock", "v"] {
        let _ = fs::remove_file(scratch.join(name));
    }
    let vmm = Vmm::restored(saved).serial(&serial(scratch, number)).without_jail();
    vmm.arg("--api-sock").arg(scratch.join("api.sock")).spawn()
}

fn saved_under_load() {
    let count = number_of("VMM_TEST_SNAPSHOTS").map_or_else(|| scaled(SNAPSHOTS), |it| it as usize);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let seed = number_of("VMM_TEST_SEED").unwrap_or(now | 1);
    println!("{count} snapshots at moments of seed {seed} (VMM_TEST_SNAPSHOTS, VMM_TEST_SEED)");
    let mut random = Random::new(seed);

    let scratch = Scratch::new();
    let _tap = Tap::new("tap0");
    let disk = scratch.sparse_file("disk", 1 << 20);
    let data = noise(PIECE);
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    serve(move || listener.accept().map(|(client, _)| client), data.clone());
    let listener = UnixListener::bind(scratch.join(&format!("v_{VSOCK_PORT}"))).unwrap();
    serve(move || listener.accept().map(|(client, _)| client), data.clone());

    let vsock = format!("socket={}", scratch.join("v").display());
    let vmm = Vmm::linux().args(["--cpus", "2", "--net", "tap=tap0", "--vsock", &vsock]);
    let vmm = vmm.args(["--append", &format!("vmm.ip={GUEST}/{PREFIX}")]).without_jail();
    let vmm = vmm.disk(&disk, "").console("stdio").serial(&serial(&scratch, 0));
    let mut guest = vmm.arg("--api-sock").arg(scratch.join("api.sock")).spawn().booted();
    guest.shell(&(LOADS.map(|name| format!("echo 0 >/tmp/n.{name}; ")).concat() + "true"));
    for busy in load(port, &md5(&data)) {
        guest.shell(&busy);
    }

    let mut rounds = progress(&mut guest, [0; 4]);
    for number in 1..=count {
        thread::sleep(Duration::from_millis(random.below(LONGEST)));
        let saved = scratch.join(&format!("saved-{}", number % 2));
        fs::create_dir_all(&saved).unwrap();
        let api = Api::at(&scratch.join("api.sock"));
        api.patch("/vm", &json!({ "state": "Paused" }));
        api.put("/snapshot/create", &json!({ "directory": saved }));
        guest.kill();
        guest = go_on(&saved, &scratch, number);
        rounds = progress(&mut guest, rounds);
        let bad = guest.shell("cat /tmp/bad 2>/dev/null || echo none");
        assert_eq!(bad, "none", "after snapshot {number} of seed {seed}");
    }
    println!("rounds of {LOADS:?}: {rounds:?}");
    guest.kill();
    // What all of them have said on the serial line, one after the other, is what one machine would have said.
    let said: Vec<u8> = (0..=count)
        .flat_map(|number| fs::read(scratch.join(&format!("serial-{number}"))).unwrap())
        .collect();
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    let numbers: Vec<u64> =
        whole.lines().filter_map(|line| line.strip_prefix('@')?.parse().ok()).collect();
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert!(numbers.len() as u64 >= rounds[3], "{} of {}", numbers.len(), rounds[3]);
    let wrong = numbers.iter().zip(&expected).position(|(is, should)| is != should);
    assert_eq!(wrong, None, "the serial line of seed {seed}: {said:?}");
}
