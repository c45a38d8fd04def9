//! The command line. Each line of the input is a word; its first byte may stand for one that is known.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use vmm::cli::{Request, parse};
use vmm::config::Plan;

use super::check_complaint;

/// What a first byte from 0x80 on stands for.
const WORDS: &[&str] = &[
    "--kernel",
    "--kernel=",
    "--initrd",
    "--cmdline",
    "--append",
    "--append=",
    "--boot",
    "--cpus",
    "--cpu-template",
    "--memory",
    "--disk",
    "--net",
    "--vsock",
    "--console",
    "--serial",
    "--rng",
    "--balloon",
    "--metadata",
    "--id",
    "--timeout",
    "--grace",
    "--on-reboot",
    "--iothread",
    "--log-level",
    "--log-file",
    "--config-file",
    "--api-sock",
    "--events",
    "--dry-run",
    "--trace-boot",
    "--mmds-size-limit",
    "--http-api-max-payload-size",
    "--start-time-us",
    "--no-seccomp",
    "--level",
    "--show-level",
    "--module",
    "--boot-timer",
    "--version",
    "--help",
    "doctor",
    "completions",
    "man",
    "/k",
    "tap=",
    "tap=tap0,",
    "fd=5",
    "socket=/s,",
    "file=/f",
    "stdio",
    "off",
    "id=",
    "queues=",
    "engine=uring,",
    "readonly,",
    "direct,",
    "bw=1M,",
    "iops=5,",
    "burst=2,",
    "mac=02:00:00:00:00:01,",
    "mtu=1400,",
    "cid=3,",
    "iothread=io,",
    "pin=0,",
    "hugepages=2M,",
    "prefault",
    "512M",
    "2,threads=2",
    "stats=1s,",
    "hinting,",
    "reporting,",
    "metadata,",
    "root,",
    "serial=",
    "restart",
    "5s",
    "warn",
    "--",
    "-v",
    "--port",
    "ctl",
    "set",
    "disk",
    "bw=off",
    "--wait-ready",
    "--ready-pattern",
];
/// Words of one command line; more would only be the same again.
const MAX_WORDS: usize = 40;

/// See the module.
pub fn run(input: &[u8]) {
    let words = input.split(|&byte| byte == b'\n').take(MAX_WORDS).map(word);
    let args = [OsString::from("vmm")].into_iter().chain(words);
    match parse(args) {
        Ok(Request::Run(request)) => {
            let mut config = request.flags;
            if config.clone().name_devices().is_ok() {
                config.name_devices().expect("a second time");
            }
            match Plan::resolve(config) {
                Ok(plan) => assert!(plan.json().ends_with("}\n") || plan.json().ends_with('}')),
                Err(error) => check_complaint(&error),
            }
        }
        Ok(Request::Print(text)) => assert!(!text.is_empty()),
        Ok(
            Request::Doctor { .. } | Request::Ctl(_) | Request::Jailer(_) | Request::Snapshot(_),
        ) => {}
        Err(error) => check_complaint(&error),
    }
}

/// The word of a line: several known ones and what follows them.
fn word(line: &[u8]) -> OsString {
    let mut word = Vec::new();
    for &byte in line {
        match byte.checked_sub(0x80).and_then(|at| WORDS.get(usize::from(at))) {
            Some(known) => word.extend(known.bytes()),
            None => word.push(byte),
        }
    }
    OsString::from_vec(word)
}
