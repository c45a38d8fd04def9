//! Finds a file that is used twice where one of the uses would spoil the other.
//!
//! Paths are compared by their text, after removing "." and joining relative ones to the working directory.
//! Links are not followed: the file system is not asked, so a plan can be made where its files are not.

use std::path::{Component, Path, PathBuf};

use super::console::ConsoleTarget;
use super::error::ConfigError;
use super::plan::Plan;

struct Use<'a> {
    what: String,
    path: &'a Path,
    written: bool,
}

/// Checks all paths of a plan against each other; none may be empty.
pub(super) fn check(plan: &Plan) -> Result<(), ConfigError> {
    let uses = collect(plan);
    if let Some(empty) = uses.iter().find(|one| one.path.as_os_str().is_empty()) {
        return Err(ConfigError::EmptyPath { what: empty.what.clone() });
    }
    let full: Vec<PathBuf> = uses.iter().map(|one| normal(one.path)).collect();
    for (index, (second, path)) in uses.iter().zip(&full).enumerate() {
        let earlier = uses.iter().zip(&full).take(index);
        for (first, _) in earlier.filter(|(_, other)| *other == path) {
            if let Some(writer) = [first, second].into_iter().find(|one| one.written) {
                return Err(ConfigError::SharedPath {
                    path: second.path.to_owned(),
                    first: first.what.clone(),
                    second: second.what.clone(),
                    writer: writer.what.clone(),
                });
            }
        }
    }
    Ok(())
}

fn collect(plan: &Plan) -> Vec<Use<'_>> {
    let mut uses = vec![Use { what: "the kernel".to_owned(), path: &plan.kernel, written: false }];
    let initrd = plan.initrd.as_deref();
    uses.extend(initrd.map(|path| Use { what: "the initrd".to_owned(), path, written: false }));
    uses.extend(plan.disks.iter().map(|disk| Use {
        what: format!("disk {}", disk.id),
        path: &disk.path,
        written: !disk.read_only,
    }));
    for (name, target) in [("the console", &plan.console), ("the serial port", &plan.serial)] {
        if let ConsoleTarget::File(path) | ConsoleTarget::Socket(path) = target {
            uses.push(Use { what: name.to_owned(), path, written: true });
        }
    }
    let log = plan.log.path.as_deref();
    uses.extend(log.map(|path| Use { what: "the log".to_owned(), path, written: true }));
    uses
}

/// An absolute path without "." components. ".." stays: what it means depends on links.
fn normal(path: &Path) -> PathBuf {
    // Fails only without a working directory; then the relative paths still compare with each other.
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    full.components().filter(|part| *part != Component::CurDir).collect()
}
