//! Clients of the API: bytes in any pieces, and bodies of every endpoint.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use vmm::api::connection::{Connection, Heard};
use vmm::api::http::{Method, Reply};
use vmm::api::routes::{Target, reply, route};
use vmm::requests::{Answer, Command, Refusal};

use crate::bytes::Bytes;

/// Bytes of a body; less than usual, so that inputs reach it.
const BODY_LIMIT: usize = 512;
/// What a connection may hold: a head, a body, and what one read brings.
const MOST_HELD: usize = (8 << 10) + BODY_LIMIT + (16 << 10);

const PATHS: &[&str] = &[
    "/",
    "/version",
    "/vm",
    "/vm/config",
    "/vm/wait",
    "/events",
    "/actions",
    "/boot-source",
    "/machine-config",
    "/cpu-config",
    "/drives/d",
    "/network-interfaces/n",
    "/balloon",
    "/balloon/statistics",
    "/balloon/hinting/start",
    "/balloon/hinting/stop",
    "/balloon/hinting/status",
    "/mmds",
    "/mmds/config",
    "/vsock",
    "/entropy",
    "/serial",
    "/logger",
    "/snapshot/load",
    "/metrics",
];

/// The body of a request to any endpoint.
pub fn body(input: &[u8]) {
    let mut input = Bytes::new(input);
    let method = input.of(&[Method::Put, Method::Patch, Method::Get, Method::Delete]);
    let at = input.u8();
    let own;
    let path = match PATHS.get(usize::from(at & 0x7f)) {
        Some(known) => *known,
        None => {
            own = String::from_utf8_lossy(input.some()).into_owned();
            &own
        }
    };
    check_route(method, path, input.rest());
}

fn check_route(method: Method, path: &str, body: &[u8]) {
    match route(method, path, body) {
        Ok(Target::Owner(Command::Configure(change))) => {
            let mut config = vmm::config::VmConfig::default();
            // It may speak of a card that is not there.
            if change.put_into(&mut config).is_ok() {
                let shown = config.to_json().to_string();
                vmm::config::VmConfig::from_json(shown.as_bytes())
                    .unwrap_or_else(|error| panic!("{shown}: {}", devices::event::chain(&error)));
            }
        }
        Ok(Target::Owner(Command::ConfigureMachine(patch))) => {
            let config = vmm::config::VmConfig::default();
            // What is wrong with it is told later, with the rest of the machine.
            let _ = vmm::config::Change::of_machine(&patch, &config);
        }
        Ok(_) => {}
        Err(refusal) => check_refusal(refusal),
    }
}

fn check_refusal(refusal: Refusal) {
    let text = &refusal.message;
    assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
    let bytes = reply(Err(refusal)).bytes(true);
    let head = bytes.windows(4).position(|it| it == b"\r\n\r\n").expect("a head");
    let value: serde_json::Value = serde_json::from_slice(&bytes[head + 4..]).expect("JSON");
    assert!(value["fault_message"].is_string() && value["code"].is_string());
}

/// What a client sends, in pieces.
struct Client<'a> {
    pieces: std::vec::IntoIter<&'a [u8]>,
    takes: usize,
}

impl Read for Client<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.pieces.next() else { return Ok(0) };
        if piece.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        to[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

impl Write for Client<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if self.takes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(from.len().min(self.takes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A whole conversation.
pub fn http(input: &[u8]) {
    let mut input = Bytes::new(input);
    let takes = input.u8().into();
    let mut pieces = Vec::new();
    while !input.is_empty() {
        pieces.push(if input.one_in(2) { input.some() } else { input.take(4096) });
    }
    let turns = pieces.len() + 1;
    let now = Instant::now();
    let mut connection = Connection::new(Client { pieces: pieces.into_iter(), takes }, now);
    let mut heard_bytes = 0;
    for _ in 0..turns {
        let mut heard = connection.listen(BODY_LIMIT, now);
        loop {
            match heard {
                Heard::Nothing => break,
                Heard::Gone => return,
                Heard::Error(error) => {
                    super::check_complaint(&error);
                    connection.refuse(&Reply::done(), now);
                    break;
                }
                Heard::Request(request) => {
                    assert!(request.path.starts_with('/'));
                    assert!(request.body.len() <= BODY_LIMIT);
                    heard_bytes += request.body.len();
                    check_route(request.method, &request.path, &request.body);
                    connection.answer(&reply(Ok(Answer::Done)), now);
                }
            }
            heard = connection.next_request(BODY_LIMIT);
        }
        if !connection.speak(now) {
            return;
        }
        let _ = connection.takes_leave();
        if let Some(deadline) = connection.deadline() {
            assert!(deadline <= now + Duration::from_secs(10));
        }
    }
    assert!(heard_bytes <= turns * MOST_HELD);
}
