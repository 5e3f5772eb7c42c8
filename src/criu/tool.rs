//! One run of CRIU's program, with a deadline of ours: CRIU's own `--timeout`
//! does not end one that spins on a truncated pages file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
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
/// What it leaves behind is ended: children of a CRIU that was killed stay
/// stopped for ever.
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
    let in_time = loop {
        match has_ended(&child) {
            Ok(false) if Instant::now() > end => break Ok(false),
            Ok(false) => std::thread::sleep(PAUSE),
            ended => break ended,
        }
    };
    // Not waited for yet, so the number of its group is nobody else's.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let status = child.wait().map_err(ToolError::Start)?;
    match in_time.map_err(|errno| ToolError::Start(errno.into()))? {
        true if status.success() => Ok(Output { said: said(&mut log) }),
        true => Err(ToolError::Failed(complaint(&said(&mut log), status))),
        false => Err(ToolError::Deadline(deadline)),
    }
}

/// Tells whether a child has ended; its status can still be asked for.
fn has_ended(child: &Child) -> nix::Result<bool> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let pid = Id::Pid(Pid::from_raw(child.id() as i32));
    waitid(pid, flags).map(|status| status != WaitStatus::StillAlive)
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
        is_ended(&file);
    }

    /// A CRIU that the kernel killed for its memory left a child that it had
    /// stopped to try something out.
    #[test]
    fn one_that_is_killed_leaves_no_child() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = "sleep 600 & echo $! >FILE; kill -STOP $!; kill -9 $$";
        let script = script.replace("FILE", &file.display().to_string());
        let error = shell(&script, Duration::from_secs(20)).unwrap_err();
        assert_eq!(error.to_string(), "it was killed by signal 9");
        is_ended(&file);
    }

    fn is_ended(file: &Path) {
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            [") S ", ") R ", ") T "].iter().any(|state| stat.contains(state))
        };
        while runs() {
            assert!(Instant::now() < end, "the child of criu lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
