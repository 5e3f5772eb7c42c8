//! A small program with one right answer, run again and again through
//! warmstart under conditions that a test makes bad.
//!
//! The program gets ready, waits for a file (the *gate*) and then answers. If
//! the gate is there when it starts it answers at once and never gets ready:
//! such a run is either restored or cold, and never makes a new entry.
#![allow(dead_code, clippy::unwrap_used)]

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The time in which everything in a test must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What the program says.
pub const ANSWER: &str = "answer 42\n";
/// What the program ends with.
pub const STATUS: i32 = 7;

const PYTHON: &str = "
import os, sys, time
home = os.environ['TRIAL_DIR']
gate = os.path.join(home, 'gate')
if not os.path.exists(gate):
    # EARLY
    open(os.path.join(home, 'ready'), 'w').close()
    while not os.path.exists(gate): time.sleep(0.005)
# LATE
print('answer', sum(range(10)) - 3, flush=True)
sys.exit(7)
";

const JAVA: &str = r#"
import java.io.*;
import java.nio.channels.*;
import java.nio.file.*;
public class Answer {
    // FIELDS
    public static void main(String[] args) throws Exception {
        Path dir = Path.of(System.getenv("TRIAL_DIR"));
        Path gate = dir.resolve("gate");
        if (!Files.exists(gate)) {
            // EARLY
            Files.writeString(dir.resolve("ready"), "");
            while (!Files.exists(gate)) Thread.sleep(5);
        }
        // LATE
        int sum = 0;
        for (String word : "1 2 3 36".split(" ")) sum += Integer.parseInt(word);
        System.out.println("answer " + sum);
        System.exit(7);
    }
}
"#;

/// How a run came to its end.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// `restored`, `cold` or `captured`.
    pub outcome: String,
    pub reason: Option<String>,
    pub app_pid: i32,
    pub took: Duration,
}

impl Ended {
    /// Whether the program came from an image.
    pub fn restored(&self) -> bool {
        self.outcome == "restored"
    }

    /// Whether somebody else had a pid of it.
    pub fn met_a_taken_pid(&self) -> bool {
        self.reason.as_deref().is_some_and(|reason| reason.ends_with("is taken"))
    }

    /// Fails unless the answer is right.
    #[track_caller]
    pub fn check(&self, what: &str) {
        let right = self.code == Some(STATUS) && self.stdout == ANSWER;
        assert!(right, "{what}: {self:?}");
        assert!(self.stderr.lines().count() <= 1, "{what}: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{what}: {}", self.stderr);
    }

    /// Fails unless it was restored.
    #[track_caller]
    pub fn check_restored(&self, what: &str) {
        self.check(what);
        assert!(self.restored() && self.stderr.is_empty(), "{what}: {self:?}");
    }

    /// Fails unless it was cold for a reason that has these words, said in one
    /// line.
    #[track_caller]
    pub fn check_cold(&self, what: &str, words: &str) {
        self.check(what);
        assert!(!self.restored(), "{what}: {self:?}");
        let said = self.stderr.starts_with("warmstart: started cold: ");
        assert!(said && self.stderr.contains(words), "{what}: {self:?}");
    }
}

/// One program, one cache.
pub struct Trial {
    pub dir: TempDir,
    pub cache: PathBuf,
    pub argv: Vec<String>,
    pub options: Vec<String>,
    /// What `warmstart` is called through (`sh -c ...`), if anything.
    pub via: Vec<String>,
    /// The launcher.
    binary: PathBuf,
    /// Whether the program's input is a pipe, from the test; empty otherwise.
    pub is_asked: bool,
    /// The pid of the last captured program.
    captured: Cell<i32>,
}

impl Trial {
    /// Makes one with any command line.
    pub fn new(argv: Vec<String>) -> Self {
        let dir = tempfile::Builder::new().prefix("warmstart-trial-").tempdir().unwrap();
        let ready = format!("file:{}", dir.path().join("ready").display());
        let options = vec!["--ready".to_owned(), ready];
        Self {
            cache: dir.path().join("cache"),
            dir,
            argv,
            options,
            via: Vec::new(),
            binary: crate::support::binary(),
            is_asked: false,
            captured: Cell::new(0),
        }
    }

