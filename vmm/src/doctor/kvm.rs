//! Checks of KVM: the module, the node, what it offers, and whether it really makes a machine.

use std::io;

use super::Check;
use super::host::{CAPABILITIES, Host, KvmAnswers, Node};

/// The only version there has been since Linux 2.6.22 (KVM API, 4.1).
const API_VERSION: i32 = 12;

/// Whether guests are run by `kvm_pvm`, which emulates kernels that do not know it.
pub(super) fn is_pvm(host: &dyn Host) -> bool {
    host.exists("/sys/module/kvm_pvm")
}

/// All checks of KVM; those that need an open node are left out when it does not open.
pub(super) fn checks(host: &dyn Host) -> Vec<Check> {
    let mut checks = vec![check_node(host), check_module(host)];
    let opens = host.open("/dev/kvm") == Node::Opens;
    if let Some(answers) = opens.then(|| host.kvm()).flatten() {
        checks.push(check_api(&answers));
        checks.push(check_capabilities(&answers));
        checks.push(check_trial(&answers));
    }
    checks
}

fn check_node(host: &dyn Host) -> Check {
    const NAME: &str = "KVM device";
    match host.open("/dev/kvm") {
        Node::Opens => Check::ok(NAME, "/dev/kvm opens for reading and writing"),
        Node::Missing => Check::fail(NAME, "/dev/kvm does not exist", remedy_missing(host)),
        Node::NotADevice => Check::fail(
            NAME,
            "/dev/kvm is not a device node",
            "remove it and load the module again: sudo rm /dev/kvm; sudo modprobe -r kvm_intel kvm_amd; \
             sudo modprobe kvm_intel || sudo modprobe kvm_amd",
        ),
        Node::Denied { gid, mode } => {
            let group = group_name(host, gid);
            let fact = format!("this user may not open /dev/kvm (group {group}, mode {mode:03o})");
            Check::fail(NAME, fact, remedy_denied(&group, mode))
        }
        Node::Fails(error) if module(host).is_none() => {
            Check::fail(NAME, format!("/dev/kvm does not open: {error}"), remedy_missing(host))
        }
        Node::Fails(error) => Check::fail(
            NAME,
            format!("/dev/kvm does not open: {error}"),
            "see what the kernel says about it: sudo dmesg | grep -i kvm",
        ),
    }
}

/// Why there is no node depends on whether this is a container, and on what the processor can do.
fn remedy_missing(host: &dyn Host) -> String {
    let cpu = Cpu::read(host);
    if host.exists("/.dockerenv") || host.exists("/run/.containerenv") {
        return "this is a container: start it with --device /dev/kvm".to_owned();
    }
    match cpu {
        Cpu { vmx: true, .. } => "load the module: sudo modprobe kvm_intel".to_owned(),
        Cpu { svm: true, .. } => "load the module: sudo modprobe kvm_amd".to_owned(),
        Cpu { in_vm: true, .. } => {
            "this host is itself a virtual machine: turn on nested virtualization for it on the host \
             below (kvm_intel nested=1 or kvm_amd nested=1, and its CPU model host-passthrough)"
                .to_owned()
        }
        _ => "the processor shows neither VT-x nor AMD-V: turn on virtualization (VT-x, SVM) in the \
              firmware setup"
            .to_owned(),
    }
}

fn remedy_denied(group: &str, mode: u32) -> String {
    let group_may = mode & 0o060 == 0o060;
    if group_may && group != "root" {
        return format!("join its group and log in again: sudo usermod -aG {group} $USER");
    }
    "let a group in, then join it and log in again: echo 'KERNEL==\"kvm\", GROUP=\"kvm\", \
     MODE=\"0660\"' | sudo tee /etc/udev/rules.d/65-kvm.rules; sudo udevadm trigger --name-match=kvm; \
     sudo usermod -aG kvm $USER"
        .to_owned()
}

