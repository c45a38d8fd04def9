use serde_json::json;

use super::super::{MetadataStore, ServiceOptions};
use super::*;

const NOW: Duration = Duration::from_secs(100);

fn service(version: Version, imds_compat: bool) -> Service {
    let store = MetadataStore::new(10_000);
    store
        .put(json!({
            "latest": {
                "meta-data": { "ami-id": "ami-1", "network": { "mac": "x" }, "ports": [80, 443] },
                "user-data": "line 1\nline 2",
                "count": 3, "on": true, "nothing": null, "a/b": "slash",
            },
        }))
        .unwrap();
    Service::new(ServiceOptions { version, imds_compat }, store).unwrap()
}

fn v1() -> Service {
    service(Version::V1, false)
}

/// Status, header lines and body of the answer, which must come at once.
fn ask_at(service: &Service, request: &str, now: Duration) -> (String, Vec<String>, String) {
    let bytes = request.as_bytes();
    let Outcome::Answered { consumed, answer, is_last } = answer(service, bytes, now) else {
        panic!("no answer to {request:?}");
    };
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap();
    let headers: Vec<String> = lines.collect();
    assert!(headers.contains(&format!("Content-Length: {}", body.len())), "{headers:?}");
    let connection = if is_last { "Connection: close" } else { "Connection: keep-alive" };
    assert!(headers.contains(&connection.to_owned()), "{headers:?}");
    assert!(consumed == bytes.len() || is_last, "{consumed} of {} bytes", bytes.len());
    (status.trim_start_matches("HTTP/1.1 ").to_owned(), headers, body.to_owned())
}

fn ask(service: &Service, request: &str) -> (String, String) {
    let (status, _, body) = ask_at(service, request, NOW);
    (status, body)
}

fn get(service: &Service, path: &str, headers: &str) -> (String, String) {
    ask(service, &format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n"))
}

fn is(status: &str, body: &str) -> (String, String) {
    (status.to_owned(), body.to_owned())
}

#[test]
fn values_are_plain_text_unless_json_is_asked_for() {
    let service = v1();
    let json = "Accept: application/json\r\n";
    for (path, plain, as_json) in [
        ("/", "latest/", None),
        ("/latest/meta-data", "ami-id\nnetwork/\nports", None),
        ("/latest/meta-data/ami-id", "ami-1", Some("\"ami-1\"")),
        ("/latest/user-data", "line 1\nline 2", Some("\"line 1\\nline 2\"")),
        ("/latest/meta-data/network", "mac", Some("{\"mac\":\"x\"}")),
        ("/latest/a~1b", "slash", Some("\"slash\"")),
    ] {
        assert_eq!(get(&service, path, ""), is("200 OK", plain), "{path}");
        if let Some(as_json) = as_json {
            assert_eq!(get(&service, path, json), is("200 OK", as_json), "{path}");
        }
    }
    for (path, as_json) in [
        ("/latest/meta-data/ports", "[80,443]"),
        ("/latest/meta-data/ports/1", "443"),
        ("/latest/count", "3"),
        ("/latest/on", "true"),
        ("/latest/nothing", "null"),
    ] {
        let (status, body) = get(&service, path, "");
        assert_eq!(status, "501 Not Implemented", "{path}");
        assert_eq!(body, "Cannot retrieve value. The value has an unsupported type.");
        assert_eq!(get(&service, path, json), is("200 OK", as_json), "{path}");
    }
}

#[test]
fn kinds_of_content_are_named() {
    let with = |accept: &str| {
        let request = format!("GET /latest/user-data HTTP/1.1\r\nAccept: {accept}\r\n\r\n");
        let (_, headers, _) = ask_at(&v1(), &request, NOW);
        headers.into_iter().find(|line| line.starts_with("Content-Type: ")).unwrap()
    };
    for json in ["application/json", "Application/JSON;q=0.5", "text/html, application/json"] {
        assert_eq!(with(json), "Content-Type: application/json", "{json}");
    }
    for plain in ["*/*", "text/plain", "", "application/jsonp"] {
        assert_eq!(with(plain), "Content-Type: text/plain", "{plain}");
    }
}

#[test]
fn imds_compat_knows_no_json() {
    let service = service(Version::V1, true);
    let body = get(&service, "/latest/user-data", "Accept: application/json\r\n");
    assert_eq!(body, is("200 OK", "line 1\nline 2"));
}

#[test]
fn paths_may_have_more_slashes_a_host_and_a_query() {
    let service = v1();
    for path in [
        "/latest/meta-data/ami-id/",
        "//latest///meta-data/ami-id",
        "http://169.254.169.254/latest/meta-data/ami-id",
        "/latest/meta-data/ami-id?recursive=true",
    ] {
        assert_eq!(get(&service, path, ""), is("200 OK", "ami-1"), "{path}");
    }
    assert_eq!(get(&service, "http://host", ""), is("200 OK", "latest/"));
    let gone = is("404 Not Found", "Resource not found: /latest/gone.");
    assert_eq!(get(&service, "/latest//gone/", ""), gone);
    let empty = Service::new(service.options, MetadataStore::new(10)).unwrap();
    assert_eq!(get(&empty, "/", ""), is("404 Not Found", "Resource not found: /."));
}

#[test]
fn tokens_are_made_shown_and_end() {
    let service = service(Version::V2, false);
    for [name, ttl] in [
        ["X-metadata-token", "X-metadata-token-ttl-seconds"],
        ["X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"],
    ] {
        let request = format!("PUT /latest/api/token HTTP/1.1\r\n{ttl}: 60\r\n\r\n");
        let (status, headers, token) = ask_at(&service, &request, NOW);
        assert_eq!((status.as_str(), token.len()), ("200 OK", 48));
        assert!(headers.contains(&format!("{ttl}: 60")), "{headers:?}");
        let request = format!(
            "GET /latest/user-data HTTP/1.1\r\n{}: {token} \r\n\r\n",
            name.to_ascii_uppercase()
        );
        let second = Duration::from_secs(1);
        for (at, status) in [(59, "200 OK"), (60, "401 Unauthorized")] {
            assert_eq!(ask_at(&service, &request, NOW + at * second).0, status, "after {at} s");
        }
    }
}

#[test]
fn version_2_wants_a_token_and_version_1_does_not_care() {
    let service_2 = service(Version::V2, false);
    let missing = "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` \
                   header to specify the session token.";
    let wrong = "X-metadata-token: 00\r\n";
    assert_eq!(get(&service_2, "/", ""), is("401 Unauthorized", missing));
    assert_eq!(get(&service_2, "/", wrong), is("401 Unauthorized", "MMDS token not valid."));
    assert_eq!(get(&v1(), "/", wrong), is("200 OK", "latest/"));
    let request = "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 1\r\n\r\n";
    assert_eq!(ask(&v1(), request).0, "200 OK");
}

#[test]
fn what_can_be_put_is_a_token_and_what_can_be_done_is_get_and_put() {
    let service = v1();
    let put =
        |path: &str, headers: &str| ask(&service, &format!("PUT {path} HTTP/1.1\r\n{headers}\r\n"));
    let (path, ttl) = ("/latest/api/token", "X-metadata-token-ttl-seconds");
    let missing = "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or \
                   `X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.";
    assert_eq!(put(path, ""), is("400 Bad Request", missing));
    for value in ["0", "21601", "-1", "x", "", "18446744073709551616"] {
        let what = format!(
            "Invalid time to live value provided for token: {value}. Please provide a value \
             between 1 and 21600."
        );
        assert_eq!(put(path, &format!("{ttl}: {value}\r\n")), is("400 Bad Request", &what));
    }
    for value in ["1", "21600"] {
        assert_eq!(put(path, &format!("{ttl}: {value}\r\n")).0, "200 OK");
    }
    let forwarded = format!("{ttl}: 1\r\nx-forwarded-for: a\r\n");
    assert_eq!(put(path, &forwarded).0, "400 Bad Request");
    let other = is("404 Not Found", "Resource not found: /latest/user-data.");
    assert_eq!(put("/latest/user-data", &format!("{ttl}: 1\r\n")), other);
    for method in ["POST", "DELETE", "PATCH", "HEAD"] {
        let (status, headers, body) =
            ask_at(&service, &format!("{method} / HTTP/1.1\r\n\r\n"), NOW);
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("405 Method Not Allowed", "Not allowed HTTP method.")
        );
        assert!(headers.contains(&"Allow: GET, PUT".to_owned()), "{headers:?}");
    }
}

