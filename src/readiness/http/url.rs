//! The URL of an `http` probe.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::readiness::probe::parse_port;

/// A plain http URL on this machine.
///
/// The host is `localhost` or an address: names are not looked up, since a
/// probe asks the program that we have just started, and a statically linked
/// launcher has no name service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    host: String,
    /// What the host stands for; tried in turn.
    addresses: Vec<IpAddr>,
    port: u16,
    /// The path and the query.
    target: String,
}

impl Url {
    /// Parses `http://HOST[:PORT]/PATH`, or for short `[HOST]:PORT/PATH` and
    /// `PORT/PATH` on localhost; the error says what is wrong.
    pub(in crate::readiness) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https:") {
            return Err("https is not supported, only plain http is".to_owned());
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err("a URL has no spaces or control characters".to_owned());
        }
        let full = text.strip_prefix("http:").unwrap_or(text).strip_prefix("//");
        let rest = full.unwrap_or(text);
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a user name in a URL is not supported".to_owned());
        }
        let (host, port) = split_authority(authority, full.is_some())?;
        let addresses = addresses_of(host).ok_or_else(|| {
            format!(
                "the host `{host}` is neither localhost nor an address; names are not looked up"
            )
        })?;
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { host: host.to_owned(), addresses, port, target: format!("{slash}{target}") })
    }

    /// Makes the URL of the root of a port of this machine.
    pub fn local(port: u16) -> Self {
        let addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        Self { host: "localhost".to_owned(), addresses, port, target: "/".to_owned() }
    }

    /// Returns the addresses to try, in order.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|address| SocketAddr::new(*address, self.port))
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address for an attempt; attempts go round.
    pub(super) fn address(&self, attempt: usize) -> SocketAddr {
        let address = self.addresses.get(attempt % self.addresses.len().max(1));
        SocketAddr::new(address.copied().unwrap_or(Ipv4Addr::LOCALHOST.into()), self.port)
    }

    /// Builds the request.
    pub fn request(&self) -> Vec<u8> {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: warmstart/{}\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n",
            self.target,
            self.host,
            self.port,
            env!("CARGO_PKG_VERSION")
        )
        .into_bytes()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.target)
    }
}

/// Splits `HOST:PORT`; a full URL may leave the port out, a short one the host.
fn split_authority(authority: &str, full: bool) -> Result<(&str, u16), String> {
    let colon = match authority.rfind(']') {
        Some(bracket) => authority[bracket..].find(':').map(|at| bracket + at),
        None => authority.rfind(':'),
    };
    let (host, port) = match colon {
        Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
        None if full || authority.starts_with('[') => (authority, None),
        None => ("", Some(authority)),
    };
    let port = match port {
        Some(port) => parse_port(port)?,
        None if full => 80,
        None => return Err("a port is missing, as in http:8080/health".to_owned()),
    };
    match (host, full) {
        ("", true) => Err("the URL has no host".to_owned()),
        ("", false) => Ok(("localhost", port)),
        _ => Ok((host, port)),
    }
}

/// Returns the addresses of `localhost` (and names below it, RFC 6761) or of
/// an address.
fn addresses_of(host: &str) -> Option<Vec<IpAddr>> {
    let name = host.to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    if let Some(inside) = host.strip_prefix('[') {
        return inside.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(|ip| vec![ip.into()]);
    }
    host.parse::<Ipv4Addr>().ok().map(|ip| vec![ip.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_short_forms() {
        for (text, expected) in [
            ("http://127.0.0.1:8080/health", "http://127.0.0.1:8080/health"),
            ("//127.0.0.1:8080/health", "http://127.0.0.1:8080/health"),
            ("http://localhost", "http://localhost:80/"),
            ("http://api.localhost:81?x=http://y", "http://api.localhost:81/?x=http://y"),
            ("http://[::1]:8080/#top", "http://[::1]:8080/"),
            ("http://[::1]/", "http://[::1]:80/"),
            ("8080", "http://localhost:8080/"),
            ("8080/health", "http://localhost:8080/health"),
            (":8080/", "http://localhost:8080/"),
            ("10.0.0.1:8080/a:b", "http://10.0.0.1:8080/a:b"),
            ("[::1]:8080/", "http://[::1]:8080/"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("https://localhost/", "https"),
            ("http://user@localhost/", "user name"),
            ("http://example.com/", "`example.com` is neither localhost"),
            ("http:///x", "no host"),
            ("http://localhost:0/", "not a TCP port"),
            ("http://localhost:x/", "not a TCP port"),
            ("http://[::1/", "neither localhost"),
            ("[::1]/", "port is missing"),
            ("localhost/health", "not a TCP port"),
            ("/health", "not a TCP port"),
            ("8080/a b", "spaces"),
            ("8080/a\r\nX: y", "control"),
            ("", "not a TCP port"),
        ] {
            let wrong = Url::parse(text).unwrap_err();
            assert!(wrong.contains(expected), "{text}: {wrong}");
        }
    }

    #[test]
    fn the_request_asks_to_close() {
        let url = Url::parse("8080/a?b").unwrap();
        let request = String::from_utf8(url.request()).unwrap();
        assert!(request.starts_with("GET /a?b HTTP/1.1\r\nHost: localhost:8080\r\n"));
        assert!(request.ends_with("\r\nConnection: close\r\n\r\n"));
        assert_eq!(url.address(0).to_string(), "127.0.0.1:8080");
        assert_eq!(url.address(1).to_string(), "[::1]:8080");
        assert_eq!(url.address(2), url.address(0));
    }
}
