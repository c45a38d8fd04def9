//! The protocol of the service: a request's bytes in, an answer's bytes out. Who sends them how is the stack's
//! business.
//!
//! Answers and their words are Firecracker's (its user guide of the MMDS), for the programs that know those.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::{Service, Version};

/// Most bytes of a request, with its header and a body that nobody reads.
pub(super) const MAX_REQUEST: usize = 4096;
/// Most header lines of a request.
const MAX_HEADERS: usize = 32;

/// Where tokens are made.
const TOKEN_PATH: &str = "/latest/api/token";
/// Seconds that a token may be valid.
const TTL: std::ops::RangeInclusive<u64> = 1..=21600;

/// The headers of tokens: ours, and EC2's.
const TOKEN: [&str; 2] = ["X-metadata-token", "X-aws-ec2-metadata-token"];
const TOKEN_TTL: [&str; 2] =
    ["X-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token-ttl-seconds"];

/// What became of the bytes that have come so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// They are the beginning of a request.
    Incomplete,
    /// The first `consumed` of them are a request, and this is the answer.
    Answered {
        consumed: usize,
        answer: Vec<u8>,
        /// Nothing follows this answer.
        is_last: bool,
    },
}

/// Answers the request at the beginning of `bytes`, at the time `now`.
pub(super) fn answer(service: &Service, bytes: &[u8], now: Duration) -> Outcome {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_REQUEST => return Outcome::Incomplete,
        Ok(httparse::Status::Partial) => return refused("The request is too large."),
        Err(_) => return refused("The request is malformed."),
    };
    let request = Request { parsed: &parsed };
    let Some(len) = request.body_len().and_then(|body| head.checked_add(body)) else {
        return refused("The request's length is not understood.");
    };
    if len > MAX_REQUEST {
        return refused("The request is too large.");
    }
    if len > bytes.len() {
        return Outcome::Incomplete;
    }
    let is_last = request.is_last();
    let answer = respond(service, &request, now).bytes(is_last);
    Outcome::Answered { consumed: len, answer, is_last }
}

/// The answer to what cannot be read: where the next request would begin is not known, so there is none.
fn refused(what: &str) -> Outcome {
    let answer = Answer::text(BAD_REQUEST, what).bytes(true);
    Outcome::Answered { consumed: 0, answer, is_last: true }
}

/// Status lines, as far as they differ.
const OK: &str = "200 OK";
const BAD_REQUEST: &str = "400 Bad Request";
const UNAUTHORIZED: &str = "401 Unauthorized";
const NOT_FOUND: &str = "404 Not Found";
const NOT_ALLOWED: &str = "405 Method Not Allowed";
const NOT_IMPLEMENTED: &str = "501 Not Implemented";
const UNAVAILABLE: &str = "503 Service Unavailable";

struct Request<'a> {
    parsed: &'a httparse::Request<'a, 'a>,
}

impl Request<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let header = self.parsed.headers.iter().find(|it| it.name.eq_ignore_ascii_case(name));
        header.map(|it| it.value.trim_ascii())
    }

    /// The first of `names` that is there, and its value.
    fn one_of<'n>(&self, names: [&'n str; 2]) -> Option<(&'n str, &[u8])> {
        names.into_iter().find_map(|name| Some((name, self.header(name)?)))
    }

    /// Bytes of the body; `None` when it has no length or several.
    fn body_len(&self) -> Option<usize> {
        if self.header("Transfer-Encoding").is_some() {
            return None;
        }
        let is_length = |name: &str| name.eq_ignore_ascii_case("Content-Length");
        let mut lengths = self.parsed.headers.iter().filter(|it| is_length(it.name));
        let Some(length) = lengths.next() else { return Some(0) };
        let digits = length.value.trim_ascii();
        // `parse` alone would take "+1".
        let are_digits = digits.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(digits).ok().filter(|_| are_digits)?;
        if lengths.next().is_some() { None } else { text.parse().ok() }
    }

    /// Whether the connection ends with this request.
    fn is_last(&self) -> bool {
        let says = |word: &[u8]| {
            let value = self.header("Connection").unwrap_or_default();
            value.split(|byte| *byte == b',').any(|it| it.trim_ascii().eq_ignore_ascii_case(word))
        };
        self.parsed.version == Some(0) || says(b"close")
    }

    /// The path, without the host that a proxy's client writes before it and without the query, with single
    /// slashes and none at the end.
    fn path(&self) -> String {
        let target = self.parsed.path.unwrap_or_default();
        let target = match target.strip_prefix("http://") {
            Some(rest) => rest.find('/').map_or("", |at| rest.get(at..).unwrap_or_default()),
            None => target,
        };
        let path = target.split('?').next().unwrap_or_default();
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts.fold(String::new(), |path, part| path + "/" + part)
    }

    fn accepts_json(&self) -> bool {
        let accept = self.header("Accept").unwrap_or_default();
        let name = |range: &[u8]| range.split(|byte| *byte == b';').next().map(<[u8]>::to_vec);
        accept
            .split(|byte| *byte == b',')
            .filter_map(name)
            .any(|range| range.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    }
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    /// One more header, with its line end.
    header: String,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, kind: "text/plain", header: String::new(), body: body.into() }
    }

    fn bytes(self, is_last: bool) -> Vec<u8> {
        let Self { status, kind, header, body } = self;
        let connection = if is_last { "close" } else { "keep-alive" };
        let len = body.len();
        let mut text = String::with_capacity(len + 160);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "HTTP/1.1 {status}\r\nConnection: {connection}\r\nContent-Type: {kind}\r\n\
             Content-Length: {len}\r\n{header}\r\n{body}"
        );
        text.into_bytes()
    }
}

