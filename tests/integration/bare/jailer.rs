//! `vmm jailer`, and what Firecracker's own jailer does to the program that it starts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;

use harness::api::Api;
use harness::confine::Confinement;
use harness::{Machine, Need, Scratch, Vmm, artifacts};
use libtest_mimic::Trial;
use serde_json::json;

use crate::suite::trial;

const USER: u32 = 1000;
const BAD_CONFIGURATION: i32 = 152;

mod by_root {
    use super::*;

    crate::suite::tests! { "bare::jailer" needs &[Need::Kvm, Need::Root];
        a_machine_in_a_jail,
        a_daemon_with_a_pid_namespace,
        started_by_firecrackers_jailer,
        links_below_the_base_are_refused,
        links_in_the_root_lead_to_files_in_the_root,
    }
}

mod plain {
    use super::*;

    crate::suite::tests! { "bare::jailer" needs &[];
        mistakes,
        version,
    }
}

/// All of them.
pub fn tests() -> Vec<Trial> {
    let cgroup = trial("bare::jailer::a_cgroup", &[Need::Kvm, Need::Root, Need::Cgroups], a_cgroup);
    [by_root::tests(), plain::tests(), vec![cgroup]].into_iter().flatten().collect()
}

/// A jail's directories, as a launcher prepares them: the kernel is in its root.
struct Prepared {
    scratch: Scratch,
    program: PathBuf,
}

impl Prepared {
    fn new() -> Self {
        let scratch = Scratch::new();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = scratch.join("firecracker");
        fs::copy(artifacts::vmm(), &program).unwrap();
        let prepared = Self { scratch, program };
        fs::create_dir_all(prepared.root()).unwrap();
        fs::copy(artifacts::puppet(), prepared.root().join("kernel")).unwrap();
        prepared
    }

    fn root(&self) -> PathBuf {
        self.scratch.join("jails/firecracker/m-1/root")
    }

    fn jailer(&self, more: &[&str]) -> Vmm {
        let user = USER.to_string();
        Vmm::new()
            .without_jail()
            .args(["jailer", "--id", "m-1", "--uid", &user, "--gid", &user])
            .arg("--exec-file")
            .arg(&self.program)
            .arg("--chroot-base-dir")
            .arg(self.scratch.join("jails"))
            .args(more)
    }

