//! The smallest HTTP client that can tell when a server answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::readiness::Url;

/// Asks once; `true` if an answer with a status of 200 to 499 began to arrive
/// within the patience given.
///
/// A refused connection costs some 20 µs, so this may be called in a loop.
pub fn answers(url: &Url, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    url.addresses().any(|address| {
        matches!(status(url, address, deadline), Ok(status) if (200..500).contains(&status))
    })
}

fn status(url: &Url, address: SocketAddr, deadline: Instant) -> std::io::Result<u16> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    if itself(&stream) {
        return Err(std::io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(&url.request())?;

    // "HTTP/1.1 200": twelve bytes say it all.
    let mut head = Vec::with_capacity(12);
    while head.len() < 12 {
        stream.set_read_timeout(Some(left()))?;
        let mut piece = [0; 12];
        match stream.read(&mut piece[..12 - head.len()])? {
            0 => break,
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    parse_status(&head).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Reads the status from `HTTP/1.x NNN`.
fn parse_status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    match rest {
        [b'0'..=b'9', b' ', digits @ ..] if digits.len() == 3 => {
            std::str::from_utf8(digits).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// Tells whether a connection to a local port that nobody listens on came out
/// at itself: connecting in a loop may pick the target as its own source port
/// (`tcp(7)`, simultaneous open).
pub fn itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn statuses_are_read() {
        assert_eq!(parse_status(b"HTTP/1.1 200"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.0 404"), Some(404));
        for bad in [&b"HTTP/1.1 20"[..], b"", b"HTTP/2 200 O", b"SSH-2.0-Open", b"HTTP/1.1 +00"] {
            assert!(parse_status(bad).is_none_or(|status| status < 100), "{bad:?}");
        }
    }

    fn server(answer: &'static [u8]) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
        });
        Url::local(port)
    }

    #[test]
    fn an_answer_counts_and_an_error_of_the_server_does_not() {
        let patience = Duration::from_secs(5);
        assert!(answers(&server(b"HTTP/1.1 200 OK\r\n\r\n"), patience));
        assert!(answers(&server(b"HTTP/1.1 404 Not Found\r\n\r\n"), patience));
        assert!(!answers(&server(b"HTTP/1.1 503 Busy\r\n\r\n"), patience));
        assert!(!answers(&server(b"hello, I am no web server"), patience));
        assert!(!answers(&server(b"HTTP"), patience));
    }

    #[test]
    fn nobody_there_is_quick() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let start = Instant::now();
        assert!(!answers(&Url::local(port), Duration::from_secs(5)));
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}
