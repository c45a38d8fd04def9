//! `vmm ctl` with a machine: each verb, what it shows, and what it says when it cannot.

use std::fs;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use harness::api::Api;
use harness::terminal::{Observer, Terminal};
use harness::{Machine, Need, Scratch, Vmm, patience};
use serde_json::{Value, json};

crate::suite::tests! { "bare::ctl" needs &[Need::Kvm];
    what_a_machine_is_is_shown,
    a_machine_rests_and_goes_on,
    devices_change,
    numbers_are_shown,
    events_are_followed_to_the_end,
    events_end_by_ctrl_c,
    who_waits_for_a_guest,
    who_waits_for_the_end,
    a_machine_is_stopped,
    buttons_and_resets,
    sockets_without_a_machine,
    a_console_is_visited_and_left,
    a_console_of_its_own_choice,
    a_console_on_pipes,
    a_console_ends_with_its_machine,
    a_terminal_is_put_back_by_signals,
    consoles_that_are_refused,
}

/// A machine called "box" with a disk "data", whose puppet listens on its standard input.
struct Setup {
    scratch: Scratch,
    machine: Machine,
}

impl Setup {
    fn new(more: &[&str]) -> Self {
        let scratch = Scratch::new();
        let disk = scratch.sparse_file("disk.img", 1 << 20);
        let vmm = Vmm::puppet("").serial("stdio").inside(&scratch).disk(disk, ",id=data");
        // In a jail a disk keeps its file, and the process that answers is not the one that was started.
        let vmm = vmm.without_jail().args(["--api-sock", "api.sock", "--id", "box"]);
        let vmm = vmm.args(["--grace", "0s"]).args(more);
        let mut machine = vmm.spawn();
        machine.wait_for("puppet: \n");
        let _api = Api::at(&scratch.join("api.sock"));
        Self { scratch, machine }
    }

    fn ctl(&self, words: &str) -> Vmm {
        Vmm::new().inside(&self.scratch).args(["ctl", "api.sock"]).args(words.split(' '))
    }

    /// Runs a verb, which must succeed; gives what it shows.
    #[track_caller]
    fn shown(&self, words: &str) -> String {
        let end = self.ctl(words).run().expect_code(0);
        assert_eq!(end.stderr, "", "{}", end.story());
        end.stdout
    }

    #[track_caller]
    fn json(&self, words: &str) -> Value {
        let text = self.shown(&format!("{words} --json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words}: {e}: {text}"))
    }

    #[track_caller]
    fn silent(&self, words: &str) {
        assert_eq!(self.shown(words), "", "{words}");
    }

    #[track_caller]
    fn refused(&self, words: &str, code: i32, said: &[&str]) {
        let end = self.ctl(words).run().expect_code(code);
        assert_eq!(end.stdout, "");
        end.expect_one_line(said);
    }

    #[track_caller]
    fn end(mut self) {
        self.machine.send("o 1 f4 0\n");
        self.machine.expect_exit(0);
    }
}

fn what_a_machine_is_is_shown() {
    let setup = Setup::new(&[]);
    let text = setup.shown("info");
    let lines: Vec<&str> = text.lines().collect();
    let pid = format!("process  {}", setup.machine.pid());
    for line in ["machine  box", &pid, "cpus     1", "memory   32 MiB", "serial   stdio"] {
        assert!(lines.contains(&line), "{line}: {text}");
    }
    assert!(text.contains("state    running, started "), "{text}");
    assert!(text.contains("DISK  PATH") && text.contains("data  /"), "{text}");
    let all = setup.json("info");
    assert_eq!((&all["state"], &all["id"]), (&json!("Running"), &json!("box")));
    assert_eq!(all["config"]["drives"][0]["drive_id"], "data");
    setup.refused("metrics extra", 153, &["extra"]);
    setup.end();
}

fn a_machine_rests_and_goes_on() {
    let mut setup = Setup::new(&[]);
    setup.silent("pause");
    setup.silent("pause --json");
    assert!(setup.shown("info").contains("state    paused"));
    setup.machine.send("r 4 200000\n");
    setup.silent("resume");
    setup.machine.wait_for("0\n");
    setup.end();
}

