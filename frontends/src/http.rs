//! The HTTP/1.1 that `web` speaks: one request head in, one response head out.

use alloc::string::String;
use core::fmt::{self, Write};

/// Longest request head taken, in bytes.
pub const MAX_HEAD: usize = 4096;
const MAX_HEADERS: usize = 32;

/// A status line's number and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16, pub &'static str);

#[expect(missing_docs, reason = "named as in RFC 9110")]
impl Status {
    pub const OK: Self = Self(200, "OK");
    pub const PARTIAL_CONTENT: Self = Self(206, "Partial Content");
    pub const BAD_REQUEST: Self = Self(400, "Bad Request");
    pub const NOT_FOUND: Self = Self(404, "Not Found");
    pub const METHOD_NOT_ALLOWED: Self = Self(405, "Method Not Allowed");
    pub const RANGE_NOT_SATISFIABLE: Self = Self(416, "Range Not Satisfiable");
    pub const HEAD_TOO_LARGE: Self = Self(431, "Request Header Fields Too Large");
    pub const SERVER_ERROR: Self = Self(500, "Internal Server Error");
}

/// A `Range` header as asked for, before the size of the file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// From a byte to an inclusive last byte, or to the end.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

impl RangeSpec {
    /// Reads `bytes=...` of one range. Anything else counts as no range, as RFC 9110 (14.2) allows.
    pub fn parse(value: &str) -> Option<Self> {
        let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        match (first.trim(), last.trim()) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// First byte and length within a file of `size` bytes; `None` if no byte of it is meant.
    pub fn within(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::From(first, last) => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
            Self::Last(count) => (size.saturating_sub(count), size),
        };
        (first < end).then(|| (first, end - first))
    }
}

/// A request worth answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The path, decoded and without its query: absolute, no `.` or `..` in it.
    pub path: String,
    /// `HEAD`: the body is left out.
    pub head_only: bool,
    /// The part of the file asked for.
    pub range: Option<RangeSpec>,
    /// Whether the connection stays open afterwards.
    pub keep_alive: bool,
}

/// What a client has sent so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head is not complete.
    Partial,
    /// A request and the bytes of its head.
    Request(Request, usize),
    /// To be answered with this status, after which the connection is closed.
    Refused(Status),
}

/// Reads a request head.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Refused(Status::HEAD_TOO_LARGE);
        }
        Err(_) => return Parsed::Refused(Status::BAD_REQUEST),
    };
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| core::str::from_utf8(header.value).ok())
    };
    let head_only = match head.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Parsed::Refused(Status::METHOD_NOT_ALLOWED),
    };
    // A body would be read as the next request's head.
    if header("content-length").is_some_and(|length| length.trim() != "0") || header("transfer-encoding").is_some() {
        return Parsed::Refused(Status::BAD_REQUEST);
    }
    let Some(path) = head.path.and_then(decode_path) else {
        return Parsed::Refused(Status::BAD_REQUEST);
    };
    let connection = header("connection").unwrap_or("");
    let keep_alive = match head.version {
        Some(1) => !connection.eq_ignore_ascii_case("close"),
        _ => connection.eq_ignore_ascii_case("keep-alive"),
    };
    let range = header("range").and_then(RangeSpec::parse);
    Parsed::Request(Request { path, head_only, range, keep_alive }, len)
}

/// Decodes `%XX`, drops the query, and refuses what is not a plain absolute path.
fn decode_path(raw: &str) -> Option<String> {
    let raw = raw.split(['?', '#']).next()?;
    let mut bytes = alloc::vec::Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let path = String::from_utf8(bytes).ok().filter(|path| path.starts_with('/'))?;
    let plain = !path.contains('\0') && path.split('/').all(|part| part != "." && part != "..");
    plain.then_some(path)
}

/// The media type for a file name.
pub fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" | "htm" => "text/html; charset=utf-8",
        "txt" | "md" | "toml" => "text/plain; charset=utf-8",
        "css" => "text/css",
        "js" => "text/javascript",
        "json" => "application/json",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// A response head; its `Display` is what goes on the wire.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// The status.
    pub status: Status,
    /// The media type of the body.
    pub media_type: &'a str,
    /// Bytes of the body.
    pub length: u64,
    /// First byte of the part sent and the size of the whole; for 416 only the size counts.
    pub part: Option<(u64, u64)>,
    /// Whether the connection stays open.
    pub keep_alive: bool,
}