    /// Makes one with the Python program; `early` runs in a run that gets
    /// ready, `late` behind the gate.
    pub fn python(early: &str, late: &str) -> Self {
        let indented = early.replace('\n', "\n    ");
        let script = PYTHON.replace("# EARLY", &indented).replace("# LATE", late);
        let mut trial = Self::new(Vec::new());
        let path = trial.dir.path().join("answer.py");
        fs::write(&path, script).unwrap();
        let python = ["/usr/bin/python3", "-S", path.to_str().unwrap()];
        trial.argv = python.map(str::to_owned).into();
        trial
    }

    /// Makes one with the Java program.
    pub fn java(jdk: &crate::support::Jdk, fields: &str, early: &str, late: &str) -> Option<Self> {
        let source =
            JAVA.replace("// FIELDS", fields).replace("// EARLY", early).replace("// LATE", late);
        let mut trial = Self::new(Vec::new());
        let path = trial.dir.path().join("Answer.java");
        fs::write(&path, source).unwrap();
        let javac = Command::new(crate::support::javac()?)
            .args(["--release", "11", "-d"])
            .arg(trial.path("classes"))
            .arg(&path)
            .output()
            .unwrap();
        assert!(javac.status.success(), "{}", String::from_utf8_lossy(&javac.stderr));
        let classes = trial.path("classes");
        let dir = classes.to_str().unwrap();
        let java = jdk.java();
        let words = [java.to_str().unwrap(), "-XX:+UseSerialGC", "-Xmx64m", "-cp", dir, "Answer"];
        trial.argv = words.map(str::to_owned).into();
        Some(trial)
    }

    /// Lets another user run it, in a directory that is theirs.
    pub fn run_by(mut self, user: &crate::support::Ordinary) -> Self {
        let nobody = crate::support::NOBODY;
        let own = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.dir.path(), own).unwrap();
        std::os::unix::fs::chown(self.dir.path(), Some(nobody), Some(nobody)).unwrap();
        let words = user.command(user.binary());
        self.binary = user.binary();
        let words = std::iter::once(words.get_program()).chain(words.get_args());
        self.via = words.map(|word| word.to_str().unwrap().to_owned()).collect();
        self.via.pop();
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn open_gate(&self) {
        fs::write(self.path("gate"), "").unwrap();
    }

    pub fn close_gate(&self) {
        let _ = fs::remove_file(self.path("gate"));
        let _ = fs::remove_file(self.path("ready"));
    }

    /// Prepares a run with further options.
    pub fn command(&self, options: &[&str]) -> Command {
        self.command_with("status", options)
    }

