//! Ways of running one program, which must not differ to anybody who looks.
//!
//! A test is a function of a [`Program`]; [`every`] calls it for each mode.
//! Programs are Python scripts. Each begins by waiting for a file, the gate,
//! which is missing while an image of it is made. The gate's name is part of
//! the script: as an argument it would be an input of the fingerprint.
#![allow(dead_code, clippy::unwrap_used)]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How the program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without warmstart: what all others are held against.
    Direct,
    /// Plain, in the launcher's place.
    Plain,
    /// Cold, as a child, which never gets ready.
    Child,
    /// Cold, as a child whose output a probe reads.
    Tapped,
    /// From an entry, with its pids outside.
    Restored,
    /// From an entry, in namespaces of its own, by a user who may do nothing.
    Enclosed,
}

/// All modes.
pub const ALL: [Mode; 6] =
    [Mode::Direct, Mode::Plain, Mode::Child, Mode::Tapped, Mode::Restored, Mode::Enclosed];

/// The uid and gid of an ordinary user: `nobody`.
const NOBODY: u32 = 65534;

/// The time within which everything in a test must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Calls the test for every mode.
pub fn every(test: impl Fn(&Program)) {
    for mode in ALL {
        if let Some(program) = Program::new(mode) {
            eprintln!("-- {mode:?}");
            test(&program);
        }
    }
}

/// A way to run scripts, with a directory and a cache of its own.
pub struct Program {
    pub mode: Mode,
    pub dir: tempfile::TempDir,
    /// What `warmstart` is called through (`setpriv ...`), if anything.
    pub via: Vec<OsString>,
}

impl Program {
    /// Makes one, unless the mode is not to be had here (said on stderr).
    pub fn new(mode: Mode) -> Option<Self> {
        let program = Self { mode, dir: tempfile::tempdir().unwrap(), via: Vec::new() };
        if program.is_somebody_elses() {
            program.give_away();
        }
        let restores = matches!(mode, Mode::Restored | Mode::Enclosed);
        (!restores || program.can_restore()).then_some(program)
    }

    /// Whether an ordinary user runs it: root becomes one.
    fn is_somebody_elses(&self) -> bool {
        self.mode == Mode::Enclosed && nix::unistd::geteuid().is_root()
    }

    /// Gives that user a directory and a binary.
    fn give_away(&self) {
        let dir = self.dir.path();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
        // By another process: what this one has open for writing, a child of
        // another test may have, too.
        let mut install = Command::new("install");
        install.args(["-m", "755", env!("CARGO_BIN_EXE_warmstart")]).arg(self.binary());
        assert!(install.status().unwrap().success());
    }

    fn binary(&self) -> PathBuf {
        self.dir.path().join("warmstart")
    }

