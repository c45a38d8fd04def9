//! The cgroup of a jail: limits of processor time, memory, disk transfers and processes.
//!
//! It is made below the cgroup of this process, or the one that was named, by the process outside, which removes it at
//! the end; the inside goes in by itself before it does anything else. Version 2 is taken where it has the controllers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::error::JailError;
use crate::cgroup::{Hierarchy, has_word, hierarchies, own_path};
use crate::config::{CgroupLimits, IoLimit};
use crate::metrics::cgroup::Accounts;
use crate::process;

/// Microseconds over which processor time is counted: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// How often, and with what pauses, a cgroup is removed whose last process is just ending.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);

/// A cgroup, or one for each controller, that exists until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    made: Vec<PathBuf>,
    doors: Vec<File>,
}

impl Cgroups {
    /// Makes what `limits` asks for; `disks` are the files that transfers go to.
    pub(super) fn make(
        limits: &CgroupLimits,
        parent: Option<&Path>,
        disks: &[&Path],
    ) -> Result<Self, JailError> {
        let mut cgroups = Self::default();
        if limits.is_none() {
            return Ok(cgroups);
        }
        let read = |path: &str| fs::read_to_string(path).map_err(failed(format!("read {path}")));
        let (mounts, own) = (read("/proc/mounts")?, read("/proc/self/cgroup")?);
        let found = hierarchies(&mounts);
        let devices = match limits.io {
            Some(_) => disks.iter().map(|disk| device_of(disk)).collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        let unified = found.iter().find(|it| it.controllers.is_none());
        let base = unified.map(|it| place(it, parent, own_path(&own, None)));
        let values = values(limits, &devices);
        if let Some(base) = base.filter(|base| has_all(base, &values)) {
            return cgroups.make_unified(&base, &values).map(|()| cgroups);
        }
        for value in &values {
            let has = |it: &&Hierarchy| it.has(value.controller);
            let missing = || JailError::NoController { controller: value.controller };
            let tree = found.iter().find(has).ok_or_else(missing)?;
            let base = place(tree, parent, own_path(&own, Some(value.controller)));
            let at = base.join(name());
            cgroups.add(&at)?;
            value.legacy.iter().try_for_each(|(file, text)| write(&at.join(file), text))?;
        }
        Ok(cgroups)
    }

    fn make_unified(&mut self, base: &Path, values: &[Value]) -> Result<(), JailError> {
        for value in values {
            let control = base.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&control).unwrap_or_default();
            if !has_word(&enabled, value.controller) {
                write(&control, &format!("+{}", value.controller)).map_err(
                    |error| match error {
                        JailError::Cgroup { source, .. }
                            if source.raw_os_error() == Some(libc::EBUSY) =>
                        {
                            JailError::BusyCgroup { path: base.to_owned() }
                        }
                        other => other,
                    },
                )?;
            }
        }
        let at = base.join(name());
        self.add(&at)?;
        values
            .iter()
            .flat_map(|value| &value.unified)
            .try_for_each(|(file, text)| write(&at.join(file), text))
    }

    fn add(&mut self, at: &Path) -> Result<(), JailError> {
        if self.made.iter().any(|made| made == at) {
            return Ok(());
        }
        fs::create_dir(at).map_err(failed(format!("make the cgroup {at:?}")))?;
        self.made.push(at.to_owned());
        let door = at.join("cgroup.procs");
        let file = File::options().write(true).open(&door);
        self.doors.push(file.map_err(failed(format!("open {door:?}")))?);
        Ok(())
    }

    /// What is counted for them.
    pub(super) fn accounts(&self) -> Accounts {
        Accounts::open(&self.made)
    }

    /// Moves this process in; the descriptors are not needed any more then.
    pub(super) fn enter(&mut self) -> Result<(), JailError> {
        self.doors
            .drain(..)
            .try_for_each(|mut door| door.write_all(b"0"))
            .map_err(failed("enter its cgroup"))
    }

    /// Leaves them to another process, which removes them.
    pub(super) fn leave(mut self) {
        self.made.clear();
    }
}

/// Only an empty cgroup can be removed.
impl Drop for Cgroups {
    fn drop(&mut self) {
        for at in self.made.drain(..).rev() {
            for _ in 0..ATTEMPTS {
                match fs::remove_dir(&at) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        thread::sleep(PAUSE);
                    }
                    _ => break,
                }
            }
        }
    }
}

