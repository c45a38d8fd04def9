use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use super::host::{CAPABILITIES, KvmAnswers, Node};
use super::*;

/// A host made of facts.
struct FakeHost {
    files: HashMap<String, String>,
    nodes: HashMap<&'static str, Node>,
    kvm: Option<KvmAnswers>,
    landlock: u32,
    jail: Result<(), (String, Option<String>)>,
    locked: Vec<&'static str>,
}

impl FakeHost {
    /// A host on which everything is as it should be.
    fn good() -> Self {
        let host = Self {
            files: HashMap::new(),
            nodes: HashMap::from([("/dev/kvm", Node::Opens), ("/dev/net/tun", Node::Opens)]),
            kvm: Some(KvmAnswers {
                api_version: 12,
                missing: Vec::new(),
                max_vcpus: 1024,
                trial: Ok(()),
            }),
            landlock: 7,
            jail: Ok(()),
            locked: Vec::new(),
        };
        host.file("/sys/module/kvm_intel", "")
            .file("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx sse\n")
            .file("/proc/self/status", "Name:\tvmm\nUid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000001000\n")
            .file("/proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 4194304 kB\nHugePages_Total: 4\nHugePages_Free: 3\nCommitLimit: 2097152 kB\nCommitted_AS: 1048576 kB\n")
            .file("/proc/sys/vm/overcommit_memory", "0\n")
            .file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
            .file("/proc/sys/kernel/seccomp/actions_avail", "kill_process trap errno log allow\n")
            .file("/proc/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
            .file("/proc/self/cgroup", "0::/\n")
            .file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
            .file("/etc/group", "root:x:0:\nkvm:x:104:someone\n")
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    fn without(mut self, path: &str) -> Self {
        self.files.remove(path);
        self
    }

    fn node(mut self, path: &'static str, node: Node) -> Self {
        if path == "/dev/kvm" && node != Node::Opens {
            self.kvm = None;
        }
        self.nodes.insert(path, node);
        self
    }

    fn answers(mut self, change: impl FnOnce(&mut KvmAnswers)) -> Self {
        change(self.kvm.as_mut().unwrap());
        self
    }
}

impl Host for FakeHost {
    fn read(&self, path: &str) -> Option<String> {
        self.files.get(path).cloned()
    }

    fn exists(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    fn list(&self, path: &str) -> Vec<String> {
        let below = self.files.keys().filter_map(|file| file.strip_prefix(path)?.strip_prefix('/'));
        let mut names: Vec<String> =
            below.filter_map(|rest| Some(rest.split('/').next()?.to_owned())).collect();
        names.sort();
        names.dedup();
        names
    }

    fn open(&self, path: &str) -> Node {
        self.nodes.get(path).cloned().unwrap_or(Node::Missing)
    }

    fn may_write(&self, path: &str) -> bool {
        !self.locked.contains(&path.trim_end_matches('/'))
    }

    fn try_jail(&self) -> Result<(), (String, Option<String>)> {
        self.jail.clone()
    }

    fn landlock(&self) -> u32 {
        self.landlock
    }

    fn kvm(&self) -> Option<KvmAnswers> {
        self.kvm.clone()
    }
}

fn check(host: &FakeHost, name: &str) -> Check {
    let report = examine_host(host);
    report.checks.into_iter().find(|check| check.name == name).unwrap()
}

#[track_caller]
fn assert_check(host: &FakeHost, name: &str, status: Status, fact: &str, remedy: &str) {
    let check = check(host, name);
    assert_eq!(check.status, status, "{check:?}");
    assert!(check.fact.contains(fact), "{check:?}");
    assert!(check.remedy.clone().unwrap_or_default().contains(remedy), "{check:?}");
}

#[test]
fn a_good_host_gets_no_advice() {
    let report = examine_host(&FakeHost::good());
    assert!(report.can_run_vm && report.can_run_linux);
    assert_eq!(report.exit_code(), ExitCode::PowerOff);
    let names: Vec<&str> = report.checks.iter().map(|check| check.name).collect();
    assert_eq!(
        names,
        [
            "KVM device",
            "KVM module",
            "KVM interface",
            "KVM capabilities",
            "trial machine",
            "tap devices",
            "memory",
            "overcommit",
            "huge pages",
            "seccomp",
            "jail",
            "Landlock",
            "limits"
        ]
    );
    for check in &report.checks {
        assert_eq!((check.status, &check.remedy), (Status::Ok, &None), "{check:?}");
    }
}

#[test]
fn without_the_node_the_remedy_depends_on_the_host() {
    let missing =
        || FakeHost::good().node("/dev/kvm", Node::Missing).without("/sys/module/kvm_intel");
    let cpu = |flags: &str| missing().file("/proc/cpuinfo", &format!("flags : fpu {flags}\n"));
    for (host, remedy) in [
        (cpu("vmx"), "modprobe kvm_intel"),
        (cpu("svm"), "modprobe kvm_amd"),
        (cpu("hypervisor"), "nested virtualization"),
        (cpu(""), "firmware"),
        (missing().without("/proc/cpuinfo"), "firmware"),
        (cpu("vmx").file("/.dockerenv", ""), "--device /dev/kvm"),
        (cpu("vmx").file("/run/.containerenv", ""), "--device /dev/kvm"),
    ] {
        assert_check(&host, "KVM device", Status::Fail, "does not exist", remedy);
        let report = examine_host(&host);
        assert!(!report.can_run_vm && !report.can_run_linux);
        assert_eq!(report.exit_code(), ExitCode::HostFailure);
    }
}

#[test]
fn without_permission_the_remedy_depends_on_the_nodes_group() {
    let denied = |gid, mode| FakeHost::good().node("/dev/kvm", Node::Denied { gid, mode });
    let fail = Status::Fail;
    let host = denied(104, 0o660);
    assert_check(&host, "KVM device", fail, "(group kvm, mode 660)", "usermod -aG kvm $USER");
    assert_check(&denied(0, 0o600), "KVM device", fail, "(group root, mode 600)", "udev/rules.d");
    assert_check(&denied(104, 0o600), "KVM device", fail, "(group kvm, mode 600)", "udev/rules.d");
    assert_check(&denied(77, 0o660), "KVM device", fail, "(group 77, mode 660)", "usermod -aG 77");
    // What only an open node can tell is not made up.
    assert!(examine_host(&host).checks.iter().all(|check| check.name != "trial machine"));
}

#[test]
fn a_node_that_does_not_work_fails() {
    let broken = FakeHost::good().node("/dev/kvm", Node::NotADevice);
    assert_check(&broken, "KVM device", Status::Fail, "not a device node", "rm /dev/kvm");
    let fails = || FakeHost::good().node("/dev/kvm", Node::Fails("No such device".to_owned()));
    assert_check(&fails(), "KVM device", Status::Fail, "No such device", "dmesg");
    let unloaded = fails().without("/sys/module/kvm_intel");
    assert_check(&unloaded, "KVM device", Status::Fail, "No such device", "modprobe kvm_intel");
}

#[test]
fn kvm_pvm_runs_machines_but_not_linux() {
    let host = FakeHost::good().file("/sys/module/kvm_pvm", "").without("/sys/module/kvm_intel");
    assert_check(&host, "KVM module", Status::Warn, "tiny guests run", "kvm_intel or kvm_amd");
    let report = examine_host(&host);
    assert!(report.can_run_vm && !report.can_run_linux);
    assert_eq!(report.exit_code(), ExitCode::PowerOff);
    assert!(report.text().ends_with("but not with an ordinary Linux kernel.\n"));
}

#[test]
fn what_confines_machines_is_checked() {
    let warn = Status::Warn;
    let host = FakeHost::good().without("/proc/sys/kernel/seccomp/actions_avail");
    assert_check(&host, "seccomp", warn, "--seccomp off", "CONFIG_SECCOMP_FILTER");
    let mut host = FakeHost::good();
    host.landlock = 0;
    assert_check(&host, "Landlock", warn, "none", "CONFIG_SECURITY_LANDLOCK");
    let mut host = FakeHost::good();
    host.jail = Err(("cannot mount".to_owned(), Some("let root allow it".to_owned())));
    assert_check(&host, "jail", warn, "no --jail: cannot mount", "let root allow it");
    host.jail = Err(("cannot mount".to_owned(), None));
    assert_check(&host, "jail", warn, "cannot mount", "vmm jailer");
    assert!(examine_host(&host).can_run_vm);
}

#[test]
fn limits_take_a_cgroup_that_this_user_may_divide() {
    let warn = Status::Warn;
    let mut locked = FakeHost::good();
    locked.locked = vec!["/sys/fs/cgroup"];
    assert_check(&locked, "limits", warn, "cpu, memory, pids, io", "--jail=cgroup=PATH");
    // In the cgroup of a session there are processes.
    let own = |control: &str| {
        FakeHost::good()
            .file("/proc/self/cgroup", "0::/user\n")
            .file("/sys/fs/cgroup/user", "")
            .file("/sys/fs/cgroup/user/cgroup.controllers", "cpu io memory pids\n")
            .file("/sys/fs/cgroup/user/cgroup.subtree_control", control)
    };
    assert_check(&own("memory pids\n"), "limits", warn, "limits of cpu, io", "root");
    assert_check(&own("cpu io memory pids\n"), "limits", Status::Ok, "all", "");
    // Version 1 beside it.
    let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\ncgroup /cg/pids cgroup rw,pids 0 0\n";
    let both = own("memory cpu io\n").file("/proc/mounts", mounts);
    assert_check(&both, "limits", Status::Ok, "all", "");
    let none = FakeHost::good().without("/proc/mounts");
    assert_check(&none, "limits", warn, "cpu, memory, pids, io", "root");
}

#[test]
fn the_module_is_told() {
    let amd = FakeHost::good().without("/sys/module/kvm_intel").file("/sys/module/kvm_amd", "");
    assert_check(&amd, "KVM module", Status::Ok, "kvm_amd: hardware virtualization", "");
    let nested = FakeHost::good().file("/proc/cpuinfo", "flags : vmx hypervisor\n");
    assert_check(&nested, "KVM module", Status::Ok, "itself a virtual machine", "");
    let builtin = FakeHost::good().without("/sys/module/kvm_intel");
    assert_check(&builtin, "KVM module", Status::Warn, "neither", "modprobe");
    assert!(examine_host(&builtin).can_run_linux);
}

#[test]
fn what_kvm_lacks_is_named() {
    let version = FakeHost::good().answers(|it| it.api_version = 11);
    assert_check(&version, "KVM interface", Status::Fail, "API version 11, not 12", "kernel");
    for capability in CAPABILITIES {
        let host = FakeHost::good().answers(|it| it.missing = vec![capability.name]);
        let status = if capability.loss.is_some() { Status::Warn } else { Status::Fail };
        assert_check(&host, "KVM capabilities", status, capability.name, "newer kernel");
        assert_eq!(examine_host(&host).can_run_vm, capability.loss.is_some());
    }
    assert_eq!(CAPABILITIES.iter().filter(|it| it.loss.is_some()).count(), 2);
}

#[test]
fn a_failed_trial_names_the_step_and_the_remedy() {
    for (errno, remedy) in [
        (libc::EBUSY, "another hypervisor"),
        (libc::ENOMEM, "free memory"),
        (libc::EMFILE, "ulimit -n"),
        (libc::EOPNOTSUPP, "firmware"),
        (libc::EIO, "dmesg"),
    ] {
        let host = FakeHost::good().answers(|it| it.trial = Err(("KVM_CREATE_VM", errno)));
        assert_check(&host, "trial machine", Status::Fail, "KVM_CREATE_VM fails: ", remedy);
    }
}

#[test]
fn taps_are_a_matter_of_rights() {
    let warn = Status::Warn;
    let tun = |node| FakeHost::good().node("/dev/net/tun", node);
    assert_check(&tun(Node::Missing), "tap devices", warn, "does not exist", "modprobe tun");
    let denied = tun(Node::Denied { gid: 0, mode: 0o600 });
    assert_check(&denied, "tap devices", warn, "mode 600", "chmod 0666");
    assert_check(&tun(Node::NotADevice), "tap devices", warn, "not a device", "mknod");
    assert_check(&tun(Node::Fails("x".to_owned())), "tap devices", warn, "x", "modprobe tun");
    assert!(examine_host(&denied).can_run_vm);
    let user = "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n";
    let user = || FakeHost::good().file("/proc/self/status", user);
    assert_check(&user(), "tap devices", warn, "no CAP_NET_ADMIN", "ip tuntap add");
    let with = |flags, owner| {
        user()
            .file("/sys/class/net/lo/mtu", "65536")
            .file("/sys/class/net/tap7/tun_flags", flags)
            .file("/sys/class/net/tap7/owner", owner)
    };
    assert_check(&with("0x5002\n", "1000\n"), "tap devices", Status::Ok, "owns tap7", "");
    assert_check(&with("0x5002\n", "1001\n"), "tap devices", warn, "owns no tap", "ip tuntap");
    assert_check(&with("0x5002\n", "-1\n"), "tap devices", warn, "owns no tap", "ip tuntap");
    // A tun interface is not a tap.
    assert_check(&with("0x5001\n", "1000\n"), "tap devices", warn, "owns no tap", "ip tuntap");
}

#[test]
fn memory_warns_but_never_fails() {
    let available =
        |kib: u64| FakeHost::good().file("/proc/meminfo", &format!("MemAvailable: {kib} kB\n"));
    assert_check(&available(16 << 10), "memory", Status::Warn, "16 MiB", "no guest fits");
    assert_check(&available(256 << 10), "memory", Status::Warn, "256 MiB", "--memory 64M");
    assert_check(&available(4 << 20), "memory", Status::Ok, "4096 MiB are available", "");
    let unmounted = FakeHost::good().without("/proc/meminfo");
    assert_check(&unmounted, "memory", Status::Warn, "does not tell", "mount /proc");
    assert!(examine_host(&unmounted).can_run_vm);
    let strict = FakeHost::good().file("/proc/sys/vm/overcommit_memory", "2\n");
    assert_check(&strict, "overcommit", Status::Warn, "1024 MiB can still", "overcommit_memory=0");
    let pages = check(&FakeHost::good(), "huge pages");
    assert_eq!(pages.fact, "transparent: madvise; reserved: 3 of 4 free");
}

#[test]
fn the_text_has_a_line_for_each_fact_and_remedy() {
    let check = |name, status, remedy: Option<&str>| Check {
        name,
        status,
        fact: "fact".to_owned(),
        remedy: remedy.map(str::to_owned),
    };
    let report = Report {
        can_run_vm: false,
        can_run_linux: false,
        checks: vec![check("a", Status::Ok, None), check("long", Status::Fail, Some("do this"))],
    };
    assert_eq!(
        report.text(),
        "ok    a     fact\n\
         fail  long  fact\n            -> do this\n\
         This host cannot run virtual machines.\n"
    );
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "can_run_vm": false,
            "can_run_linux": false,
            "checks": [
                { "name": "a", "status": "ok", "fact": "fact", "remedy": null },
                { "name": "long", "status": "fail", "fact": "fact", "remedy": "do this" },
            ],
        })
    );
}

