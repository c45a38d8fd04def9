use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::config::{Backing, ConfigError, DiskFormat, NetSource, Plan, parse_limit_change};
use crate::ctl::{Awaited, Verb};
use crate::exit_code;
use crate::requests::ConsoleDevice;

fn request(words: &[&str]) -> Result<Request, UsageError> {
    parse(["vmm"].iter().chain(words).map(OsString::from))
}

fn run(words: &[&str]) -> Run {
    match request(words) {
        Ok(Request::Run(run)) => run,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn plan_of(mut run: Run) -> Result<Plan, ConfigError> {
    run.resolve().map(|(_, plan, _)| plan.unwrap())
}

fn flags(words: &[&str]) -> VmConfig {
    run(words).flags
}

fn printed(words: &[&str]) -> String {
    match request(words) {
        Ok(Request::Print(text)) => text,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn refusal(words: &[&str]) -> String {
    request(words).unwrap_err().to_string()
}

/// The text without its line breaks, which depend on the terminal.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The long flags of the definition, without those that clap adds.
fn long_flags() -> Vec<String> {
    let command = Args::command();
    command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
    assert_eq!(long_flags().len(), 41);
}

#[test]
fn every_flag_says_one_thing() {
    let none = VmConfig::default();
    let disk = |path: &str| DiskConfig { path: path.into(), ..DiskConfig::default() };
    let tap = |name: &str| NetConfig::new(NetSource::Tap(name.to_owned()));
    let seconds = |n| Some(Duration::from_secs(n));
    for (words, expected) in [
        ("", none.clone()),
        ("--kernel k", VmConfig { kernel: Some("k".into()), ..none.clone() }),
        ("--kernel=k", VmConfig { kernel: Some("k".into()), ..none.clone() }),
        ("--initrd i", VmConfig { initrd: Some("i".into()), ..none.clone() }),
        (
            "--cmdline a",
            VmConfig { cmdline: Some(CmdlineConfig::Exact("a".to_owned())), ..none.clone() },
        ),
        (
            "--append a --append=--",
            VmConfig { append: vec!["a".to_owned(), "--".to_owned()], ..none.clone() },
        ),
        (
            "--cpu-template t",
            VmConfig { cpu_template: Some(CpuTemplateConfig::File("t".into())), ..none.clone() },
        ),
        ("--boot auto", VmConfig { boot: Some(BootProtocol::Auto), ..none.clone() }),
        ("--boot linux64", VmConfig { boot: Some(BootProtocol::Linux64), ..none.clone() }),
        ("--boot pvh", VmConfig { boot: Some(BootProtocol::Pvh), ..none.clone() }),
        ("--cpus 2", VmConfig { cpus: Some(CpusConfig::new(2)), ..none.clone() }),
        ("--memory 1G", VmConfig { memory_bytes: Some(1 << 30), ..none.clone() }),
        ("--memory 64", VmConfig { memory_bytes: Some(64 << 20), ..none.clone() }),
        (
            "--memory 64,shared",
            VmConfig {
                memory_bytes: Some(64 << 20),
                backing: Some(Backing { shared: true, ..Backing::default() }),
                ..none.clone()
            },
        ),
        ("--disk a --disk b", VmConfig { disks: vec![disk("a"), disk("b")], ..none.clone() }),
        (
            "--disk a,format=raw",
            VmConfig {
                disks: vec![DiskConfig { format: Some(DiskFormat::Raw), ..disk("a") }],
                ..none.clone()
            },
        ),
        ("--net tap=a --net tap=b", VmConfig { nets: vec![tap("a"), tap("b")], ..none.clone() }),
        (
            "--vsock cid=4,socket=v",
            VmConfig {
                vsock: Some(VsockConfig {
                    guest_cid: Some(4),
                    socket: "v".into(),
                    ready_port: None,
                }),
                ..none.clone()
            },
        ),
        ("--console pty", VmConfig { console: Some(ConsoleTarget::Pty), ..none.clone() }),
        ("--serial off", VmConfig { serial: Some(ConsoleTarget::Off), ..none.clone() }),
        ("--rng", VmConfig { rng: Some(true), ..none.clone() }),
        ("--rng on", VmConfig { rng: Some(true), ..none.clone() }),
        ("--rng off", VmConfig { rng: Some(false), ..none.clone() }),
        (
            "--balloon 64M,reporting",
            VmConfig { balloon: Some("64M,reporting".parse().unwrap()), ..none.clone() },
        ),
        (
            "--metadata m,v2 --mmds-size-limit 7",
            VmConfig {
                metadata: MetadataConfig { size_limit: Some(7), .."m,v2".parse().unwrap() },
                ..none.clone()
            },
        ),
        ("--id x", VmConfig { id: Some("x".to_owned()), ..none.clone() }),
        ("--timeout 30s", VmConfig { timeout: seconds(30), ..none.clone() }),
        (
            "--wait-ready 5s --ready-pattern x",
            VmConfig {
                ready: Ready { pattern: Some("x".to_owned()), within: seconds(5) },
                ..none.clone()
            },
        ),
        ("--grace 1m", VmConfig { grace: seconds(60), ..none.clone() }),
        ("--on-reboot exit", VmConfig { on_reboot: Some(OnReboot::Exit), ..none.clone() }),
        ("--on-reboot restart", VmConfig { on_reboot: Some(OnReboot::Restart), ..none.clone() }),
        ("--log-path l", VmConfig { log_path: Some("l".into()), ..none.clone() }),
        ("--level off", VmConfig { level: Some(LevelFilter::Off), ..none.clone() }),
        ("--level trace", VmConfig { level: Some(LevelFilter::Trace), ..none.clone() }),
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let run = run(&words);
        assert_eq!(run.flags, expected, "{words:?}");
        assert_eq!((run.config_file, run.dry_run), (None, false), "{words:?}");
    }
    assert!(run(&["--kernel", "k", "--trace-boot"]).trace_boot);
    let run = run(&["--config-file", "vm.json", "--dry-run"]);
    assert_eq!((run.config_file, run.dry_run), (Some("vm.json".into()), true));
}

#[test]
fn a_jail_needs_no_value_and_takes_no_other_word_for_one() {
    assert_eq!(run(&["--kernel", "k"]).jail, None);
    let jailed = run(&["--jail", "--kernel", "k"]);
    assert_eq!((jailed.jail, jailed.flags.kernel), (Some(JailConfig::default()), Some("k".into())));
    let named = run(&["--jail=uid=7"]).jail.and_then(|jail| jail.uid);
    assert_eq!(named, Some(7));
    assert!(refusal(&["--jail", "uid=7"]).contains("uid=7"));
    let limited =
        run(&["--jail", "--cpu-limit", "1.5", "--memory-limit", "1G", "--pids-limit", "9"]);
    let limits = limited.limits;
    assert_eq!(
        (limits.cpu_millis, limits.memory_bytes, limits.pids),
        (Some(1500), Some(1 << 30), Some(9))
    );
    let error = run(&["--kernel", "k", "--pids-limit", "9"]).resolve().unwrap_err();
    assert_eq!(error.to_string(), "--pids-limit is a limit of a jail: add --jail");
}

#[test]
fn paths_need_not_be_text() {
    let path = OsString::from_vec(vec![b'k', 0xff]);
    let args = [OsString::from("vmm"), "--kernel".into(), path.clone()];
    let Ok(Request::Run(run)) = parse(args) else { panic!() };
    assert_eq!(run.flags.kernel, Some(path.into()));
}

#[test]
fn a_flag_that_counts_once_is_refused_twice() {
    for flag in long_flags() {
        let word = match flag.as_str() {
            "--append" | "--disk" | "--net" | "--iothread" => continue,
            "--dry-run" | "--trace-boot" | "--track-dirty" => flag.clone(),
            "--boot" => "--boot=pvh".to_owned(),
            "--vsock" => "--vsock=socket=v".to_owned(),
            "--jail" => "--jail=uid=1".to_owned(),
            "--io-limit" => "--io-limit=bw=1M".to_owned(),
            "--rng" => "--rng=on".to_owned(),
            "--console" | "--serial" => format!("{flag}=pty"),
            "--on-reboot" => "--on-reboot=exit".to_owned(),
            "--level" => "--level=info".to_owned(),
            "--seccomp" => "--seccomp=log".to_owned(),
            _ => format!("{flag}=1"),
        };
        let message = refusal(&[&word, &word]);
        assert!(message.contains("cannot be used multiple times"), "{message}");
    }
}

#[test]
fn every_mistake_is_one_line_with_its_remedy() {
    for (words, message) in [
        ("--kernl k", "unexpected argument '--kernl' found; a similar argument exists: '--kernel'"),
        ("--kernel", "a value is required for '--kernel <PATH>' but none was supplied"),
        ("--kernel=", "a value is required for '--kernel <PATH>' but none was supplied"),
        (
            "--boot pvj",
            "invalid value 'pvj' for '--boot <PROTOCOL>'; [possible values: auto, linux64, pvh]; a similar value exists: 'pvh'",
        ),
        (
            "--cpus x",
            "invalid value 'x' for '--cpus <N>': cpus: \"x\" is not a whole number from 0 to 65535",
        ),
        ("--memory 1X", "invalid value '1X' for '--memory <SIZE>': \"1X\" is not a size"),
        ("--disk a,ro", "invalid value 'a,ro' for '--disk <DISK>': unknown part \"ro\""),
        ("--net x", "invalid value 'x' for '--net <NET>': unknown part \"x\""),
        (
            "--console x",
            "invalid value 'x' for '--console <TARGET>': target: \"x\" is none of stdio",
        ),
        (
            "--serial file",
            "invalid value 'file' for '--serial <TARGET>': \"file\" must be written file=PATH",
        ),
        ("--rng yes", "invalid value 'yes' for '--rng [<ON|OFF>]'; [possible values: on, off]"),
        ("--timeout 1d", "invalid value '1d' for '--timeout <TIME>': \"1d\" is not a duration"),
        ("--grace x", "invalid value 'x' for '--grace <TIME>': \"x\" is not a duration"),
        (
            "--on-reboot stop",
            "invalid value 'stop' for '--on-reboot <ACTION>'; [possible values: exit, restart]",
        ),
        (
            "--level loud",
            "invalid value 'loud' for '--level <LEVEL>'; [possible values: off, error, warn",
        ),
        ("--dry-run=1", "unexpected value '1' for '--dry-run' found; no more were expected"),
        (
            "bzImage",
            "unexpected word \"bzImage\": a kernel is given as --kernel PATH, a disk as --disk PATH",
        ),
        ("--kernel k rootfs.img", "unexpected word \"rootfs.img\": a kernel is given as"),
        ("--kernel k doctor", "the subcommand 'doctor' cannot be used with '--kernel <PATH>'"),
        ("doctr", "unrecognized subcommand 'doctr'; a similar subcommand exists: 'doctor'"),
        ("doctor --jsn", "unexpected argument '--jsn' found; a similar argument exists: '--json'"),
        ("completions", "the following required arguments were not provided: <SHELL>"),
        (
            "completions tcsh",
            "invalid value 'tcsh' for '<SHELL>'; [possible values: bash, elvish, fish, powershell, zsh]",
        ),
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let refused = refusal(&words);
        assert!(refused.starts_with(message), "{refused}");
        assert!(refused.ends_with("; try 'vmm --help'"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
    let quoted = refusal(&["--memory", "a\nb\x1b[2J\u{85}"]);
    assert!(!quoted.contains(char::is_control), "{quoted:?}");
}

#[test]
fn the_long_help_is_complete() {
    let help = printed(&["--help"]);
    for flag in long_flags().iter().map(String::as_str).chain(["doctor", "completions", "man"]) {
        assert!(help.contains(flag), "{flag}");
    }
    for heading in ["Boot:", "Machine:", "Devices:", "Run:", "Other commands:", "Examples:"] {
        assert!(help.contains(heading), "{heading}");
    }
    let (_, statuses) = help.split_once("Exit status:\n").unwrap();
    assert_eq!(words(statuses), words(&exit_code::help_table()));
    assert!(words(&help).contains(&words(help::EXAMPLES)));
    assert_eq!(printed(&["help"]), help);
}

#[test]
fn the_short_help_names_each_flag_on_one_page() {
    let help = printed(&["-h"]);
    for flag in long_flags() {
        assert!(help.contains(&flag), "{flag}");
    }
    assert!(!help.contains("Exit status:"));
}

#[test]
fn the_examples_of_the_help_work() {
    let examples: Vec<&str> =
        help::EXAMPLES.lines().filter_map(|line| line.strip_prefix("  vmm --")).collect();
    assert_eq!(examples.len(), 5);
    for example in examples {
        let line = format!("--{example}");
        let mut run = run(&line.split_whitespace().collect::<Vec<_>>());
        if run.config_file.take().is_none() {
            plan_of(run).unwrap();
        }
    }
}

#[test]
fn the_version_is_the_packages() {
    let version = format!("vmm {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(printed(&["--version"]), version);
    assert_eq!(printed(&["-V"]), version);
}

#[test]
fn the_manual_and_the_completions_name_every_flag() {
    let manual = printed(&["man"]);
    // In roff, a dash is written "\-".
    for flag in long_flags().iter().map(|flag| flag.replace('-', "\\-")) {
        assert!(manual.contains(&flag), "{flag}");
    }
    for row in exit_code::TABLE {
        assert!(manual.contains(&row.range().replace('-', "\\-")), "{row:?}");
    }
    for part in [".TH vmm 1", "EXIT STATUS", "EXAMPLES", "vmm doctor", "vmm completions"] {
        assert!(manual.contains(part), "{part}");
    }
    assert!(manual.lines().all(|line| !line.starts_with('\'')), "a quote begins a request");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for flag in long_flags() {
            // fish writes "-l kernel".
            let name = flag.trim_start_matches("--");
            assert!(
                script.contains(&flag) || script.contains(&format!("-l {name}")),
                "{shell} {flag}"
            );
        }
    }
}

#[test]
fn the_doctor_is_called() {
    assert!(matches!(request(&["doctor"]), Ok(Request::Doctor { json: false })));
    assert!(matches!(request(&["doctor", "--json"]), Ok(Request::Doctor { json: true })));
}

/// A configuration file that is removed again.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vmm-{}-{name}.json", std::process::id()));
        let mut file = std::fs::File::create_new(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn flags_and_file_give_the_same_plan() {
    let file = File::new(
        "same",
        r#"{
          "boot-source": { "kernel_image_path": "k", "initrd_path": "i", "append_args": ["a=1"],
                           "protocol": "linux64" },
          "machine-config": { "vcpu_count": 4, "mem_size_mib": 256, "threads": 2 },
          "drives": [
            { "path_on_host": "r.img", "is_read_only": true },
            { "path_on_host": "d.img", "drive_id": "data", "serial": "S", "format": "raw" }
          ],
          "network-interfaces": [{ "host_dev_name": "tap0", "guest_mac": "02:00:00:00:00:01",
                                   "mtu": 1400, "iface_id": "lan" }],
          "vsock": { "guest_cid": 9, "uds_path": "v.sock", "ready_port": 52 },
          "console": { "type": "socket", "path": "c.sock" },
          "serial": { "type": "file", "path": "s.log" },
          "entropy": { "enabled": false },
          "logger": { "log_path": "l.log", "level": "Debug" },
          "wait-ready": "7s", "ready-pattern": "login:",
          "id": "box", "timeout": "30s", "grace": "5s", "on-reboot": "restart"
        }"#,
    );
    let from_flags = run(&[
        "--kernel=k",
        "--initrd=i",
        "--append=a=1",
        "--boot=linux64",
        "--cpus=4,threads=2",
        "--memory=256M",
        "--disk=r.img,readonly",
        "--disk=d.img,id=data,serial=S,format=raw",
        "--net=tap=tap0,mac=02:00:00:00:00:01,mtu=1400,id=lan",
        "--vsock=cid=9,socket=v.sock,ready=52",
        "--wait-ready=7s",
        "--ready-pattern=login:",
        "--console=socket=c.sock",
        "--serial=file=s.log",
        "--rng=off",
        "--log-path=l.log",
        "--level=debug",
        "--id=box",
        "--timeout=30s",
        "--grace=5s",
        "--on-reboot=restart",
    ]);
    let from_file = run(&["--config-file", file.path()]);
    assert_eq!(plan_of(from_file).unwrap().json(), plan_of(from_flags).unwrap().json());
}

#[test]
fn flags_override_and_extend_the_file() {
    let file = File::new(
        "override",
        r#"{
          "boot-source": { "kernel_image_path": "k", "boot_args": "a" },
          "drives": [{ "path_on_host": "r.img", "is_root_device": true }],
          "machine-config": { "vcpu_count": 4, "mem_size_mib": 256, "cores": 2 }
        }"#,
    );
    let with = |words: &[&str]| {
        let words = [&["--config-file", file.path()], words].concat();
        plan_of(run(&words)).unwrap()
    };
    assert_eq!(with(&[]).cmdline, "a root=/dev/vda rw");
    assert_eq!(with(&["--append=b"]).cmdline, "a root=/dev/vda rw b");
    assert_eq!(with(&["--cmdline=c"]).cmdline, "c");
    assert_eq!(with(&["--disk=d.img"]).disks.len(), 2);
    assert_eq!(with(&["--memory=1G"]).memory_bytes, 1 << 30);
    let cpus = with(&["--cpus=3"]).cpus;
    assert_eq!((cpus.count, cpus.cores), (3, 3));
}

#[test]
fn a_broken_file_is_the_files_fault() {
    let file = File::new("broken", "{\n\"drivs\": []}");
    let error = plan_of(run(&["--config-file", file.path()])).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(error.to_string(), format!("config file {:?}", file.path()));
    assert_eq!(source, "line 2, column 7: unknown key `drivs`; did you mean `drives`?");
    assert!(matches!(plan_of(run(&[])), Err(ConfigError::NoKernel)));
}

#[test]
fn a_default_command_line_needs_nothing_typed() {
    let config = flags(&["--kernel", "bzImage", "--disk", "rootfs.img"]);
    let plan = Plan::resolve(config).unwrap();
    assert!(plan.cmdline.ends_with("console=ttyS0 console=hvc0 root=/dev/vda rw"));
}

/// What the parser says when it knows all flags and when it knows those that it must.
#[test]
fn leaving_flags_out_changes_nothing() {
    let lines = [
        "",
        "--kernel k --memory 1G,shared --cmdline x --rng --timeout 5s --dry-run",
        "--kernel=k --disk a --disk b --append=--memory --append doctor",
        "--kernel k --rng off --trace-boot --config-file f --log-path l --level info",
        "--id --kernel",
        "--cmdline --memory",
        "--memor 1G",
        "--memory 1G --memory 2G",
        "--kernel k doctor",
        "--config-fil f",
        "--config f",
        "--kernel",
        "-k",
        "k",
        "-- k",
        "doctor --json",
        "doctor --kernel k",
        "--rng doctor",
        "completions bash",
        "completions nosh",
        "--version",
        "man",
        "ctl s info",
        "ctl s set disk d bw=1M --json",
        "ctl s wait ready --timeout 5s",
        "ctl s stop --grace 1x",
        "ctl s inof",
        "ctl",
        "ctl s",
        "--id ctl",
    ];
    for line in lines {
        let args: Vec<OsString> =
            "vmm".split(' ').chain(line.split(' ')).map(OsString::from).collect();
        let args = if line.is_empty() { args[..1].to_vec() } else { args };
        let show = |result: Result<Args, clap::Error>| match result {
            Ok(args) => format!("{args:?}"),
            Err(error) => error.to_string(),
        };
        let whole = show(Args::read(help::complete(Args::command()), &Wanted::All, &args));
        assert_eq!(show(read(&args)), whole, "{line}");
        let wanted = Wanted::by(&args);
        if let Ok(lean) = Args::read(Args::define(&wanted), &wanted, &args) {
            assert_eq!(format!("{lean:?}"), whole, "{line}");
        }
    }
}

#[test]
fn a_flag_is_defined_where_a_word_may_name_it() {
    let args = ["vmm", "--config-file=f", "k"].map(OsString::from);
    let wanted = Wanted::by(&args);
    assert!(
        wanted.has("config_file")
            && !wanted.has("kernel")
            && !wanted.has_subcommand(Command::has_subcommand)
    );
    assert_eq!(Args::define(&wanted).get_arguments().count(), 1);
    assert!(Wanted::All.has("kernel") && Wanted::All.has_subcommand(|_| false));
}

fn verb(text: &str) -> Verb {
    let words: Vec<&str> = text.split(' ').collect();
    match request(&[&["ctl", "/run/s"], &words[..]].concat()).unwrap() {
        Request::Ctl(it) => {
            assert_eq!((it.socket.to_str(), it.json), (Some("/run/s"), words.contains(&"--json")));
            it.verb
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_verb_is_read() {
    let seconds = |n| Some(Duration::from_secs(n));
    let limits = |words: &[&str]| parse_limit_change("iops", words).unwrap();
    let disk = |path: Option<&str>, words: &[&str]| Verb::SetDisk {
        id: "d".to_owned(),
        path: path.map(str::to_owned),
        limits: limits(words),
    };
    for (text, expected) in [
        ("info", Verb::Info),
        ("info --json", Verb::Info),
        ("pause", Verb::Pause),
        ("resume", Verb::Resume),
        ("stop", Verb::Stop { grace: None }),
        ("stop --grace 10s", Verb::Stop { grace: seconds(10) }),
        ("reset", Verb::Reset),
        ("power-button", Verb::PowerButton),
        ("set disk d path=a,b=c", disk(Some("a,b=c"), &[])),
        ("set disk d iops=off path=x bw=1M", disk(Some("x"), &["iops=off", "bw=1M"])),
        ("set net d pps=5", Verb::SetNet { id: "d".to_owned(), limits: limits(&["iops=5"]) }),
        ("balloon", Verb::Balloon(None)),
        ("balloon 512M", Verb::Balloon(Some(512))),
        ("balloon 0", Verb::Balloon(Some(0))),
        ("events", Verb::Events),
        ("wait", Verb::Wait { what: Awaited::Exit, timeout: None }),
        ("wait ready --timeout 1m", Verb::Wait { what: Awaited::Ready, timeout: seconds(60) }),
        ("metrics --raw", Verb::Metrics { raw: true }),
        ("console", Verb::Console(None)),
        ("console serial", Verb::Console(Some(ConsoleDevice::Serial))),
    ] {
        assert_eq!(verb(text), expected, "{text}");
    }
}

#[test]
fn every_mistake_of_a_verb_is_one_line() {
    for (text, message) in [
        ("ctl", "requires a subcommand"),
        ("ctl s", "requires a subcommand"),
        ("ctl s inof", "unrecognized subcommand 'inof'"),
        ("ctl s set disk d", "required"),
        ("ctl s set dsk d bw=1", "invalid value 'dsk'"),
        ("ctl s set disk d mtu=5", "set: unknown part \"mtu\""),
        ("ctl s set net d path=x", "set: unknown part \"path\""),
        ("ctl s balloon much", "\"much\" is not a size"),
        ("ctl s wait for", "invalid value 'for'"),
        ("ctl s stop --grace soon", "grace: \"soon\" is not a duration"),
    ] {
        let words: Vec<&str> = text.split(' ').collect();
        let refusal = refusal(&words);
        assert!(refusal.contains(message) && !refusal.contains('\n'), "{text}: {refusal}");
    }
}
