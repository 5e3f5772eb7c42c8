//! Processes that are dumped, and image sets that are restored, without the
//! cache: `warmstart image dump` and `image restore`.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use super::{binary, session, stderr, with_free_pids};

/// The time within which each step must happen on a machine that does other
/// things as well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Prepares a command with no descriptors but 0, 1 and 2: what the test itself
/// was started with may be left open to it.
pub fn alone(program: impl AsRef<OsStr>) -> Command {
    const CLOSE: &str = r#"for fd in /proc/self/fd/*; do
        fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"
        done; exec "$@""#;
    let mut command = Command::new("bash");
    command.args(["-c", CLOSE, "bash"]).arg(program);
    command
}

/// Finds a tool: named by a variable, or where `scripts/get-NAME` puts it.
pub fn tool(variable: &str, place: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or(Some(variable("HOME")?.join(".cache")))?;
    Some(cache.join("warmstart-tools").join(place)).filter(|path| path.exists())
}

/// Compiles `tests/engine/NAME.c` into a directory; an error says what is
/// missing here. There is a C compiler wherever Rust links with one.
pub fn compile(name: &str, dir: &Path) -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/engine/{name}.c"));
    let program = dir.join(name);
    let mut command = Command::new("cc");
    command.args(["-O1", "-Wall", "-Werror", "-pthread", "-o"]).arg(&program).arg(source);
    let output = command.output().map_err(|error| format!("there is no C compiler: {error}"))?;
    assert!(output.status.success(), "{}", stderr(&output));
    Ok(program)
}

/// A process of ours that writes to a file; killed when dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    out: PathBuf,
}

impl Target {
    /// Starts a command, with nothing to read and its output in `out`.
    pub fn start(mut command: Command, out: &Path) -> Self {
        let file = File::options().create(true).append(true).open(out).unwrap();
        command.stdin(Stdio::null()).stderr(file.try_clone().unwrap()).stdout(file);
        Self { child: command.spawn().unwrap(), out: out.into() }
    }

    /// Restores an image set as our child, through warmstart, with its pids; the
    /// program may not run yet. Where another process of this machine has one of
    /// them for the moment, which is no failure, it is tried again.
    pub fn restore(image: &Path, out: &Path) -> Self {
        Self::restore_as(image, out, &[])
    }

    /// The same with options.
    pub fn restore_as(image: &Path, out: &Path, options: &[&str]) -> Self {
        let attempt = || {
            fs::write(out, "").unwrap();
            let mut command = alone(binary());
            command.args(["image", "restore"]).arg(image).args(options);
            let mut target = Self::start(command, out);
            // It is either refused soon, or runs.
            let end = Instant::now() + PATIENCE;
            while restored_pid(target.pid()).is_none() {
                if target.child.try_wait().unwrap().is_some() {
                    break;
                }
                assert!(Instant::now() < end, "it is not restored: {}", target.said());
                std::thread::sleep(Duration::from_millis(2));
            }
            target
        };
        with_free_pids(attempt, |target| target.said().contains("is taken"))
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it wrote so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// Waits until it has said something that pleases.
    pub fn wait_until(&mut self, pleases: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !pleases(&self.said()) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended with {}: {}", ended.unwrap(), self.said());
            assert!(Instant::now() < end, "it does not go on: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it writes more than it has by now.
    pub fn wait_for_more(&mut self) {
        let before = self.said().len();
        self.wait_until(|said| said.len() > before);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it and waits for its end, after which its pids are free.
    pub fn end(mut self) {
        let program = restored_pid(self.pid());
        self.kill();
        // What a launcher has restored dies by its parent's death.
        let end = Instant::now() + PATIENCE;
        while program.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            program.into_iter().for_each(session::reap);
            assert!(Instant::now() < end, "process {} stays", program.unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the child of a launcher.
pub fn restored_pid(launcher: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

/// Dumps a process once.
pub fn try_dump(pid: i32, image: &Path, options: &[&str]) -> Output {
    let mut command = alone(binary());
    command.args(["image", "dump", &pid.to_string(), "-o"]).arg(image).args(options);
    command.output().unwrap()
}

/// Dumps a process; a timer's signal that is just on its way is waited out, and
/// the first moments of its children.
pub fn dump(pid: i32, image: &Path, options: &[&str]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let output = try_dump(pid, image, options);
        if output.status.success() {
            return;
        }
        let said = stderr(&output);
        let passing = ["pending", "has just been started"];
        let passing = passing.iter().any(|what| said.trim_end().ends_with(what));
        assert!(passing && Instant::now() < end, "{said}");
        std::thread::sleep(Duration::from_millis(7));
    }
}

/// Returns a process's state: `R`, `S`, `T` (stopped), `Z` (ended).
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until none of the processes is there, but for zombies.
pub fn all_gone(pids: impl IntoIterator<Item = i32>) {
    let end = Instant::now() + PATIENCE;
    for pid in pids {
        while state(pid).is_some_and(|state| state != 'Z') {
            assert!(Instant::now() < end, "process {pid} stays");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