    /// Configures the smallest machine by the API and starts it.
    fn start(&self, serial: &str) -> Api {
        let api = Api::at(&self.root().join("run/firecracker.socket"));
        api.put("/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
        let boot = json!({"kernel_image_path": "/kernel", "exact_args": "api"});
        api.put("/boot-source", &boot);
        let serial = if serial.is_empty() { json!({}) } else { json!({"serial_out_path": serial}) };
        api.put("/serial", &serial);
        api.action("InstanceStart");
        api
    }
}

/// A process that nobody waits for, ended with the test that knows it.
struct Daemon(u32);

impl Drop for Daemon {
    fn drop(&mut self) {
        if harness::leaks::is_alive(self.0) {
            let pid = libc::pid_t::try_from(self.0).unwrap();
            // SAFETY: takes numbers. It is the process that the jailer wrote down, which is still there.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn expect_jailed(pid: u32) {
    assert_eq!(status(pid, "Uid"), "1000 1000 1000 1000");
    assert_eq!(status(pid, "Gid"), "1000 1000 1000 1000");
    assert_eq!(status(pid, "Groups"), "");
    assert_eq!(status(pid, "CapEff"), "0000000000000000");
}

fn end(mut machine: Machine) {
    machine.send("o 1 f4 0\n");
    machine.expect_exit(0);
}

fn a_machine_in_a_jail() {
    let jail = Prepared::new();
    let limits = ["--resource-limit", "no-file=1000", "--resource-limit", "fsize=1000000"];
    let mut machine = jail.jailer(&limits).args(["--", "--level", "Warn"]).spawn();
    jail.start("");
    machine.wait_for("puppet: api\n");
    let pid = machine.outer_pid();
    expect_jailed(pid);
    assert_eq!(status(pid, "CapBnd"), "0000000000000000");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    // The root, and the program in it.
    assert_eq!(mounts.lines().count(), 2, "{mounts}");
    assert!(mounts.contains(" /firecracker ro,nosuid"), "{mounts}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(limit("Max open files").contains(" 1000 "), "{limits}");
    assert!(limit("Max file size").contains(" 1000000 "), "{limits}");
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(environment, "");
    let root = jail.root();
    assert_eq!(fs::read_to_string(root.join("firecracker.pid")).unwrap(), pid.to_string());
    for (name, number) in
        [("dev/kvm", (10, 232)), ("dev/net/tun", (10, 200)), ("dev/urandom", (1, 9))]
    {
        let found = fs::metadata(root.join(name)).unwrap();
        let device = libc::makedev(number.0, number.1);
        assert_eq!(
            (found.rdev(), found.uid(), found.mode() & 0o777),
            (device, USER, 0o600),
            "{name}"
        );
    }
    assert_eq!(fs::metadata(&root).unwrap().uid(), USER);
    end(machine);
}

fn a_daemon_with_a_pid_namespace() {
    let jail = Prepared::new();
    // Descriptors and the environment of whoever starts a daemon are not its own.
    jail.jailer(&["--daemonize", "--new-pid-ns"]).run().expect_code(0);
    let daemon =
        Daemon(fs::read_to_string(jail.root().join("firecracker.pid")).unwrap().parse().unwrap());
    let Daemon(pid) = daemon;
    let api = jail.start("/console");
    expect_jailed(pid);
    assert_eq!(status(pid, "NSpid").split(' ').next_back(), Some("1"));
    // It was opened before the root changed, so that only its number tells what it is.
    let output = fs::metadata(format!("/proc/{pid}/fd/1")).unwrap();
    assert_eq!(output.rdev(), libc::makedev(1, 3), "/dev/null");
    let deadline = std::time::Instant::now() + harness::patience();
    while !fs::read_to_string(jail.root().join("console")).unwrap_or_default().contains("puppet") {
        assert!(std::time::Instant::now() < deadline, "no console");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    api.put("/actions", &json!({"action_type": "Stop", "grace": "0s"}));
    while harness::leaks::is_alive(pid) {
        assert!(std::time::Instant::now() < deadline, "process {pid} lives on");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(!jail.root().join("run/firecracker.socket").exists());
}

/// What Firecracker's jailer (1.16) has done when it executes the program: layout, order, rights, arguments. It is
/// enacted here step by step.
fn started_by_firecrackers_jailer() {
    let jail = Prepared::new();
    let root = jail.root();
    fs::copy(&jail.program, root.join("firecracker")).unwrap();
    for directory in ["dev", "dev/net", "run"] {
        fs::create_dir(root.join(directory)).unwrap();
        chown(root.join(directory), Some(USER), Some(USER)).unwrap();
    }
    for (name, number) in
        [("dev/kvm", (10, 232)), ("dev/net/tun", (10, 200)), ("dev/urandom", (1, 9))]
    {
        harness::confine::make_device(&root.join(name), libc::makedev(number.0, number.1));
        chown(root.join(name), Some(USER), Some(USER)).unwrap();
    }
    chown(&root, Some(USER), Some(USER)).unwrap();
    let machine = Vmm::program("/firecracker")
        .args(["--id", "m-1", "--start-time-us", "123456", "--start-time-cpu-us", "0"])
        .args(["--parent-cpu-time-us", "789"])
        .without_jail()
        .without_environment()
        .without_input()
        .confined(Confinement::Root { path: root, user: USER })
        .spawn();
    let api = jail.start("/console");
    expect_jailed(machine.outer_pid());
    assert_eq!(api.get("/")["id"], "m-1");
    api.put("/actions", &json!({"action_type": "Stop", "grace": "0s"}));
    machine.expect_exit(143);
}

fn links_below_the_base_are_refused() {
    let jail = Prepared::new();
    let victim = jail.scratch.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::rename(jail.root(), jail.scratch.join("elsewhere")).unwrap();
    symlink(&victim, jail.root()).unwrap();
    let end = jail.jailer(&[]).run().expect_code(125);
    end.expect_one_line(&["jailer", "root", "nothing may be a link"]);
    assert_eq!(fs::read_dir(victim).unwrap().count(), 0);
}

/// A launcher's paths, and what the jail's user has made of the files there, are looked up in the root and nowhere else.
fn links_in_the_root_lead_to_files_in_the_root() {
    let jail = Prepared::new();
    let secret = jail.scratch.sparse_file("secret", 4096);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    let root = jail.root();
    symlink(&secret, root.join("outside")).unwrap();
    symlink("../../../secret", root.join("above")).unwrap();
    symlink("/disk", root.join("inside")).unwrap();
    fs::write(root.join("disk"), [0; 4096]).unwrap();
    chown(root.join("disk"), Some(USER), Some(USER)).unwrap();
    let mut machine = jail.jailer(&[]).spawn();
    let api = Api::at(&root.join("run/firecracker.socket"));
    let drive =
        |path: &str| json!({"drive_id": "d", "path_on_host": path, "is_root_device": false});
    for path in ["/outside", "/above"] {
        let refusal = api.request("PUT", "/drives/d", &drive(path).to_string());
        let message = refusal.refused("bad_configuration");
        assert!(message.contains("No such file"), "{path}: {message}");
    }
    api.put("/drives/d", &drive("/inside"));
    jail.start("");
    machine.wait_for("puppet: api\n");
    end(machine);
}

fn a_cgroup() {
    let jail = Prepared::new();
    let parent = format!("vmm-test-{}", std::process::id());
    let mut machine = jail.jailer(&["--cgroup", "pids.max=77", "--parent-cgroup", &parent]).spawn();
    jail.start("");
    machine.wait_for("puppet: api\n");
    let pid = machine.outer_pid();
    let mine = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = format!("/{parent}/m-1");
    assert!(mine.lines().any(|line| line.ends_with(&path)), "{mine}");
    let found = harness::need::pids_hierarchy().unwrap().join(&parent);
    assert_eq!(fs::read_to_string(found.join("m-1/pids.max")).unwrap().trim(), "77");
    end(machine);
    fs::remove_dir(found.join("m-1")).unwrap();
    fs::remove_dir(found).unwrap();
}

fn mistakes() {
    let jailer = |more: &[&str]| {
        let usual = ["jailer", "--uid", "1", "--gid", "1", "--chroot-base-dir", "/nowhere"];
        Vmm::new().args(usual).args(more).run()
    };
    let end = jailer(&["--id", "a/b", "--exec-file", "/bin/sh"]).expect_code(BAD_CONFIGURATION);
    end.expect_one_line(&["a/b", "id"]);
    let end = jailer(&["--id", "a", "--exec-file", "/nowhere"]).expect_code(BAD_CONFIGURATION);
    end.expect_one_line(&["/nowhere", "--exec-file"]);
    jailer(&["--id", "a"]).expect_code(153).expect_one_line(&["--exec-file"]);
    let end = jailer(&["--id", "a", "--exec-file", "/bin/sh", "--cgroup", "x"]).expect_code(153);
    end.expect_one_line(&["CONTROLLER.FILE=VALUE"]);
}

fn version() {
    let end = Vmm::new().args(["jailer", "--version"]).run().expect_code(0);
    assert!(end.stdout.starts_with("Jailer v1."), "{}", end.story());
}
