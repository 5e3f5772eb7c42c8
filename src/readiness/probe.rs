//! The probes of `--ready`, parsed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use regex::bytes::Regex;

use super::http::Url;
use super::{IDLE_WINDOW, PORT_HELD};

/// A condition of readiness (`--ready`).
#[derive(Debug, Clone)]
pub enum Probe {
    /// `notify`: READY=1 through NOTIFY_SOCKET (`sd_notify(3)`).
    Notify,
    /// `port[:N]`: the program has listened on this TCP port, or on any, for
    /// [`PORT_HELD`].
    Port(Option<u16>),
    /// `http:URL`: a GET is answered with a status from 200 to 499.
    Http(Url),
    /// `log:REGEX`: a line of the program's output matches.
    Log(Regex),
    /// `file:PATH`: the file exists and is newer than the program's start.
    File(PathBuf),
    /// `idle[:MS]`: the program used under 5% of one CPU for so long.
    Idle(Duration),
    /// `delay:MS`: so long has passed since the program's start.
    Delay(Duration),
}

/// A probe that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{probe}`: {wrong} (a probe is one of notify, port[:N], http:URL, log:REGEX, file:PATH, \
     idle[:MS], delay:MS)"
)]
pub struct ProbeError {
    /// The probe as typed.
    pub probe: String,
    /// What is wrong with it.
    pub wrong: String,
}

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let (kind, value) = match text.split_once(':') {
            Some((kind, value)) => (kind, Some(value)),
            None => (text, None),
        };
        parse(kind, value).map_err(|wrong| ProbeError { probe: text.to_owned(), wrong })
    }
}

/// Parses a probe whose kind and value have been told apart; the error says
/// what is wrong.
fn parse(kind: &str, value: Option<&str>) -> Result<Probe, String> {
    match (kind, value) {
        ("notify", None) => Ok(Probe::Notify),
        ("notify", Some(_)) => Err("notify takes no value".to_owned()),
        ("port", None) => Ok(Probe::Port(None)),
        ("port", Some(value)) => parse_port(value).map(|port| Probe::Port(Some(port))),
        ("http", Some(value)) => Url::parse(value).map(Probe::Http),
        ("https", _) => Err("https is not supported, only plain http is".to_owned()),
        ("log", Some(value)) if !value.is_empty() => parse_regex(value).map(Probe::Log),
        ("file", Some(value)) if !value.is_empty() => Ok(Probe::File(PathBuf::from(value))),
        ("idle", None) => Ok(Probe::Idle(IDLE_WINDOW)),
        ("idle", Some(value)) => match parse_ms(value)? {
            Duration::ZERO => Err("idle needs a window of at least 1 ms".to_owned()),
            window => Ok(Probe::Idle(window)),
        },
        ("delay", Some(value)) => parse_ms(value).map(Probe::Delay),
        ("http", None) => Err("http needs a URL, as in http:8080/health".to_owned()),
        ("log", _) => Err("log needs a regular expression, as in log:Started".to_owned()),
        ("file", _) => Err("file needs a path, as in file:run/ready".to_owned()),
        ("delay", None) => Err("delay needs milliseconds, as in delay:500".to_owned()),
        _ => Err("unknown probe".to_owned()),
    }
}

/// Parses the number of a TCP port.
pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    match digits(text).and_then(|number| u16::try_from(number).ok()) {
        Some(port) if port != 0 => Ok(port),
        _ => Err(format!("`{text}` is not a TCP port (1 to 65535)")),
    }
}

/// Parses a number of milliseconds, at most a day.
fn parse_ms(text: &str) -> Result<Duration, String> {
    match digits(text) {
        Some(ms) if ms <= 86_400_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("`{text}` is not a number of milliseconds (0 to 86400000)")),
    }
}

/// Parses digits; unlike `str::parse`, no sign.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Compiles a regular expression; the error is one line, without the picture
/// that `regex` draws.
fn parse_regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let error = error.to_string();
        let line = error.lines().last().unwrap_or_default();
        let line = line.strip_prefix("error: ").unwrap_or(line);
        format!("not a regular expression: {line}")
    })
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notify => f.write_str("notify"),
            Self::Port(None) => f.write_str("port"),
            Self::Port(Some(port)) => write!(f, "port:{port}"),
            Self::Http(url) => write!(f, "http:{url}"),
            Self::Log(regex) => write!(f, "log:{regex}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Idle(window) => write!(f, "idle:{}", window.as_millis()),
            Self::Delay(delay) => write!(f, "delay:{}", delay.as_millis()),
        }
    }
}

impl Probe {
    /// Returns what the probe waits for, for a message.
    pub(super) fn waits_for(&self) -> String {
        match self {
            Self::Notify => "READY=1 on NOTIFY_SOCKET".to_owned(),
            Self::Port(None) => format!("a TCP port listened on for {} ms", PORT_HELD.as_millis()),
            Self::Port(Some(port)) => {
                format!("TCP port {port} listened on for {} ms", PORT_HELD.as_millis())
            }
            Self::Http(url) => format!("an answer from {url}"),
            Self::Log(regex) => format!("a line of output that matches `{regex}`"),
            Self::File(path) => format!("a new file {}", path.display()),
            Self::Idle(window) => {
                format!("{} ms with under 5% of one CPU used", window.as_millis())
            }
            Self::Delay(delay) => format!("{} ms since its start", delay.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let error = text.parse::<Probe>().unwrap_err();
        let message = error.to_string();
        assert!(message.contains("notify, port[:N], http:URL, log:REGEX"), "{message}");
        assert!(!message.contains('\n'), "{message}");
        error.wrong
    }

    #[test]
    fn every_probe_reads_back_as_printed() {
        for text in [
            "notify",
            "port",
            "port:8080",
            "http:http://127.0.0.1:8080/health?x=1",
            "log:^Started .* in [0-9]+ s: ok",
            "file:run/a:b",
            "idle:200",
            "idle:1",
            "delay:0",
            "delay:1500",
        ] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        assert_eq!("idle".parse::<Probe>().unwrap().to_string(), "idle:200");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(wrong("sleep:3"), "unknown probe");
        assert_eq!(wrong(""), "unknown probe");
        assert_eq!(wrong("Port"), "unknown probe");
        assert_eq!(wrong("notify:1"), "notify takes no value");
        for port in
            ["port:", "port:0", "port:65536", "port:+80", "port:http", "port:99999999999999999999"]
        {
            assert!(wrong(port).contains("is not a TCP port"), "{port}");
        }
        assert_eq!(wrong("log:a(b"), "not a regular expression: unclosed group");
        assert!(wrong("log:a{1000}{1000}{1000}").starts_with("not a regular expression"));
        assert!(wrong("log").contains("needs a regular expression"));
        assert!(wrong("log:").contains("needs a regular expression"));
        assert!(wrong("file:").contains("needs a path"));
        assert!(wrong("https://localhost/").contains("https is not supported"));
        assert!(wrong("http:https://localhost/").contains("https is not supported"));
        assert!(wrong("http").contains("needs a URL"));
        assert!(wrong("idle:0").contains("at least 1 ms"));
        assert!(wrong("idle:1s").contains("milliseconds"));
        assert!(wrong("delay").contains("needs milliseconds"));
        assert!(wrong("delay:-1").contains("milliseconds"));
        assert!(wrong("delay:86400001").contains("milliseconds"));
    }
}