#[test]
fn requests_may_come_in_pieces_and_in_a_row() {
    let service = v1();
    let one = "GET /latest/count HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    let two = [one, "GET / HTTP/1.1\r\n\r\n"].concat();
    for len in 0..one.len() {
        let piece = two.get(..len).unwrap().as_bytes();
        assert_eq!(answer(&service, piece, NOW), Outcome::Incomplete, "{len} bytes");
    }
    let Outcome::Answered { consumed, is_last, .. } = answer(&service, two.as_bytes(), NOW) else {
        panic!("no answer");
    };
    assert_eq!((consumed, is_last), (one.len(), false));
}

#[test]
fn connections_end_when_the_guest_wants_it() {
    let is_last = |request: &str| match answer(&v1(), request.as_bytes(), NOW) {
        Outcome::Answered { is_last, .. } => is_last,
        Outcome::Incomplete => panic!("no answer"),
    };
    assert!(!is_last("GET / HTTP/1.1\r\n\r\n"));
    assert!(is_last("GET / HTTP/1.0\r\n\r\n"));
    assert!(is_last("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n"));
    assert!(is_last("GET / HTTP/1.1\r\nConnection: keep-alive, close\r\n\r\n"));
}

#[test]
fn what_is_no_request_is_answered_once_and_never_again() {
    let service = v1();
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(MAX_REQUEST));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1));
    for request in [
        "\0\0\0\0",
        "GET\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n",
        &long,
        &many,
    ] {
        let Outcome::Answered { answer, is_last, .. } = answer(&service, request.as_bytes(), NOW)
        else {
            panic!("no answer to {request:.40?}");
        };
        assert!(is_last && answer.starts_with(b"HTTP/1.1 400 "), "{request:.40?}");
    }
}
