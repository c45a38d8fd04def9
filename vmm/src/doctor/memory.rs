//! Checks of memory: how much a guest can have, and whether it must be there in advance.

use super::Check;
use super::host::Host;
use crate::config::MEMORY_MIN;

/// Below this, an ordinary guest hardly fits beside the host.
const COMFORTABLE_MIB: u64 = 512;

/// The checks of memory. Never a failure: pages are taken as the guest touches them.
pub(super) fn checks(host: &dyn Host) -> Vec<Check> {
    let meminfo = host.read("/proc/meminfo").unwrap_or_default();
    let mut checks = vec![check_available(&meminfo)];
    checks.extend(check_overcommit(host, &meminfo));
    checks.push(describe_huge_pages(host, &meminfo));
    checks
}

fn check_available(meminfo: &str) -> Check {
    const NAME: &str = "memory";
    let Some(mib) = field_kib(meminfo, "MemAvailable").map(|kib| kib >> 10) else {
        return Check::warn(NAME, "/proc/meminfo does not tell", "mount /proc");
    };
    let fact = format!("{mib} MiB are available");
    if mib < MEMORY_MIN >> 20 {
        return Check::warn(NAME, fact, "no guest fits: free some memory");
    }
    if mib < COMFORTABLE_MIB {
        return Check::warn(NAME, fact, "free some memory, or give guests less: --memory 64M");
    }
    Check::ok(NAME, fact)
}

/// Without overcommit, a guest's memory counts in full from the start.
fn check_overcommit(host: &dyn Host, meminfo: &str) -> Option<Check> {
    const NAME: &str = "overcommit";
    let mode = host.read("/proc/sys/vm/overcommit_memory")?;
    let free =
        || field_kib(meminfo, "CommitLimit")?.checked_sub(field_kib(meminfo, "Committed_AS")?);
    Some(match mode.trim() {
        "2" => Check::warn(
            NAME,
            format!(
                "mode 2: a guest's memory counts in full when it starts, {} MiB can still be promised",
                free().unwrap_or(0) >> 10
            ),
            "to run more guests than that: sudo sysctl vm.overcommit_memory=0",
        ),
        mode => Check::ok(NAME, format!("mode {mode}: a guest's memory counts as it is touched")),
    })
}

fn describe_huge_pages(host: &dyn Host, meminfo: &str) -> Check {
    // "always [madvise] never": the brackets mark the choice.
    let choice = host.read("/sys/kernel/mm/transparent_hugepage/enabled").and_then(|text| {
        let (_, rest) = text.split_once('[')?;
        rest.split_once(']').map(|(word, _)| word.to_owned())
    });
    let transparent = choice.unwrap_or_else(|| "not built in".to_owned());
    let free = field_kib(meminfo, "HugePages_Free").unwrap_or(0);
    let total = field_kib(meminfo, "HugePages_Total").unwrap_or(0);
    Check::ok("huge pages", format!("transparent: {transparent}; reserved: {free} of {total} free"))
}

/// The number of a line "Name:  123 kB"; also of those that count pages.
fn field_kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
