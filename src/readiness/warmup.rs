//! `--warmup CMD`: work for the program before it is captured.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::command::Command;

/// Why a program is not captured after its warm-up.
#[derive(Debug, thiserror::Error)]
pub enum WarmupError {
    /// The shell cannot be started.
    #[error("warm-up `{}` cannot be started", .command.display())]
    Start {
        /// The command.
        command: OsString,
        /// The error.
        source: io::Error,
    },
    /// It ended with another status than 0.
    #[error("warm-up `{}` {}", .command.display(), describe(*.status))]
    Failed {
        /// The command.
        command: OsString,
        /// Its status.
        status: ExitStatus,
    },
    /// It took too long and was killed.
    #[error("warm-up `{}` took longer than {} s", .command.display(), .limit.as_secs_f64())]
    Slow {
        /// The command.
        command: OsString,
        /// The limit.
        limit: Duration,
    },
    /// Its status could not be had.
    #[error("warm-up `{}` cannot be waited for", .command.display())]
    Wait {
        /// The command.
        command: OsString,
        /// The error.
        source: io::Error,
    },
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

/// A warm-up that runs; killed with all of its process group when dropped.
///
/// It is a child of ours: whoever reaps children must wait for particular
/// pids and leave this one alone.
#[derive(Debug)]
pub struct Warmup {
    command: OsString,
    child: Child,
    limit: Duration,
    begun: Instant,
    reaped: bool,
}

impl Warmup {
    /// Starts `sh -c` with a command, in the environment and the directory of
    /// the program, plus `WARMSTART_PID` and, if it is known, `WARMSTART_PORT`.
    ///
    /// Its standard input is empty and all its output goes to our standard
    /// error: the program's output is not to be disturbed. It has a process
    /// group of its own, so that it can be killed with its children.
    pub fn start(
        command: &OsStr,
        program: &Command,
        pid: i32,
        port: Option<u16>,
        limit: Duration,
    ) -> Result<Self, WarmupError> {
        let failed = |source| WarmupError::Start { command: command.to_owned(), source };
        let mut shell = std::process::Command::new("/bin/sh");
        shell.arg("-c").arg(command).env_clear().envs(variables(program));
        shell.env("WARMSTART_PID", pid.to_string()).env_remove("WARMSTART_PORT");
        if let Some(port) = port {
            shell.env("WARMSTART_PORT", port.to_string());
        }
        let output = match io::stderr().as_fd().try_clone_to_owned() {
            Ok(stderr) => Stdio::from(stderr),
            Err(_) => Stdio::null(),
        };
        shell.current_dir(&program.cwd).stdin(Stdio::null()).stdout(output);
        let child = shell.process_group(0).spawn().map_err(failed)?;
        let command = command.to_owned();
        Ok(Self { command, child, limit, begun: Instant::now(), reaped: false })
    }

    /// Tells whether it has ended, and how; never waits.
    pub fn poll(&mut self, now: Instant) -> Option<Result<(), WarmupError>> {
        let command = || self.command.clone();
        match self.child.try_wait() {
            Ok(None) if now.saturating_duration_since(self.begun) >= self.limit => {
                let slow = WarmupError::Slow { command: command(), limit: self.limit };
                self.kill();
                Some(Err(slow))
            }
            Ok(None) => None,
            Ok(Some(status)) => {
                self.reaped = true;
                if status.success() {
                    Some(Ok(()))
                } else {
                    Some(Err(WarmupError::Failed { command: command(), status }))
                }
            }
            Err(source) => {
                self.reaped = true;
                Some(Err(WarmupError::Wait { command: command(), source }))
            }
        }
    }

    /// Returns the pid of its shell.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn kill(&mut self) {
        if self.reaped {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // ESRCH: it has just ended.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // Nothing survives SIGKILL, so this does not take long.
        let _ = self.child.wait();
        self.reaped = true;
    }
}

impl Drop for Warmup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Splits the environment into names and values, the first of each name, as
/// `getenv(3)` finds it.
fn variables(program: &Command) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    program.env.iter().rev().filter_map(|entry| {
        let bytes = entry.as_bytes();
        let equals = bytes.iter().position(|&b| b == b'=').filter(|&at| at > 0)?;
        Some((OsStr::from_bytes(&bytes[..equals]), OsStr::from_bytes(&bytes[equals + 1..])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LONG: Duration = Duration::from_secs(20);

    fn program(dir: &std::path::Path) -> Command {
        let env = ["PATH=/usr/bin:/bin", "A=first", "A=second", "=odd", "NOTIFY=no=yes"];
        Command {
            argv: vec!["x".into()],
            env: env.iter().map(Into::into).collect(),
            cwd: dir.to_owned(),
        }
    }

    fn ended(warmup: &mut Warmup) -> Result<(), WarmupError> {
        loop {
            if let Some(result) = warmup.poll(Instant::now()) {
                return result;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn run(script: &str, limit: Duration) -> Result<String, WarmupError> {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path());
        let mut warmup = Warmup::start(OsStr::new(script), &program, 42, Some(8080), limit)?;
        ended(&mut warmup)?;
        Ok(fs::read_to_string(dir.path().join("out")).unwrap())
    }

    #[test]
    fn it_knows_the_program() {
        let script = "echo $WARMSTART_PID $WARMSTART_PORT $A $NOTIFY $(cat) > out";
        assert_eq!(run(script, LONG).unwrap(), "42 8080 first no=yes\n");
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path());
        let script = OsStr::new("test -z \"${WARMSTART_PORT+set}\"");
        ended(&mut Warmup::start(script, &program, 42, None, LONG).unwrap()).unwrap();
    }

    #[test]
    fn failures_are_named() {
        let message = |script| run(script, LONG).unwrap_err().to_string();
        assert_eq!(message("exit 3"), "warm-up `exit 3` failed with status 3");
        assert_eq!(message("kill -9 $$"), "warm-up `kill -9 $$` was killed by signal 9");
        let slow = run("sleep 30", Duration::from_millis(50)).unwrap_err().to_string();
        assert_eq!(slow, "warm-up `sleep 30` took longer than 0.05 s");
        let gone = Command { cwd: "/nonexistent".into(), ..program(std::path::Path::new("/")) };
        let error = Warmup::start(OsStr::new("true"), &gone, 1, None, LONG).unwrap_err();
        assert!(matches!(error, WarmupError::Start { .. }));
    }

    #[test]
    fn its_children_die_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, program) = (dir.path().join("fifo"), program(dir.path()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = OsStr::new("{ echo up; exec sleep 99; } > fifo & wait");
        let warmup = Warmup::start(script, &program, 42, None, LONG).unwrap();
        let mut pipe = io::BufReader::new(fs::File::open(&fifo).unwrap());
        let mut line = String::new();
        io::BufRead::read_line(&mut pipe, &mut line).unwrap();
        assert_eq!(line, "up\n");
        drop(warmup);
        // End of file: the one that had the other end open is gone.
        assert_eq!(io::Read::read(&mut pipe, &mut [0; 1]).unwrap(), 0);
    }
}