fn check_module(host: &dyn Host) -> Check {
    const NAME: &str = "KVM module";
    let nested = if Cpu::read(host).in_vm {
        "; this host is itself a virtual machine, so expect \
         exits to be slow"
    } else {
        ""
    };
    match module(host) {
        Some("kvm_pvm") => Check::warn(
            NAME,
            "kvm_pvm: no hardware virtualization, guest kernels are emulated: an ordinary Linux kernel \
             does not boot, tiny guests run",
            "to run Linux, use a host with kvm_intel or kvm_amd",
        ),
        Some(name) => Check::ok(NAME, format!("{name}: hardware virtualization{nested}")),
        // A kernel can have it built in, and then shows no module with parameters; the node decides.
        None => Check::warn(
            NAME,
            "neither kvm_intel nor kvm_amd is loaded",
            "if /dev/kvm does not open, load the one for this processor: sudo modprobe kvm_intel or \
             sudo modprobe kvm_amd",
        ),
    }
}

fn module(host: &dyn Host) -> Option<&'static str> {
    ["kvm_pvm", "kvm_intel", "kvm_amd"]
        .into_iter()
        .find(|name| host.exists(&format!("/sys/module/{name}")))
}

fn check_api(answers: &KvmAnswers) -> Check {
    const NAME: &str = "KVM interface";
    let KvmAnswers { api_version, max_vcpus, .. } = answers;
    if *api_version != API_VERSION {
        let fact = format!("API version {api_version}, not {API_VERSION}");
        return Check::fail(NAME, fact, "use a kernel newer than Linux 2.6.22");
    }
    Check::ok(NAME, format!("API version {api_version}, up to {max_vcpus} vCPUs"))
}

fn check_capabilities(answers: &KvmAnswers) -> Check {
    const NAME: &str = "KVM capabilities";
    let missing = CAPABILITIES.iter().filter(|it| answers.missing.contains(&it.name));
    let (optional, needed): (Vec<_>, Vec<_>) = missing.partition(|it| it.loss.is_some());
    if !needed.is_empty() {
        let names: Vec<&str> = needed.iter().map(|it| it.name).collect();
        let fact = format!("missing: {}", names.join(", "));
        return Check::fail(
            NAME,
            fact,
            "use a newer kernel (5.10 or later), built with CONFIG_KVM",
        );
    }
    if !optional.is_empty() {
        let losses: Vec<String> = optional
            .iter()
            .map(|it| format!("{} ({})", it.name, it.loss.unwrap_or_default()))
            .collect();
        let fact = format!("missing, but not needed: {}", losses.join(", "));
        return Check::warn(NAME, fact, "for these, use a newer kernel or processor");
    }
    Check::ok(NAME, format!("all {} that are used are there", CAPABILITIES.len()))
}

fn check_trial(answers: &KvmAnswers) -> Check {
    const NAME: &str = "trial machine";
    let Err((step, errno)) = answers.trial else {
        return Check::ok(NAME, "a machine with an interrupt controller and a vCPU was created");
    };
    let remedy = match errno {
        libc::EBUSY => {
            "another hypervisor holds the processor's virtualization: stop VirtualBox or VMware"
        }
        libc::ENOMEM => "free memory, or raise the memory limit of this cgroup",
        libc::EMFILE | libc::ENFILE => "raise the limit of open files: ulimit -n",
        libc::EOPNOTSUPP | libc::ENODEV | libc::EINVAL => {
            "turn on virtualization (VT-x, SVM) in the firmware setup, or nested virtualization on the \
             host below"
        }
        _ => "see what the kernel says about it: sudo dmesg | grep -i kvm",
    };
    Check::fail(NAME, format!("{step} fails: {}", io::Error::from_raw_os_error(errno)), remedy)
}

/// What /proc/cpuinfo says of the processor.
#[derive(Default)]
struct Cpu {
    vmx: bool,
    svm: bool,
    in_vm: bool,
}

impl Cpu {
    fn read(host: &dyn Host) -> Self {
        let text = host.read("/proc/cpuinfo").unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
        let has =
            |name| flags.is_some_and(|(_, list)| list.split_ascii_whitespace().any(|f| f == name));
        Self { vmx: has("vmx"), svm: has("svm"), in_vm: has("hypervisor") }
    }
}

/// The group's name, or its number when it has none.
fn group_name(host: &dyn Host, gid: u32) -> String {
    let groups = host.read("/etc/group").unwrap_or_default();
    let number = gid.to_string();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    named.unwrap_or(number)
}
