//! The command line: every mistake gets one line that says what is wrong and what to do, and its exit code.

mod host;
mod kernel;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::confine::Confinement;
use harness::{Ending, Need, Scratch, Vmm};
use libtest_mimic::Trial;

use crate::suite::trial;

const BAD_CONFIGURATION: i32 = 152;
const BAD_COMMAND_LINE: i32 = 153;
const HOST_FAILURE: i32 = 125;

mod plain {
    use super::*;

    crate::suite::tests! { "cli" needs &[];
        no_arguments,
        unknown_flags_are_corrected,
        words_without_a_flag,
        bad_values,
        combinations_that_cannot_be,
        help_is_complete,
        version,
        completions,
        manual,
        dry_run_opens_nothing,
        dry_run_of_flags_and_of_the_same_file,
        config_file_mistakes,
        closed_output_is_no_failure,
    }
}

mod with_kvm {
    use super::*;

    crate::suite::tests! { "cli" needs &[Need::Kvm];
        initrd_mistakes,
        disk_mistakes,
        disk_in_use,
        console_mistakes,
        log_goes_to_a_file,
        log_of_a_module_with_its_origin,
        boot_time_is_logged,
    }
}

/// All tests of the command line.
pub fn tests() -> Vec<Trial> {
    let net = trial("cli::net_mistakes", &[Need::Kvm, Need::Network], || {
        harness::network::in_own_network(net_mistakes);
    });
    let lists = [plain::tests(), with_kvm::tests(), kernel::tests(), host::tests()];
    lists.into_iter().flatten().chain([net]).collect()
}

/// Runs with `args`, which must fail with `code` and one line that has all of `words`.
#[track_caller]
fn expect(args: &[&str], code: i32, words: &[&str]) -> Ending {
    Vmm::new().args(args).run().expect_code(code).expect_one_line(words)
}

/// Runs a puppet kernel with more arguments, which must fail to start.
#[track_caller]
fn expect_not_started(args: &[&str], words: &[&str]) -> Ending {
    let end = Vmm::puppet("exit=0").args(args).run();
    end.expect_code(BAD_CONFIGURATION).expect_one_line(words)
}

fn no_arguments() {
    expect(&[], BAD_CONFIGURATION, &["--kernel", "--help"]);
}

fn unknown_flags_are_corrected() {
    for (typed, meant) in [
        ("--kernal", "--kernel"),
        ("--memori", "--memory"),
        ("--timout", "--timeout"),
        ("--disc", "--disk"),
        ("--seriel", "--serial"),
    ] {
        expect(&[typed, "x"], BAD_COMMAND_LINE, &[typed, meant, "--help"]);
    }
    expect(&["-k", "x"], BAD_COMMAND_LINE, &["-k"]);
    expect(&["--kernel"], BAD_COMMAND_LINE, &["--kernel", "value"]);
}

fn words_without_a_flag() {
    expect(&["bzImage"], BAD_COMMAND_LINE, &["bzImage", "--kernel"]);
    expect(&["--kernel", "k", "rootfs.img"], BAD_COMMAND_LINE, &["rootfs.img", "--disk"]);
    expect(&["docter"], BAD_COMMAND_LINE, &["docter", "doctor"]);
}

