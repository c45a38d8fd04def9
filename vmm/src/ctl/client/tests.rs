use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use serde_json::json;

use super::*;
use crate::test_dir::TestDir;

/// Something at a socket that answers one connection with `pieces`, in as many writes, whatever it is asked, and gives
/// what it was asked.
struct Fake {
    directory: TestDir,
    thread: JoinHandle<String>,
}

impl Fake {
    fn new(pieces: &[&str]) -> Self {
        let directory = TestDir::new();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let pieces: Vec<String> = pieces.iter().map(|&piece| piece.to_owned()).collect();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            let count = stream.read(&mut asked).unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
                thread::yield_now();
            }
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        Self { directory, thread }
    }

    fn client(&self) -> Client {
        Client::connect(&self.directory.path().join("s")).unwrap()
    }

    fn asked(self) -> String {
        self.thread.join().unwrap()
    }
}

fn reply(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_value_comes_in_any_pieces() {
    let whole = reply("{\"a\": [1, 2]}");
    let single: Vec<String> = whole.chars().map(String::from).collect();
    let single: Vec<&str> = single.iter().map(String::as_str).collect();
    for pieces in [&[whole.as_str()][..], &single] {
        let fake = Fake::new(pieces);
        assert_eq!(fake.client().get("/x").unwrap(), json!({"a": [1, 2]}));
        assert_eq!(fake.asked(), "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
}

#[test]
fn an_order_has_a_body_and_its_answer_need_not() {
    let fake = Fake::new(&["HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"]);
    fake.client().order("PUT", "/a", r#"{"b":1}"#).unwrap();
    let asked = fake.asked();
    assert!(asked.starts_with("PUT /a HTTP/1.1\r\n"), "{asked}");
    assert!(asked.ends_with("Content-Length: 7\r\n\r\n{\"b\":1}"), "{asked}");
}

#[test]
fn a_text_may_be_in_chunks() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let fake = Fake::new(&[head, "3\r\nabc\r", "\nA;x=y\r\n0123456789\r\n", "0\r\n\r\n"]);
    assert_eq!(fake.client().get_text("/").unwrap(), "abc0123456789");
}

#[test]
fn lines_of_a_stream_come_whole_whatever_the_chunks() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let fake = Fake::new(&[head, "2\r\non\r\n", "6\r\ne\ntwo\n\r\n", "5\r\nthree\r\n0\r\n\r\n"]);
    let mut client = fake.client();
    client.start_stream("/events").unwrap();
    assert_eq!(client.line().unwrap().as_deref(), Some("one"));
    assert_eq!(client.line().unwrap().as_deref(), Some("two"));
    assert_eq!(client.line().unwrap(), None, "half a line is none");
}

#[test]
fn a_refusal_is_told_in_the_machines_words_on_one_line() {
    let body = "{\"fault_message\": \"no\\nway\", \"code\": \"x\"}";
    let refusal = reply(body).replace("200 OK", "400 Bad Request");
    let error = Fake::new(&[&refusal]).client().get("/").unwrap_err();
    assert_eq!(error.to_string(), "refused: no?way");
    let bare = "HTTP/1.1 503 Busy\r\n\r\n";
    let error = Fake::new(&[bare]).client().start_stream("/").unwrap_err();
    assert!(matches!(error, CtlError::Refused { status: 503, .. }), "{error}");
    let error = Fake::new(&[bare]).client().into_console("/console").unwrap_err();
    assert!(matches!(error, CtlError::Refused { status: 503, .. }), "{error}");
}

#[test]
fn what_is_no_machine_is_told_from_one_that_has_gone() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_MAX));
    for nonsense in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        &endless,
        &reply("{"),
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
    ] {
        let error = Fake::new(&[nonsense]).client().get("/").unwrap_err();
        assert!(matches!(error, CtlError::Nonsense(_)), "{nonsense:.60}: {error:?}");
    }
    for gone in
        ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
    {
        let error = Fake::new(&[gone]).client().get("/").unwrap_err();
        assert!(matches!(error, CtlError::Broken(_)), "{gone}: {error:?}");
    }
    let directory = TestDir::new();
    let error = Client::connect(&directory.path().join("s")).err().unwrap();
    assert!(matches!(error, CtlError::NoMachine { .. }), "{error:?}");
}

#[test]
fn patience_has_an_end() {
    let directory = TestDir::new();
    let path = directory.path().join("s");
    let _silent = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap();
    client.give_up_at(Some(Instant::now()));
    let Err(CtlError::Broken(error)) = client.get("/") else { panic!("an answer of nobody") };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_console_begins_where_the_head_ends() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: vmm-console\r\n\r\n";
    let fake = Fake::new(&[&format!("{head}login: ")]);
    let (mut stream, mut came) = fake.client().into_console("/console").unwrap();
    stream.read_to_end(&mut came).unwrap();
    assert_eq!(came, b"login: ");
    assert!(fake.asked().contains("\r\nConnection: Upgrade\r\nUpgrade: vmm-console\r\n"));
}
