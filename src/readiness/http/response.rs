//! An HTTP/1.1 response, as far as a probe has to understand it: its status,
//! and where it ends.

/// A longer head is not an answer that we want to know.
const MAX_HEAD: usize = 64 * 1024;

/// A response of which more may come.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// The head while it is incomplete, then the last few bytes of the body.
    text: Vec<u8>,
    head: Option<Head>,
    body_len: u64,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    status: u16,
    body: Body,
}

/// How a body ends (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    UntilClosed,
}

/// The end of a chunked body without trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Response {
    /// Adds what has arrived; the error says why this is no HTTP.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.text.extend_from_slice(bytes);
        while self.head.is_none() {
            if !b"HTTP/1.".iter().zip(&self.text).all(|(a, b)| a == b) {
                return Err("what answers is not HTTP/1".to_owned());
            }
            let Some(len) = head_len(&self.text) else {
                return match self.text.len() {
                    0..=MAX_HEAD => Ok(()),
                    _ => Err("the head of the answer has no end".to_owned()),
                };
            };
            let head = parse_head(&self.text[..len])?;
            self.text.drain(..len);
            // 100 Continue and its like come before the answer proper.
            if head.status >= 200 {
                self.head = Some(head);
                self.body_len = self.text.len() as u64;
                self.forget();
                return Ok(());
            }
        }
        self.body_len += bytes.len() as u64;
        self.forget();
        Ok(())
    }

    /// Keeps no more of the body than what tells its end.
    fn forget(&mut self) {
        let surplus = self.text.len().saturating_sub(LAST_CHUNK.len());
        self.text.drain(..surplus);
    }

    /// Returns the status, as soon as the head is there.
    pub(super) fn status(&self) -> Option<u16> {
        self.head.map(|head| head.status)
    }

    /// Tells whether all of it is there, without waiting for the connection to
    /// be closed.
    pub(super) fn is_complete(&self) -> bool {
        match self.head.map(|head| head.body) {
            Some(Body::Length(len)) => self.body_len >= len,
            Some(Body::Chunked) => self.text == LAST_CHUNK,
            Some(Body::UntilClosed) | None => false,
        }
    }
}

/// Returns the length of a head with the empty line that ends it.
fn head_len(text: &[u8]) -> Option<usize> {
    let crlf = text.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
    let lf = text.windows(2).position(|end| end == b"\n\n").map(|at| at + 2);
    crlf.into_iter().chain(lf).min()
}

fn parse_head(head: &[u8]) -> Result<Head, String> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let status = first
        .split(' ')
        .nth(1)
        .filter(|status| status.len() == 3)
        .and_then(|status| status.parse().ok())
        .filter(|status| (100..1000).contains(status))
        .ok_or_else(|| "the answer has no status".to_owned())?;
    let mut body = Body::UntilClosed;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunked;
        } else if name.eq_ignore_ascii_case("content-length")
            && body != Body::Chunked
            && let Ok(len) = value.parse()
        {
            body = Body::Length(len);
        }
    }
    if matches!(status, 204 | 304) {
        body = Body::Length(0);
    }
    Ok(Head { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a response byte by byte and returns its status and whether it was
    /// complete, and was so only at its last byte.
    fn read(text: &[u8]) -> Result<(Option<u16>, bool), String> {
        let mut response = Response::default();
        for byte in text {
            assert!(!response.is_complete(), "complete too early");
            response.add(&[*byte])?;
        }
        let mut whole = Response::default();
        whole.add(text)?;
        assert_eq!(whole.status(), response.status());
        assert_eq!(whole.is_complete(), response.is_complete());
        Ok((response.status(), response.is_complete()))
    }

    #[test]
    fn responses_end_where_they_say() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (text, status, complete) in [
            (format!("{ok}Content-Length: 2\r\n\r\nhi"), 200, true),
            (format!("{ok}content-length:2\r\n\r\nh"), 200, false),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), 200, true),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"), 200, false),
            (format!("{ok}\r\nuntil closed"), 200, false),
            ("HTTP/1.0 404 Not Found\n\n".to_owned(), 404, false),
            ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 204, true),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n".into(),
                503,
                true,
            ),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap(), (Some(status), complete), "{text:?}");
        }
    }

    #[test]
    fn other_protocols_are_errors() {
        assert!(read(b"SSH-2.0-OpenSSH\r\n").is_err());
        assert!(read(b"HTTP/1.1 abc\r\n\r\n").is_err());
        assert!(read(b"HTTP/1.1\r\n\r\n").is_err());
        let mut endless = Response::default();
        assert!(endless.add(b"HTTP/1.1 200 OK\r\n").is_ok());
        assert!(endless.add(&[b'x'; MAX_HEAD]).is_err());
        assert_eq!(Response::default().status(), None);
    }

    #[test]
    fn a_long_body_is_not_kept() {
        let mut response = Response::default();
        response.add(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        for _ in 0..1000 {
            response.add(&[b'x'; 10_000]).unwrap();
        }
        assert!(response.text.capacity() < 100_000);
    }
}
