//! What the checks ask of a host. [`ThisHost`] asks the real one; tests bring their own.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use kvm_ioctls::{Cap, Kvm};

use crate::jail::{self, JailError};

/// A host that can be asked. Paths are absolute.
pub(super) trait Host {
    /// The text of a small file, when it can be read.
    fn read(&self, path: &str) -> Option<String>;
    /// Whether there is something at this path.
    fn exists(&self, path: &str) -> bool;
    /// The names in a directory, sorted; none when it cannot be read.
    fn list(&self, path: &str) -> Vec<String>;
    /// What becomes of opening a device node for reading and writing.
    fn open(&self, path: &str) -> Node;
    /// Whether this user may make something in a directory.
    fn may_write(&self, path: &str) -> bool;
    /// What becomes of entering a jail: nothing, or what is in the way and what to do about it, where that is known.
    fn try_jail(&self) -> Result<(), (String, Option<String>)>;
    /// The version of Landlock; 0 when there is none.
    fn landlock(&self) -> u32;
    /// What an open /dev/kvm says; `None` when it does not open.
    fn kvm(&self) -> Option<KvmAnswers>;
}

/// What becomes of opening a device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// It opens.
    Opens,
    /// There is none.
    Missing,
    /// There is something else at its path.
    NotADevice,
    /// This user may not.
    Denied {
        /// The node's group.
        gid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Any other failure.
    Fails(String),
}

/// What /dev/kvm says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KvmAnswers {
    /// The answer to `KVM_GET_API_VERSION`.
    pub(super) api_version: i32,
    /// The capabilities of [`CAPABILITIES`] that are missing.
    pub(super) missing: Vec<&'static str>,
    /// `KVM_CAP_MAX_VCPUS`.
    pub(super) max_vcpus: usize,
    /// Creating a VM with a vCPU: nothing, or the failed step and its errno.
    pub(super) trial: Result<(), (&'static str, i32)>,
}

/// A capability (KVM API, section 8 and `KVM_CHECK_EXTENSION`) and whether a machine needs it.
pub(super) struct Capability {
    pub(super) name: &'static str,
    cap: Cap,
    /// What is lost without it; nothing when no machine runs without it.
    pub(super) loss: Option<&'static str>,
}

const fn needed(name: &'static str, cap: Cap) -> Capability {
    Capability { name, cap, loss: None }
}

/// The capabilities that are looked for.
pub(super) const CAPABILITIES: &[Capability] = &[
    needed("KVM_CAP_USER_MEMORY", Cap::UserMemory),
    needed("KVM_CAP_IRQCHIP", Cap::Irqchip),
    needed("KVM_CAP_IRQFD", Cap::Irqfd),
    needed("KVM_CAP_IOEVENTFD", Cap::Ioeventfd),
    needed("KVM_CAP_SET_TSS_ADDR", Cap::SetTssAddr),
    needed("KVM_CAP_EXT_CPUID", Cap::ExtCpuid),
    needed("KVM_CAP_MP_STATE", Cap::MpState),
    needed("KVM_CAP_IMMEDIATE_EXIT", Cap::ImmediateExit),
    Capability {
        name: "KVM_CAP_TSC_DEADLINE_TIMER",
        cap: Cap::TscDeadlineTimer,
        loss: Some("guests use a slower timer"),
    },
    Capability {
        name: "KVM_CAP_GET_TSC_KHZ",
        cap: Cap::GetTscKhz,
        loss: Some("guests measure the clock's frequency themselves"),
    },
];

/// The host that this process runs on.
pub(super) struct ThisHost {
    root: PathBuf,
}

impl ThisHost {
    /// `root` is "/", or a directory that stands for it in a test.
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Host for ThisHost {
    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at(path)).ok()
    }

    fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn open(&self, path: &str) -> Node {
        let path = self.at(path);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Node::Missing,
            Err(error) => return Node::Fails(error.to_string()),
        };
        if !metadata.file_type().is_char_device() {
            return Node::NotADevice;
        }
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(_) => Node::Opens,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Node::Denied { gid: metadata.gid(), mode: metadata.mode() & 0o777 }
            }
            Err(error) => Node::Fails(error.to_string()),
        }
    }

    fn may_write(&self, path: &str) -> bool {
        jail::may_write(&self.at(path))
    }

    fn try_jail(&self) -> Result<(), (String, Option<String>)> {
        jail::try_out().map_err(|error| match error {
            JailError::Step { step, remedy, source } => {
                (format!("cannot {step}: {source}"), remedy)
            }
            other => (other.to_string(), None),
        })
    }

    fn landlock(&self) -> u32 {
        jail::landlock_version()
    }

    fn kvm(&self) -> Option<KvmAnswers> {
        let path = self.at("/dev/kvm").into_os_string().into_encoded_bytes();
        let kvm = Kvm::new_with_path(std::ffi::CString::new(path).ok()?).ok()?;
        let missing = CAPABILITIES.iter().filter(|it| !kvm.check_extension(it.cap));
        Some(KvmAnswers {
            api_version: kvm.get_api_version(),
            missing: missing.map(|it| it.name).collect(),
            max_vcpus: kvm.get_max_vcpus(),
            trial: try_vm(&kvm),
        })
    }
}

/// Creates a VM with a vCPU and lets go of it: modules can be loaded, nodes open, and this still fail.
fn try_vm(kvm: &Kvm) -> Result<(), (&'static str, i32)> {
    let vm = kvm.create_vm().map_err(|error| ("KVM_CREATE_VM", error.errno()))?;
    vm.create_irq_chip().map_err(|error| ("KVM_CREATE_IRQCHIP", error.errno()))?;
    vm.create_vcpu(0).map_err(|error| ("KVM_CREATE_VCPU", error.errno()))?;
    Ok(())
}
