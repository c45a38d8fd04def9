use super::*;

const LIMIT: usize = 100;

fn head_of(text: &str) -> Head {
    parse(text.as_bytes(), LIMIT).unwrap().unwrap()
}

fn refusal(text: &str) -> String {
    parse(text.as_bytes(), LIMIT).unwrap_err().to_string()
}

#[test]
fn a_request_of_curl() {
    let text = "PUT /drives/rootfs HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\
                Content-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"drive_id\":\"a\"}";
    let head = head_of(text);
    assert_eq!((head.method, head.path.as_str()), (Method::Put, "/drives/rootfs"));
    assert_eq!((head.body, head.keep_alive, head.expects_continue), (17, true, false));
    assert!(text[head.len..].starts_with('{'));
}

#[test]
fn a_head_may_come_in_any_pieces() {
    let text = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(parse(&text.as_bytes()[..end], LIMIT), Ok(None), "{end} bytes");
    }
    assert_eq!(head_of(text).len, text.len());
}

#[test]
fn connections_are_kept_as_the_client_says() {
    for (version, header, kept) in [
        ("1.1", "", true),
        ("1.0", "", false),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "connection: Upgrade, Close\r\n", false),
        ("1.0", "Connection: keep-alive\r\n", true),
    ] {
        let head = head_of(&format!("GET / HTTP/{version}\r\n{header}\r\n"));
        assert_eq!(head.keep_alive, kept, "{version} {header}");
    }
}

#[test]
fn a_client_may_ask_before_it_sends_its_body() {
    let text = "PUT /x HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n";
    assert!(head_of(text).expects_continue);
    assert!(!head_of(&text.replace("1.1", "1.0")).expects_continue);
    assert!(refusal(&text.replace("100-C", "200-C")).contains("Expect"));
}

#[test]
fn what_is_not_a_request_is_refused() {
    for (text, words) in [
        ("\0\0\0\0\r\n\r\n", "Invalid HTTP"),
        ("GET\r\n\r\n", "Invalid HTTP"),
        ("GET / HTTP/2.0\r\n\r\n", "Invalid HTTP"),
        ("GET x HTTP/1.1\r\n\r\n", "not a path"),
        ("BREW / HTTP/1.1\r\n\r\n", "BREW"),
        ("HEAD / HTTP/1.1\r\n\r\n", "HEAD"),
        ("PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "not a number"),
        ("PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "not a number"),
        ("PUT / HTTP/1.1\r\nContent-Length:\r\n\r\n", "not a number"),
        ("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", "not a number"),
        ("PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "twice"),
        ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", "GET request cannot have a body"),
        ("DELETE / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", "DELETE request cannot"),
        (
            "PUT / HTTP/1.1\r\nContent-Length: 101\r\n\r\n",
            "with size 101 is larger than the limit of 100",
        ),
    ] {
        let message = refusal(text);
        assert!(message.contains(words), "{text:?}: {message}");
    }
}

#[test]
fn a_head_has_an_end_or_an_error() {
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(HEAD_MAX));
    assert_eq!(parse(endless.as_bytes(), LIMIT), Err(HttpError::HeadTooLong));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
    assert!(matches!(parse(many.as_bytes(), LIMIT), Err(HttpError::Malformed(_))));
}

#[test]
fn replies_on_the_wire() {
    let done = String::from_utf8(Reply::done().bytes(true)).unwrap();
    assert_eq!(
        done,
        "HTTP/1.1 204 No Content\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"
    );
    let value = serde_json::json!({"a": 1});
    let json = String::from_utf8(Reply::json(Status::Ok, &value).bytes(false)).unwrap();
    assert!(json.starts_with("HTTP/1.1 200 OK\r\n") && json.contains("Connection: close\r\n"));
    assert!(json.ends_with("Content-Length: 7\r\n\r\n{\"a\":1}"), "{json}");
    let deprecated = Reply { deprecated: true, ..Reply::done() };
    assert!(String::from_utf8(deprecated.bytes(true)).unwrap().contains("Deprecation: true\r\n"));
}

#[test]
fn chunks_on_the_wire() {
    assert_eq!(chunk(b"0123456789abcdefg"), b"11\r\n0123456789abcdefg\r\n");
    assert_eq!(chunk(b""), b"0\r\n\r\n");
    let head = String::from_utf8(stream_head(ContentType::JsonLines)).unwrap();
    assert!(head.contains("Transfer-Encoding: chunked\r\n") && head.ends_with("\r\n\r\n"));
}