fn bad_values() {
    for (flag, value, words) in [
        ("--memory", "12", &["12 MiB", "32 MiB"][..]),
        ("--memory", "0", &["32 MiB"]),
        ("--memory", "much", &["much"]),
        ("--memory", "-1G", &["-1"]),
        ("--memory", "1.5G", &["1.5G"]),
        ("--memory", "99999999999999999999G", &["99999999999999999999G"]),
        ("--memory", "512X", &["512X"]),
        ("--cpus", "0", &["0", "1"]),
        ("--cpus", "255", &["255", "254"]),
        ("--cpus", "two", &["two"]),
        ("--cpus", "4,cores=3", &["4", "3 cores"]),
        ("--cpus", "4,core=2", &["core", "cores"]),
        ("--timeout", "0", &["timeout"]),
        ("--wait-ready", "0", &["--wait-ready", "0"]),
        ("--ready-pattern", "", &["pattern", "256"]),
        ("--timeout", "soon", &["soon"]),
        ("--timeout", "5 parsecs", &["5 parsecs"]),
        ("--grace", "x", &["x"]),
        ("--on-reboot", "again", &["again", "restart"]),
        ("--rng", "maybe", &["maybe", "on", "off"]),
        ("--level", "loud", &["loud", "debug"]),
        ("--boot", "bios", &["bios", "pvh"]),
        ("--console", "stdoi", &["stdoi", "stdio"]),
        ("--console", "file=", &["file="]),
        ("--serial", "socket", &["socket"]),
        ("--id", "a b", &["a b"]),
        ("--id", "", &["id"]),
        ("--disk", "", &["disk"]),
        ("--disk", "d,redonly", &["redonly", "readonly"]),
        ("--disk", "d,serial=more-than-twenty-bytes", &["serial", "20"]),
        ("--disk", "d,format=qcow2", &["qcow2", "raw"]),
        ("--disk", "d,id=a,id=b", &["id", "twice"]),
        ("--net", "tap0", &["tap="]),
        ("--net", "tap=a-name-that-is-too-long", &["a-name-that-is-too-long", "15"]),
        ("--net", "tap=t,mac=01:00:00:00:00:01", &["01:00:00:00:00:01", "multicast"]),
        ("--net", "tap=t,mac=nonsense", &["nonsense"]),
        ("--net", "tap=t,mtu=67", &["67", "68"]),
        ("--net", "fd=1", &["1"]),
        ("--net", "fd=77:78", &["77", "open"]),
        ("--net", "tap=t,queues=0", &["queues", "64"]),
        ("--net", "tap=t,iops=5", &["iops", "pps"]),
        ("--net", "tap=t,iothread=io0", &["net0", "io0", "--iothread"]),
        ("--disk", "d,bw=0", &["bw", "100M"]),
        ("--disk", "d,bw=fast", &["fast", "100M"]),
        ("--disk", "d,iops=5 k", &["5 k", "5k"]),
        ("--disk", "d,burst=1s", &["burst", "bw"]),
        ("--disk", "d,bw=1M,burst=20M", &["20M", "200ms"]),
        ("--disk", "d,iothread=io0", &["disk0", "io0", "--iothread"]),
        ("--iothread", "io0", &["io0", "no device"]),
        ("--iothread", "io0,pin=x", &["x", "CPUs"]),
        ("--cpus", "2,pin=0", &["pin", "1", "2"]),
        ("--cpus", "2,pin=0:8191", &["vcpu 1", "8191"]),
        ("--net", "fd=77", &["77", "open"]),
        ("--cmdline", "line\nbreak", &["control character"]),
    ] {
        let end = Vmm::new().args(["--kernel", "k", flag, value]).run();
        let is_usage = matches!(end.code, Some(BAD_COMMAND_LINE | BAD_CONFIGURATION));
        assert!(is_usage, "{flag} {value:?}\n{}", end.story());
        end.expect_one_line(words);
    }
}

fn combinations_that_cannot_be() {
    let longer = format!("socket=/{}", "x".repeat(120));
    for (args, words) in [
        (&["--disk", "a", "--disk", "a"][..], &["a", "two"][..]),
        (&["--disk", "a", "--serial", "file=a"], &["a"]),
        (&["--console", "file=a", "--serial", "file=a"], &["a"]),
        (&["--console", "socket=a", "--serial", "socket=a"], &["a"]),
        (&["--disk", "a,id=x", "--disk", "b,id=x"], &["x"]),
        (&["--disk", "a,root", "--disk", "b,root"], &["root"]),
        (&["--net", "tap=t", "--net", "tap=t"], &["t"]),
        (&["--serial", &longer], &["107"]),
    ] {
        let args = [&["--kernel", "k"], args].concat();
        expect(&args, BAD_CONFIGURATION, words);
    }
    for flag in ["--kernel", "--memory", "--cpus", "--console", "--timeout"] {
        let value = if flag == "--console" { "off" } else { "64" };
        expect(&[flag, value, flag, value], BAD_COMMAND_LINE, &[flag]);
    }
}

