//! What a test needs of its host, and the reason to give when the host has not got it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::{artifacts, network};

/// `KVM_GET_API_VERSION`
const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;
/// The only version there has been since 2007.
const KVM_API_VERSION: libc::c_int = 12;

/// Something a host may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A /dev/kvm that opens.
    Kvm,
    /// A /dev/kvm that runs ordinary kernels.
    LinuxKvm,
    /// The files of the reference guest.
    Guest,
    /// The files of the Debian guest.
    DebianGuest,
    /// The disk with fio.
    Fio,
    /// A network namespace of our own, and taps in it.
    Network,
    /// Capabilities over mounts, to hide a device from one process.
    Mounts,
    /// Namespaces, by root's rights or a user's.
    Jail,
    /// A hierarchy of cgroups in which the number of processes can be limited.
    Cgroups,
    /// Another user, and a device of its own: a real root.
    Root,
    /// valgrind with its callgrind, which counts instructions.
    Valgrind,
    /// strace, which lists system calls.
    Strace,
    /// Python 3.
    Python,
    /// userfaultfd for what the kernel does as well: root's, or anybody's where the host allows it.
    Userfaultfd,
    /// The program that attacks itself.
    Drill,
}

impl Need {
    /// Why this host does not meet the need; `None` if it does.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Kvm => kvm_missing(),
            Self::LinuxKvm => kvm_missing().or_else(linux_kvm_missing),
            Self::Guest => files_missing(&["bzImage", "vmlinux", "rootfs.img", "initramfs.cpio"]),
            Self::DebianGuest => {
                files_missing(&["debian-bzImage", "debian-vmlinux", "debian-initrd.img"])
            }
            Self::Fio => files_missing(&["fio.img"]),
            Self::Network => network::missing(),
            Self::Mounts => capability_missing(21, "CAP_SYS_ADMIN"),
            Self::Jail => jail_missing(),
            Self::Cgroups => cgroups_missing(),
            Self::Root => root_missing(),
            Self::Valgrind => program_missing("valgrind"),
            Self::Strace => program_missing("strace"),
            Self::Python => program_missing("python3"),
            Self::Drill => drill_missing(),
            Self::Userfaultfd => userfaultfd_missing(),
        }
    }
}

fn kvm_missing() -> Option<String> {
    let file = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(file) => file,
        Err(error) => return Some(format!("/dev/kvm: {error}")),
    };
    // SAFETY: this request takes no argument and returns a number.
    let version = unsafe { libc::ioctl(file.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    (version != KVM_API_VERSION).then(|| format!("/dev/kvm answers with API version {version}"))
}

fn linux_kvm_missing() -> Option<String> {
    let is_pvm = Path::new("/sys/module/kvm_pvm").exists();
    is_pvm.then(|| "this host's KVM is kvm_pvm, which cannot run an ordinary kernel".to_owned())
}

fn files_missing(names: &[&str]) -> Option<String> {
    let missing = names.iter().map(|name| artifacts::guest(name)).find(|path| !path.exists())?;
    Some(format!("{} is missing; `make guests` makes it", missing.display()))
}

fn program_missing(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|directory| directory.join(name).exists());
    (!is_there).then(|| format!("{name} is not installed"))
}

fn drill_missing() -> Option<String> {
    let is_there = artifacts::drill().is_some_and(|path| path.exists());
    (!is_there).then(|| "there is no build of vmm with the feature drill".to_owned())
}

fn userfaultfd_missing() -> Option<String> {
    // SAFETY: takes a number.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let error = std::io::Error::last_os_error();
    if let Ok(fd @ 0..) = libc::c_int::try_from(fd) {
        // SAFETY: the descriptor is new and nobody else uses it.
        unsafe { libc::close(fd) };
        return None;
    }
    let device = File::options().read(true).write(true).open("/dev/userfaultfd");
    device.err().map(|_| format!("userfaultfd: {error}"))
}

/// Whether nobody here may make namespaces; tried out by a process of its own.
fn jail_missing() -> Option<String> {
    let tried = std::process::Command::new("unshare")
        .args(["--user", "--pid", "--mount", "--net", "--fork", "true"])
        .output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Where cgroups with a limit of processes are made.
#[must_use]
pub fn pids_hierarchy() -> Option<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let at = Path::new(words.get(1)?);
        let controllers = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
        let has = match *words.get(2)? {
            "cgroup" => words.get(3)?.split(',').any(|option| option == "pids"),
            "cgroup2" => controllers.split_whitespace().any(|one| one == "pids"),
            _ => false,
        };
        has.then(|| at.to_owned())
    })
}

fn cgroups_missing() -> Option<String> {
    let Some(at) = pids_hierarchy() else {
        return Some("no hierarchy of cgroups limits processes".to_owned());
    };
    let probe = at.join(format!("vmm-test-probe-{}", std::process::id()));
    match fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)) {
        Ok(()) => None,
        Err(error) => Some(format!("{}: {error}", at.display())),
    }
}

/// Root of a namespace has no device nodes of its own.
fn root_missing() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let missing = capability_missing(27, "CAP_MKNOD")
        .or_else(|| capability_missing(7, "CAP_SETUID"))
        .or_else(|| capability_missing(21, "CAP_SYS_ADMIN"));
    if is_all { missing } else { Some("the real root is needed".to_owned()) }
}

/// Whether the process lacks an effective capability.
pub(crate) fn capability_missing(number: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(line.unwrap_or_default().trim(), 16).unwrap_or(0);
    (effective >> number & 1 == 0).then(|| format!("{name} is needed and not given"))
}
