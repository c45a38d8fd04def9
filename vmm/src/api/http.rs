//! HTTP/1.1 as far as an API on a Unix socket needs it (RFC 9112): bytes in, requests out, replies in, bytes out.
//!
//! Pure: knows no descriptor. What is not understood is refused rather than guessed: chunked bodies, a body on a GET,
//! two lengths that differ. Every buffer has a limit, which the caller keeps.

use std::fmt::Write;

/// Bytes of a request's line and headers.
pub const HEAD_MAX: usize = 8 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 32;

/// What a request asks to be done with its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Read.
    Get,
    /// Make or replace.
    Put,
    /// Change a part.
    Patch,
    /// Remove.
    Delete,
    /// Do something that has an answer.
    Post,
}

impl Method {
    /// As in the request line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Post => "POST",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Get, Self::Put, Self::Patch, Self::Delete, Self::Post];
        all.into_iter().find(|it| it.name() == name)
    }
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What to do.
    pub method: Method,
    /// With what: the path, beginning with a slash.
    pub path: String,
    /// Bytes of the head itself.
    pub len: usize,
    /// Bytes of the body that follows.
    pub body: usize,
    /// Whether the client wants to go on after the answer.
    pub keep_alive: bool,
    /// Whether the client sends its body only when told to.
    pub expects_continue: bool,
    /// Whether it can go on with the bytes of a console.
    pub upgrades: bool,
}

/// Why bytes are not a request. The connection cannot go on after that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Not HTTP/1.
    #[error("Invalid HTTP request: {0}.")]
    Malformed(String),
    /// A head without an end.
    #[error("Invalid HTTP request: its head is longer than {HEAD_MAX} bytes.")]
    HeadTooLong,
    /// A method that nothing here has.
    #[error("Unsupported HTTP method: {0}.")]
    Method(String),
    /// Something of HTTP that this server leaves out.
    #[error("Unsupported HTTP header: {0}.")]
    Unsupported(&'static str),
    /// A body beyond the limit.
    #[error(
        "Request payload with size {len} is larger than the limit of {limit} allowed by server."
    )]
    BodyTooLong {
        /// Its length.
        len: u64,
        /// The limit.
        limit: usize,
    },
    /// A body where there can be none.
    #[error("{0} request cannot have a body.")]
    BodyNotAllowed(&'static str),
}

/// Reads a head from the beginning of `bytes`; `None` while it is not complete.
///
/// # Errors
/// [`HttpError`] as soon as it is clear that no request will come of it.
pub fn parse(bytes: &[u8], body_limit: usize) -> Result<Option<Head>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let window = bytes.get(..HEAD_MAX.min(bytes.len())).unwrap_or_default();
    let len = match request.parse(window) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_MAX => {
            return Err(HttpError::HeadTooLong);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(HttpError::Malformed(error.to_string())),
    };
    // Both are there when the head is complete.
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let method = Method::from_name(method).ok_or_else(|| HttpError::Method(printable(method)))?;
    if !path.starts_with('/') {
        return Err(HttpError::Malformed("the target is not a path".to_owned()));
    }
    let fields = Fields::read(request.headers, request.version == Some(1))?;
    let too_long = |len| HttpError::BodyTooLong { len, limit: body_limit };
    let body = usize::try_from(fields.body).map_err(|_| too_long(fields.body))?;
    if body > body_limit {
        return Err(too_long(fields.body));
    }
    if body > 0 && matches!(method, Method::Get | Method::Delete) {
        return Err(HttpError::BodyNotAllowed(method.name()));
    }
    let path = path.to_owned();
    let Fields { keep_alive, expects_continue, upgrades, .. } = fields;
    Ok(Some(Head { method, path, len, body, keep_alive, expects_continue, upgrades }))
}

