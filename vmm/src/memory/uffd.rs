//! Guest memory whose pages another process provides as the guest touches them: userfaultfd(2).
//!
//! The protocol is Firecracker's. The provider listens on a Unix socket; it is sent one message, a JSON array that says
//! where each range of memory is in this process and in the memory file, and with it the descriptor that tells of
//! missing pages and takes them. From then on it must also take note of pages that this process gives back (`REMOVE`
//! events), which count as zero. Where pages come from is the provider's business; nothing is read or checked here.

#![expect(unsafe_code, reason = "userfaultfd exists only as raw calls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use devices::memory::GuestMemory;
use serde_json::{Value, json};
use vm_memory::GuestMemoryBackend;

use super::extent;
use crate::jail::sys::send;

/// The device that gives descriptors to whoever may open it.
const DEVICE: &str = "/dev/userfaultfd";

/// Requests and numbers of `linux/userfaultfd.h`.
const USERFAULTFD_IOC_NEW: libc::Ioctl = 0xaa00;
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
/// `struct uffdio_api`: version, features, possible requests.
type ApiArgument = [u64; 3];
/// `struct uffdio_register`: start, length, mode, possible requests.
type RegisterArgument = [u64; 4];

/// Why nobody provides pages.
#[derive(Debug, thiserror::Error)]
pub enum UffdError {
    /// The host does not let this user have such a descriptor.
    #[error(
        "this host gives no userfaultfd: run as root, give this user access to {DEVICE}, or let root run \
         'sysctl vm.unprivileged_userfaultfd=1'"
    )]
    Create(#[source] io::Error),
    /// A kernel that is too old, or memory of a kind that it cannot watch.
    #[error("userfaultfd: cannot {what}")]
    Call {
        /// What was being done.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Nobody listens.
    #[error("no provider of pages answers at {path:?}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The provider hung up.
    #[error("the provider of pages at {path:?} does not take over")]
    Send {
        /// The socket.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

/// Keeps memory waiting for its provider. Without it, missing pages would count as zero when the provider dies, and
/// nobody would notice. There is one memory in a process, which outlives its machines.
static KEPT: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Whether memory has a provider: pages that nobody has touched are not zero.
#[must_use]
pub fn is_provided() -> bool {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Has the process that listens at `path` provide the pages of `memory`, none of which was touched yet; each is
/// `page_size` bytes.
///
/// # Errors
/// [`UffdError`]; the memory is as before.
pub fn hand_over(memory: &GuestMemory, page_size: u64, path: &Path) -> Result<(), UffdError> {
    let fd = create().map_err(UffdError::Create)?;
    let call = |what| move |source| UffdError::Call { what, source };
    let mut api: ApiArgument = [UFFD_API, UFFD_FEATURE_EVENT_REMOVE, 0];
    ioctl(fd.as_fd(), UFFDIO_API, &mut api).map_err(call("agree on a version"))?;
    for (start, len) in memory.iter().filter_map(extent) {
        let mut range: RegisterArgument =
            [start as u64, len as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
        ioctl(fd.as_fd(), UFFDIO_REGISTER, &mut range).map_err(call("watch guest memory"))?;
    }
    let stream = UnixStream::connect(path)
        .map_err(|source| UffdError::Connect { path: path.to_owned(), source })?;
    let message = describe(memory, page_size).to_string();
    send(stream.as_fd(), message.as_bytes(), Some(fd.as_fd()))
        .map_err(|source| UffdError::Send { path: path.to_owned(), source })?;
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(fd);
    Ok(())
}

/// Where each range is. `page_size_kib` is in bytes as well: its name was a mistake that providers rely on.
fn describe(memory: &GuestMemory, page_size: u64) -> Value {
    let mut offset = 0;
    let range = |(start, len): (usize, usize)| {
        let at = offset;
        offset += len;
        json!({
            "base_host_virt_addr": start,
            "size": len,
            "offset": at,
            "page_size": page_size,
            "page_size_kib": page_size,
        })
    };
    memory.iter().filter_map(extent).map(range).collect()
}

/// A descriptor that hears of the faults of this process, those that the kernel makes for it among them: KVM's are.
fn create() -> io::Result<OwnedFd> {
    const FLAGS: libc::c_int = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: takes a number.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) };
    let denied = match owned(fd) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        other => return other,
    };
    let Ok(device) = File::options().read(true).write(true).open(DEVICE) else {
        return Err(denied);
    };
    // SAFETY: takes a descriptor and a number.
    owned(unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, FLAGS) }.into())
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: the descriptor is new and nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Both requests take a structure of numbers, which the kernel also writes to.
fn ioctl<const N: usize>(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: &mut [u64; N],
) -> io::Result<()> {
    // SAFETY: the argument has the size that the request's number says, and lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
