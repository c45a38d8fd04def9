//! The cgroup of a jail: made where the administrator says, by either version of the interface.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};
use std::str::FromStr;

use super::{JailerConfig, JailerError, put};
use crate::cgroup::{Hierarchy, has_word, hierarchies};

/// A file of a cgroup, and what is written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupValue {
    /// The file, which begins with its controller's name.
    pub file: String,
    /// The value.
    pub value: String,
}

/// Why a value cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("use CONTROLLER.FILE=VALUE, as in cpu.weight=50")]
pub struct CgroupValueError;

impl FromStr for CgroupValue {
    type Err = CgroupValueError;

    fn from_str(text: &str) -> Result<Self, CgroupValueError> {
        let (file, value) = text.split_once('=').ok_or(CgroupValueError)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let has_controller =
            file.split_once('.').is_some_and(|(one, rest)| !one.is_empty() && !rest.is_empty());
        if value.is_empty() || !has_controller || !file.bytes().all(is_name) {
            return Err(CgroupValueError);
        }
        Ok(Self { file: file.to_owned(), value: value.to_owned() })
    }
}

impl CgroupValue {
    fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// Moves this process into the cgroups that `config` asks for.
pub(super) fn join(config: &JailerConfig, program: &OsStr) -> Result<(), JailerError> {
    if config.cgroup.is_empty() && config.parent_cgroup.is_none() {
        return Ok(());
    }
    let parent = config.parent_cgroup.as_deref().unwrap_or_else(|| Path::new(program));
    if !parent.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(JailerError::ParentCgroup { path: parent.to_owned() });
    }
    let mounts =
        fs::read_to_string("/proc/mounts").map_err(JailerError::at("read /proc/mounts"))?;
    let found = hierarchies(&mounts);
    let unified = found.iter().find(|hierarchy| hierarchy.controllers.is_none());
    // Where both are mounted, the one that has the controllers is the host's.
    let has_controllers = unified.is_some_and(|it| {
        let text = fs::read_to_string(it.at.join("cgroup.controllers")).unwrap_or_default();
        let has = |value: &CgroupValue| has_word(&text, value.controller());
        config.cgroup.iter().all(has)
    });
    match (config.cgroup_version, unified) {
        (Some(2), None) => Err(missing("", 2)),
        (Some(2), Some(unified)) => join_unified(config, unified, parent),
        (None, Some(unified)) if has_controllers => join_unified(config, unified, parent),
        _ => join_each(config, &found, parent),
    }
}

fn missing(controller: &str, version: u8) -> JailerError {
    JailerError::Controller { controller: controller.to_owned(), version }
}

fn join_unified(config: &JailerConfig, tree: &Hierarchy, parent: &Path) -> Result<(), JailerError> {
    let mut at = tree.at.clone();
    if config.cgroup.is_empty() {
        // Nothing is to be set: the parent itself is meant, as its maker left it.
        at.push(parent);
        return enter(&at);
    }
    for part in parent.components().map(|part| part.as_os_str()).chain([config.id.as_ref()]) {
        for value in &config.cgroup {
            let controller = value.controller();
            let text = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
            if !has_word(&text, controller) {
                return Err(missing(controller, 2));
            }
            write(&at.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        at.push(part);
        make(&at)?;
    }
    set(config.cgroup.iter(), &at)?;
    enter(&at)
}

/// Version 1 has a hierarchy for each controller, or for some together.
fn join_each(config: &JailerConfig, found: &[Hierarchy], parent: &Path) -> Result<(), JailerError> {
    for value in &config.cgroup {
        let controller = value.controller();
        let has = |it: &&Hierarchy| it.has(controller);
        let tree = found.iter().find(has).ok_or_else(|| missing(controller, 1))?;
        let mut at = tree.at.clone();
        for part in parent.components().map(|part| part.as_os_str()).chain([config.id.as_ref()]) {
            let above = at.clone();
            at.push(part);
            make(&at)?;
            if controller == "cpuset" {
                inherit(&above, &at)?;
            }
        }
        set([value].into_iter(), &at)?;
        enter(&at)?;
    }
    Ok(())
}

/// Nobody can be in a cpuset without processors or memory, and a new one has none.
fn inherit(above: &Path, at: &Path) -> Result<(), JailerError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(at.join(file)).unwrap_or_default();
        if own.trim().is_empty() {
            let value = fs::read_to_string(above.join(file)).unwrap_or_default();
            write(&at.join(file), value.trim())?;
        }
    }
    Ok(())
}

fn make(at: &Path) -> Result<(), JailerError> {
    match fs::create_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(JailerError::at(format!("make the cgroup {at:?}"))(error))
        }
        _ => Ok(()),
    }
}

fn set<'a>(values: impl Iterator<Item = &'a CgroupValue>, at: &Path) -> Result<(), JailerError> {
    for value in values {
        write(&at.join(&value.file), &value.value)?;
    }
    Ok(())
}

fn enter(at: &Path) -> Result<(), JailerError> {
    write(&at.join("cgroup.procs"), "0")
}

fn write(path: &Path, value: &str) -> Result<(), JailerError> {
    let file = File::options().write(true).open(path);
    file.and_then(|file| put(file, value))
        .map_err(JailerError::at(format!("write {value:?} to {path:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_name_a_file_of_a_controller() {
        let value = CgroupValue { file: "cpuset.cpus".into(), value: "0-1,4".into() };
        assert_eq!("cpuset.cpus=0-1,4".parse(), Ok(value.clone()));
        assert_eq!(value.controller(), "cpuset");
        for bad in ["", "cpu.weight", "=1", "cpu=1", "cpu.weight=", "../cpu.weight=1", ".x=1"] {
            assert_eq!(bad.parse::<CgroupValue>(), Err(CgroupValueError), "{bad}");
        }
    }
}
