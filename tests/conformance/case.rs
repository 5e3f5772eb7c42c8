//! One case, started, dumped, restored, and asked how it is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::coverage::Cell;
use super::support;
use super::support::target::{alone, tool};

/// Whatever takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a program says last when all was as it should be.
const WELL: &str = "all is well\n";
/// How it ends when its feature is not to be had on this machine.
const NOT_HERE: i32 = 3;

/// A small program that checks one feature.
#[derive(Debug)]
pub struct Case {
    program: PathBuf,
    /// A word.
    pub name: String,
    /// What it checks, for people.
    pub title: String,
    /// It compares itself with its caller: only a run knows that, not
    /// `image dump`.
    pub launched: bool,
    /// It relies on zeros after `MADV_DONTNEED`, as programs do that never get
    /// mapped pages.
    pub only_copied: bool,
}

impl Case {
    /// Reads a line of what a program lists.
    pub fn parse(program: &Path, line: &str) -> Self {
        let mut fields = line.split('\t');
        let mut field = || fields.next().unwrap_or_else(|| panic!("`{line}` has three fields"));
        let (name, how, title) = (field().to_owned(), field(), field().to_owned());
        Self {
            program: program.into(),
            name,
            title,
            launched: how.contains('L'),
            only_copied: how.contains('C'),
        }
    }
}

/// Finds CRIU.
pub fn criu() -> Option<PathBuf> {
    tool("WARMSTART_CRIU", "criu/usr/sbin/criu")
}

/// How a step of a case went wrong, as the cell that it makes.
pub type Step<T> = Result<T, Cell>;

/// A case in a directory of its own.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The case.
    pub case: &'a Case,
    dir: PathBuf,
}

impl Drop for Bench<'_> {
    /// Removes what would stay for ever.
    fn drop(&mut self) {
        if let Ok(set) = fs::read_to_string(self.path("semaphores")) {
            let _ = Command::new("ipcrm").args(["-s", &set]).stderr(Stdio::null()).status();
        }
    }
}

impl<'a> Bench<'a> {
    /// Makes the directory.
    pub fn new(case: &'a Case, dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self { case, dir: dir.into() }
    }

    /// Returns the path of something in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Lets the program look.
    pub fn go(&self) {
        fs::write(self.path("go"), "").unwrap();
    }

    /// Prepares the program, or a launcher that starts it.
    pub fn command(&self, launcher: &[&str], words: &[&str]) -> Command {
        let program = launcher.first().map_or_else(|| self.case.program.clone(), PathBuf::from);
        let mut command = alone(program);
        if !launcher.is_empty() {
            command.args(&launcher[1..]).arg(&self.case.program);
        }
        // A directory among the arguments of a run is an input, and the program
        // writes into this one.
        command.arg("-").args(words).env("CASE", &self.case.name).env("CASE_DIR", &self.dir);
        command
    }

    /// Runs it without a restore in between.
    pub fn without_restore(&self) -> Cell {
        let run = || {
            let mut running = self.start(self.command(&[], &[]), "out")?;
            self.wait_until_ready(&mut running)?;
            self.go();
            self.end(&mut running)
        };
        match run() {
            Ok(()) => Cell::Works,
            Err(Cell::Fails(why)) => Cell::Fails(format!("without a restore: {why}")),
            Err(other) => other,
        }
    }

    /// Starts a command with its output in a file of the directory.
    pub fn start(&self, mut command: Command, out: &str) -> Step<Running> {
        let out = self.path(out);
        let file = File::create(&out).unwrap();
        command.stdin(Stdio::null()).stderr(file.try_clone().unwrap()).stdout(file);
        Ok(Running { child: command.spawn().unwrap(), out })
    }