fn help_is_complete() {
    let help = Vmm::new().arg("--help").run().expect_code(0).stdout;
    let flags = "kernel initrd cmdline append boot cpus memory disk net iothread vsock console serial rng id timeout \
        wait-ready ready-pattern grace on-reboot log-path level config-file dry-run help version";
    for flag in flags.split_whitespace() {
        assert!(help.contains(&format!("--{flag}")), "--{flag} is not in the help");
    }
    for word in ["doctor", "completions", "man", "Ctrl-A"] {
        assert!(help.contains(word), "{word} is not in the help");
    }
    for code in
        ["0", "1-99", "110", "111", "112", "113", "123", "124", "125", "130", "143", "152", "153"]
    {
        let row = help.lines().any(|line| line.split_whitespace().next() == Some(code));
        assert!(row, "exit code {code} is not in the help");
    }
    let short = Vmm::new().arg("-h").run().expect_code(0).stdout;
    assert!(short.contains("--kernel") && short.len() < help.len());
}

fn version() {
    let text = Vmm::new().arg("--version").run().expect_code(0).stdout;
    assert!(text.starts_with("vmm "), "{text}");
    assert_eq!(text.lines().count(), 1);
}

fn completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Vmm::new().args(["completions", shell]).run().expect_code(0).stdout;
        for flag in ["kernel", "on-reboot", "config-file"] {
            assert!(script.contains(flag), "{flag} is not completed in {shell}");
        }
    }
    expect(&["completions", "tcsh"], BAD_COMMAND_LINE, &["tcsh", "bash"]);
}

fn manual() {
    let page = Vmm::new().arg("man").run().expect_code(0).stdout;
    assert!(page.contains(".TH vmm"), "{page}");
    for text in ["\\-\\-kernel", "\\-\\-on\\-reboot", "124"] {
        assert!(page.contains(text), "{text} is not in the manual");
    }
}

fn dry_run_opens_nothing() {
    let args = ["--kernel", "/nowhere/k", "--disk", "/nowhere/d,readonly", "--net", "tap=none0"];
    let end =
        Vmm::new().args(args).args(["--cpus", "4,threads=2", "--dry-run"]).run().expect_code(0);
    let plan: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!(plan["kernel"], "/nowhere/k");
    assert_eq!(plan["memory_bytes"], 512 << 20);
    assert_eq!(plan["disks"][0]["path"], "/nowhere/d");
    assert_eq!(plan["disks"][0]["read_only"], true);
    assert_eq!(plan["cpus"]["count"], 4);
    let cmdline = plan["cmdline"].as_str().unwrap();
    for word in ["root=/dev/vda", "ro", "console=hvc0"] {
        assert!(cmdline.split(' ').any(|w| w == word), "{word} is not in {cmdline}");
    }
    assert_eq!(end.stderr, "");
}

fn dry_run_of_flags_and_of_the_same_file() {
    let scratch = Scratch::new();
    let file = scratch.file(
        "vm.json",
        r#"{
            "boot-source": {"kernel_image_path": "k", "boot_args": "a b"},
            "drives": [{"drive_id": "d", "path_on_host": "disk", "is_root_device": false, "is_read_only": true}],
            "machine-config": {"vcpu_count": 2, "mem_size_mib": 256},
            "network-interfaces": [{"iface_id": "n", "host_dev_name": "tap0", "guest_mac": "02:00:00:00:00:07"}]
        }"#,
    );
    let file = file.to_string_lossy();
    let by_file = Vmm::new().args(["--config-file", &file, "--dry-run"]).run().expect_code(0);
    let plan: serde_json::Value = serde_json::from_str(&by_file.stdout).unwrap();
    assert_eq!(plan["memory_bytes"], 256 << 20);
    assert_eq!(plan["disks"][0]["id"], "d");
    assert_eq!(plan["nets"][0]["id"], "n");
    let both = ["--config-file", &file, "--memory", "64", "--append", "c", "--dry-run"];
    let overridden = Vmm::new().args(both).run().expect_code(0);
    let plan: serde_json::Value = serde_json::from_str(&overridden.stdout).unwrap();
    assert_eq!(plan["memory_bytes"], 64 << 20);
    assert!(plan["cmdline"].as_str().unwrap().split(' ').any(|word| word == "c"));
}

