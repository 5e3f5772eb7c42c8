//! The smallest HTTP client that can tell when a server answers.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// An `http` URL whose host has been looked up, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    host: String,
    path: String,
    addresses: Vec<SocketAddr>,
}

impl Url {
    /// The root of a port of this machine.
    pub fn local(port: u16) -> Self {
        Self {
            host: format!("localhost:{port}"),
            path: "/".into(),
            addresses: vec![
                SocketAddr::from(([127, 0, 0, 1], port)),
                SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
            ],
        }
    }
}

impl FromStr for Url {
    type Err = String;

    /// Reads what follows `http:`: `//HOST:PORT/PATH`, or `PORT/PATH` for this
    /// machine.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |what: &str| Err(format!("`http:{text}`: {what}"));
        let rest = text.strip_prefix("//");
        let (authority, path) = match rest.unwrap_or(text).split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (rest.unwrap_or(text), "/".to_owned()),
        };
        if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return bad("a path has no spaces");
        }
        let authority = authority.strip_prefix(':').unwrap_or(authority);
        if let Ok(port) = authority.parse::<u16>() {
            return match port {
                0 => bad("0 is no port"),
                port => Ok(Self { path, ..Self::local(port) }),
            };
        }
        if rest.is_none() || authority.is_empty() {
            return bad("expected http://HOST:PORT/PATH or http:PORT/PATH");
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
        let full = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        match full.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
            Some(port) => Ok(Self { path, ..Self::local(port) }),
            None => match full.to_socket_addrs() {
                Ok(found) => {
                    Ok(Self { host: authority.to_owned(), path, addresses: found.collect() })
                }
                Err(error) => bad(&error.to_string()),
            },
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host, self.path)
    }
}

/// Asks once; `true` if an answer with a status of 200 to 499 began to arrive
/// within the patience given.
///
/// A refused connection costs some 20 µs, so this may be called in a loop.
pub fn answers(url: &Url, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    url.addresses.iter().any(|address| {
        matches!(status(url, *address, deadline), Ok(status) if (200..500).contains(&status))
    })
}

fn status(url: &Url, address: SocketAddr, deadline: Instant) -> std::io::Result<u16> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    if itself(&stream) {
        return Err(std::io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    let Url { host, path, .. } = url;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: warmstart-bench\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(request.as_bytes())?;

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
    fn urls_are_read() {
        let shown = |text: &str| text.parse::<Url>().map(|url| url.to_string());
        assert_eq!(shown("8080").unwrap(), "http://localhost:8080/");
        assert_eq!(shown("8080/a?b=1").unwrap(), "http://localhost:8080/a?b=1");
        assert_eq!(shown(":8080/").unwrap(), "http://localhost:8080/");
        assert_eq!(shown("//localhost:81/x").unwrap(), "http://localhost:81/x");
        assert_eq!(shown("//127.0.0.1:81").unwrap(), "http://127.0.0.1:81/");
        assert_eq!(shown("//[::1]:81/").unwrap(), "http://[::1]:81/");
        for bad in ["", "//", "0/", "x", "8080/a b", "99999", "///"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

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
        format!("//127.0.0.1:{port}/").parse().unwrap()
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