fn devices_change() {
    let setup = Setup::new(&["--balloon", "0"]);
    setup.silent("set disk data bw=10M iops=500");
    assert!(setup.shown("info").contains("bw=10M iops=500"));
    setup.silent("set disk data bw=off");
    assert!(setup.shown("info").contains("write   iops=500\n"));
    fs::write(setup.scratch.join("other.img"), [0; 512]).unwrap();
    setup.silent("set disk data path=other.img");
    assert_eq!(setup.json("info")["config"]["drives"][0]["path_on_host"], "other.img");
    setup.refused("set disk nothing bw=1M", 115, &["refused", "nothing"]);
    setup.refused("set disk data path=/nowhere", 115, &["refused", "/nowhere"]);
    setup.refused("set net data bw=1M", 115, &["refused", "data"]);
    setup.refused("set disk a/b bw=1M", 153, &["a/b", "info"]);
    setup.refused("set disk data bw=fast", 153, &["fast", "100M"]);

    assert!(setup.shown("balloon").starts_with("target      0 MiB\nstatistics  off"));
    setup.silent("balloon 8M");
    assert_eq!(setup.json("balloon")["amount_mib"], 8);
    setup.refused("balloon 1G", 115, &["1024 MiB", "32 MiB"]);
    setup.end();
}

fn numbers_are_shown() {
    let mut setup = Setup::new(&[]);
    let exits = |setup: &Setup| {
        let table = setup.shown("metrics");
        assert!(table.starts_with("METRIC "), "{table}");
        let row = |line: &&str| line.contains("reason=io_out") && line.contains("vcpu=0");
        let row = table.lines().find(row).unwrap_or_else(|| panic!("no such row: {table}"));
        row.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = exits(&setup);
    setup.machine.send("w 4 200000 2a\nr 4 200000\n");
    setup.machine.wait_for("2a\n");
    // At least the three bytes of the answer.
    assert!(exits(&setup) >= before + 3, "{before} before");
    let all = setup.json("metrics");
    assert_eq!(all["vmm_guest_memory_bytes"], 32 << 20, "{all}");
    setup.end();
}

fn events_are_followed_to_the_end() {
    let setup = Setup::new(&[]);
    let mut text = setup.ctl("events").spawn();
    text.wait_for("0.000  started\n");
    let mut json = setup.ctl("events --json").spawn();
    json.wait_for("\"event\":\"started\"");
    setup.silent("pause");
    text.wait_for("paused\n");
    json.wait_for("\"event\":\"paused\"");
    setup.silent("resume");
    setup.end();
    let text = text.expect_exit(0).stdout;
    assert!(text.ends_with("exit           code=0 guest exited with status 0\n"), "{text}");
    let json = json.expect_exit(0).stdout;
    let last: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["code"]), (&json!("exit"), &json!(0)));
}

fn events_end_by_ctrl_c() {
    let setup = Setup::new(&[]);
    let mut events = setup.ctl("events").on_terminal().spawn();
    events.wait_for("started");
    events.send(b"\x03");
    assert_eq!(events.wait().signal, Some(libc::SIGINT));
    // The machine has lost a reader and nothing else.
    assert!(setup.shown("info").contains("running"));
    setup.end();
}

fn who_waits_for_a_guest() {
    let mut setup = Setup::new(&[]);
    setup.refused("wait ready --timeout 50ms", 118, &["not ready within 50ms"]);
    let waiter = setup.ctl("wait ready").spawn();
    setup.machine.send("w 1 c0000000 7b\n");
    assert_eq!(waiter.expect_exit(0).stdout, "ready by boot_timer\n");
    assert_eq!(setup.json("wait ready"), json!({"by": "boot_timer"}));
    setup.end();
}

fn who_waits_for_the_end() {
    let mut setup = Setup::new(&[]);
    setup.refused("wait --timeout 50ms", 118, &["did not end within 50ms"]);
    let waiters = [setup.ctl("wait exit").spawn(), setup.ctl("wait --json").spawn()];
    let in_vain = setup.ctl("wait ready").spawn();
    waiters.iter().chain([&in_vain]).for_each(has_asked);
    setup.machine.send("o 1 f4 7\n");
    let [text, json] = waiters.map(|waiter| waiter.expect_exit(7).stdout);
    assert_eq!(text, "guest exited with status 7 (exit code 7)\n");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["code"], 7);
    in_vain.expect_exit(115).expect_one_line(&["refused", "has ended"]);
    setup.machine.expect_exit(7);
}

