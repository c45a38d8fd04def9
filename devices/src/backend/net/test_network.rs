//! A network namespace for one test, so that tests with real taps need no set-up and leave nothing.
//!
//! The test program runs itself again inside `unshare`; nothing of the host's network is touched.

use std::process::Command;

use crate::test_util::skipped;

const INSIDE: &str = "TEST_INSIDE_OWN_NETWORK";

/// Runs `body` inside a network of its own, as its root. `test` is the full path of the calling test.
/// Says so when the host does not permit that.
pub(crate) fn in_own_network(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let (_, test) = test.split_once("::").expect("a path that starts with the crate");
    let Some(unshare) = ["--net", "--net --map-root-user"].into_iter().find(|flags| may_tap(flags))
    else {
        return skipped(test, "this host permits no tap in an own network");
    };
    let output = Command::new("unshare")
        .args(unshare.split(' '))
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "no test is called {test}:\n{text}");
}

/// Runs `ip` with `arguments`, separated by blanks; returns what it prints.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn may_tap(flags: &str) -> bool {
    Command::new("unshare")
        .args(flags.split(' '))
        .args(["ip", "tuntap", "add", "dev", "probe", "mode", "tap"])
        .output()
        .is_ok_and(|output| output.status.success())
}
