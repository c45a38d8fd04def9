use std::collections::VecDeque;

use super::super::http::Status;
use super::*;

const LIMIT: usize = 1000;

/// A client that says what the test tells it to, and takes as much as the test allows.
#[derive(Default)]
struct Script {
    says: VecDeque<u8>,
    has_left: bool,
    room: usize,
    got: Vec<u8>,
}

impl Read for Script {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self.says.read(to) {
            Ok(0) if !self.has_left => Err(io::ErrorKind::WouldBlock.into()),
            other => other,
        }
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.room.min(bytes.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room -= count;
        self.got.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Rig {
    connection: Connection<Script>,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        let (now, script) = (Instant::now(), Script { room: usize::MAX, ..Script::default() });
        Self { connection: Connection::new(script, now), now }
    }

    fn hear(&mut self, text: &str) -> Heard {
        self.connection.stream.says.extend(text.bytes());
        self.connection.listen(LIMIT, self.now)
    }

    fn got(&mut self) -> String {
        assert!(self.connection.speak(self.now), "the client is gone");
        String::from_utf8(std::mem::take(&mut self.connection.stream.got)).unwrap()
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

fn request(method: Method, path: &str, body: &str) -> Heard {
    Heard::Request(Request {
        method,
        path: path.to_owned(),
        body: body.as_bytes().to_vec(),
        upgrades: false,
    })
}

fn is_overdue(rig: &Rig) -> bool {
    rig.connection.deadline().is_some_and(|deadline| deadline <= rig.now)
}

#[test]
fn a_request_in_single_bytes_and_the_next_one_on_the_same_connection() {
    let mut rig = Rig::new();
    let text = "PUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
    let (last, first) = (text.len() - 1, &text[..text.len() - 1]);
    for byte in first.chars() {
        assert_eq!(rig.hear(&byte.to_string()), Heard::Nothing);
    }
    assert_eq!(rig.hear(&text[last..]), request(Method::Put, "/a", "hi"));
    rig.connection.answer(&Reply::done(), rig.now);
    assert!(rig.got().starts_with("HTTP/1.1 204 "));
    assert_eq!(rig.hear("GET /b HTTP/1.1\r\n\r\n"), request(Method::Get, "/b", ""));
}

#[test]
fn requests_sent_ahead_are_answered_one_after_the_other() {
    let mut rig = Rig::new();
    let two = "GET /1 HTTP/1.1\r\n\r\nPUT /2 HTTP/1.1\r\nContent-Length: 1\r\n\r\nx\r\n";
    assert_eq!(rig.hear(two), request(Method::Get, "/1", ""));
    assert!(!rig.connection.interest().input, "one at a time");
    assert_eq!(rig.connection.next_request(LIMIT), Heard::Nothing);
    rig.connection.answer(&Reply::done(), rig.now);
    assert_eq!(rig.connection.next_request(LIMIT), request(Method::Put, "/2", "x"));
}

#[test]
fn a_client_that_waits_for_a_go_ahead_gets_it_once() {
    let mut rig = Rig::new();
    let head = "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    assert_eq!(rig.hear(head), Heard::Nothing);
    assert_eq!(rig.got().as_bytes(), http::CONTINUE);
    assert_eq!(rig.hear("bo"), Heard::Nothing);
    assert_eq!(rig.got(), "");
    assert_eq!(rig.hear("dy"), request(Method::Put, "/a", "body"));
}

#[test]
fn a_large_body_is_refused_before_it_is_sent() {
    let mut rig = Rig::new();
    let heard =
        rig.hear("PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10485760\r\n\r\n");
    assert_eq!(heard, Heard::Error(HttpError::BodyTooLong { len: 10 << 20, limit: LIMIT }));
    rig.connection.refuse(&Reply { status: Status::BadRequest, ..Reply::done() }, rig.now);
    assert!(rig.got().contains("Connection: close"));
    assert!(rig.connection.takes_leave() && !rig.connection.takes_leave());
    // What it sends all the same is dropped.
    for _ in 0..100 {
        assert_eq!(rig.hear(&"x".repeat(READ_MAX)), Heard::Nothing);
        assert!(rig.connection.input.is_empty());
    }
    rig.pass(1);
    assert!(is_overdue(&rig));
}

#[test]
fn memory_is_bounded_by_the_limits() {
    let mut rig = Rig::new();
    let mut heard = rig.hear("GET / HTTP/1.1\r\nX: ");
    while heard == Heard::Nothing {
        heard = rig.hear(&"y".repeat(READ_MAX));
        assert!(rig.connection.input.len() <= http::HEAD_MAX + READ_MAX);
    }
    assert_eq!(heard, Heard::Error(HttpError::HeadTooLong));
}

#[test]
fn patience_is_for_unfinished_business_only() {
    let mut rig = Rig::new();
    rig.pass(3600);
    assert_eq!(rig.connection.deadline(), None, "an idle client may stay");
    assert!(rig.connection.is_idle_for(Duration::from_secs(1), rig.now));
    rig.hear("GET / HT");
    for _ in 0..9 {
        rig.pass(1);
        assert!(!is_overdue(&rig));
        rig.hear("T");
    }
    rig.pass(1);
    assert!(is_overdue(&rig) && rig.connection.is_mid_request(), "bytes now and then do not help");
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let mut rig = Rig::new();
    rig.connection.stream.room = 10;
    rig.hear("GET / HTTP/1.1\r\n\r\n");
    rig.connection.answer(&Reply::done(), rig.now);
    assert_eq!(rig.got().len(), 10);
    let waits = rig.connection.interest();
    assert_eq!(waits, InterestIn { input: false, output: true }, "no more work before it has read");
    rig.pass(10);
    assert!(is_overdue(&rig) && !rig.connection.is_mid_request());
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let mut rig = Rig::new();
    rig.connection.stream.has_left = true;
    let heard = rig.hear("GET /a HTTP/1.1\r\n\r\n");
    assert_eq!(heard, request(Method::Get, "/a", ""));
    assert_eq!(rig.connection.listen(LIMIT, rig.now), Heard::Nothing);
    rig.connection.answer(&Reply::done(), rig.now);
    assert!(!rig.connection.speak(rig.now), "and then it is let go");
    assert!(rig.connection.stream.got.starts_with(b"HTTP/1.1 204"));
}

#[test]
fn a_client_that_leaves_in_the_middle_is_gone() {
    for text in ["", "GET", "PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"] {
        let mut rig = Rig::new();
        assert_eq!(rig.hear(text), Heard::Nothing);
        rig.connection.stream.has_left = true;
        assert_eq!(rig.connection.listen(LIMIT, rig.now), Heard::Gone, "{text:?}");
    }
}

#[test]
fn a_stream_goes_out_in_chunks_and_waits_for_its_reader() {
    let mut rig = Rig::new();
    rig.hear("GET /events HTTP/1.1\r\n\r\n");
    rig.connection.start_stream(rig.now);
    rig.connection.add_lines(["one\n", "two\n"], 2, rig.now);
    let text = rig.got();
    assert!(text.ends_with("\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n"), "{text:?}");
    rig.pass(3600);
    assert_eq!(rig.connection.deadline(), None, "a stream may be silent");
    rig.connection.stream.room = 0;
    let line = "z".repeat(1000);
    let mut next = 2;
    while let Some(number) = rig.connection.next_line() {
        assert_eq!(number, next);
        next += 1;
        rig.connection.add_lines([line.as_str()], next, rig.now);
        assert!(rig.connection.output.len() < STREAM_MAX + 2000);
    }
    rig.pass(10);
    assert!(is_overdue(&rig), "a reader that does not read is given up");
    rig.connection.stream.room = usize::MAX;
    rig.got();
    assert_eq!(rig.connection.next_line(), Some(next));
    rig.connection.end_stream(rig.now);
    assert_eq!(rig.got(), "0\r\n\r\n");
    assert!(rig.connection.takes_leave());
}