fn a_machine_is_stopped() {
    let setup = Setup::new(&[]);
    let said = setup.shown("stop");
    assert_eq!(said, "terminated before the guest powered off (exit code 143)\n");
    setup.machine.expect_exit(143);
    // A guest that answers the button gets its time: this one is told by its master.
    let mut setup = Setup::new(&[]);
    setup.silent("pause");
    let stop = setup.ctl("stop --grace 1h --json").spawn();
    setup.machine.send("o 1 600 34\n");
    let said: Value = serde_json::from_str(&stop.expect_exit(0).stdout).unwrap();
    assert_eq!(said["reason"], "power_off");
    setup.machine.expect_exit(0);
    // One that was never started has nothing to stop.
    let scratch = Scratch::new();
    let machine = Vmm::new().inside(&scratch).args(["--api-sock", "api.sock"]).spawn();
    let _api = Api::at(&scratch.join("api.sock"));
    let ctl = |verb| Vmm::new().inside(&scratch).args(["ctl", "api.sock", verb]).run();
    for verb in ["stop", "pause", "console"] {
        ctl(verb).expect_code(115).expect_one_line(&["refused", "before starting"]);
    }
    assert!(ctl("info").expect_code(0).stdout.contains("state    not started\n"));
    machine.signal(libc::SIGTERM);
    machine.expect_exit(143);
}

fn buttons_and_resets() {
    let mut setup = Setup::new(&[]);
    setup.silent("power-button");
    setup.machine.send("w 4 200000 5\nr 4 200000\n");
    setup.machine.wait_for("5\n");
    setup.silent("reset");
    setup.machine.wait_for("puppet: \n");
    setup.machine.send("r 4 200000\n");
    setup.machine.wait_for("0\n");
    setup.end();
}