    /// What restores in this mode are asked for.
    fn pids(&self) -> &'static str {
        if self.mode == Mode::Enclosed { "namespace" } else { "set-tid" }
    }

    fn can_restore(&self) -> bool {
        let mut probe = self.call(&["--ready", "delay:50"]);
        probe.args(self.script("", &[])).stdin(Stdio::null()).stdout(Stdio::null());
        let primed = self.prime(probe).and_then(|()| match self.mode {
            Mode::Enclosed => {
                std::fs::write(self.gate(), "").unwrap();
                let options = ["--ready", "delay:50", "--require-warm", "--pids", "namespace"];
                let mut probe = self.call(&options);
                probe.args(self.script("", &[])).stdin(Stdio::null()).stdout(Stdio::null());
                match probe.status() {
                    Ok(status) if status.success() => Ok(()),
                    other => Err(format!("{other:?} {}", self.status())),
                }
            }
            _ => Ok(()),
        });
        match primed {
            Ok(()) => true,
            Err(reason) => {
                assert_ne!(
                    std::env::var_os("WARMSTART_TESTS_MUST_RUN").as_deref(),
                    Some("1".as_ref()),
                    "restoring cannot be tested here: {reason}"
                );
                eprintln!("SKIP: restoring cannot be tested here: {reason}");
                false
            }
        }
    }

    /// The file that lets programs go on.
    pub fn gate(&self) -> PathBuf {
        self.dir.path().join("gate")
    }

    fn script(&self, script: &str, args: &[OsString]) -> Vec<OsString> {
        let mut argv: Vec<OsString> = vec!["python3".into(), "-c".into()];
        let gate = self.gate();
        argv.push(
            format!(
                "import os, sys, time, signal\n\
                 while not os.path.exists('{}'):\n\
                 \x20 if not os.path.exists('{}'): sys.exit(99)\n\
                 \x20 time.sleep(0.02)\n{script}",
                gate.display(),
                self.dir.path().display()
            )
            .into(),
        );
        argv.extend(args.iter().cloned());
        argv
    }

    fn call(&self, options: &[&str]) -> Command {
        let mut program: Vec<OsString> = Vec::new();
        if self.is_somebody_elses() {
            let id = NOBODY.to_string();
            let words = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps"];
            program.extend(words.map(Into::into));
            program.extend(["-all".into(), "--".into(), self.binary().into()]);
        } else {
            program.push(env!("CARGO_BIN_EXE_warmstart").into());
        }
        let mut words = self.via.iter().cloned().chain(program);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("WARMSTART_CACHE_DIR", self.dir.path().join("cache"));
        command.arg("--status-file").arg(self.status_file()).args(options);
        command
    }

    /// Where the status is written.
    pub fn status_file(&self) -> PathBuf {
        self.dir.path().join("status")
    }

    /// The status as it is now.
    pub fn status(&self) -> serde_json::Value {
        let text = std::fs::read(self.status_file()).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Returns the command that runs the script with these arguments. Its input is empty and its outputs are pipes, unless
    /// `setup` says otherwise, which is called for the run that is captured,
    /// too: what these are belongs to the fingerprint.
    pub fn command(&self, script: &str, args: &[&str], setup: impl Fn(&mut Command)) -> Command {
        let setup = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            setup(command);
        };
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        let argv = self.script(script, &args);
        let mut command = match self.mode {
            Mode::Direct => {
                let mut command = Command::new(&argv[0]);
                command.args(&argv[1..]);
                command.env("WARMSTART_CACHE_DIR", self.dir.path().join("cache"));
                setup(&mut command);
                std::fs::write(self.gate(), "").unwrap();
                return command;
            }
            Mode::Plain => self.call(&["--no-capture"]),
            Mode::Child => self.call(&["--ready", "file:/nowhere/ready"]),
            Mode::Tapped => self.call(&["--ready", "log:never-said"]),
            Mode::Restored | Mode::Enclosed => {
                let _ = std::fs::remove_file(self.gate());
                let mut first = self.call(&["--ready", "delay:150"]);
                first.arg("--").args(&argv);
                setup(&mut first);
                self.prime(first).unwrap();
                let options = ["--ready", "delay:150", "--require-warm", "--pids", self.pids()];
                self.call(&options)
            }
        };
        command.arg("--").args(&argv);
        setup(&mut command);
        std::fs::write(self.gate(), "").unwrap();
        command
    }

    /// Returns the command of the restored mode with other options; nothing is
    /// captured beforehand.
    pub fn again(&self, script: &str, options: &[&str]) -> Command {
        let mut command = self.call(&["--ready", "delay:150"]);
        command.args(options).arg("--").args(self.script(script, &[]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the command until it is captured, then to its end.
    fn prime(&self, mut command: Command) -> Result<(), String> {
        let _ = std::fs::remove_file(self.status_file());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let end = Instant::now() + PATIENCE;
        let result = loop {
            std::thread::sleep(Duration::from_millis(20));
            if Instant::now() > end {
                break Err("no capture in time".to_owned());
            }
            if child.try_wait().unwrap().is_some() {
                break Err("ended before it was captured".to_owned());
            }
            let Ok(text) = std::fs::read(self.status_file()) else { continue };
            let status: serde_json::Value = serde_json::from_slice(&text).unwrap();
            // Restored: an earlier call has captured the same script.
            if status["outcome"] == "captured" || status["outcome"] == "restored" {
                break Ok(());
            }
            if let Some(reason) = status["reason"].as_str()
                && !reason.contains("no entry")
            {
                break Err(reason.to_owned());
            }
        };
        // By way of the launcher, which collects the program: a zombie would
        // keep its pid taken, and not everywhere does init take care of it.
        send(child.id() as i32, nix::libc::SIGTERM);
        let _ = child.wait();
        result
    }

    /// Returns the pid as we see it of a process of this program, given the pid
    /// that it sees itself.
    pub fn outer(&self, inner: i32) -> i32 {
        if self.mode != Mode::Enclosed {
            return inner;
        }
        let gate = self.gate().into_os_string();
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let wanted = pids.find(|pid| {
            let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}"));
            let status = String::from_utf8_lossy(&read("status").unwrap_or_default()).into_owned();
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let words: Vec<i32> = line
                .into_iter()
                .flat_map(str::split_ascii_whitespace)
                .filter_map(|word| word.parse().ok())
                .collect();
            let command = read("cmdline").unwrap_or_default();
            let is_ours = |gate: &[u8]| command.windows(gate.len()).any(|part| part == gate);
            words.len() > 1 && words.last() == Some(&inner) && is_ours(gate.as_encoded_bytes())
        });
        wanted.unwrap_or_else(|| panic!("nobody sees {inner} as its own pid"))
    }

    /// Runs the script to its end.
    pub fn output(&self, script: &str, args: &[&str]) -> Output {
        self.command(script, args, |_| ()).output().unwrap()
    }

    /// Starts the script with a pipe as its stdout, and waits for its first
    /// line.
    pub fn start(&self, script: &str) -> Running {
        Running::of(&mut self.command(script, &[], |_| ()))
    }
}

/// A program that has said its first line.
pub struct Running {
    pub child: Child,
    pub first: String,
    pub rest: BufReader<std::process::ChildStdout>,
}

impl Running {
    /// Starts the command and waits for its first line.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut rest = BufReader::new(child.stdout.take().unwrap());
        let first = line(&mut rest);
        Self { child, first, rest }
    }

    /// Waits for one more line of what it says.
    pub fn line(&mut self) -> String {
        line(&mut self.rest)
    }

    /// The pid that was started: the launcher's, or the program's own.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal to that pid.
    pub fn signal(&self, signal: i32) {
        send(self.pid(), signal);
    }

    /// Waits for its end; returns its status and what it said since.
    pub fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.rest.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }
}

fn line(said: &mut impl BufRead) -> String {
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Sends a signal.
pub fn send(pid: i32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Waits until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The state letter of a process (`R`, `S`, `T`, ...), if there is one.
pub fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Whether the process is gone, or only waits to be collected.
pub fn is_gone(pid: i32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Exit status as a shell shows it.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// Where a program may be looked for.
pub fn exists(path: &str) -> bool {
    Path::new(path).exists()
}