fn respond(service: &Service, request: &Request<'_>, now: Duration) -> Answer {
    match request.parsed.method {
        Some("GET") => get(service, request, now),
        Some("PUT") => put(service, request, now),
        _ => {
            let header = "Allow: GET, PUT\r\n".to_owned();
            Answer { header, ..Answer::text(NOT_ALLOWED, "Not allowed HTTP method.") }
        }
    }
}

fn get(service: &Service, request: &Request<'_>, now: Duration) -> Answer {
    if service.options.version == Version::V2 {
        let Some((_, token)) = request.one_of(TOKEN) else {
            let [ours, ec2] = TOKEN;
            let what = format!(
                "No MMDS token provided. Use `{ours}` or `{ec2}` header to specify the session token."
            );
            return Answer::text(UNAUTHORIZED, what);
        };
        if !service.is_token_valid(now, token) {
            return Answer::text(UNAUTHORIZED, "MMDS token not valid.");
        }
    }
    let path = request.path();
    let wants_json = request.accepts_json() && !service.options.imds_compat;
    service.store.look_up(&path, |value| match value {
        None => not_found(&path),
        Some(value) if wants_json => {
            Answer { kind: "application/json", ..Answer::text(OK, value.to_string()) }
        }
        Some(value) => plain(value),
    })
}

/// A value as EC2 gives it: a text as it is, an object as the list of its keys.
fn plain(value: &Value) -> Answer {
    match value {
        Value::String(text) => Answer::text(OK, text.as_str()),
        Value::Object(members) => {
            let line = |(key, value): (&String, &Value)| {
                if value.is_object() { format!("{key}/") } else { key.clone() }
            };
            Answer::text(OK, members.iter().map(line).collect::<Vec<_>>().join("\n"))
        }
        _ => {
            let what = "Cannot retrieve value. The value has an unsupported type.";
            Answer::text(NOT_IMPLEMENTED, what)
        }
    }
}

/// Makes a token, which is all that can be put.
fn put(service: &Service, request: &Request<'_>, now: Duration) -> Answer {
    // A request that came through a proxy is not the guest's own.
    if request.header("X-Forwarded-For").is_some() {
        return Answer::text(
            BAD_REQUEST,
            "Invalid header. Reason: Unsupported header `X-Forwarded-For`.",
        );
    }
    let path = request.path();
    if path != TOKEN_PATH {
        return not_found(&path);
    }
    let Some((name, value)) = request.one_of(TOKEN_TTL) else {
        let [ours, ec2] = TOKEN_TTL;
        let what = format!(
            "Token time to live value not found. Use `{ours}` or `{ec2}` header to specify the token's lifetime."
        );
        return Answer::text(BAD_REQUEST, what);
    };
    let value = String::from_utf8_lossy(value);
    let seconds = value.parse().ok().filter(|seconds| TTL.contains(seconds));
    let Some(seconds) = seconds else {
        let (first, last) = (TTL.start(), TTL.end());
        let what = format!(
            "Invalid time to live value provided for token: {value}. Please provide a value between {first} and {last}."
        );
        return Answer::text(BAD_REQUEST, what);
    };
    match service.make_token(now, Duration::from_secs(seconds)) {
        Ok(token) => {
            let header = format!("{name}: {seconds}\r\n");
            Answer { header, ..Answer::text(OK, token) }
        }
        Err(error) => {
            log::error!("metadata: no token can be made: {error}");
            Answer::text(UNAVAILABLE, "Failed to generate token.")
        }
    }
}

fn not_found(path: &str) -> Answer {
    let path = if path.is_empty() { "/" } else { path };
    Answer::text(NOT_FOUND, format!("Resource not found: {path}."))
}

#[cfg(test)]
mod tests;