    /// The same with a status file of this name.
    pub fn command_with(&self, status: &str, options: &[&str]) -> Command {
        let _ = fs::remove_file(self.path(status));
        let binary = &self.binary;
        let mut command = match &self.via[..] {
            [] => Command::new(binary),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(binary);
                command
            }
        };
        command
            // No second process that captures it at main beside a test.
            .args(["--at", "ready", "--status-file"])
            .arg(self.path(status))
            .args(&self.options)
            .args(options)
            .arg("--")
            .args(&self.argv)
            .env("WARMSTART_CACHE_DIR", &self.cache)
            .env("TRIAL_DIR", self.dir.path())
            // What our engine refuses nobody else is to carry.
            .env("WARMSTART_CRIU", "/nonexistent")
            .stdin(if self.is_asked { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The status file, if there is one.
    pub fn status(&self) -> Option<serde_json::Value> {
        self.status_in("status")
    }

    /// What is in a status file of this name.
    pub fn status_in(&self, name: &str) -> Option<serde_json::Value> {
        serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()
    }

    /// Starts a run that gets ready and waits, until it is captured or the
    /// reason is there why not.
    pub fn start(&self, options: &[&str]) -> Waiting {
        self.close_gate();
        let child = self.command(options).spawn().unwrap();
        let waiting = Waiting { child, gate: self.path("gate") };
        let end = Instant::now() + PATIENCE;
        // Why it was started cold; another reason is one not to capture it.
        let mut cold = None;
        loop {
            let status = self.status().unwrap_or_default();
            let reason = status["reason"].as_str().map(str::to_owned);
            match status["outcome"].as_str() {
                Some("captured" | "restored") => return waiting,
                Some(_) if *cold.get_or_insert_with(|| reason.clone()) != reason => return waiting,
                _ => {}
            }
            assert!(Instant::now() < end, "neither captured nor refused: {status}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Captures the program and kills it; an error is why that is not to be.
    pub fn capture(&self) -> Result<(), String> {
        let waiting = self.start(&["--refresh"]);
        let status = self.status().unwrap_or_default();
        let pid = status["app_pid"].as_i64().unwrap_or(0) as i32;
        self.captured.set(pid);
        waiting.end_program(pid);
        self.open_gate();
        match status["outcome"].as_str() {
            Some("captured") => Ok(()),
            _ => Err(status["reason"].to_string()),
        }
    }

    /// Runs with the gate open, to the end.
    pub fn run(&self) -> Ended {
        self.open_gate();
        self.end(self.command(&[]))
    }

    /// Runs a command to its end, which must come in time.
    pub fn end(&self, mut command: Command) -> Ended {
        // Made before, or one of these threads might have the pid that the restore
        // wants, and keep it.
        let outputs = [reader(), reader()];
        let began = Instant::now();
        let mut child = command.spawn().unwrap();
        outputs[0].read(child.stdout.take());
        outputs[1].read(child.stderr.take());
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the run hangs: {:?} {}", self.status(), self.dir.path().display());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let told = self.status().unwrap_or_default();
        let [stdout, stderr] = outputs.map(Reader::text);
        Ended {
            code: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
            outcome: told["outcome"].as_str().unwrap_or("none").to_owned(),
            reason: told["reason"].as_str().map(str::to_owned),
            app_pid: told["app_pid"].as_i64().unwrap_or(0) as i32,
            took: began.elapsed(),
        }
    }

    /// Runs until it is restored: a pid may be taken by somebody else for a
    /// moment.
    #[track_caller]
    pub fn run_restored(&self, what: &str) -> Ended {
        for _ in 0..20 {
            let ended = self.run();
            if ended.met_a_taken_pid() {
                ended.check(what);
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            ended.check_restored(what);
            return ended;
        }
        let pid = self.status().unwrap_or_default()["reason"].to_string();
        let pid: String = pid.chars().filter(char::is_ascii_digit).collect();
        let holder = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        panic!("{what}: its pid stays taken by {holder}");
    }

    /// The directory of the only entry.
    pub fn entry(&self) -> PathBuf {
        let entries = fs::read_dir(self.cache.join("v1/entries")).unwrap();
        let entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.into_iter().next().unwrap()
    }

    /// What is in the cache's place for unfinished things.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache.join("v1/tmp")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Processes of this trial: those that have its directory in their
    /// environment.
    pub fn processes(&self) -> Vec<i32> {
        let marker = format!("TRIAL_DIR={}", self.dir.path().display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|entry| entry == marker.as_bytes())
        })
        .collect()
    }

    /// Fails if a process of this trial is left after some time.
    #[track_caller]
    pub fn check_nothing_left(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            if !self.reap() && self.processes().is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left: {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Makes this process the parent of orphans. Not every first process of a
/// container takes theirs away at once, and a zombie's pid is taken.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

impl Trial {
    /// Takes away the programs of killed launchers, which are our children
    /// now; tells whether there are more to come.
    fn reap(&self) -> bool {
        // Else they are no orphans, but what tests have started themselves: a
        // launcher that had nothing to restore or to capture is the program.
        if nix::sys::prctl::get_child_subreaper() != Ok(true) {
            return false;
        }
        let own = std::process::id().to_string();
        let is_ours = |pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let Some((head, tail)) = stat.rsplit_once(") ") else { return false };
            let name = head.split_once('(').map_or("", |(_, name)| name);
            // A launcher that has got the pid since is another test's to wait for.
            let has_its_pid = pid == self.captured.get() && name != "warmstart";
            let program = ["python3", "java"].contains(&name) || has_its_pid;
            // In a namespace a zombie is one whom the init there waits for.
            let status = PathBuf::from(format!("/proc/{pid}/status"));
            let pids = crate::support::enclosed::line(&status, "NSpid").unwrap_or_default();
            let program = program || pids.len() > 1;
            program && tail.split(' ').nth(1) == Some(&own)
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut more = false;
        for pid in pids.filter(|pid| is_ours(*pid)) {
            let flags = nix::sys::wait::WaitPidFlag::WNOHANG;
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), Some(flags));
            more = true;
        }
        more
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // A failed test must not leave programs that wait for ever.
        if std::thread::panicking() {
            self.open_gate();
            for pid in self.processes() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}

/// A run whose program waits at the gate.
pub struct Waiting {
    pub child: Child,
    gate: PathBuf,
}

impl Waiting {
    /// Kills the launcher, and with it the program.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills the program; the launcher, which is its parent, sees that its pid
    /// is free again.
    pub fn end_program(mut self, pid: i32) {
        let signal = nix::sys::signal::Signal::SIGKILL;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        self.child.wait().unwrap();
    }

    /// Lets the program answer.
    pub fn finish(mut self) -> (Option<i32>, String, String) {
        fs::write(&self.gate, "").unwrap();
        let [stdout, stderr] = [reader(), reader()];
        stdout.read(self.child.stdout.take());
        stderr.read(self.child.stderr.take());
        let status = self.child.wait().unwrap();
        (status.code(), stdout.text(), stderr.text())
    }
}

/// A thread that reads a pipe to its end, once it is told which.
struct Reader {
    pipe: Sender<Box<dyn Read + Send>>,
    thread: JoinHandle<String>,
}

fn reader() -> Reader {
    let (pipe, given) = channel::<Box<dyn Read + Send>>();
    let thread = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Ok(mut pipe) = given.recv() {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    });
    Reader { pipe, thread }
}

impl Reader {
    fn read(&self, pipe: Option<impl Read + Send + 'static>) {
        if let Some(pipe) = pipe {
            self.pipe.send(Box::new(pipe)).unwrap();
        }
    }

    /// What there was, to the end; nothing, if there was no pipe.
    fn text(self) -> String {
        drop(self.pipe);
        self.thread.join().unwrap()
    }
}

/// How often something is repeated: `WARMSTART_REPEAT`, or a modest number.
pub fn repeat(modest: u32) -> u32 {
    let asked = std::env::var("WARMSTART_REPEAT").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(modest)
}

/// Whether images can be restored here; an error says what is missing.
pub fn can_restore() -> Result<(), String> {
    if !Path::new("/usr/bin/python3").exists() {
        return Err("there is no python3".into());
    }
    let trial = Trial::python("pass", "pass");
    trial.capture()?;
    let ended = trial.run();
    if ended.restored() { Ok(()) } else { Err(ended.reason.unwrap_or_default()) }
}

/// Pseudo-random numbers whose seed is printed, so that a failure can be had
/// again (`WARMSTART_SEED`).
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let given = std::env::var("WARMSTART_SEED").ok().and_then(|text| text.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = given.unwrap_or(now.as_nanos() as u64);
        eprintln!("WARMSTART_SEED={seed}");
        Self(seed | 1)
    }

    /// xorshift64*.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// One of these.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// Whether a program is installed.
pub fn installed(program: impl AsRef<OsStr>) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}
