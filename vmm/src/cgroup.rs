//! Hierarchies of cgroups as the host has mounted them, by either version of the interface.
//!
//! Who is put where, and with which limits, is decided elsewhere.

use std::path::PathBuf;

/// A hierarchy of cgroups that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where.
    pub(crate) at: PathBuf,
    /// The controllers of version 1; `None` is version 2.
    pub(crate) controllers: Option<Vec<String>>,
}

impl Hierarchy {
    /// Whether it is a hierarchy of version 1 with this controller.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().flatten().any(|name| name == in_version_1(controller))
    }
}

/// What a controller of version 2 is called in version 1.
fn in_version_1(controller: &str) -> &str {
    if controller == "io" { "blkio" } else { controller }
}

/// Whether `word` is one of those in `text`, as the kernel lists controllers.
#[inline(never)]
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.split_ascii_whitespace().any(|it| it == word)
}

/// The hierarchies in `mounts` (proc(5), /proc/mounts).
pub(crate) fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let line = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
        let controllers = match kind {
            "cgroup" => Some(options.split(',').map(str::to_owned).collect()),
            "cgroup2" => None,
            _ => return None,
        };
        Some(Hierarchy { at: at.into(), controllers })
    };
    mounts.lines().filter_map(line).collect()
}

/// The cgroup of a process below its hierarchy's root, by `own` (cgroups(7), /proc/PID/cgroup): that of version 2, or of
/// the hierarchy with `controller`.
pub(crate) fn own_path(own: &str, controller: Option<&str>) -> Option<PathBuf> {
    own.lines().find_map(|line| {
        let mut words = line.splitn(3, ':').skip(1);
        let (names, path) = (words.next()?, words.next()?);
        let is_it = match controller {
            None => names.is_empty(),
            Some(wanted) => names.split(',').any(|name| name == in_version_1(wanted)),
        };
        is_it.then(|| path.trim_start_matches('/').into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = hierarchies(mounts);
        assert_eq!(found.len(), 2);
        let io = Hierarchy { at: "/".into(), controllers: Some(vec!["blkio".to_owned()]) };
        assert!(io.has("io") && !io.has("cpu"));
        assert_eq!(own_path("3:blkio:/a\n", Some("io")), Some("a".into()));
        assert!(found[0].has("cpuacct") && !found[0].has("memory") && !found[1].has("cpu"));
        assert_eq!(found[1], Hierarchy { at: "/sys/fs/cgroup/unified".into(), controllers: None });
    }

    #[test]
    fn each_hierarchy_has_its_path() {
        let own = "9:name=systemd:/\n4:cpu,cpuacct:/a/b\n0::/user.slice/x:y\n";
        assert_eq!(own_path(own, Some("cpuacct")), Some("a/b".into()));
        assert_eq!(own_path(own, None), Some("user.slice/x:y".into()));
        assert_eq!(own_path(own, Some("memory")), None);
    }
}