fn config_file_mistakes() {
    let scratch = Scratch::new();
    for (text, words) in [
        ("", &[][..]),
        ("{", &["line 1"]),
        ("[]", &[]),
        (r#"{"boot-source": {"kernel_image_path": 7}}"#, &["kernel_image_path"]),
        (r#"{"boot-sauce": {"kernel_image_path": "k"}}"#, &["boot-sauce", "boot-source"]),
        (
            r#"{"boot-source": {"kernel_image_paht": "k"}}"#,
            &["kernel_image_paht", "kernel_image_path"],
        ),
        (
            r#"{"boot-source": {"kernel_image_path": "k"}, "vsock": {"guest_cid": 2, "uds_path": "v"}}"#,
            &["vsock", "2", "3 to 4294967294"],
        ),
        (
            r#"{"boot-source": {"kernel_image_path": "k"}, "balloon": {"amount_mib": 1000, "deflate_on_oom": false}}"#,
            &["balloon of 1000 MiB", "512 MiB of memory"],
        ),
        (
            r#"{"boot-source": {"kernel_image_path": "k"}, "machine-config": {"vcpu_count": 0, "mem_size_mib": 64}}"#,
            &["0"],
        ),
    ] {
        let path = scratch.file("vm.json", text);
        let path = path.to_string_lossy();
        expect(&["--config-file", &path], BAD_CONFIGURATION, &[words, &[&path]].concat());
    }
    expect(&["--config-file", "/nowhere"], BAD_CONFIGURATION, &["/nowhere", "No such file"]);
    let directory = scratch.path().to_string_lossy();
    expect(&["--config-file", &directory], BAD_CONFIGURATION, &["directory"]);
}

/// As in `vmm man | head -1`.
fn closed_output_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let end = Vmm::new().arg("man").output_to(writer).spawn().expect_exit(0);
    assert_eq!(end.stderr, "");
}

fn initrd_mistakes() {
    let scratch = Scratch::new();
    let huge = scratch.sparse_file("huge.cpio", 64 << 20);
    let empty = scratch.file("empty.cpio", "");
    expect_not_started(&["--initrd", "/nowhere"], &["initrd", "/nowhere", "No such file"]);
    expect_not_started(&["--initrd", "/"], &["initrd", "directory"]);
    expect_not_started(&["--initrd", &huge.to_string_lossy()], &["initrd", "--memory"]);
    expect_not_started(&["--initrd", &empty.to_string_lossy()], &["initrd", "empty"]);
}

fn disk_mistakes() {
    let scratch = Scratch::new();
    let empty = scratch.file("empty", "").to_string_lossy().into_owned();
    let read_only = scratch.sparse_file("read-only", 4096);
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o444)).unwrap();
    expect_not_started(&["--disk", "/nowhere"], &["/nowhere", "no such file"]);
    expect_not_started(&["--disk", "/"], &["directory"]);
    expect_not_started(&["--disk", &empty], &[&empty, "empty"]);
    let vmm = || Vmm::puppet("mute exit=0").confined(Confinement::NoCapabilities);
    let end = vmm().disk(&read_only, "").run().expect_code(BAD_CONFIGURATION);
    end.expect_one_line(&["Permission denied", "readonly"]);
    vmm().disk(&read_only, ",readonly").run().expect_code(0);
}

fn disk_in_use() {
    let scratch = Scratch::new();
    let disk = scratch.sparse_file("disk", 4096);
    let first = harness::Puppet::start(Vmm::puppet("").disk(&disk, ""));
    let holder = format!("in use by process {} (", first.with_machine(|it| it.outer_pid()));
    for options in ["", ",readonly"] {
        let end = Vmm::puppet("exit=0").disk(&disk, options).run().expect_code(BAD_CONFIGURATION);
        end.expect_one_line(&[&disk.to_string_lossy(), &holder, "readonly"]);
    }
    first.finish();
    let first = harness::Puppet::start(Vmm::puppet("").disk(&disk, ",readonly"));
    Vmm::puppet("mute exit=0").disk(&disk, ",readonly").run().expect_code(0);
    Vmm::puppet("exit=0").disk(&disk, "").run().expect_code(BAD_CONFIGURATION);
    first.finish();
}

