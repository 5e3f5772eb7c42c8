//! The mark that ends a measurement, seen from outside the program.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use regex::bytes::Regex;

use super::http::Url;

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

/// Why a text is no mark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// There is no such mark.
    #[error("`{0}` is none of http:URL, port:N, log:REGEX, file:PATH, exit")]
    Unknown(String),
    /// What follows the colon is wrong.
    #[error("{0}")]
    Value(String),
}

impl FromStr for Mark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, MarkError> {
        let value = |error: String| MarkError::Value(error);
        match text.split_once(':') {
            Some(("http", rest)) => rest.parse().map(Self::Http).map_err(value),
            Some(("port", port)) => match port.parse() {
                Ok(port) if port > 0 => Ok(Self::Port(port)),
                _ => Err(value(format!("`{port}` is no port"))),
            },
            Some(("log", regex)) => Regex::new(regex)
                .map(Self::Log)
                .map_err(|error| value(format!("`{regex}` is no regular expression: {error}"))),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ if text == "exit" => Ok(Self::Exit),
            _ => Err(MarkError::Unknown(text.to_owned())),
        }
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
