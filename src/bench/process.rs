//! A program under measurement: started, watched, ended with all its children.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Spawn, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;
use regex::bytes::Regex;

use super::BenchError;
use crate::command::Command;

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// How long we sleep between two looks.
pub(super) const PAUSE: Duration = Duration::from_micros(150);
/// What is kept of a line in search of a match.
const MAX_LINE: u64 = 64 * 1024;

/// A temporary directory, for status files and archives.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// Makes one in `parent` that only we may use.
    pub(super) fn new(parent: &Path) -> std::io::Result<Self> {
        let dir = nix::unistd::mkdtemp(&parent.join("warmstart-bench.XXXXXX"))?;
        Ok(Self { dir })
    }

    /// Returns the path of a status file, which is not there yet.
    pub(super) fn status_file(&self) -> PathBuf {
        let path = self.dir.join("status.json");
        let _ = std::fs::remove_file(&path);
        path
    }

    /// Returns the path of another file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What is done with the program's output.
#[derive(Debug, Clone)]
pub(super) enum Output {
    /// Thrown away.
    Discard,
    /// Both streams into this file, which is made anew.
    File(PathBuf),
    /// Read until its end, in search of a line that matches.
    Search(Regex),
}

impl Output {
    /// Returns stdout and stderr for a program.
    fn streams(&self) -> std::io::Result<[Stdio; 2]> {
        Ok(match self {
            Self::Discard => [Stdio::null(), Stdio::null()],
            Self::Search(_) => [Stdio::piped(), Stdio::piped()],
            Self::File(path) => {
                let file = File::create(path)?;
                // One description: the streams take turns, not places.
                [file.try_clone()?.into(), file.into()]
            }
        })
    }
}

/// A started program.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    status: Option<ExitStatus>,
    /// When the start was asked for.
    pub(super) started: Instant,
    matched: Option<Receiver<Instant>>,
}

impl Running {
    /// Starts a command: with its environment, without input, in our working
    /// directory, which is the command's.
    pub(super) fn start(command: &Command, output: &Output) -> Result<Self, BenchError> {
        let mut spawn = Spawn::new(command.name());
        spawn.args(&command.argv[1..]).env_clear().stdin(Stdio::null());
        for entry in &command.env {
            if let Some((name, value)) = split_entry(entry) {
                spawn.env(name, value);
            }
        }
        let refused = |source| BenchError::Start {
            name: command.name().to_string_lossy().into_owned(),
            source,
        };
        let [stdout, stderr] = output.streams().map_err(refused)?;
        spawn.stdout(stdout).stderr(stderr);
        let started = Instant::now();
        let mut child = spawn.spawn().map_err(refused)?;
        let matched = match output {
            Output::Discard | Output::File(_) => None,
            Output::Search(regex) => Some(search(&mut child, regex)),
        };
        Ok(Self { child, status: None, started, matched })
    }

    /// Returns the pid of what was started.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Returns when a line of output matched, if one has.
    pub(super) fn matched(&self) -> Option<Instant> {
        self.matched.as_ref().and_then(|matched| matched.try_recv().ok())
    }

    /// Ends the program: SIGTERM, after some time SIGKILL; then whatever of its
    /// children is left over.
    pub(super) fn end(self) {
        self.end_within(GRACE);
    }

    /// The same, with so much time between the two signals.
    pub(super) fn end_within(mut self, grace: Duration) {
        self.end_now(grace);
    }