impl fmt::Display for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status: Status(number, words), media_type, length, part, keep_alive } = self;
        write!(f, "HTTP/1.1 {number} {words}\r\nServer: ferrule-web\r\nContent-Type: {media_type}\r\n")?;
        write!(f, "Content-Length: {length}\r\nAccept-Ranges: bytes\r\n")?;
        match part {
            Some((_, size)) if self.status == Status::RANGE_NOT_SATISFIABLE => {
                write!(f, "Content-Range: bytes */{size}\r\n")?;
            }
            Some((first, size)) => {
                let last = first.saturating_add(*length).saturating_sub(1);
                write!(f, "Content-Range: bytes {first}-{last}/{size}\r\n")?;
            }
            None => {}
        }
        if self.status == Status::METHOD_NOT_ALLOWED {
            f.write_str("Allow: GET, HEAD\r\n")?;
        }
        write!(f, "Connection: {}\r\n\r\n", if *keep_alive { "keep-alive" } else { "close" })
    }
}

/// Text with the characters that HTML reserves replaced: names of files are a peer's words.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            c => f.write_char(c),
        })
    }
}

/// What a client learns from a response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status number.
    pub status: u16,
    /// Bytes of the body, if it says.
    pub length: Option<u64>,
    /// Bytes of the head.
    pub head: usize,
}

/// Reads a response head; `Ok(None)` if it is not complete, an error if it is none.
pub fn parse_answer(bytes: &[u8]) -> Result<Option<Answer>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else { return Ok(None) };
    let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| core::str::from_utf8(header.value).ok()?.trim().parse().ok());
    Ok(Some(Answer { status: answer.code.unwrap_or(0), length, head }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    fn request(bytes: &[u8]) -> Request {
        match parse(bytes) {
            Parsed::Request(request, len) => {
                assert_eq!(len, bytes.len());
                request
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plain_get_is_understood() {
        let got = request(b"GET /a%20b.txt?x=1 HTTP/1.1\r\nHost: h\r\nRange: bytes=5-9\r\n\r\n");
        assert_eq!(got.path, "/a b.txt");
        assert_eq!(got.range, Some(RangeSpec::From(5, Some(9))));
        assert!(got.keep_alive && !got.head_only);
        assert!(!request(b"GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(!request(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n").keep_alive);
    }

    #[test]
    fn paths_out_of_the_tree_are_refused() {
        for path in ["/../x", "/a/%2e%2e/b", "/%00", "/%zz", "/%", "x", "*", "/./a", "/%ff"] {
            let text = format!("GET {path} HTTP/1.1\r\n\r\n");
            assert_eq!(parse(text.as_bytes()), Parsed::Refused(Status::BAD_REQUEST), "{path}");
        }
    }

    #[test]
    fn what_is_no_request_has_an_answer() {
        let post = b"POST / HTTP/1.1\r\n\r\n";
        assert_eq!(parse(post), Parsed::Refused(Status::METHOD_NOT_ALLOWED));
        let body = b"GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(parse(body), Parsed::Refused(Status::BAD_REQUEST));
        assert_eq!(parse(b"GET / HT"), Parsed::Partial);
        assert_eq!(parse(&[b'a'; MAX_HEAD]), Parsed::Refused(Status::HEAD_TOO_LARGE));
        assert_eq!(parse(b"\x01\x02 / HTTP/1.1\r\n\r\n"), Parsed::Refused(Status::BAD_REQUEST));
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        let within = |text: &str, size| RangeSpec::parse(text).map(|range| range.within(size));
        assert_eq!(within("bytes=0-0", 10), Some(Some((0, 1))));
        assert_eq!(within("bytes=5-", 10), Some(Some((5, 5))));
        assert_eq!(within("bytes=-3", 10), Some(Some((7, 3))));
        assert_eq!(within("bytes=-30", 10), Some(Some((0, 10))));
        assert_eq!(within("bytes=8-99", 10), Some(Some((8, 2))));
        assert_eq!(within("bytes=0-18446744073709551615", 10), Some(Some((0, 10))));
        assert_eq!(within("bytes=10-", 10), Some(None));
        assert_eq!(within("bytes=-0", 10), Some(None));
        for nonsense in ["bytes=", "bytes=-", "bytes=9-3", "bytes=a-b", "items=0-1", "bytes=1-2,4-5"] {
            assert_eq!(RangeSpec::parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn heads_say_what_is_sent() {
        let head = Head {
            status: Status::PARTIAL_CONTENT,
            media_type: "text/plain",
            length: 5,
            part: Some((5, 20)),
            keep_alive: true,
        };
        let text = head.to_string();
        assert!(text.starts_with("HTTP/1.1 206 Partial Content\r\n") && text.ends_with("\r\n\r\n"));
        assert!(text.contains("Content-Range: bytes 5-9/20\r\n"));
        let answer = parse_answer(text.as_bytes()).unwrap().unwrap();
        assert_eq!(answer, Answer { status: 206, length: Some(5), head: text.len() });
        let none = Head { status: Status::RANGE_NOT_SATISFIABLE, length: 0, ..head };
        assert!(none.to_string().contains("Content-Range: bytes */20\r\n"));
    }

    #[test]
    fn names_cannot_add_markup() {
        assert_eq!(Escaped("<a href=\"&\">").to_string(), "&lt;a href=&quot;&amp;&quot;&gt;");
    }
}
