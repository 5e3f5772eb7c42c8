//! A JVM of ours with the agent in it: started, given orders, ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::streams::{Printed, Streams};
use crate::command::Command;
use crate::fingerprint::{JvmLine, Stream};
use crate::jvm::Tool;
use crate::jvm::agent::{self, End, FrameReader, How, MainReached, Order, Report};
use crate::launcher::delivery::AGENT_FD;
use crate::launcher::spawn;
use crate::pids::placing::Placed;
use crate::snapshot::{FileId, StdioOrigin};
use crate::sys::descriptors;
use crate::sys::process::{self, Change, Inherited};

/// How long a JVM gets until it calls `main`.
const START: Duration = Duration::from_secs(30);

/// A JVM that is held before `main`.
#[derive(Debug)]
pub struct Session {
    program: Program,
    socket: UnixStream,
    /// The descriptor that it has of us.
    given: FileId,
    frames: FrameReader,
    /// How it calls `main`.
    pub main: MainReached,
    /// When it was started.
    pub started: SystemTime,
    /// Puts the pid cursor back when its threads are all there.
    _placed: Option<Placed>,
}

/// A program with streams of ours; killed when dropped.
#[derive(Debug)]
struct Program {
    pid: i32,
    streams: Streams,
    ended: bool,
}

/// What a run of a program came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status, or 128 and the signal's number.
    pub status: i32,
    /// What it printed.
    pub printed: Printed,
}

/// How programs are started here.
#[derive(Debug, Clone)]
pub struct Setting<'a> {
    /// What 0, 1 and 2 are to be like.
    pub streams: [Stream; 3],
    /// Signals as the caller had them.
    pub inherited: Inherited,
    /// The beginning of the entry's id, if pids may be chosen.
    pub mark: Option<[u8; 8]>,
    /// How long one run may take.
    pub patience: Duration,
    /// The agent's file.
    pub agent: &'a Path,
}

impl Program {
    fn start(
        command: &Command,
        program: Option<&Path>,
        setting: &Setting<'_>,
        streams: Streams,
    ) -> Result<(Self, Option<Placed>), String> {
        let exec = match program {
            Some(path) => spawn::prepare_at(path, command),
            None => spawn::prepare(command),
        };
        let exec = exec.map_err(|error| error.to_string())?;
        let inherited = Inherited { closed_stdio: streams.closed(), ..setting.inherited };
        let stdio = streams.descriptors();
        std::env::set_current_dir(&command.cwd)
            .map_err(|error| format!("{}: {error}", command.cwd.display()))?;
        let (pid, placed) = spawn::placed(exec, &inherited, setting.mark, stdio)
            .map_err(|error| error.to_string())?;
        Ok((Self { pid, streams, ended: false }, placed))
    }

