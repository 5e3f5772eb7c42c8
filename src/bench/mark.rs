//! The mark that ends a measurement, seen from outside the program.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use regex::bytes::Regex;

use crate::readiness::{Probe, ProbeError, Url};

/// What is waited for.
#[derive(Debug, Clone)]
pub enum Mark {
    /// An HTTP answer with a status of 200 to 499.
    Http(Url),
    /// A TCP connection to this port of this machine.
    Port(u16),
    /// A line of output that matches.
    Log(Regex),
    /// A file that is new or changed since the start.
    File(PathBuf),
    /// The end of the program.
    Exit,
}

impl Mark {
    /// Takes a probe for a mark, if it is one that can be seen from outside.
    pub fn of_probe(probe: &Probe) -> Option<Self> {
        match probe {
            Probe::Http(url) => Some(Self::Http(url.clone())),
            Probe::Port(Some(port)) => Some(Self::Port(*port)),
            Probe::Log(regex) => Some(Self::Log(regex.clone())),
            Probe::File(path) => Some(Self::File(path.clone())),
            Probe::Notify | Probe::Port(None) | Probe::Idle(_) | Probe::Delay(_) => None,
        }
    }
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "exit" {
            return Ok(Self::Exit);
        }
        let probe: Option<Probe> = match text.split_once(':') {
            Some(("http" | "port" | "log" | "file", _)) => {
                Some(text.parse().map_err(|error: ProbeError| error.wrong)?)
            }
            _ => None,
        };
        probe.as_ref().and_then(Self::of_probe).ok_or_else(|| {
            format!("`{text}` is none of http:URL, port:N, log:REGEX, file:PATH, exit")
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => write!(f, "first HTTP answer of {url}"),
            Self::Port(port) => write!(f, "first connection to port {port}"),
            Self::Log(regex) => write!(f, "first output that matches /{regex}/"),
            Self::File(path) => write!(f, "change of {}", path.display()),
            Self::Exit => f.write_str("end of the program"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read() {
        assert!(matches!("http:8080/x".parse(), Ok(Mark::Http(_))));
        assert!(matches!("http://localhost:8080/".parse(), Ok(Mark::Http(_))));
        assert!(matches!("port:80".parse(), Ok(Mark::Port(80))));
        assert!(matches!("log:tick [0-9]".parse(), Ok(Mark::Log(_))));
        assert!(matches!("file:/x".parse(), Ok(Mark::File(_))));
        assert!(matches!("exit".parse(), Ok(Mark::Exit)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in ["", "port", "port:", "port:0", "port:65536", "log:(", "file:", "idle", "http:"]
        {
            let error = text.parse::<Mark>().unwrap_err();
            assert!(!error.to_string().is_empty(), "{text}");
        }
        let error = "https:x".parse::<Mark>().unwrap_err().to_string();
        assert!(error.contains("http:URL"), "{error}");
    }
}
