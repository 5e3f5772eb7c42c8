//! `log:REGEX`: the program has said that it is ready.

use std::time::{Duration, Instant};

use regex::bytes::Regex;

/// Which of the program's streams some output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Its standard output, or a terminal that takes both.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// A longer line is looked at in pieces.
const MAX_LINE: usize = 64 * 1024;
/// What two pieces have in common, so that a match is not cut in two.
const OVERLAP: usize = MAX_LINE / 2;
/// A line that has no end by then is taken as it is: a prompt.
const UNFINISHED: Duration = Duration::from_millis(100);

/// The state of one `log` probe.
#[derive(Debug)]
pub(super) struct Log {
    regex: Regex,
    matched: bool,
    stdout: Line,
    stderr: Line,
}

impl Log {
    pub(super) fn new(regex: Regex) -> Self {
        Self { regex, matched: false, stdout: Line::default(), stderr: Line::default() }
    }

    /// Takes what the program wrote; lines may be cut anywhere.
    pub(super) fn output(&mut self, source: Source, bytes: &[u8], now: Instant) {
        if self.matched {
            return;
        }
        let line = match source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
        };
        self.matched = line.add(bytes, &self.regex, now);
    }

    /// Tells whether a line has matched.
    pub(super) fn holds(&mut self, now: Instant) -> bool {
        self.matched = self.matched
            || self.stdout.prompt(&self.regex, now)
            || self.stderr.prompt(&self.regex, now);
        self.matched
    }
}

/// The line that a stream is in the middle of.
#[derive(Debug, Default)]
struct Line {
    text: Vec<u8>,
    /// Where to look from; what is before it is there as context, so that `^`
    /// does not match in the middle of a long line.
    from: usize,
    /// When it last grew, unless it has been looked at since.
    grown: Option<Instant>,
}

impl Line {
    /// Adds output and tells whether a line in it matches.
    fn add(&mut self, mut bytes: &[u8], regex: &Regex, now: Instant) -> bool {
        loop {
            let end = bytes.iter().position(|&b| b == b'\n');
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.fill(piece, regex) {
                return true;
            }
            let Some(end) = end else { break };
            if self.text.last() == Some(&b'\r') {
                self.text.pop();
            }
            if self.matches(regex) {
                return true;
            }
            self.text.clear();
            self.from = 0;
            bytes = &bytes[end + 1..];
        }
        self.grown = (!self.text.is_empty()).then_some(now);
        false
    }

    /// Adds a piece without a line end; a line that becomes too long is looked
    /// at and cut.
    fn fill(&mut self, mut piece: &[u8], regex: &Regex) -> bool {
        while self.text.len() + piece.len() > MAX_LINE {
            let (now, later) = piece.split_at(MAX_LINE - self.text.len());
            self.text.extend_from_slice(now);
            if self.matches(regex) {
                return true;
            }
            self.text.drain(..self.text.len() - OVERLAP);
            self.from = 1;
            piece = later;
        }
        self.text.extend_from_slice(piece);
        false
    }

    /// Tells whether a line matches that has had no end for a while.
    fn prompt(&mut self, regex: &Regex, now: Instant) -> bool {
        match self.grown {
            Some(grown) if now.saturating_duration_since(grown) >= UNFINISHED => {
                self.grown = None;
                self.matches(regex)
            }
            _ => false,
        }
    }

    fn matches(&self, regex: &Regex) -> bool {
        self.from <= self.text.len() && regex.is_match_at(&self.text, self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(regex: &str) -> Log {
        Log::new(Regex::new(regex).unwrap())
    }

    #[test]
    fn lines_may_be_cut_anywhere() {
        let text = b"booting\r\nServer started on 8080\r\nmore";
        for cut in 0..text.len() {
            let now = Instant::now();
            let mut log = log("^Server started on [0-9]+$");
            log.output(Source::Stdout, &text[..cut], now);
            log.output(Source::Stdout, &text[cut..], now);
            assert!(log.holds(now), "{cut}");
        }
    }

    #[test]
    fn streams_are_not_mixed_and_lines_are_not_joined() {
        let now = Instant::now();
        let mut log = log("star.*ted");
        log.output(Source::Stdout, b"star", now);
        log.output(Source::Stderr, b"ted\nstar\n", now);
        assert!(!log.holds(now));
        log.output(Source::Stdout, b"ted\n", now);
        assert!(log.holds(now));
    }

    #[test]
    fn a_prompt_counts_after_a_while() {
        let now = Instant::now();
        let mut log = log("^ready> $");
        log.output(Source::Stdout, b"hello\nready> ", now);
        assert!(!log.holds(now));
        assert!(log.holds(now + UNFINISHED));
    }

    #[test]
    fn an_unfinished_line_does_not_count_early() {
        let now = Instant::now();
        let mut log = log("^start$");
        log.output(Source::Stdout, b"start", now);
        assert!(!log.holds(now));
        log.output(Source::Stdout, b" failed\n", now + UNFINISHED / 2);
        assert!(!log.holds(now + 9 * UNFINISHED));
    }

    #[test]
    fn long_lines_are_bounded_and_still_searched() {
        let now = Instant::now();
        let mut log = log("needle");
        for _ in 0..100 {
            log.output(Source::Stdout, &[b'x'; 10_000], now);
            assert!(log.stdout.text.len() <= MAX_LINE);
        }
        // Over the seam of two pieces, at every position.
        for at in MAX_LINE - 10..MAX_LINE + 10 {
            let mut log = self::log("needle");
            let mut text = vec![b'x'; at];
            text.extend_from_slice(b"needle");
            text.extend_from_slice(&[b'y'; MAX_LINE]);
            text.push(b'\n');
            log.output(Source::Stdout, &text, now);
            assert!(log.holds(now), "{at}");
        }
        let mut log = self::log("^needle");
        let mut text = vec![b'x'; MAX_LINE - OVERLAP];
        text.extend_from_slice(b"needle");
        text.extend_from_slice(&[b'y'; MAX_LINE]);
        text.push(b'\n');
        log.output(Source::Stdout, &text, now);
        assert!(!log.holds(now), "the middle of a line is not its start");
    }

    #[test]
    fn output_need_not_be_utf8() {
        let now = Instant::now();
        let mut log = log("ready");
        log.output(Source::Stderr, b"\xff\xfe ready \xff\n", now);
        assert!(log.holds(now));
    }
}
