//! What the numbers were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine, in lines of Markdown.
pub fn description(vmm: &Path) -> String {
    let facts = [
        ("processor", processor()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("KVM", kvm(vmm)),
        ("vmm", first_line(Command::new(vmm).arg("--version"))),
        ("QEMU", first_line(Command::new("qemu-system-x86_64").arg("--version"))),
        ("load", read("/proc/loadavg")),
    ];
    let lines: Vec<String> =
        facts.iter().map(|(name, fact)| format!("* {name}: {fact}\n")).collect();
    lines.concat()
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

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().unwrap_or("not installed").to_owned()
}
