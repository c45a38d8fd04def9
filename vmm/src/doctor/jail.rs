//! Checks of what confines a machine: filters of system calls, and what `--jail` needs.

use std::path::Path;

use super::Check;
use super::host::Host;
use crate::cgroup::{has_word, hierarchies, own_path};

/// What limits are given to (`--cpu-limit` and the like).
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// The checks. Never a failure: machines run without.
pub(super) fn checks(host: &dyn Host) -> Vec<Check> {
    vec![check_filters(host), check_namespaces(host), check_landlock(host), check_limits(host)]
}

fn check_filters(host: &dyn Host) -> Check {
    const NAME: &str = "seccomp";
    let actions = host.read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if has_word(&actions, "trap") {
        return Check::ok(NAME, "system calls of each thread are filtered");
    }
    Check::warn(
        NAME,
        "this kernel has no filters of system calls, so that vmm needs --seccomp off",
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
}

fn check_namespaces(host: &dyn Host) -> Check {
    const NAME: &str = "jail";
    match host.try_jail() {
        Ok(()) => Check::ok(NAME, "--jail works for this user"),
        Err((fact, remedy)) => Check::warn(
            NAME,
            format!("no --jail: {fact}"),
            remedy.unwrap_or_else(|| {
                "start vmm as root, or by 'vmm jailer', which root runs".to_owned()
            }),
        ),
    }
}

fn check_landlock(host: &dyn Host) -> Check {
    const NAME: &str = "Landlock";
    match host.landlock() {
        0 => Check::warn(
            NAME,
            "none: a jail has one layer less",
            "use a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and 'landlock' among its lsm=",
        ),
        version => Check::ok(NAME, format!("version {version}")),
    }
}

/// Looks where a jail's cgroup would be made: below that of this process.
fn check_limits(host: &dyn Host) -> Check {
    const NAME: &str = "limits";
    let read = |path: &Path| host.read(&path.to_string_lossy()).unwrap_or_default();
    let (mounts, own) = (read(Path::new("/proc/mounts")), read(Path::new("/proc/self/cgroup")));
    let found = hierarchies(&mounts);
    let place = |at: &Path, controller: Option<&str>| {
        let own = own_path(&own, controller).map(|own| at.join(own));
        own.filter(|own| host.exists(&own.to_string_lossy())).unwrap_or_else(|| at.to_owned())
    };
    let unified = found.iter().find(|tree| tree.controllers.is_none());
    let unified = unified.map(|tree| (place(&tree.at, None), &tree.at));
    let has = |controller: &str| {
        let is_ours = |at: &Path| host.may_write(&at.to_string_lossy());
        let says = |at: &Path, file| has_word(&read(&at.join(file)), controller);
        // Below a cgroup in which processes are, only the root has any.
        let by_2 = unified.as_ref().is_some_and(|(at, root)| {
            let gives = at == *root || says(at, "cgroup.subtree_control");
            gives && says(at, "cgroup.controllers") && is_ours(at)
        });
        let by_1 = || {
            found
                .iter()
                .any(|tree| tree.has(controller) && is_ours(&place(&tree.at, Some(controller))))
        };
        by_2 || by_1()
    };
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|it| !has(it)).collect();
    if missing.is_empty() {
        return Check::ok(NAME, "a jail can have all that there are");
    }
    Check::warn(
        NAME,
        format!("no cgroup in which this user could give a jail limits of {}", missing.join(", ")),
        "start vmm as root, or give this user a cgroup without processes and name it with --jail=cgroup=PATH",
    )
}