    fn end_now(&mut self, grace: Duration) {
        if self.ended().is_some() {
            return;
        }
        let family = descendants(self.pid());
        let _ = kill(Pid::from_raw(self.pid() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + grace;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.ended().is_none() {
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
        for relative in &family {
            relative.kill();
        }
        // Their pids and ports must be free before the next run.
        while family.iter().any(Relative::alive) && Instant::now() < deadline + GRACE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_now(GRACE);
    }
}

/// Splits `NAME=value`; what is no such entry cannot be handed on here.
fn split_entry(entry: &std::ffi::OsStr) -> Option<(&std::ffi::OsStr, &std::ffi::OsStr)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = entry.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=').filter(|&at| at > 0)?;
    let part = std::ffi::OsStr::from_bytes;
    Some((part(&bytes[..at]), part(&bytes[at + 1..])))
}

/// Reads both streams to their ends on threads of their own, so that the
/// program never waits for us; tells when the first line matched.
fn search(child: &mut Child, regex: &Regex) -> Receiver<Instant> {
    let (sender, receiver) = channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let (regex, sender) = (regex.clone(), sender.clone());
        std::thread::spawn(move || search_stream(stream, &regex, &sender));
    }
    receiver
}

fn search_stream(stream: impl Read, regex: &Regex, sender: &Sender<Instant>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if regex.is_match(line.strip_suffix(b"\n").unwrap_or(&line)) => break,
            Ok(_) => {}
        }
    }
    let _ = sender.send(Instant::now());
    let _ = std::io::copy(&mut reader, &mut std::io::sink());
}

/// A process that cannot be mistaken for a later one of the same pid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Relative {
    pub(super) pid: i32,
    start: u64,
}

impl Relative {
    fn kill(&self) {
        if self.alive() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Tells whether it runs; a zombie does not.
    fn alive(&self) -> bool {
        Process::new(self.pid)
            .and_then(|process| process.stat())
            .is_ok_and(|stat| stat.starttime == self.start && stat.state != 'Z')
    }
}

/// Returns the descendants of a process, parents before their children.
pub(super) fn descendants(ancestor: u32) -> Vec<Relative> {
    let Ok(processes) = procfs::process::all_processes() else { return Vec::new() };
    let all: Vec<_> = processes.flatten().filter_map(|process| process.stat().ok()).collect();
    let mut found: Vec<Relative> = Vec::new();
    let mut parents = vec![ancestor as i32];
    while let Some(parent) = parents.pop() {
        for stat in all.iter().filter(|stat| stat.ppid == parent) {
            found.push(Relative { pid: stat.pid, start: stat.starttime });
            parents.push(stat.pid);
        }
    }
    found
}

/// Says how a program ended.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// What the launcher wrote about a run, as far as it matters here.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Status {
    pub(super) outcome: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
    /// The program's pid; that of the launcher if it was started in its place.
    #[serde(default)]
    pub(super) app_pid: u32,
    #[serde(default)]
    pub(super) timings_ms: Timings,
}

/// The launcher's own figures, in milliseconds.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize)]
pub(super) struct Timings {
    #[serde(default)]
    pub(super) total: Option<f64>,
}

impl Status {
    /// Reads a status file; `None` as long as there is none.
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_reader(BufReader::new(File::open(path).ok()?)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn entries_are_split_at_the_first_equals_sign() {
        let split = |text: &'static str| split_entry(OsStr::new(text));
        assert_eq!(split("A=b=c"), Some((OsStr::new("A"), OsStr::new("b=c"))));
        assert_eq!(split("A="), Some((OsStr::new("A"), OsStr::new(""))));
        assert_eq!(split("odd"), None);
        assert_eq!(split("=x"), None);
    }

    #[test]
    fn long_lines_are_searched_piecewise() {
        let (sender, receiver) = channel();
        let mut text = vec![b'x'; 200_000];
        text.extend_from_slice(b"\nready\n");
        search_stream(&text[..], &Regex::new("^ready$").unwrap(), &sender);
        assert!(receiver.try_recv().is_ok());
    }

    #[test]
    fn status_files_of_any_age_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(Status::read(&path).is_none());
        std::fs::write(&path, r#"{"outcome":"restored","timings_ms":{"total":1.5},"x":1}"#)
            .unwrap();
        let status = Status::read(&path).unwrap();
        assert_eq!((status.outcome.as_str(), status.timings_ms.total), ("restored", Some(1.5)));
        std::fs::write(&path, r#"{"outcome":"cold","reason":null,"timings_ms":{"total":null}}"#)
            .unwrap();
        assert!(Status::read(&path).unwrap().timings_ms.total.is_none());
    }
}