/// What the headers say that matters here.
struct Fields {
    body: u64,
    keep_alive: bool,
    expects_continue: bool,
    upgrades: bool,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>], is_1_1: bool) -> Result<Self, HttpError> {
        let mut length = None;
        let mut fields =
            Self { body: 0, keep_alive: is_1_1, expects_continue: false, upgrades: false };
        for header in headers {
            let value = header.value.trim_ascii();
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let text = str::from_utf8(value).unwrap_or_default();
                let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                let number = text.parse::<u64>().ok().filter(|_| is_number);
                let number = number.ok_or_else(|| {
                    HttpError::Malformed("Content-Length is not a number".to_owned())
                })?;
                if length.is_some_and(|other| other != number) {
                    let what = "Content-Length is given twice".to_owned();
                    return Err(HttpError::Malformed(what));
                }
                length = Some(number);
            } else if is("transfer-encoding") {
                return Err(HttpError::Unsupported("Transfer-Encoding"));
            } else if is("expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HttpError::Unsupported("Expect, other than 100-continue"));
                }
                fields.expects_continue = is_1_1;
            } else if is("upgrade") {
                let mut names = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
                fields.upgrades |= names.any(|it| it.eq_ignore_ascii_case(CONSOLE.as_bytes()));
            } else if is("connection") {
                let mut words = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
                if words.clone().any(|word| word.eq_ignore_ascii_case(b"close")) {
                    fields.keep_alive = false;
                } else if words.any(|word| word.eq_ignore_ascii_case(b"keep-alive")) {
                    fields.keep_alive = true;
                }
            }
        }
        fields.body = length.unwrap_or(0);
        Ok(fields)
    }
}

/// At most 32 characters that a terminal can be shown.
fn printable(text: &str) -> String {
    text.chars().take(32).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// How a request went, as a number (RFC 9110, 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200, with a body.
    Ok,
    /// 204, without one.
    NoContent,
    /// 400.
    BadRequest,
    /// 413: more metadata than there may be.
    TooLarge,
    /// 408: the rest of a request did not come.
    Timeout,
    /// 503: too many clients.
    Unavailable,
}

impl Status {
    /// Whether the request was obeyed.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Ok | Self::NoContent)
    }

    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::NoContent => "204 No Content",
            Self::BadRequest => "400 Bad Request",
            Self::TooLarge => "413 Payload Too Large",
            Self::Timeout => "408 Request Timeout",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// One value.
    Json,
    /// A value on each line.
    JsonLines,
    /// Metrics in text form.
    OpenMetrics,
}

impl ContentType {
    const fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonLines => "application/x-ndjson",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// How it went.
    pub status: Status,
    /// The body and what it is.
    pub body: Option<(ContentType, String)>,
    /// Whether the client used something that will go away.
    pub deprecated: bool,
}

impl Reply {
    /// "Done", without a body.
    #[must_use]
    pub const fn done() -> Self {
        Self { status: Status::NoContent, body: None, deprecated: false }
    }

    /// A JSON value.
    #[must_use]
    pub fn json(status: Status, value: &serde_json::Value) -> Self {
        Self { status, body: Some((ContentType::Json, value.to_string())), deprecated: false }
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn bytes(&self, keep_alive: bool) -> Vec<u8> {
        let mut text = head(self.status, keep_alive);
        if self.deprecated {
            text.push_str("Deprecation: true\r\n");
        }
        if let Some((kind, body)) = &self.body {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "Content-Type: {}\r\nContent-Length: {}\r\n\r\n{body}",
                kind.name(),
                body.len()
            );
        } else {
            // A 204 has no length; the others say that there is nothing.
            let length =
                if self.status == Status::NoContent { "" } else { "Content-Length: 0\r\n" };
            text.push_str(length);
            text.push_str("\r\n");
        }
        text.into_bytes()
    }
}

/// What a client that expects it is sent before its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The protocol that a connection to a console goes on with: bytes, both ways.
pub const CONSOLE: &str = "vmm-console";

/// What a client is told whose connection goes on with that (RFC 9110, 15.2.2).
pub const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: vmm-console\r\n\r\n";

/// The head of a reply whose body comes in chunks.
#[must_use]
pub fn stream_head(kind: ContentType) -> Vec<u8> {
    let head = head(Status::Ok, false);
    format!("{head}Content-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n", kind.name())
        .into_bytes()
}

/// One chunk of it; the empty one is the end.
#[must_use]
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn head(status: Status, keep_alive: bool) -> String {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    // The name that Firecracker's clients may look for.
    format!("HTTP/1.1 {}\r\nServer: Firecracker API\r\nConnection: {connection}\r\n", status.line())
}

#[cfg(test)]
mod tests;
