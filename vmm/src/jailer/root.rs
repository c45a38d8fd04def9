//! The root of a jail: made, entered and furnished through descriptors, without following a link.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{JailerError, put};
use crate::jail::sys;

/// Rights of directories: the jail's user and group, and nobody else.
const DIRECTORY: libc::mode_t = 0o700;
/// Rights of device nodes.
const NODE: libc::mode_t = 0o600;

/// A directory that will be the root.
pub(super) struct Root {
    directory: OwnedFd,
}

/// Device numbers of the host, by the node's directory and name.
pub(super) struct Devices(Vec<(&'static str, &'static str, u64)>);

impl Devices {
    /// Those that this host has. Without /dev/userfaultfd a restored machine may still ask the kernel by a system call.
    pub(super) fn of_host() -> Self {
        let usual = |major, minor| Some(libc::makedev(major, minor));
        let wanted = [
            ("", "kvm", usual(10, 232)),
            ("net", "tun", usual(10, 200)),
            ("", "urandom", usual(1, 9)),
            ("", "userfaultfd", None),
        ];
        let found = wanted.into_iter().filter_map(|(directory, name, usual)| {
            let path = Path::new("/dev").join(directory).join(name);
            let number = fs::metadata(path).ok().map(|found| found.rdev()).filter(|it| *it != 0);
            Some((directory, name, number.or(usual)?))
        });
        Self(found.collect())
    }
}

impl Root {
    /// Makes what is missing of `base`/`names`/root and opens it. The base's own path may have links; it is the
    /// administrator's.
    pub(super) fn open(base: &Path, names: [&OsStr; 2]) -> Result<Self, JailerError> {
        let failed = |source| JailerError::Step {
            step: format!("open {base:?}, the directory of jails"),
            source,
        };
        fs::create_dir_all(base).map_err(failed)?;
        let mut directory = OwnedFd::from(File::open(base).map_err(failed)?);
        let mut path = base.to_owned();
        for name in [names[0], names[1], OsStr::new("root")] {
            path.push(name);
            let step = || format!("make the directory {path:?}, in which nothing may be a link");
            directory = subdirectory(&directory, name, 0o755)
                .map_err(|source| JailerError::Step { step: step(), source })?;
        }
        Ok(Self { directory })
    }

    /// Makes it the root of this process, with `program` in it under `name`. Mounts are done by descriptors: what a path
    /// leads to may change, what a descriptor is does not.
    pub(super) fn enter(&self, name: &OsStr, program: &File) -> Result<(), JailerError> {
        let failed = |step: &str| JailerError::at(step.to_owned());
        let tree = sys::clone_mount(self.directory.as_fd()).map_err(failed("mount the root"))?;
        sys::attach_mount(tree.as_fd(), self.directory.as_fd())
            .map_err(failed("mount the root"))?;
        let place = create(&tree, name, 0o755).map_err(failed("make the program's file"))?;
        sys::clone_mount(program.as_fd())
            .and_then(|mount| {
                sys::make_read_only(mount.as_fd())?;
                sys::attach_mount(mount.as_fd(), place.as_fd())
            })
            .map_err(failed("mount the program"))?;
        sys::change_directory(tree.as_fd())
            .and_then(|()| sys::pivot_here())
            .map_err(failed("change to the root"))?;
        sys::unmount_here()
            .and_then(|()| std::env::set_current_dir("/"))
            .map_err(failed("let go of the host's files"))
    }

    /// Makes devices and directories for the user.
    pub(super) fn furnish(&self, devices: &Devices, uid: u32, gid: u32) -> Result<(), JailerError> {
        let failed = |what: &str| JailerError::at(format!("make {what} in the jail"));
        let own = |directory: &OwnedFd| sys::change_owner(directory.as_fd(), None, uid, gid);
        let run = subdirectory(&self.directory, "run", DIRECTORY).map_err(failed("run"))?;
        let dev = subdirectory(&self.directory, "dev", DIRECTORY).map_err(failed("dev"))?;
        let net = subdirectory(&dev, "net", DIRECTORY).map_err(failed("dev/net"))?;
        for (directory, name, number) in &devices.0 {
            let directory = if directory.is_empty() { &dev } else { &net };
            node(directory, name, *number, uid, gid).map_err(failed(name))?;
        }
        [&run, &dev, &net, &self.directory]
            .into_iter()
            .try_for_each(own)
            .map_err(failed("the owner"))
    }

    /// Writes a file of root's in the jail, in place of what is there.
    pub(super) fn write(&self, name: &Path, text: &str) -> Result<(), JailerError> {
        create(&self.directory, name, 0o644)
            .and_then(|file| put(File::from(file), text))
            .map_err(JailerError::at(format!("write {name:?} in the jail")))
    }
}

/// Leaves the host's mount namespace for one of its own, which nobody else sees.
pub(super) fn own_mounts() -> Result<(), JailerError> {
    sys::unshare(libc::CLONE_NEWNS)
        .and_then(|()| sys::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None))
        .map_err(JailerError::at("make a mount namespace, which takes root"))
}

/// The directory `name` in `directory`; made if it is missing.
fn subdirectory(
    directory: &OwnedFd,
    name: impl AsRef<OsStr>,
    mode: libc::mode_t,
) -> io::Result<OwnedFd> {
    let name = text(name.as_ref())?;
    match sys::make_directory(directory.as_fd(), &name, mode) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = libc::O_DIRECTORY | libc::O_RDONLY;
    sys::open_beneath(directory.as_fd(), &name, flags, 0)
}

/// A new, empty file in place of what was called `name`.
fn create(directory: &OwnedFd, name: impl AsRef<OsStr>, mode: libc::mode_t) -> io::Result<OwnedFd> {
    let name = text(name.as_ref())?;
    sys::remove_file(directory.as_fd(), &name)?;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW;
    sys::open_beneath(directory.as_fd(), &name, flags, mode)
}

fn node(directory: &OwnedFd, name: &str, number: u64, uid: u32, gid: u32) -> io::Result<()> {
    let name = text(OsStr::new(name))?;
    sys::remove_file(directory.as_fd(), &name)?;
    sys::make_node(directory.as_fd(), &name, NODE, number)?;
    sys::change_owner(directory.as_fd(), Some(&name), uid, gid)
}

fn text(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