fn console_mistakes() {
    let scratch = Scratch::new();
    let live = scratch.join("live");
    let _listener = std::os::unix::net::UnixListener::bind(&live).unwrap();
    let live = format!("socket={}", live.display());
    expect_not_started(&["--serial", &live], &["live"]);
    expect_not_started(&["--serial", "file=/nowhere/log"], &["/nowhere/log", "No such file"]);
    expect_not_started(&["--serial", "socket=/nowhere/log"], &["/nowhere/log", "No such file"]);
    // A socket that nobody listens on any more is replaced, a file of another kind is not.
    let stale = scratch.join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let serial = format!("socket={}", stale.display());
    Vmm::puppet("mute exit=0").serial(&serial).run().expect_code(0);
    let file = scratch.file("file", "precious");
    expect_not_started(&["--serial", &format!("socket={}", file.display())], &["file"]);
    assert_eq!(fs::read(file).unwrap(), b"precious");
}

fn log_goes_to_a_file() {
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let flags = ["--level", "info", "--id", "my-vm", "--grace", "1ms", "--log-path"];
    let machine = harness::Puppet::start(Vmm::puppet("").args(flags).arg(&log)).release();
    machine.signal(libc::SIGTERM);
    machine.expect_exit(143).expect_one_line(&["terminated"]);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("power button") && text.contains("my-vm"), "{text}");
    expect_not_started(&["--log-path", "/nowhere/log"], &["/nowhere/log", "No such file"]);
}

fn log_of_a_module_with_its_origin() {
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let run = |module: &str, how: &[&str]| {
        let logger = serde_json::json!({
            "log_path": log, "level": "Info", "show_log_origin": true, "module": module
        });
        let config = scratch.file("vm.json", serde_json::json!({"logger": logger}).to_string());
        let flags = ["--grace", "1ms", "--config-file"];
        let vmm = Vmm::puppet("").args(how).args(flags).arg(config);
        let machine = harness::Puppet::start(vmm).release();
        machine.signal(libc::SIGTERM);
        machine.expect_exit(143);
        fs::read_to_string(&log).unwrap()
    };
    let text = run("vmm::supervisor", &[]);
    assert!(text.contains("INFO vmm/src/supervisor.rs:"), "{text}");
    assert_eq!(run("vmm::api", &[]), text, "nothing is logged there");
    let more = run("vmm::api", &["--module", "vmm"]);
    assert!(more.len() > text.len(), "a flag goes before the file: {more}");
}

fn boot_time_is_logged() {
    for (flags, expected) in
        [(&["--boot-timer"][..], true), (&["--level", "info"], true), (&["--level", "warn"], false)]
    {
        let mut machine = harness::Puppet::start(Vmm::puppet("").args(flags)).release();
        machine.send("w 1 c0000000 7b\nw 1 c0000000 7b\no 1 f4 0\n");
        let end = machine.expect_exit(0);
        let lines = end.stderr.lines().filter(|line| line.contains("Guest-boot-time = "));
        assert_eq!(lines.count(), usize::from(expected), "{flags:?}\n{}", end.story());
    }
}

fn net_mistakes() {
    let _tap = harness::network::Tap::without_address("tap0");
    let missing = ["--net", "tap=tap1"];
    let end = Vmm::puppet("exit=0").args(missing).confined(Confinement::NoCapabilities).run();
    end.expect_code(BAD_CONFIGURATION).expect_one_line(&["tap1", "ip tuntap add"]);
    let user = harness::Puppet::start(Vmm::puppet("").args(["--net", "tap=tap0"]));
    expect_not_started(&["--net", "tap=tap0"], &["tap0", "in use"]);
    user.finish();
    // Loopback is an interface, but not a tap.
    expect_not_started(&["--net", "tap=lo"], &["lo"]);
}
