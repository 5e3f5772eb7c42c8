//! The second process of a run: it captures a JVM at `main` once the user has
//! had the result of a plain cold start.
//!
//! It is another run of ourselves, in a session of its own, with nothing of
//! the caller's but what the key is made of: no terminal, no pipe of it is
//! kept open, and a shell that waits for the run does not wait for it. It
//! reports by a line of JSON on its stdout, which goes to whoever waits
//! (`--wait`), or nowhere.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Options, spawn};
use crate::cache::Tier;
use crate::command::Command;
use crate::fingerprint::Stream;
use crate::sys::process::{self, Detached, Inherited};

/// What spells a stream, in the order of [`STREAMS`].
const LETTERS: &str = "tpfsdc";
const STREAMS: [Stream; 6] =
    [Stream::Terminal, Stream::Pipe, Stream::File, Stream::Socket, Stream::Device, Stream::Closed];

/// Spells what 0, 1 and 2 of a caller are, as one word of an option.
pub fn streams_word(streams: &[Stream; 3]) -> String {
    let letter = |stream: &Stream| {
        LETTERS.chars().zip(STREAMS).find_map(|(letter, is)| (is == *stream).then_some(letter))
    };
    streams.iter().filter_map(letter).collect()
}

/// Reads what [`streams_word`] has spelt.
pub fn streams_of_word(word: &str) -> Option<[Stream; 3]> {
    let stream = |letter| {
        LETTERS.chars().zip(STREAMS).find_map(|(known, is)| (known == letter).then_some(is))
    };
    let streams: Vec<Stream> = word.chars().map(stream).collect::<Option<_>>()?;
    streams.try_into().ok()
}

/// What came of a capture at main.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The id of the entry, there or not.
    pub entry: Option<String>,
    /// Why there is none, or why it is of a lower tier than was asked for.
    pub reason: Option<String>,
    /// How well it starts, if there is one.
    pub tier: Option<Tier>,
}

/// What a second process is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// A capture.
    Capture,
    /// A capture that the user waits for.
    Awaited,
    /// To compare a restored run with a cold one.
    Verify,
}

/// Starts the second process; what it prints is there to be read if it is
/// awaited.
///
/// # Errors
/// If it cannot be started: there is no capture, then.
pub fn start(
    command: &Command,
    options: &Options,
    streams: &[Stream; 3],
    inherited: &Inherited,
    errand: Errand,
) -> io::Result<Aside> {
    let mut words: Vec<OsString> = vec!["warmstart".into(), "run".into()];
    words.extend(options.words.iter().cloned());
    if let Some(path) = &options.status_file {
        // Not to be written: it is none of the program's files.
        words.extend(["--status-file".into(), path.clone().into_os_string()]);
    }
    // What was `auto` is at main now.
    words.extend(["--at", "main", "--aside"].map(OsString::from));
    words.push(streams_word(streams).into());
    if options.policy == super::Policy::Refresh {
        words.push("--refresh".into());
    }
    if errand == Errand::Verify {
        words.extend(["--verify-every", "1"].map(OsString::from));
    }
    words.push("--".into());
    words.extend(command.argv.iter().cloned());
    let ours = Command { argv: words, ..command.clone() };
    let exec = spawn::prepare_at(Path::new("/proc/self/exe"), &ours)?;
    let (reader, writer) = if errand == Errand::Awaited {
        let (reader, writer) = process::pipe()?;
        (Some(File::from(reader)), Some(writer))
    } else {
        (None, None)
    };
    let stdout = writer.as_ref().map(AsRawFd::as_raw_fd);
    let detached = process::detach(exec, inherited, stdout)?;
    drop::<Option<OwnedFd>>(writer);
    Ok(Aside { reader, detached })
}

/// A second process that runs.
#[derive(Debug)]
pub struct Aside {
    reader: Option<File>,
    detached: Detached,
}

impl Aside {
    /// Waits for its end, shows its lines to `progress`, and returns what it
    /// reported last.
    pub fn wait(self, progress: &mut dyn FnMut(&str)) -> Report {
        let mut report = Report::default();
        let mut pending = Vec::new();
        if let Some(mut reader) = self.reader {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                pending.extend_from_slice(&buffer[..len]);
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line);
                    match serde_json::from_str(&line) {
                        Ok(last) => report = last,
                        Err(_) => progress(line.trim_end()),
                    }
                }
            }
        }
        self.detached.wait();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_spelt_and_read() {
        for stream in STREAMS {
            let streams = [stream, Stream::Terminal, Stream::Closed];
            assert_eq!(streams_of_word(&streams_word(&streams)), Some(streams));
        }
        for wrong in ["", "tt", "tttt", "txt"] {
            assert_eq!(streams_of_word(wrong), None, "{wrong}");
        }
    }
}
