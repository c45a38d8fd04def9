//! The jail, seen from outside: what the process inside still has, how both ends belong together, and what is said
//! when there can be none.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use harness::api::Api;
use harness::confine::{self, Confinement};
use harness::{Machine, Need, Puppet, Scratch, Vmm, artifacts, patience};
use libtest_mimic::Trial;
use serde_json::json;

use super::vsock::guest_talks_to_host;
use crate::suite::trial;

/// Namespaces that are never the host's.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
const HOST_FAILURE: i32 = 125;
const BAD_CONFIGURATION: i32 = 152;

mod plain {
    use super::*;

    crate::suite::tests! { "bare::jail" needs &[Need::Kvm, Need::Jail];
        nothing_is_left,
        exit_codes_and_signals_go_through,
        neither_end_outlives_the_other,
        what_nobody_named_is_closed,
        sockets_are_reached_and_removed,
        a_machine_is_built_again,
        configured_by_the_api,
        a_start_that_fails_inside,
        a_terminal_is_put_back,
        kinds_of_namespaces_that_are_forbidden,
        mistakes,
    }
}

mod by_root {
    use super::*;

    crate::suite::tests! { "bare::jail" needs &[Need::Kvm, Need::Root];
        an_ordinary_user_needs_nothing,
        root_becomes_who_it_is_told,
        steps_that_fail,
    }
}

/// All of them.
pub fn tests() -> Vec<Trial> {
    let network = trial("bare::jail::tap_of_a_network", &[Need::Kvm, Need::Network], || {
        harness::network::in_own_network(a_tap_is_taken_along);
    });
    let needs = &[Need::Kvm, Need::Jail, Need::Root, Need::Cgroups];
    let limits = trial("bare::jail::limits", needs, limits_are_kept_and_go_with_the_machine);
    [plain::tests(), by_root::tests(), vec![network, limits]].into_iter().flatten().collect()
}

fn jailed(words: &str) -> Vmm {
    Vmm::puppet(words).arg("--jail")
}

fn running(vmm: Vmm) -> Machine {
    let mut machine = vmm.serial("stdio").spawn();
    machine.wait_for("puppet: ");
    machine.wait_for("\n");
    machine
}

fn read(pid: u32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words of a line of /proc/PID/status.
fn status<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).split_whitespace().collect()
}

fn namespace(pid: &str, name: &str) -> String {
    let path = format!("/proc/{pid}/ns/{name}");
    fs::read_link(&path).unwrap_or_else(|e| panic!("{path}: {e}")).to_string_lossy().into_owned()
}

/// Everything that can be read about a process which has nothing but its machine.
#[track_caller]
fn expect_confined(pid: u32) {
    let text = read(pid, "status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(&text, set), ["0000000000000000"], "{set}");
    }
    assert_eq!(status(&text, "NoNewPrivs"), ["1"]);
    for (ids, map) in [("Uid", "uid_map"), ("Gid", "gid_map")] {
        let ids = status(&text, ids);
        // In a user namespace of the tests, 0 is the number of the ordinary user who made it.
        let map = fs::read_to_string(format!("/proc/self/{map}")).unwrap();
        let has_root = map.split_whitespace().nth(1) == Some("0");
        assert!(ids.len() == 4 && !(has_root && ids.contains(&"0")), "{ids:?}");
    }
    assert_eq!(status(&text, "NSpid").last(), Some(&"1"), "it is not the first of its namespace");
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert_eq!(
            (status(&text, "CapEff"), status(&text, "NoNewPrivs")),
            (vec!["0000000000000000"], vec!["1"])
        );
    }
    for name in NAMESPACES {
        assert_ne!(namespace(&pid.to_string(), name), namespace("self", name), "{name}");
    }
    let mounts = read(pid, "mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    assert_eq!(fs::read_dir(format!("/proc/{pid}/root")).unwrap().count(), 0, "the root has files");
    // Two lines of heading, and loopback.
    assert_eq!(read(pid, "net/dev").lines().count(), 3, "more interfaces than loopback");
    for line in read(pid, "maps").lines() {
        let rights = line.split_whitespace().nth(1).unwrap_or_default();
        assert!(!(rights.contains('w') && rights.contains('x')), "writable and executable: {line}");
    }
    let limits = read(pid, "limits");
    for limit in ["Max core file size", "Max msgqueue size"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(limit)).unwrap_or_default();
        assert!(line.split_whitespace().take(2).eq(["0", "0"]), "{limit}{line}");
    }
}