/// A directory that stands for "/" and is removed again.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("vmm-{}-doctor", std::process::id()));
        fs::create_dir_all(path.join("dev/net")).unwrap();
        Self(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn this_host_is_read_below_its_root() {
    let root = Root::new();
    fs::write(root.0.join("dev/kvm"), "").unwrap();
    fs::create_dir_all(root.0.join("sys/class/net/b")).unwrap();
    fs::create_dir_all(root.0.join("sys/class/net/a")).unwrap();
    let host = ThisHost::new(&root.0);
    assert_eq!(host.open("/dev/kvm"), Node::NotADevice);
    assert_eq!(host.open("/dev/net/tun"), Node::Missing);
    assert_eq!(host.read("/dev/kvm"), Some(String::new()));
    assert_eq!(host.read("/nothing"), None);
    assert!(host.exists("/dev") && !host.exists("/nothing"));
    assert_eq!(host.list("/sys/class/net"), ["a", "b"]);
    assert!(host.list("/nothing").is_empty());
    let report = examine_host(&host);
    assert!(!report.can_run_vm);
    assert!(report.checks.iter().all(|check| check.name != "trial machine"));
}

#[test]
fn this_host_opens_device_nodes() {
    assert_eq!(ThisHost::new("/").open("/dev/null"), Node::Opens);
}

#[test]
fn the_examination_of_this_host_ends_with_a_verdict() {
    let report = examine();
    let fails = report.checks.iter().any(|check| check.status == Status::Fail);
    assert_eq!(report.can_run_vm, !fails);
    assert!(report.can_run_vm || !report.can_run_linux);
}
