//! What goes wrong in warmstart itself: kind, cause, hints, exit status.
//!
//! Below the command line every module has an error of its own. Here at the
//! top they become a [`Failure`], which is printed by [`Failure::report`] and
//! nowhere else. A hint is a command to type.

use std::error::Error;
use std::io::Write;

/// The table of exit statuses. A program that runs keeps its own.
pub mod status {
    /// All is well.
    pub const OK: u8 = 0;
    /// A management command did not succeed, or its answer is no.
    pub const FAILED: u8 = 1;
    /// A management command was used wrongly.
    pub const USAGE: u8 = 2;
    /// Run mode: warmstart's own failure, usage errors included.
    pub const OWN: u8 = 125;
    /// Run mode: the program cannot be executed.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// Run mode: there is no such program.
    pub const NOT_FOUND: u8 = 127;
}

/// Which table of exit statuses counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A program is run: 125, 126 and 127 are ours, all else is its own.
    Run,
    /// A management command: 0, 1, 2.
    Manage,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The command line is right, the work failed.
    Failed,
}

/// A failure, ready to be told to the user.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit status.
    pub kind: Kind,
    /// What failed; its sources are printed behind it.
    pub error: Box<dyn Error + Send + Sync>,
    /// Commands to type.
    pub hints: Vec<String>,
}

impl Failure {
    /// Makes a failure of the command line.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: Kind::Usage, error: error.into(), hints: Vec::new() }
    }

    /// Makes a failure of the work itself.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: Kind::Failed, error: error.into(), hints: Vec::new() }
    }

    /// Adds a command to type.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Returns the exit status.
    pub fn status(&self, mode: Mode) -> u8 {
        match (mode, self.kind) {
            (Mode::Run, _) => status::OWN,
            (Mode::Manage, Kind::Usage) => status::USAGE,
            (Mode::Manage, Kind::Failed) => status::FAILED,
        }
    }

    /// Prints the failure on stderr and returns the exit status.
    pub fn report(&self, mode: Mode) -> u8 {
        // A closed stderr must not turn into a panic.
        let _ = std::io::stderr().write_all(self.to_text().as_bytes());
        self.status(mode)
    }

    /// One line for the error with its causes, one for each hint.
    fn to_text(&self) -> String {
        let mut text = format!("warmstart: {}", self.error);
        let mut source = self.error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors print their source themselves.
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text.push('\n');
        for hint in &self.hints {
            text.push_str("  try: ");
            text.push_str(hint);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read /x")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read /x: {0}")]
    struct Chatty(#[source] std::io::Error);

    #[test]
    fn a_cause_is_printed_once() {
        for error in [
            Box::new(Outer(std::io::Error::from_raw_os_error(2))) as Box<dyn Error + Send + Sync>,
            Box::new(Chatty(std::io::Error::from_raw_os_error(2))),
        ] {
            assert_eq!(
                Failure::failed(error).to_text(),
                "warmstart: cannot read /x: No such file or directory (os error 2)\n"
            );
        }
    }

    #[test]
    fn hints_are_commands_on_lines_of_their_own() {
        let text = Failure::usage("no COMMAND").hint("warmstart --help").to_text();
        assert_eq!(text, "warmstart: no COMMAND\n  try: warmstart --help\n");
    }

    #[test]
    fn statuses() {
        assert_eq!(Failure::usage("x").status(Mode::Run), 125);
        assert_eq!(Failure::failed("x").status(Mode::Run), 125);
        assert_eq!(Failure::usage("x").status(Mode::Manage), 2);
        assert_eq!(Failure::failed("x").status(Mode::Manage), 1);
    }
}
