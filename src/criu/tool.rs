//! One run of CRIU's program, with a deadline of ours: CRIU's own `--timeout`
//! does not end one that spins on a truncated pages file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How often it is looked at.
const PAUSE: Duration = Duration::from_micros(500);
/// How much of what it says is read, in bytes.
const LEN_SAID_MAX: u64 = 1 << 20;
/// How long a quoted line may be, in characters.
const LEN_LINE_MAX: usize = 200;

/// What came of a run that succeeded.
#[derive(Debug)]
pub struct Output {
    /// What it wrote to 1 and 2.
    pub said: Vec<u8>,
}

/// Why a run did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started.
    #[error("criu cannot be started")]
    Start(#[source] io::Error),
    /// It was ended by us.
    #[error("criu was not done within {0:?}")]
    Deadline(Duration),
    /// It said so, or just ended.
    #[error("{0}")]
    Failed(String),
}

/// Runs the program in a process group of its own, with nothing to read and
/// without an environment but `PATH` and `env`, and waits for it.
///
/// # Errors
/// If it cannot be started, does not succeed, or takes longer than that: then
/// it is ended, with its children.
pub fn run<A: AsRef<OsStr>>(
    path: &Path,
    arguments: impl IntoIterator<Item = A>,
    env: &[(&str, &OsStr)],
    deadline: Duration,
) -> Result<Output, ToolError> {
    let mut log = log().map_err(ToolError::Start)?;
    let streams = || -> io::Result<(File, File)> { Ok((log.try_clone()?, log.try_clone()?)) };
    let (stdout, stderr) = streams().map_err(ToolError::Start)?;
    let mut command = Command::new(path);
    command.args(arguments).env_clear().env("PATH", SAFE_PATH).envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
    let mut child = command.spawn().map_err(ToolError::Start)?;
    let end = Instant::now() + deadline;
    loop {
        match child.try_wait().map_err(ToolError::Start)? {
            Some(status) if status.success() => return Ok(Output { said: said(&mut log) }),
            Some(status) => return Err(ToolError::Failed(complaint(&said(&mut log), status))),
            None if Instant::now() > end => {
                // Its children as well; it has not been waited for yet.
                let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
                let _ = child.wait();
                return Err(ToolError::Deadline(deadline));
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}

/// Where it finds what it starts itself.
pub const SAFE_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes a file in memory for what it says.
///
/// # Errors
/// As `memfd_create(2)`.
pub fn log() -> io::Result<File> {
    Ok(memfd_create("criu", MFdFlags::MFD_CLOEXEC)?.into())
}

/// Reads what it has said.
pub fn said(log: &mut File) -> Vec<u8> {
    let mut said = Vec::new();
    // What cannot be read was not said.
    let _ = log.rewind().and_then(|()| log.by_ref().take(LEN_SAID_MAX).read_to_end(&mut said));
    said
}

/// Says why a run failed: by the first error of its log that is one, else by how
/// it ended.
pub fn complaint(said: &[u8], status: ExitStatus) -> String {
    if let Some(error) = first_error(&String::from_utf8_lossy(said)) {
        return format!("criu: {error}");
    }
    match (status.code(), status.signal()) {
        (Some(127), _) => "criu cannot be executed".into(),
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it ended".into(),
    }
}

/// Finds the first line of a log that says what went wrong:
/// `(00.021122)   6314: Error (criu/files.c:857): No file for fd 251`. A failed
/// raise of its own limit is said by every run in a container.
fn first_error(log: &str) -> Option<String> {
    let errors = log.lines().filter_map(|line| {
        let rest = line.split_once("Error (")?.1;
        Some(rest.split_once("): ")?.1.trim())
    });
    let mut errors = errors.filter(|error| !error.starts_with("rlimit:"));
    let first = errors.next()?;
    Some(first.chars().filter(|c| !c.is_control()).take(LEN_LINE_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Result<Output, ToolError> {
        run(Path::new("/bin/sh"), ["-c", script], &[("X", "y".as_ref())], deadline)
    }

    #[test]
    fn what_it_says_and_how_it_ends_is_told() {
        let patience = Duration::from_secs(20);
        let said = shell("echo $X $HOME; echo err >&2; cat", patience).unwrap().said;
        assert_eq!(said, b"y\nerr\n");
        assert_eq!(shell("exit 3", patience).unwrap_err().to_string(), "it ended with status 3");
        assert_eq!(
            shell("kill -9 $$", patience).unwrap_err().to_string(),
            "it was killed by signal 9"
        );
        let log = "echo '(00.02) Error (criu/util.c:1): rlimit: no'; \
                   echo '(00.02)  6: Error (criu/files.c:857): No file for fd 2'; \
                   echo 'Error (criu/x.c:1): FAILED'; exit 1";
        assert_eq!(shell(log, patience).unwrap_err().to_string(), "criu: No file for fd 2");
        let none = run(Path::new("/no/criu"), ["x"], &[], patience).unwrap_err();
        assert_eq!(none.to_string(), "criu cannot be started");
    }

    #[test]
    fn one_that_hangs_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! >{}; wait", file.display());
        let began = Instant::now();
        let error = shell(&script, Duration::from_millis(300)).unwrap_err();
        assert!(
            matches!(error, ToolError::Deadline(_)) && began.elapsed() < Duration::from_secs(5)
        );
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(") S ") || stat.contains(") R ")
        };
        while runs() {
            assert!(Instant::now() < end, "the child of criu lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
