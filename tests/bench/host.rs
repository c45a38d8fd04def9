//! What the numbers were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// The machine, in lines of Markdown.
pub fn description(vmm: &Path) -> String {
    let facts = [
        ("processor", processor()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("KVM", kvm(vmm)),
        ("vmm", first_line(Command::new(vmm).arg("--version"))),
        ("QEMU", first_line(Command::new("qemu-system-x86_64").arg("--version"))),
        ("load average after the run", load()),
    ];
    let lines: Vec<String> =
        facts.iter().map(|(name, fact)| format!("* {name}: {fact}\n")).collect();
    lines.concat()
}

/// What `ticks` of the processor's clock are, as guests read it.
pub fn duration(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / *TICKS_PER_SECOND)
}

/// Compared with the system's clock, long enough for three digits.
static TICKS_PER_SECOND: LazyLock<f64> = LazyLock::new(|| {
    let now = || {
        // SAFETY: every x86-64 processor has the instruction, and no system that runs KVM forbids it.
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        (ticks, Instant::now())
    };
    let (first_ticks, first) = now();
    thread::sleep(Duration::from_millis(100));
    let (last_ticks, last) = now();
    (last_ticks - first_ticks) as f64 / (last - first).as_secs_f64()
});

/// Puts this thread and what it starts before everything else on the host, all contenders alike: real time, in turns.
/// Without the right to it, they run as the user's other programs do.
pub fn hurry() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: reads a sched_param.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest) };
}

fn processor() -> String {
    let text = read("/proc/cpuinfo");
    let models = text.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let models: Vec<&str> = models.map(|(_, model)| model).collect();
    format!("{} × {}", models.len(), models.first().unwrap_or(&"unknown"))
}

/// What `vmm doctor` says about the host's KVM.
fn kvm(vmm: &Path) -> String {
    let output = Command::new(vmm).args(["doctor", "--json"]).output();
    let report =
        output.ok().and_then(|o| serde_json::from_slice::<serde_json::Value>(&o.stdout).ok());
    let checks = report.as_ref().and_then(|report| report["checks"].as_array());
    let module = checks.into_iter().flatten().find(|check| check["name"] == "KVM module");
    module.and_then(|check| check["fact"].as_str()).unwrap_or("unknown").to_owned()
}

fn load() -> String {
    let text = read("/proc/loadavg");
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().unwrap_or("not installed").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_as_time_does() {
        let one = duration(1_000_000_000);
        // Between half a GHz and ten.
        assert!((Duration::from_millis(100)..Duration::from_secs(2)).contains(&one), "{one:?}");
        assert_eq!(duration(0), Duration::ZERO);
    }
}