/// What the descriptors of a process are, sorted; numbers in brackets left out.
fn descriptors(pid: u32) -> Vec<String> {
    let directory = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = directory.map(|entry| fs::read_link(entry.unwrap().path()).unwrap());
    let mut kinds: Vec<_> = links
        .map(|link| {
            let link = link.to_string_lossy();
            let is_numbered = link.starts_with("pipe:") || link.starts_with("socket:");
            let end = if is_numbered { link.find(':') } else { None };
            link[..end.unwrap_or(link.len())].to_owned()
        })
        .collect();
    kinds.sort();
    kinds
}

/// SECURITY.md lists them.
#[track_caller]
fn expect_documented_descriptors(pid: u32, files: &[&Path]) {
    const KINDS: [&str; 8] = [
        "pipe",
        "socket",
        "/dev/urandom",
        "anon_inode:[eventfd]",
        "anon_inode:[eventpoll]",
        "anon_inode:[signalfd]",
        "anon_inode:kvm-vm",
        "anon_inode:kvm-vcpu",
    ];
    let found = descriptors(pid);
    assert!(found.len() <= 20, "{} descriptors: {found:#?}", found.len());
    for one in &found {
        let is_known = KINDS.iter().any(|kind| one.starts_with(kind))
            || files.iter().any(|file| Path::new(one) == *file);
        assert!(is_known, "{one} is not documented, of {found:#?}");
    }
}

fn nothing_is_left() {
    let scratch = Scratch::new();
    let disk = fs::canonicalize(scratch.sparse_file("disk", 1 << 20)).unwrap();
    let machine = running(jailed("").disk(&disk, ""));
    let pid = machine.inside().expect("a process inside");
    expect_confined(pid);
    expect_documented_descriptors(pid, &[&disk]);
    // The process outside holds nothing of the machine.
    let outside: BTreeSet<_> = descriptors(machine.outer_pid()).into_iter().collect();
    let known = ["pipe", "socket", "anon_inode:[pidfd]", "anon_inode:[signalfd]", "pidfd"];
    let strangers: Vec<_> =
        outside.iter().filter(|one| !known.iter().any(|k| one.starts_with(k))).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    machine.kill();
}

fn exit_codes_and_signals_go_through() {
    jailed("mute exit=0").run().expect_code(0);
    jailed("mute exit=2a").run().expect_code(42).expect_one_line(&["status 42"]);
    jailed("mute")
        .args(["--timeout", "100ms"])
        .run()
        .expect_code(124)
        .expect_one_line(&["timeout"]);
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGHUP, 143), (libc::SIGINT, 130)] {
        let machine = running(jailed("").args(["--grace", "0s"]));
        machine.signal(signal);
        machine.expect_exit(code);
    }
    // One signal is one, though it reaches both: the second would end the grace period.
    let machine = running(jailed("").args(["--grace", "1h", "--level", "info"]));
    machine.signal(libc::SIGTERM);
    let mut machine = machine;
    machine.wait_for_error("power button pressed");
    assert!(machine.is_running());
    machine.signal(libc::SIGTERM);
    machine.expect_exit(143);
    let machine = running(jailed(""));
    machine.signal(libc::SIGQUIT);
    assert_eq!(machine.wait().signal, Some(libc::SIGQUIT));
}

#[track_caller]
fn wait_until_gone(pid: u32) {
    let deadline = Instant::now() + patience();
    while harness::leaks::is_alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        thread::sleep(Duration::from_millis(1));
    }
}

fn neither_end_outlives_the_other() {
    let machine = running(jailed(""));
    let inside = machine.inside().unwrap();
    machine.signal(libc::SIGKILL);
    wait_until_gone(inside);
    let machine = running(jailed(""));
    let inside = libc::pid_t::try_from(machine.inside().unwrap()).unwrap();
    // SAFETY: takes numbers; the process is the child of our child, which has not reaped it.
    assert_eq!(unsafe { libc::kill(inside, libc::SIGKILL) }, 0);
    assert_eq!(machine.wait().signal, Some(libc::SIGKILL));
}

