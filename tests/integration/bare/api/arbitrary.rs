//! Requests made up from the description of the API, in both phases: whatever they say, the answer is one that the
//! description knows, what is wrong in form is refused, and the machine goes on.

use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use harness::api::{Api, Connection, Reply};
use harness::openapi;
use harness::random::Random;
use harness::samples::{one_of, right, text, wrong};
use harness::{Need, Scratch, patience};
use serde_json::{Value, json};

use super::{FREE, ask, bare, end, start, state};

crate::suite::tests! { "bare::api::arbitrary" needs &[Need::Kvm];
    before_the_start,
    while_the_guest_runs,
}

const REQUESTS: u32 = 3000;
/// Answers that come only when the machine ends, or never end.
const ENDLESS: [&str; 3] = ["/vm/wait", "/vm/wait/ready", "/events"];
/// What the path of a described operation may name.
const IDS: [&str; 6] = ["drive0", "eth0", "0", "no-such", "%2e%2e", "a b"];

/// Asks for whatever the seed says. Starting and ending the machine is left to other tests.
struct Client {
    api: Api,
    connection: Connection,
    random: Random,
    /// Requests answered with success, and refused.
    done: u32,
    refused: u32,
}

impl Client {
    fn of(api: &Api, seed: u64) -> Self {
        Self {
            api: api.clone(),
            connection: api.connect(),
            random: Random::new(seed),
            done: 0,
            refused: 0,
        }
    }

    fn ask_all(&mut self) {
        let operations = openapi::operations();
        for _ in 0..REQUESTS {
            let (method, path) = one_of(&operations, &mut self.random).clone();
            if ENDLESS.contains(&path.as_str()) {
                continue;
            }
            let path = self.fill_in(&path);
            match self.random.below(4) {
                0 => self.ask_wrongly(&method, &path),
                1 => self.ask_anything(&method, &path),
                _ => self.ask_rightly(&method, &path),
            }
        }
        // Neither everything nor nothing: else the samples are of no use.
        let Self { done, refused, .. } = self;
        assert!(
            *done > REQUESTS / 10 && *refused > REQUESTS / 10,
            "{done} done, {refused} refused"
        );
    }

    /// A path with something in the place of its variables.
    fn fill_in(&mut self, path: &str) -> String {
        let part = |part: &str| match part.starts_with('{') {
            true => (*one_of(&IDS, &mut self.random)).to_owned(),
            false => part.to_owned(),
        };
        path.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    fn ask_rightly(&mut self, method: &str, path: &str) {
        let schema = openapi::request_schema(method, path);
        let body = schema.map(|schema| right(schema, &mut self.random));
        self.ask(method, path, body.as_ref());
    }

    fn ask_wrongly(&mut self, method: &str, path: &str) {
        let Some(schema) = openapi::request_schema(method, path) else { return };
        let Some((what, body)) = wrong(schema, &mut self.random) else { return };
        if let Some(reply) = self.ask(method, path, Some(&body)) {
            assert_eq!(reply.status, 400, "{method} {path} {body}: {what}: {reply:?}");
        }
    }

    /// A body that is no JSON, or none that the path expects, or a method that it does not know.
    fn ask_anything(&mut self, method: &str, path: &str) {
        let text = text(&mut self.random);
        let nested = "[".repeat(1000);
        let bodies = ["", "{", "null", "[]", "\"x\"", "1e999", "{\"a\":1,\"a\":2}", &nested, &text];
        let body = *one_of(&bodies, &mut self.random);
        let methods = ["GET", "PUT", "PATCH", method, method];
        let method = *one_of(&methods, &mut self.random);
        self.send(method, path, body);
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Option<Reply> {
        if body.is_some_and(|body| !body["action_type"].is_null()) {
            // It might be one that starts or ends the machine.
            return None;
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        Some(self.send(method, path, &body))
    }

    /// The reply is checked against the description by the connection.
    fn send(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let path = path.replace(' ', "%20");
        let reply = self.connection.request(method, &path, body);
        if reply.header("Connection") == Some("close") {
            self.connection = self.api.connect();
        }
        match reply.status {
            200 | 204 => self.done += 1,
            _ => self.refused += 1,
        }
        reply
    }
}

fn before_the_start() {
    for seed in 1..=3 {
        let scratch = Scratch::new();
        scratch.file("disk", vec![0; 1 << 20]);
        let (machine, api) = bare(&scratch, &[]);
        // Once it answers, everything that is opened in advance is open.
        let _ = api.get("/vm/config");
        let files = machine.open_files();
        Client::of(&api, seed).ask_all();
        assert_eq!(state(&api), "Not started");
        // What the configuration has come to can be shown, and read again.
        let config = api.get("/vm/config");
        assert!(config.is_object(), "{config}");
        let deadline = Instant::now() + patience();
        while machine.open_files() > files + 2 {
            assert!(Instant::now() < deadline, "{} of {files}", machine.open_files());
            // The log and the metrics that were opened stay.
            api.get_in_turn("/version");
        }
        machine.signal(libc::SIGINT);
        machine.expect_exit(130);
        expect_devices();
    }
}

fn while_the_guest_runs() {
    let scratch = Scratch::new();
    scratch.file("disk", vec![0; 1 << 20]);
    let (mut machine, api) = bare(&scratch, &["--console", "off"]);
    api.put(
        "/drives/drive0",
        &json!({"drive_id": "drive0", "path_on_host": "disk", "is_root_device": false}),
    );
    api.put(
        "/balloon",
        &json!({"amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1}),
    );
    api.put("/vsock", &json!({"guest_cid": 3, "uds_path": "vsock"}));
    start(&mut machine, &api);
    for seed in 4..=6 {
        Client::of(&api, seed).ask_all();
        api.patch("/vm", &json!({"state": "Resumed"}));
        assert_eq!(ask(&mut machine, &format!("r 4 {FREE:x}")), "0", "the guest goes on");
    }
    end(machine);
    expect_devices();
}

/// Whatever was named as a file: a device stays one.
fn expect_devices() {
    let null = std::fs::metadata("/dev/null").unwrap();
    assert_eq!(null.rdev(), libc::makedev(1, 3), "/dev/null");
}