    /// Waits until something may have happened.
    fn sleep(&mut self, socket: Option<&UnixStream>, pause: Duration) {
        let mut fds = Vec::new();
        fds.extend(socket.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.streams.terminal().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let ms = u16::try_from(pause.as_millis().max(1)).unwrap_or(u16::MAX);
        // Interrupted or not: the caller looks.
        let _ = poll(&mut fds, PollTimeout::from(ms));
        self.streams.pump();
    }

    /// Takes its status, if it has ended.
    fn status(&mut self) -> Option<i32> {
        let status = match process::changed(self.pid) {
            Ok(Some(Change::Exited(status))) => status,
            Ok(Some(Change::Killed(signal))) => 128 + signal,
            Ok(_) => return None,
            Err(_) => -1,
        };
        self.ended = true;
        Some(status)
    }

    fn kill(&mut self) {
        if !self.ended {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            while self.status().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end.
///
/// # Errors
/// One line, if it cannot be started or takes too long.
pub fn run(
    command: &Command,
    program: Option<&Path>,
    setting: &Setting<'_>,
) -> Result<Ran, String> {
    let mut streams = streams(setting)?;
    streams.begin().map_err(|error| error.to_string())?;
    let setting = Setting { mark: None, ..setting.clone() };
    let (mut running, _) = Program::start(command, program, &setting, streams)?;
    let end = Instant::now() + setting.patience;
    // Short at first: many a tool is done in milliseconds.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = running.status() {
            let printed = running.streams.take().map_err(|error| error.to_string())?;
            return Ok(Ran { status, printed });
        }
        if Instant::now() > end {
            return Err(format!("it did not end within {:?}", setting.patience));
        }
        running.sleep(None, pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn streams(setting: &Setting<'_>) -> Result<Streams, String> {
    Streams::new(setting.streams).map_err(|error| format!("standard descriptors: {error}"))
}

/// Returns the arguments of a JVM with the agent in it, and none for the
/// program.
fn with_agent(line: &JvmLine, agent: &Path) -> Vec<OsString> {
    let mut option = OsString::from(match line.tool {
        Tool::Java => "-agentpath:",
        Tool::Other => "-J-agentpath:",
    });
    option.push(agent);
    option.push(format!("={AGENT_FD}"));
    let mut argv = line.jvm.clone();
    argv.insert(argv.len().min(1), option);
    argv
}

impl Session {
    /// Starts a JVM and waits until it calls `main`.
    ///
    /// # Errors
    /// One line: why there is none.
    pub fn start(whole: &Command, line: &JvmLine, setting: &Setting<'_>) -> Result<Self, String> {
        let (ours, its) = UnixStream::pair().map_err(|error| error.to_string())?;
        let given = FileId::of(&its).map_err(|error| error.to_string())?;
        let argv = with_agent(line, setting.agent);
        let command = Command { argv, env: whole.env.clone(), cwd: whole.cwd.clone() };
        let lent = descriptors::Lent::new(its.as_fd(), AGENT_FD)
            .map_err(|error| format!("descriptor {AGENT_FD}: {error}"))?;
        let started = SystemTime::now();
        let (program, placed) =
            Program::start(&command, Some(&line.program), setting, streams(setting)?)?;
        drop(lent);
        drop::<OwnedFd>(its.into());
        let main =
            MainReached { arguments: Vec::new(), class: OsString::new(), command: OsString::new() };
        let frames = FrameReader::default();
        let mut session =
            Self { program, socket: ours, given, frames, main, started, _placed: placed };
        session.greet()?;
        Ok(session)
    }

    fn greet(&mut self) -> Result<(), String> {
        let end = Instant::now() + START;
        match self.report(end).map_err(|error| self.never(&error))? {
            Report::Hello { protocol: agent::PROTOCOL, .. } => {}
            Report::Hello { protocol, .. } => {
                return Err(format!("the agent speaks version {protocol}"));
            }
            Report::Unfit(reason) => return Err(reason),
            other => return Err(format!("the agent began with {other:?}")),
        }
        match self.report(end).map_err(|error| self.never(&error))? {
            Report::Main(main) => self.main = main,
            Report::Unfit(reason) => return Err(reason),
            other => return Err(format!("the agent went on with {other:?}")),
        }
        Ok(())
    }

    /// Says why `main` was not called.
    fn never(&mut self, error: &str) -> String {
        let printed = self.printed().unwrap_or_default();
        let line = [&printed.streams[1], &printed.streams[0], &printed.terminal]
            .into_iter()
            .find_map(|text| {
                let text = String::from_utf8_lossy(text);
                text.lines().find(|line| !line.trim().is_empty()).map(str::to_owned)
            });
        match line {
            Some(line) => format!("the JVM did not come to call main ({error}): {line}"),
            None => format!("the JVM did not come to call main ({error})"),
        }
    }

    /// Takes the next report.
    fn report(&mut self, end: Instant) -> Result<Report, String> {
        let mut buffer = [0; 65536];
        loop {
            if let Some(body) = self.frames.next().map_err(|error| error.to_string())? {
                return Report::decode(&body).map_err(|error| error.to_string());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("it takes too long".into());
            }
            self.program.sleep(Some(&self.socket), left.min(Duration::from_secs(1)));
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..)) {
                continue;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(self.ended()),
                Ok(len) => self.frames.feed(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(self.ended()),
            }
        }
    }

    /// Says how the JVM ended, which has closed its socket.
    fn ended(&mut self) -> String {
        for _ in 0..500 {
            if let Some(status) = self.program.status() {
                return format!("it ended with status {status}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        "it closed the agent's descriptor".into()
    }

    /// Gives an order and waits for what comes of it.
    ///
    /// # Errors
    /// One line, if the JVM ends or takes too long.
    pub fn order(&mut self, order: &Order, patience: Duration) -> Result<Report, String> {
        let end = Instant::now() + patience;
        let message = agent::encode(order);
        // It waits for orders and reads them at once.
        self.socket.write_all(&message).map_err(|_| self.ended())?;
        self.report(end)
    }

    /// Runs `main` once as training.
    ///
    /// # Errors
    /// One line, if the JVM must not be captured any more.
    pub fn train(&mut self, order: &Order, patience: Duration) -> Result<Ran, String> {
        self.program.streams.begin().map_err(|error| error.to_string())?;
        match self.order(order, patience)? {
            Report::End(End { how: How::Refused, reason, .. }) => Err(reason),
            Report::End(End { code, .. }) => {
                let printed = self.printed()?;
                Ok(Ran { status: code & 0xff, printed })
            }
            other => Err(format!("the agent answered {other:?}")),
        }
    }

    /// Takes what was printed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn printed(&mut self) -> Result<Printed, String> {
        self.program.streams.take().map_err(|error| error.to_string())
    }

    /// Returns the descriptors above 2 through which it may write to files, and
    /// where these are.
    pub fn writes(&self) -> Vec<(RawFd, PathBuf)> {
        let proc = PathBuf::from(format!("/proc/{}", self.program.pid));
        let entries = std::fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
        let mut found: Vec<(RawFd, PathBuf)> = entries
            .filter_map(|entry| {
                let fd: RawFd = entry.file_name().to_str()?.parse().ok()?;
                let is_file = std::fs::metadata(entry.path()).is_ok_and(|file| file.is_file());
                let info = std::fs::read_to_string(proc.join(format!("fdinfo/{fd}"))).ok()?;
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
                let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
                let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
                let path = std::fs::read_link(entry.path()).ok()?;
                // In memory: the agent's copies of 1 and 2, for one.
                let is_named = !path.as_os_str().as_bytes().starts_with(b"/memfd:");
                (fd > 2 && is_file && is_named && writes).then_some((fd, path))
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// Returns the JVM's pid.
    pub fn pid(&self) -> i32 {
        self.program.pid
    }

    /// Returns what it has of us above 2.
    pub fn given(&self) -> FileId {
        self.given
    }

    /// Says what it was given as 0, 1 and 2.
    pub fn origins(&self) -> [StdioOrigin; 3] {
        self.program.streams.descriptors().map(|fd| match fd.map(FileId::numbered) {
            Some(Ok(id)) => StdioOrigin::Given { id, nonblocking: false },
            Some(Err(_)) | None => StdioOrigin::Closed,
        })
    }
}

/// Ends whatever programs of ours have left behind: they were made children of
/// ours.
pub fn end_leftovers() {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    // What a child leaves when it is killed comes up the next time.
    for _ in 0..100 {
        let mut children = String::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_string(&mut children));
        let pids: Vec<i32> =
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if read.is_err() || pids.is_empty() {
            return;
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            while matches!(process::changed(pid), Ok(None)) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Tells whether a JVM's own words before `main` are the same in each start.
pub fn is_steady(printed: &Printed) -> bool {
    let steady =
        |line: &str| ["Picked up ", "NOTE: Picked up "].iter().any(|start| line.starts_with(start));
    let texts = printed.streams.iter().chain([&printed.terminal]);
    texts.into_iter().all(|text| String::from_utf8_lossy(text).lines().all(steady))
}
