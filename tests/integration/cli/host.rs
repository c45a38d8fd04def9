//! Hosts that lack something: what is missing, and what to do about it.

use harness::confine::{self, Confinement};
use harness::{Need, Scratch, Vmm};
use libtest_mimic::Trial;

use super::{BAD_CONFIGURATION, HOST_FAILURE};

mod with_kvm {
    use super::*;

    crate::suite::tests! { "cli" needs &[Need::Kvm];
        doctor_on_this_host,
        too_few_descriptors,
    }
}

mod with_other_hosts {
    use super::*;

    crate::suite::tests! { "cli" needs &[Need::Mounts];
        no_kvm,
        kvm_that_may_not_be_opened,
        kvm_that_is_not_kvm,
    }
}

pub(super) fn tests() -> Vec<Trial> {
    with_kvm::tests().into_iter().chain(with_other_hosts::tests()).collect()
}

fn doctor_on_this_host() {
    let text = Vmm::new().arg("doctor").run().expect_code(0).stdout;
    assert!(text.contains("/dev/kvm"), "{text}");
    let json = Vmm::new().args(["doctor", "--json"]).run().expect_code(0).stdout;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(report["checks"].as_array().is_some_and(|checks| checks.len() > 5), "{json}");
}

/// Wherever the descriptors run out, the answer is one line, not a crash and not a hang.
fn too_few_descriptors() {
    let scratch = Scratch::new();
    let disk = scratch.sparse_file("disk", 4096);
    let mut refused = 0;
    for limit in 3..40 {
        let vmm = Vmm::puppet("mute exit=0").disk(&disk, "").args(["--cpus", "2"]);
        let end = vmm.confined(Confinement::Limit(libc::RLIMIT_NOFILE, limit)).run();
        match end.code {
            Some(0) => {}
            Some(HOST_FAILURE | BAD_CONFIGURATION) => {
                end.expect_one_line(&["Too many open files"]);
                refused += 1;
            }
            _ => panic!("with {limit} descriptors\n{}", end.story()),
        }
    }
    assert!((1..37).contains(&refused), "{refused} runs were refused");
}

fn no_kvm() {
    let end = Vmm::puppet("exit=0").confined(Confinement::EmptyDev).run();
    end.expect_code(HOST_FAILURE).expect_one_line(&["/dev/kvm", "vmm doctor"]);
    let report = Vmm::new().arg("doctor").confined(Confinement::EmptyDev).run();
    let report = report.expect_code(HOST_FAILURE).stdout;
    assert!(report.contains("/dev/kvm") && report.contains("modprobe"), "{report}");
}

fn kvm_that_may_not_be_opened() {
    let scratch = Scratch::new();
    let locked = confine::locked_device(&scratch);
    let confined = |vmm: Vmm| {
        let replaced = Confinement::Replaced { path: "/dev/kvm".into(), by: locked.clone() };
        vmm.confined(replaced).confined(Confinement::NoCapabilities).run()
    };
    let end = confined(Vmm::puppet("exit=0")).expect_code(HOST_FAILURE);
    end.expect_one_line(&["/dev/kvm", "permission", "usermod -aG kvm"]);
    let report = confined(Vmm::new().arg("doctor")).expect_code(HOST_FAILURE).stdout;
    assert!(report.contains("usermod -aG"), "the remedy is not in\n{report}");
}

fn kvm_that_is_not_kvm() {
    let confined = |vmm: Vmm| {
        let by = "/dev/null".into();
        vmm.confined(Confinement::Replaced { path: "/dev/kvm".into(), by }).run()
    };
    let end = confined(Vmm::puppet("exit=0")).expect_code(HOST_FAILURE);
    end.expect_one_line(&["/dev/kvm"]);
    confined(Vmm::new().arg("doctor")).expect_code(HOST_FAILURE);
}