fn sockets_without_a_machine() {
    let scratch = Scratch::new();
    let ctl = |words: &[&str]| Vmm::new().inside(&scratch).arg("ctl").args(words).run();
    ctl(&["nowhere", "info"]).expect_code(116).expect_one_line(&["nowhere"]);
    scratch.file("file", "x");
    ctl(&["file", "pause"]).expect_code(116).expect_one_line(&["file"]);
    let long = "x".repeat(200);
    ctl(&[&long, "pause"]).expect_code(116).expect_one_line(&["no machine"]);
    ctl(&["nowhere", "wait", "--timeout", "20ms"]).expect_code(116);
    // Somebody else listens there, or hangs up at once.
    let listener = UnixListener::bind(scratch.join("other")).unwrap();
    let other = thread::spawn(move || {
        for answer in ["hello\r\n\r\n", ""] {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    ctl(&["other", "info"]).expect_code(117).expect_one_line(&["not one of a machine"]);
    ctl(&["other", "info"]).expect_code(117).expect_one_line(&["broke"]);
    other.join().unwrap();
    // A machine that is still to come is waited for.
    let words = ["ctl", "late", "wait", "ready", "--timeout", "1m"];
    let waiter = Vmm::new().inside(&scratch).args(words).spawn();
    let vmm = Vmm::puppet("").serial("stdio").inside(&scratch).args(["--api-sock", "late"]);
    let mut machine = vmm.args(["--ready-pattern", "puppet"]).spawn();
    waiter.expect_exit(0);
    machine.send("o 1 f4 0\n");
    machine.expect_exit(0);
}

/// A visitor on a terminal of its own, which has seen what the guest said last.
fn visitor(setup: &Setup) -> (Machine, Observer) {
    let mut visitor = setup.ctl("console").on_terminal().spawn();
    visitor.wait_for_error("Ctrl-] leaves it");
    visitor.wait_for("puppet: ");
    assert!(!visitor.terminal().settings().echoes(), "the guest echoes, not the terminal");
    let terminal = visitor.terminal().observer();
    (visitor, terminal)
}

#[track_caller]
fn expect_left(visitor: Machine, terminal: &Observer, code: i32) -> String {
    let stderr = visitor.expect_exit(code).stderr;
    assert_eq!(terminal.settings(), Terminal::new().settings());
    stderr
}

fn a_console_is_visited_and_left() {
    let mut setup = Setup::new(&[]);
    let (mut visitor, terminal) = visitor(&setup);
    visitor.send("w 4 200000 2a\nr 4 200000\n");
    visitor.wait_for("2a");
    setup.machine.wait_for("2a\n");
    // Every key but one is the guest's; the puppet skips what it does not know, and a space.
    visitor.send(b"\x03 r 4 200000\n");
    visitor.wait_for("2a");
    setup.machine.wait_for("2a\n");
    setup.machine.send("w 4 200000 2b\nr 4 200000\n");
    visitor.wait_for("2b");
    visitor.send(b"\x1d");
    let said = expect_left(visitor, &terminal, 0);
    assert!(said.ends_with("vmm: left the console; the machine goes on\n"), "{said}");
    setup.machine.wait_for("2b\n");
    setup.end();
}

fn a_console_of_its_own_choice() {
    let setup = Setup::new(&["--console", "file=console.log"]);
    let mut serial = setup.ctl("console serial").spawn();
    serial.wait_for("puppet: ");
    // The other device has nothing to say, and is the one that people use.
    let others = ["console", "console virtio"];
    let others = others.map(|words| setup.ctl(words).without_input().spawn());
    others.iter().for_each(has_asked);
    serial.send("o 1 f4 0\n");
    setup.machine.expect_exit(0);
    serial.expect_exit(0);
    for other in others {
        assert_eq!(other.expect_exit(0).stdout, "");
    }
}

/// A console that leads to a file has no other input.
fn a_console_on_pipes() {
    let scratch = Scratch::new();
    let vmm = Vmm::puppet("").serial("file=log").inside(&scratch);
    let machine = vmm.args(["--api-sock", "api.sock", "--ready-pattern", "puppet: \r"]).spawn();
    let _api = Api::at(&scratch.join("api.sock"));
    let mut visitor = Vmm::new().inside(&scratch).args(["ctl", "api.sock", "console"]).spawn();
    visitor.wait_for("puppet: \n");
    // The key that leaves a terminal is a byte like any other here.
    visitor.send(b"r 1 100000\x1d");
    visitor.wait_for("\n");
    visitor.send("O 1 3f8 20000 100000\no 1 f4 3\n");
    visitor.close_input();
    machine.expect_exit(3);
    let end = visitor.expect_exit(0);
    assert!(end.stdout.len() > 0x20000, "all that was said: {}", end.stdout.len());
    assert!(end.stderr.contains("the console has ended"), "{}", end.stderr);
}

fn a_console_ends_with_its_machine() {
    let mut setup = Setup::new(&[]);
    let (visitor, terminal) = visitor(&setup);
    setup.machine.send("o 1 f4 0\n");
    setup.machine.expect_exit(0);
    let said = expect_left(visitor, &terminal, 0);
    assert!(said.ends_with("vmm: the console has ended\n"), "{said}");
}

fn a_terminal_is_put_back_by_signals() {
    let setup = Setup::new(&[]);
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGHUP, 143), (libc::SIGINT, 130)] {
        let (visitor, terminal) = visitor(&setup);
        visitor.signal(signal);
        expect_left(visitor, &terminal, code);
    }
    setup.end();
}

fn consoles_that_are_refused() {
    let setup = Setup::new(&[]);
    let visitors: Vec<_> = (0..3).map(|_| visitor(&setup)).collect();
    setup.refused("console", 115, &["refused", "as many clients"]);
    setup.refused("console virtuo", 153, &["virtuo", "virtio"]);
    let api = Api::at(&setup.scratch.join("api.sock"));
    api.request("GET", "/console", "").refused("malformed_request");
    api.request("GET", "/console/none", "").refused("unknown_endpoint");
    for (mut visitor, terminal) in visitors {
        visitor.send(b"\x1d");
        expect_left(visitor, &terminal, 0);
    }
    setup.end();
    let scratch = Scratch::new();
    let vmm = Vmm::puppet("mute").inside(&scratch).serial("off").console("off");
    let machine = vmm.args(["--api-sock", "api.sock"]).spawn();
    let _api = Api::at(&scratch.join("api.sock"));
    for words in [&["console"][..], &["console", "serial"]] {
        let end = Vmm::new().inside(&scratch).args(["ctl", "api.sock"]).args(words).run();
        end.expect_code(115).expect_one_line(&["no such console"]);
    }
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
}

/// Waits until `ctl` waits for an answer.
#[track_caller]
fn has_asked(ctl: &Machine) {
    const READ: &str = "0";
    const RECEIVE: &str = "45";
    const EPOLL_WAIT: &str = "232";
    let deadline = Instant::now() + patience();
    let now = || fs::read_to_string(format!("/proc/{}/syscall", ctl.pid())).unwrap();
    while !now().split(' ').next().is_some_and(|it| [READ, RECEIVE, EPOLL_WAIT].contains(&it)) {
        assert!(Instant::now() < deadline, "{}: {}", ctl.story(), now());
        thread::sleep(Duration::from_millis(1));
    }
}
