//! Whether a program does in its fourth run what it does in its first.
//!
//! Evidence, not proof: a program that keeps state and does not show it in
//! what it prints, nor in the files of a scratch directory, is not found out.

use std::ffi::OsString;

use super::scratch::TreeDigest;
use super::session::Ran;

/// How much of a line of arguments is shown, in characters.
const LEN_SHOWN_MAX: usize = 60;

/// A cold run that others are compared with.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What came of it.
    pub ran: Ran,
    /// What it left in the scratch directory, if there is one.
    pub files: Option<TreeDigest>,
}

impl Reference {
    /// Says what another run did otherwise; `None` if nothing.
    pub fn difference(&self, ran: &Ran, files: Option<&TreeDigest>) -> Option<String> {
        let line = shown(&self.arguments);
        if ran.status != self.ran.status {
            let (was, is) = (self.ran.status, ran.status);
            return Some(format!("of `{line}` ended with status {is}, a cold run with {was}"));
        }
        if let Some(stream) = self.ran.printed.difference(&ran.printed) {
            return Some(format!("of `{line}` printed other text than a cold run ({stream})"));
        }
        match (&self.files, files) {
            (Some(was), Some(is)) => was
                .difference(is)
                .map(|path| format!("of `{line}` left another {path} than a cold run")),
            _ => None,
        }
    }
}

/// Returns a line of arguments for people.
pub fn shown(arguments: &[OsString]) -> String {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    let line: String =
        words.join(" ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(LEN_SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::streams::Printed;
    use super::*;

    fn ran(status: i32, out: &str, err: &str) -> Ran {
        let streams = [out.into(), err.into()];
        Ran { status, printed: Printed { streams, terminal: Vec::new() } }
    }

    #[test]
    fn a_difference_is_named() {
        let arguments = vec!["-o".into(), "a\nb".into()];
        let reference = Reference { arguments, ran: ran(0, "x", "y"), files: None };
        let difference = |ran: &Ran| reference.difference(ran, None);
        assert_eq!(difference(&ran(0, "x", "y")), None);
        assert!(difference(&ran(1, "x", "y")).unwrap().contains("`-o a b` ended with status 1"));
        assert!(difference(&ran(0, "2", "y")).unwrap().ends_with("(stdout)"));
        assert!(difference(&ran(0, "x", "2")).unwrap().ends_with("(stderr)"));
    }
}