fn what_nobody_named_is_closed() {
    let scratch = Scratch::new();
    let secret = fs::File::open(scratch.file("secret", "x")).unwrap();
    let kept = Confinement::Inherits(secret.as_raw_fd());
    let machine = running(jailed("").confined(kept));
    let found = descriptors(machine.inside().unwrap());
    assert!(!found.iter().any(|one| one.ends_with("secret")), "{found:#?}");
    machine.kill();
}

fn sockets_are_reached_and_removed() {
    let scratch = Scratch::new();
    let vsock = scratch.join("vsock");
    let console = scratch.join("console");
    let api = scratch.join("api");
    let vmm = jailed("")
        .args(["--vsock".into(), format!("socket={}", vsock.display())])
        .args(["--console".into(), format!("socket={}", console.display())])
        .arg("--api-sock")
        .arg(&api);
    let puppet = Puppet::start(vmm);
    guest_talks_to_host(&puppet, &vsock);
    assert_eq!(Api::at(&api).get("/")["state"], "Running");
    puppet.finish();
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());
}

fn a_machine_is_built_again() {
    let scratch = Scratch::new();
    let disk = scratch.sparse_file("disk", 1 << 20);
    let initrd = scratch.file("initrd", [7; 5000]);
    let vmm = jailed("").disk(&disk, "").args(["--on-reboot", "restart", "--initrd"]).arg(initrd);
    let mut machine = running(vmm);
    for _ in 0..2 {
        machine.send("o 1 64 fe\n");
        machine.wait_for("puppet: ");
        machine.wait_for("\n");
    }
    machine.send("o 1 f4 5\n");
    machine.expect_exit(5);
}

