//! Opening /dev/kvm, and what kind of KVM it is.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::OnceLock;

use arch::cpuid::CpuidEntry;
use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::Cap;

use super::cpuid;

/// The device node.
const DEV_KVM: &str = "/dev/kvm";

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No device node.
    #[error(
        "/dev/kvm does not exist: load the module (modprobe kvm_intel or kvm_amd) and enable \
         virtualization in the firmware; 'vmm doctor' checks the rest"
    )]
    Missing,
    /// The node is there, but not for this user.
    #[error(
        "no permission to open /dev/kvm: add the user to its group (usermod -aG kvm USER) and log in again"
    )]
    Permission,
    /// Any other failure to open.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] io::Error),
    /// An ancient or foreign kernel.
    #[error("/dev/kvm speaks API version {0}, not {KVM_API_VERSION}")]
    Version(i32),
    /// A capability that this monitor cannot do without.
    #[error("this KVM lacks {0}, which vmm needs: the kernel is too old or built without it")]
    Capability(&'static str),
    /// One call to KVM failed.
    #[error("KVM refused to {what}")]
    Call {
        /// What was asked.
        what: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
}

impl KvmError {
    /// Wraps a failed ioctl.
    pub(crate) fn call(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Call { what, source: error.into() }
    }
}

/// Which implementation answers behind /dev/kvm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Hardware virtualization.
    Hardware,
    /// `kvm_pvm`: no hardware virtualization; guest kernels that do not know it are emulated instruction
    /// by instruction, and an ordinary Linux kernel does not get far.
    Pvm,
}

impl Flavour {
    /// The flavour of this host's KVM.
    #[must_use]
    pub fn detect() -> Self {
        static FOUND: OnceLock<Flavour> = OnceLock::new();
        // Found out once: in a jail nothing can be looked at any more.
        *FOUND.get_or_init(|| match Path::new("/sys/module/kvm_pvm").exists() {
            true => Self::Pvm,
            false => Self::Hardware,
        })
    }
}

/// An open /dev/kvm that can do what is needed.
pub struct Kvm {
    inner: kvm_ioctls::Kvm,
}

impl Kvm {
    /// Opens /dev/kvm and checks the capabilities that nothing works without.
    ///
    /// # Errors
    /// [`KvmError`], with the remedy in its text.
    pub fn open() -> Result<Self, KvmError> {
        let inner = kvm_ioctls::Kvm::new_with_path(c"/dev/kvm").map_err(|e| match e.errno() {
            libc::ENOENT => KvmError::Missing,
            libc::EACCES | libc::EPERM => KvmError::Permission,
            _ => KvmError::Open(e.into()),
        })?;
        let version = inner.get_api_version();
        if u32::try_from(version).ok() != Some(KVM_API_VERSION) {
            return Err(KvmError::Version(version));
        }
        // Everything else that is used has been there longer.
        if !inner.check_extension(Cap::ImmediateExit) {
            return Err(KvmError::Capability("KVM_CAP_IMMEDIATE_EXIT"));
        }
        Ok(Self { inner })
    }

    /// Whether the host has the capability of this number (`KVM_CAP_*`).
    #[must_use]
    pub fn has_capability(&self, number: u32) -> bool {
        self.capability(number) > 0
    }

    /// What KVM says of the capability of this number: 0 where there is none, often 1, sometimes a size.
    #[must_use]
    pub fn capability(&self, number: u32) -> usize {
        let value = self.inner.check_extension_raw(libc::c_ulong::from(number));
        usize::try_from(value).unwrap_or(0)
    }

    /// Most vCPUs that a VM can have.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.inner.get_max_vcpus()
    }

    /// Whether the local APIC has a TSC-deadline timer (it is not part of the supported CPUID).
    #[must_use]
    pub fn has_tsc_deadline_timer(&self) -> bool {
        self.inner.check_extension(Cap::TscDeadlineTimer)
    }

    /// What CPUID can show to a guest on this host.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, KvmError> {
        cpuid::supported(self.inner.as_raw_fd())
    }

    pub(super) fn create_vm(&self) -> Result<kvm_ioctls::VmFd, KvmError> {
        loop {
            match self.inner.create_vm() {
                // The kernel gives way to a pending signal here; asking again is right.
                Err(e) if e.errno() == libc::EINTR => {}
                other => return other.map_err(KvmError::call("create a VM")),
            }
        }
    }
}

impl AsRawFd for Kvm {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl std::fmt::Debug for Kvm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kvm({DEV_KVM})")
    }
}
