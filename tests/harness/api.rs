//! A client of the HTTP API, as simple as a launcher's, that checks every reply against `resources/openapi.yaml`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::openapi;
use crate::patience;

/// What a server said.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// 200, 204, 400...
    pub status: u16,
    /// The lines of the head after the first.
    pub headers: Vec<String>,
    /// The body; null when there is none, a string when it is not JSON.
    pub body: Value,
}

impl Reply {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Requires a status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Requires a refusal with this code, and gives its text.
    #[track_caller]
    pub fn refused(self, code: &str) -> String {
        assert_eq!((self.status, self.body["code"].as_str()), (400, Some(code)), "{self:?}");
        self.body["fault_message"].as_str().unwrap_or_default().to_owned()
    }
}

/// The way to one server.
#[derive(Clone)]
pub struct Api {
    socket: PathBuf,
}

impl Api {
    /// The server at `socket`, which must come up soon.
    #[must_use]
    #[track_caller]
    pub fn at(socket: &Path) -> Self {
        let api = Self { socket: socket.to_owned() };
        let deadline = Instant::now() + patience();
        while UnixStream::connect(socket).is_err() {
            assert!(Instant::now() < deadline, "nobody listens at {}", socket.display());
            thread::sleep(Duration::from_millis(1));
        }
        api
    }

    /// A new connection.
    #[must_use]
    #[track_caller]
    pub fn connect(&self) -> Connection {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        Connection { stream, received: Vec::new() }
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: &str) -> Reply {
        self.connect().request(method, path, body)
    }

    /// `GET` as often as it takes until the server is not full.
    #[track_caller]
    pub fn get_in_turn(&self, path: &str) -> Value {
        let deadline = Instant::now() + patience();
        loop {
            let reply = self.request("GET", path, "");
            if reply.status != 503 {
                return reply.expect(200).body;
            }
            assert!(Instant::now() < deadline, "the server stays full");
        }
    }

    /// `GET`, which must succeed; gives the body.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.request("GET", path, "").expect(200).body
    }

    /// `PUT`, which must succeed.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) {
        self.request("PUT", path, &body.to_string()).expect(204);
    }

    /// `PATCH`, which must succeed.
    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) {
        self.request("PATCH", path, &body.to_string()).expect(204);
    }

    /// The action of that name, which must succeed.
    #[track_caller]
    pub fn action(&self, name: &str) {
        self.put("/actions", &serde_json::json!({ "action_type": name }));
    }
}

/// A connection, kept over requests.
pub struct Connection {
    /// For a test that wants to misbehave.
    pub stream: UnixStream,
    received: Vec<u8>,
}

impl Connection {
    /// Sends a request and reads its reply.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, body);
        let reply = self.reply();
        openapi::check(method, path, &reply);
        reply
    }

    /// Sends a request.
    #[track_caller]
    pub fn send(&mut self, method: &str, path: &str, body: &str) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        if !body.is_empty() {
            let kind = "Content-Type: application/json\r\nAccept: application/json\r\n";
            text += &format!("{kind}Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body;
        // A server that is full has answered and closed by now; its reply can still be read.
        match self.stream.write_all(text.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            other => other.unwrap(),
        }
    }

    /// Reads a reply.
    #[must_use]
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let header = |name: &str| {
            let find = |line: &String| line.strip_prefix(name).map(str::to_owned);
            reply.headers.iter().find_map(find)
        };
        if let Some(len) = header("Content-Length: ") {
            let len: usize = len.parse().unwrap();
            while self.received.len() < len {
                self.receive().expect("the rest of a body");
            }
            let body: Vec<u8> = self.received.drain(..len).collect();
            let text = String::from_utf8(body).unwrap();
            reply.body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        }
        reply
    }

    /// Reads the head of a reply, whose body is a stream.
    #[must_use]
    #[track_caller]
    pub fn head(&mut self) -> Reply {
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.receive().expect("a reply");
        };
        let head: Vec<u8> = self.received.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n").map(str::to_owned);
        let first = lines.next().unwrap();
        let status = first.split(' ').nth(1).and_then(|it| it.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {first:?}"));
        Reply { status, headers: lines.collect(), body: Value::Null }
    }

    /// Reads one line of a stream of chunks; `None` at its end.
    #[track_caller]
    pub fn line(&mut self) -> Option<Value> {
        let size = loop {
            if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).collect();
                let text = String::from_utf8(line).unwrap();
                break usize::from_str_radix(text.trim(), 16).unwrap();
            }
            self.receive().expect("another chunk");
        };
        while self.received.len() < size + 2 {
            self.receive().expect("the rest of a chunk");
        }
        let chunk: Vec<u8> = self.received.drain(..size + 2).collect();
        if size == 0 {
            return None;
        }
        let line = serde_json::from_slice(&chunk[..size]).unwrap();
        openapi::check_event(&line);
        Some(line)
    }

    /// Everything that still comes, until the server closes the connection.
    #[must_use]
    pub fn rest(mut self) -> String {
        while self.receive().is_some() {}
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// Takes what has come; `None` at the end.
    fn receive(&mut self) -> Option<()> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => None,
            Ok(count) => {
                self.received.extend(&bytes[..count]);
                Some(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no word from the server: {error}"),
        }
    }
}
