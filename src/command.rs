//! The command that the user typed, as values.
//!
//! Only `cli` reads argv, the environment and the terminal; it builds one
//! [`Command`] from them, and everything below works on that value.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A program to start: what a plain `execve` of it would be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The arguments, the program's name as typed first; never empty.
    pub argv: Vec<OsString>,
    /// The environment as `NAME=value` strings, in the caller's order,
    /// untouched (a privileged binary's libc scrubs its own copy: `ld.so(8)`,
    /// secure-execution mode).
    pub env: Vec<OsString>,
    /// The working directory, absolute.
    pub cwd: PathBuf,
}

impl Command {
    /// Returns the program's name as typed.
    pub fn name(&self) -> &OsStr {
        self.argv.first().map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// Returns the value of an environment variable, the first one if it is
    /// there twice, as `getenv(3)` does.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.env.iter().find_map(|entry| {
            let rest = entry.as_bytes().strip_prefix(name.as_bytes())?;
            rest.strip_prefix(b"=").map(OsStr::from_bytes)
        })
    }
}
