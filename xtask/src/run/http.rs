//! The host as a guest's HTTP client.

use crate::conformance::hex;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::time::{Duration, Instant};

/// A file as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The status code.
    pub status: u16,
    /// Bytes of the body.
    pub bytes: u64,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
    /// From the request to the last byte.
    pub took: Duration,
}

/// A file that is coming: its head is here.
pub struct Coming {
    url: String,
    response: minreq::ResponseLazy,
    since: Instant,
}

/// Asks a port of 127.0.0.1 for `path`, and waits for the head of the answer. All of it may take `limit`.
pub fn ask(port: u16, path: &str, limit: Duration) -> Result<Coming> {
    let since = Instant::now();
    let url = format!("http://127.0.0.1:{port}{path}");
    let sent = minreq::get(&url).with_timeout(limit.as_secs()).send_lazy();
    let response = sent.with_context(|| format!("fetching {url}"))?;
    // What minreq makes of a connection that was closed without a word.
    let answered = response.status_code != 503 || !response.reason_phrase.contains("did not provide");
    ensure!(answered, "fetching {url}: the connection was closed without an answer after {:.1?}", since.elapsed());
    Ok(Coming { url, response, since })
}

impl Coming {
    /// Takes the rest.
    pub fn take(self) -> Result<Fetched> {
        let Self { url, mut response, since } = self;
        let status = response.status_code;
        let length = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let promised: Option<u64> = length.and_then(|(_, value)| value.parse().ok());
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let mut block = [0; 16 << 10];
        loop {
            let len = response.read(&mut block).with_context(|| format!("fetching {url}, after {bytes} bytes"))?;
            if len == 0 {
                break;
            }
            hash.update(&block[..len]);
            bytes += len as u64;
        }
        ensure!(promised.is_none_or(|length| length == bytes), "{url}: {bytes} bytes of {}", promised.unwrap_or(0));
        Ok(Fetched { status, bytes, sha256: hex(&hash.finalize()), took: since.elapsed() })
    }
}

/// Fetches `path` from a port of 127.0.0.1, within `limit`.
pub fn fetch(port: u16, path: &str, limit: Duration) -> Result<Fetched> {
    ask(port, path, limit)?.take()
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn serve_once(answer: Vec<u8>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(&answer);
        });
        port
    }

    #[test]
    fn a_connection_closed_without_an_answer_is_no_answer() {
        let port = serve_once(Vec::new());
        let error = fetch(port, "/", Duration::from_secs(10)).unwrap_err().to_string();
        assert!(error.contains("closed without an answer"), "{error}");
    }

    #[test]
    fn a_body_is_hashed_as_it_comes() {
        let body = crate::disk::noise(10_000);
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n".to_vec();
        answer.extend(&body);
        let fetched = fetch(serve_once(answer), "/x", Duration::from_secs(10)).unwrap();
        assert_eq!((fetched.status, fetched.bytes), (200, 10_000));
        assert_eq!(fetched.sha256, sha256(&body));
    }

    #[test]
    fn a_body_cut_short_is_an_error() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_vec();
        assert!(fetch(serve_once(answer), "/x", Duration::from_secs(10)).is_err());
    }
}
