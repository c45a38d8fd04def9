//! Finds a file that is used twice where one of the uses would spoil the other.
//!
//! Paths are compared by their text, after removing "." and joining relative ones to the working directory.
//! Links are not followed: the file system is not asked, so a plan can be made where its files are not.

use std::path::{Component, Path, PathBuf};

use super::console::ConsoleTarget;
use super::cpu_template::CpuTemplateConfig;
use super::error::ConfigError;
use super::plan::Plan;

struct Use<'a> {
    what: &'static str,
    /// Which one, when there can be several.
    id: &'a str,
    path: &'a Path,
    written: bool,
}

impl Use<'_> {
    fn name(&self) -> String {
        if self.id.is_empty() { self.what.to_owned() } else { format!("{} {}", self.what, self.id) }
    }
}

/// Checks all paths of a plan against each other; none may be empty.
pub(super) fn check(plan: &Plan) -> Result<(), ConfigError> {
    let uses = collect(plan);
    if let Some(empty) = uses.iter().find(|one| one.path.as_os_str().is_empty()) {
        return Err(ConfigError::EmptyPath { what: empty.name() });
    }
    for (index, second) in uses.iter().enumerate() {
        for first in uses.iter().take(index).filter(|first| is_same(first.path, second.path)) {
            if let Some(writer) = [first, second].into_iter().find(|one| one.written) {
                return Err(ConfigError::SharedPath {
                    path: second.path.to_owned(),
                    first: first.name(),
                    second: second.name(),
                    writer: writer.name(),
                });
            }
        }
    }
    Ok(())
}

fn collect(plan: &Plan) -> Vec<Use<'_>> {
    let only = |what, path, written| Use { what, id: "", path, written };
    let mut uses = vec![only("the kernel", &plan.kernel, false)];
    uses.extend(plan.initrd.as_deref().map(|path| only("the initrd", path, false)));
    if let Some(CpuTemplateConfig::File(path)) = &plan.cpu_template {
        uses.push(only("the CPU template", path, false));
    }
    uses.extend(plan.disks.iter().map(|disk| Use {
        what: "disk",
        id: &disk.id,
        path: &disk.path,
        written: !disk.read_only && disk.overlay.is_none(),
    }));
    let overlays =
        plan.disks.iter().filter_map(|disk| Some((disk, disk.overlay.as_ref()?.path()?)));
    uses.extend(overlays.map(|(disk, path)| Use {
        what: "the overlay of disk",
        id: &disk.id,
        path,
        written: true,
    }));
    uses.extend(plan.vsock.as_ref().map(|vsock| only("the vsock", &vsock.socket, true)));
    let metadata = plan.metadata.as_ref().and_then(|metadata| metadata.path.as_deref());
    uses.extend(metadata.map(|path| only("the metadata", path, false)));
    for (name, target) in [("the console", &plan.console), ("the serial port", &plan.serial)] {
        if let ConsoleTarget::File(path) | ConsoleTarget::Socket(path) = target {
            uses.push(only(name, path, true));
        }
    }
    uses.extend(plan.log.path.as_deref().map(|path| only("the log", path, true)));
    let metrics = plan.metrics.as_ref().map(|metrics| metrics.path.as_path());
    uses.extend(metrics.map(|path| only("the metrics", path, true)));
    uses
}

fn is_same(one: &Path, other: &Path) -> bool {
    // Two paths of one file end in the same name; what has no name (".", "..") is looked at.
    let differ = matches!((one.file_name(), other.file_name()), (Some(a), Some(b)) if a != b);
    !differ && normal(one) == normal(other)
}

/// An absolute path without "." components. ".." stays: what it means depends on links.
fn normal(path: &Path) -> PathBuf {
    // Fails only without a working directory; then the relative paths still compare with each other.
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    full.components().filter(|part| *part != Component::CurDir).collect()
}