    /// Waits until the program has prepared everything.
    pub fn wait_until_ready(&self, running: &mut Running) -> Step<()> {
        let end = Instant::now() + PATIENCE;
        while !running.said().contains("ready\n") {
            if let Some(status) = running.child.try_wait().unwrap() {
                let said = running.said();
                let last = said.lines().next_back().unwrap_or_default();
                return Err(match last.strip_prefix("unavailable: ") {
                    Some(why) if status.code() == Some(NOT_HERE) => Cell::NotHere(why.into()),
                    _ => Cell::Fails(format!("{status}: {said}")),
                });
            }
            if Instant::now() > end {
                return Err(Cell::Fails(format!("never ready: {}", running.said())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits for the end and looks at what was said.
    pub fn end(&self, running: &mut Running) -> Step<()> {
        let status = running.wait()?;
        let said = running.said();
        // What CRIU restores writes where it wrote before.
        let before = fs::read_to_string(self.path("out")).unwrap_or_default();
        if status.success() && (said.ends_with(WELL) || before.ends_with(WELL)) {
            return Ok(());
        }
        let both = if said == before { said } else { format!("{before}{said}") };
        let told: Vec<&str> =
            both.lines().filter(|line| !matches!(*line, "ready" | "waiting")).collect();
        Err(Cell::Fails(format!("{status}: {}", told.join("; "))))
    }

    /// Takes what is particular to one run out of a message: the pid, addresses,
    /// paths, inodes, ports.
    pub fn general(&self, message: &str, pid: i32) -> String {
        let message = message.replace(&self.dir.display().to_string(), "DIR");
        let message = message.replace(&self.case.program.display().to_string(), "PROGRAM");
        let mut general = String::new();
        for word in message.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let (body, tail) = match word.char_indices().next_back() {
                Some((at, last)) if !last.is_ascii_alphanumeric() => word.split_at(at),
                _ => (word, ""),
            };
            let decimal = !body.is_empty() && body.bytes().all(|byte| byte.is_ascii_digit());
            let hex = body.starts_with("0x") && body.len() > 5
                || !decimal
                    && body.len() > 4
                    && body.bytes().all(|byte| byte.is_ascii_hexdigit())
                    && body.bytes().any(|byte| byte.is_ascii_digit());
            general.push_str(match body {
                _ if body == pid.to_string() => "PID",
                _ if hex => "ADDRESS",
                _ if decimal && body.len() > 2 => "N",
                _ => body,
            });
            general.push_str(if tail == "|" { "/" } else { tail });
        }
        general.trim().to_owned()
    }

    /// Runs a tool to its end; its output is in a file of that name.
    pub fn tool(&self, command: Command, out: &str) -> Step<(ExitStatus, String)> {
        let mut running = self.start(command, out)?;
        let status = running.wait()?;
        Ok((status, running.said()))
    }

    /// Dumps the program with ours; an error is a refusal, after which the
    /// program must be as if nothing had happened.
    pub fn dump(&self, running: &mut Running) -> Step<()> {
        let pid = running.pid();
        let mut reason = String::new();
        // A signal of a timer may just be on its way, or the machine be busy,
        // but not each time.
        // Nor is a child young for long.
        for pause in [5, 5, 50, 200, 300, 7, 13, 23, 37, 61, 97] {
            let mut command = alone(support::binary());
            command.args(["image", "dump", &pid.to_string(), "-o"]).arg(self.path("image"));
            let (status, said) = self.tool(command, "dump")?;
            if status.success() {
                running.wait()?;
                return Ok(());
            }
            let told = said.split_once("was not dumped: ").map(|(_, why)| why.trim());
            reason = told.ok_or(Cell::Fails(format!("{status}: {said}")))?.to_owned();
            let passing = ["pending", "does not stop", "has just been started"];
            if !passing.iter().any(|end| reason.ends_with(end)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(pause));
        }
        Err(self.refused(running, &reason))
    }

    /// Asks what engine criu asks before it has CRIU dump: whether that would
    /// lose something.
    pub fn check_for_criu(&self, running: &mut Running) -> Step<()> {
        use warmstart::snapshot::{
            After, Capture, Children, OpenTcp, Outlook, StdinAtStart, StdioOrigin, unseen,
        };
        let capture = Capture {
            pid: running.pid(),
            dir: &self.dir,
            stdio: [StdioOrigin::Programs; 3],
            stdin: StdinAtStart::Other,
            inherited: &[],
            keep: &[],
            started: None,
            children: Children::Captured,
            tcp: OpenTcp::Refuse,
            after: After::Kill,
        };
        let mut last = None;
        for pause in [5, 50, 200, 300, 0] {
            match unseen::check(&capture) {
                Ok(()) => return Ok(()),
                Err(refusal) => {
                    let is_over = refusal.outlook == Outlook::Lasting;
                    last = Some(refusal.reason);
                    if is_over {
                        break;
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(pause));
        }
        Err(self.refused(running, &last.unwrap_or_default()))
    }

    /// Sees that a program which was refused runs on unharmed.
    pub fn refused(&self, running: &mut Running, reason: &str) -> Cell {
        let pid = running.pid();
        self.go();
        match self.end(running) {
            Ok(()) => Cell::Refused(self.general(reason, pid)),
            Err(Cell::Fails(why)) => {
                Cell::Fails(format!("harmed by a refused dump ({reason}): {why}"))
            }
            Err(other) => other,
        }
    }
}

/// A process of ours; it is killed with all that it restored when this goes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    out: PathBuf,
}

impl Running {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it wrote so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Step<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ok(status);
            }
            if Instant::now() > end {
                let said = self.said();
                return Err(Cell::Fails(format!("hangs: {said}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let mut all = vec![self.pid()];
            let mut at = 0;
            while let Some(pid) = all.get(at) {
                let tasks = format!("/proc/{pid}/task/{pid}/children");
                let children = fs::read_to_string(tasks).unwrap_or_default();
                all.extend(children.split_ascii_whitespace().flat_map(str::parse::<i32>));
                at += 1;
            }
            for pid in all {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}