fn configured_by_the_api() {
    let scratch = Scratch::new();
    let disk = scratch.sparse_file("disk", 1 << 20);
    let other = scratch.sparse_file("other", 1 << 20);
    let vmm = Vmm::new().inside(&scratch).args(["--api-sock", "api.sock", "--jail"]);
    let mut machine = vmm.spawn();
    let api = Api::at(&scratch.join("api.sock"));
    assert_eq!(machine.inside(), None, "there is no guest to be afraid of");
    api.put("/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    let drive =
        |path: &Path| json!({"drive_id": "d", "path_on_host": path, "is_root_device": false});
    api.put("/drives/d", &drive(&disk));
    api.put("/serial", &json!({}));
    api.put(
        "/boot-source",
        &json!({"kernel_image_path": artifacts::puppet(), "exact_args": "api"}),
    );
    // A connection that was there before goes on.
    let mut client = api.connect();
    client
        .request("PUT", "/actions", &json!({"action_type": "InstanceStart"}).to_string())
        .expect(204);
    machine.wait_for("puppet: api\n");
    expect_confined(machine.inside().expect("a process inside"));
    client.request("PATCH", "/vm", &json!({"state": "Paused"}).to_string()).expect(204);
    client.request("PATCH", "/vm", &json!({"state": "Resumed"}).to_string()).expect(204);
    fs::File::options().write(true).open(&disk).unwrap().set_len(2 << 20).unwrap();
    api.patch("/drives/d", &json!({"drive_id": "d", "path_on_host": disk}));
    let refusal = api.request(
        "PATCH",
        "/drives/d",
        &json!({"drive_id": "d", "path_on_host": other}).to_string(),
    );
    let message = refusal.refused("bad_configuration");
    assert!(message.contains("--jail") && message.contains("vmm jailer"), "{message}");
    api.put("/actions", &json!({"action_type": "Reset"}));
    machine.wait_for("puppet: api\n");
    machine.send("o 1 f4 3\n");
    machine.expect_exit(3);
    assert_eq!(scratch.names(), ["disk", "other"]);
}

/// What is opened is opened once: a start that fails inside ends the process, after it was told why.
fn a_start_that_fails_inside() {
    let scratch = Scratch::new();
    let vmm = Vmm::new().inside(&scratch).args(["--api-sock", "api.sock", "--jail"]);
    let machine = vmm.spawn();
    let api = Api::at(&scratch.join("api.sock"));
    let start = || api.request("PUT", "/actions", r#"{"action_type": "InstanceStart"}"#);
    let noise = scratch.file("noise", [0x5a; 4096]);
    api.put("/boot-source", &json!({"kernel_image_path": artifacts::puppet()}));
    // This fails outside, and can be tried again.
    let disk = scratch.sparse_file("disk", 4096);
    let drive = json!({"drive_id": "d", "path_on_host": disk, "is_root_device": false});
    api.put("/drives/d", &drive);
    fs::remove_file(&disk).unwrap();
    assert!(start().refused("bad_configuration").contains("no such file"));
    scratch.sparse_file("disk", 4096);
    api.put("/boot-source", &json!({"kernel_image_path": noise}));
    assert!(start().refused("bad_configuration").contains("noise"));
    machine.expect_exit(HOST_FAILURE).expect_one_line(&["noise"]);
}

fn a_terminal_is_put_back() {
    for end in [&b"\x01x"[..], b"o 1 f4 7\n"] {
        let mut machine = running(jailed("").on_terminal());
        assert!(!machine.terminal().settings().echoes());
        let (terminal, fresh) = (machine.terminal().observer(), harness::terminal::Terminal::new());
        machine.send(end);
        let code = machine.wait().code;
        assert!(matches!(code, Some(7 | 130)), "{code:?}");
        assert_eq!(terminal.settings(), fresh.settings());
    }
    // Killed, the inside puts nothing back; the outside does.
    let machine = running(jailed("").on_terminal());
    let (terminal, fresh) = (machine.terminal().observer(), harness::terminal::Terminal::new());
    let inside = libc::pid_t::try_from(machine.inside().unwrap()).unwrap();
    // SAFETY: as above.
    unsafe { libc::kill(inside, libc::SIGKILL) };
    let _ = machine.wait();
    assert_eq!(terminal.settings(), fresh.settings());
}

fn kinds_of_namespaces_that_are_forbidden() {
    for kind in [&["user"][..], &NAMESPACES].concat() {
        let end = jailed("exit=0").confined(Confinement::NoMore(kind)).run();
        let setting = format!("sysctl -w user.max_{kind}_namespaces");
        end.expect_code(HOST_FAILURE).expect_one_line(&["jail", "namespace", &setting]);
    }
    // Without a jail nobody asks.
    Vmm::puppet("mute exit=0")
        .without_jail()
        .confined(Confinement::NoMore("user"))
        .run()
        .expect_code(0);
}

fn mistakes() {
    let with = |jail: &str| Vmm::puppet("exit=0").arg(jail).run();
    with("--jail=uid=0").expect_code(BAD_CONFIGURATION).expect_one_line(&["cannot be 0"]);
    with("--jail=netns=/nowhere")
        .expect_code(BAD_CONFIGURATION)
        .expect_one_line(&["/nowhere", "root"]);
    with("--jail=user=1").expect_code(153).expect_one_line(&["user", "uid=N"]);
    let ordinary = jailed("exit=0").arg("--jail=uid=7").confined(Confinement::NoMore("time"));
    ordinary.run().expect_code(153).expect_one_line(&["jail"]);
    let ordinary = Vmm::puppet("exit=0").arg("--jail=uid=7").confined(Confinement::NoMore("time"));
    ordinary.run().expect_code(BAD_CONFIGURATION).expect_one_line(&["another user needs root"]);
}

fn an_ordinary_user_needs_nothing() {
    const GROUP: u32 = 4242;
    let scratch = Scratch::new();
    let Some(kvm) = confine::kvm_for_group(&scratch, GROUP) else {
        panic!("no device for a group")
    };
    let directory = scratch.join("theirs");
    fs::create_dir(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(1000), Some(1000)).unwrap();
    let vsock = directory.join("vsock");
    let vmm = jailed("")
        .args(["--vsock".into(), format!("socket={}", vsock.display())])
        .confined(Confinement::Replaced { path: "/dev/kvm".into(), by: kvm })
        .confined(Confinement::User { id: 1000, group: GROUP });
    let puppet = Puppet::start(vmm);
    let pid = puppet.with_machine(|machine| machine.inside().unwrap());
    expect_confined(pid);
    assert_ne!(namespace(&pid.to_string(), "user"), namespace("self", "user"));
    assert_eq!(status(&read(pid, "status"), "Uid"), ["1000"; 4]);
    assert_eq!(read(pid, "uid_map"), "", "inside, nobody has a number");
    guest_talks_to_host(&puppet, &vsock);
    puppet.finish();
    assert!(!vsock.exists());
}

fn root_becomes_who_it_is_told() {
    for (jail, uid, gid) in [("--jail", "65534", "65534"), ("--jail=uid=7,gid=8", "7", "8")] {
        let machine = running(Vmm::puppet("").arg(jail));
        let pid = machine.inside().unwrap();
        expect_confined(pid);
        let text = read(pid, "status");
        assert_eq!((status(&text, "Uid"), status(&text, "Gid")), (vec![uid; 4], vec![gid; 4]));
        assert_eq!(status(&text, "Groups"), Vec::<&str>::new());
        machine.kill();
    }
}

/// Every system call of the way in, refused: one line that says at which step.
fn steps_that_fail() {
    for (call, words) in [
        (libc::SYS_clone, "cannot start a process in namespaces of its own"),
        (libc::SYS_unshare, "cannot make a namespace: mount"),
        (libc::SYS_sethostname, "cannot make a namespace: uts"),
        (libc::SYS_mount, "cannot make the mounts its own"),
        (libc::SYS_pivot_root, "cannot change to the empty root"),
        (libc::SYS_umount2, "cannot let go of the host's files"),
        (libc::SYS_setns, "cannot make a namespace: network"),
        (libc::SYS_landlock_restrict_self, "cannot restrict itself by Landlock"),
        (libc::SYS_setgroups, "cannot become another user"),
        (libc::SYS_setresuid, "cannot become another user"),
        (libc::SYS_capset, "cannot give up capabilities"),
    ] {
        let end = jailed("exit=0").confined(Confinement::Fails(call, libc::EPERM)).run();
        end.expect_code(HOST_FAILURE).expect_one_line(&["jail", words, "Operation not permitted"]);
    }
    // An old kernel is no reason not to run.
    let old = Confinement::Fails(libc::SYS_landlock_create_ruleset, libc::ENOSYS);
    let end = jailed("mute exit=0").confined(old).run().expect_code(0);
    assert!(end.stderr.contains("without Landlock"), "{}", end.story());
}

fn limits_are_kept_and_go_with_the_machine() {
    let scratch = Scratch::new();
    let api = scratch.join("api");
    let machine = running(jailed("").args(["--pids-limit", "50", "--api-sock"]).arg(&api));
    let pid = machine.inside().unwrap();
    let name = format!("vmm-{}", machine.outer_pid());
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(own.lines().any(|line| line.ends_with(&name)), "{own}");
    let outer = fs::read_to_string(format!("/proc/{}/cgroup", machine.outer_pid())).unwrap();
    assert!(!outer.contains(&name), "{outer}");
    let line = own.lines().find(|line| line.ends_with(&name)).unwrap();
    let path = line.rsplit(':').next().unwrap().trim_start_matches('/');
    let at = harness::need::pids_hierarchy().unwrap().join(path);
    assert_eq!(fs::read_to_string(at.join("pids.max")).unwrap().trim(), "50");
    // Main, vCPU, API, and where the kernel has threads of its own in a machine, those.
    let reply = Api::at(&api).request("GET", "/metrics/openmetrics", "").expect(200);
    let metrics = harness::openmetrics::Metrics::parse(reply.body.as_str().unwrap());
    let threads = metrics.get("vmm_cgroup_threads", &[]);
    assert!((3.0..6.0).contains(&threads), "{threads} threads");
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
    assert!(!at.exists(), "{} stays", at.display());
    Vmm::puppet("exit=0")
        .without_jail()
        .args(["--pids-limit", "5"])
        .run()
        .expect_code(BAD_CONFIGURATION);
    let end = jailed("exit=0").args(["--jail=cgroup=/nowhere"]).args(["--pids-limit", "5"]).run();
    end.expect_code(153);
}

fn a_tap_is_taken_along() {
    let _tap = harness::network::Tap::new("tap0");
    let machine = running(jailed("").args(["--net", "tap=tap0,mtu=1400"]));
    let found = descriptors(machine.inside().unwrap());
    assert!(found.iter().any(|one| one == "/dev/net/tun"), "{found:#?}");
    assert_eq!(machine.stderr(), "", "the mtu is set before");
    let mtu = fs::read_to_string("/sys/class/net/tap0/mtu").unwrap_or_default();
    assert!(mtu.is_empty() || mtu.trim() == "1400", "{mtu}");
    machine.kill();
}