/// What one controller is told, in files of either version.
#[derive(Debug, PartialEq, Eq)]
struct Value {
    controller: &'static str,
    unified: Vec<(&'static str, String)>,
    legacy: Vec<(&'static str, String)>,
}

fn values(limits: &CgroupLimits, devices: &[String]) -> Vec<Value> {
    let mut values = Vec::new();
    if let Some(millis) = limits.cpu_millis {
        let quota = u64::from(millis) * PERIOD_US / 1000;
        values.push(Value {
            controller: "cpu",
            unified: vec![("cpu.max", format!("{quota} {PERIOD_US}"))],
            legacy: vec![
                ("cpu.cfs_period_us", PERIOD_US.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
        });
    }
    if let Some(bytes) = limits.memory_bytes {
        let text = bytes.to_string();
        values.push(Value {
            controller: "memory",
            unified: vec![("memory.max", text.clone())],
            legacy: vec![("memory.limit_in_bytes", text)],
        });
    }
    if let Some(count) = limits.pids {
        let value = vec![("pids.max", count.to_string())];
        values.push(Value { controller: "pids", unified: value.clone(), legacy: value });
    }
    if let Some(IoLimit { bytes, requests }) = limits.io {
        let mut unified = Vec::new();
        let mut legacy = Vec::new();
        for device in devices {
            let mut words = device.clone();
            if let Some(bytes) = bytes {
                words += &format!(" rbps={bytes} wbps={bytes}");
                for file in ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"] {
                    legacy.push((file, format!("{device} {bytes}")));
                }
            }
            if let Some(requests) = requests {
                words += &format!(" riops={requests} wiops={requests}");
                for file in ["blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device"]
                {
                    legacy.push((file, format!("{device} {requests}")));
                }
            }
            unified.push(("io.max", words));
        }
        values.push(Value { controller: "io", unified, legacy });
    }
    values
}

/// The directory in which cgroups are made. Where the own one is not to be seen from here, that is the root.
fn place(tree: &Hierarchy, parent: Option<&Path>, own: Option<PathBuf>) -> PathBuf {
    match (parent, own) {
        (Some(parent), _) => tree.at.join(parent.strip_prefix("/").unwrap_or(parent)),
        (None, Some(own)) if tree.at.join(&own).is_dir() => tree.at.join(own),
        _ => tree.at.clone(),
    }
}

fn has_all(base: &Path, values: &[Value]) -> bool {
    let text = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    values.iter().all(|value| has_word(&text, value.controller))
}

/// The whole block device, "MAJOR:MINOR", that the file or device at `path` is on: partitions have no limits.
fn device_of(path: &Path) -> Result<String, JailError> {
    let none = || JailError::NoDevice { path: path.to_owned() };
    let found = fs::metadata(path).map_err(|_| none())?;
    let number = if found.file_type().is_block_device() { found.rdev() } else { found.dev() };
    let text = format!("{}:{}", libc::major(number), libc::minor(number));
    let at = Path::new("/sys/dev/block").join(&text);
    if !at.exists() {
        return Err(none());
    }
    if at.join("partition").exists() {
        let whole = fs::canonicalize(&at)
            .ok()
            .and_then(|at| fs::read_to_string(at.parent()?.join("dev")).ok());
        return whole.map(|text| text.trim().to_owned()).ok_or_else(none);
    }
    Ok(text)
}

fn name() -> String {
    format!("vmm-{}", process::id())
}

fn write(path: &Path, text: &str) -> Result<(), JailError> {
    let written =
        File::options().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(failed(format!("write {text:?} to {path:?}")))
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> JailError {
    let what = what.into();
    move |source| JailError::Cgroup { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_said_in_the_words_of_both_versions() {
        let io = IoLimit { bytes: Some(1000), requests: Some(50) };
        let limits = CgroupLimits {
            cpu_millis: Some(1500),
            memory_bytes: Some(1 << 30),
            io: Some(io),
            pids: Some(64),
        };
        let all = values(&limits, &["8:0".to_owned()]);
        let unified: Vec<_> = all.iter().flat_map(|value| value.unified.clone()).collect();
        assert_eq!(
            unified,
            [
                ("cpu.max", "150000 100000".to_owned()),
                ("memory.max", "1073741824".to_owned()),
                ("pids.max", "64".to_owned()),
                ("io.max", "8:0 rbps=1000 wbps=1000 riops=50 wiops=50".to_owned()),
            ]
        );
        let legacy: Vec<_> = all.iter().flat_map(|value| value.legacy.clone()).collect();
        assert!(legacy.contains(&("cpu.cfs_quota_us", "150000".to_owned())));
        assert!(legacy.contains(&("blkio.throttle.write_iops_device", "8:0 50".to_owned())));
        assert_eq!(legacy.len(), 8);
        assert!(values(&CgroupLimits::default(), &[]).is_empty());
    }

    #[test]
    fn a_file_in_memory_is_on_no_device() {
        let error = device_of(Path::new("/proc/self/status")).unwrap_err();
        assert!(error.to_string().contains("no block device"), "{error}");
    }
}
