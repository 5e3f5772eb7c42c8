//! The probes and warmups of a capture, and the socket that the program
//! notifies.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::PollFd;

use super::capture::Readiness;
use crate::command::Command;
use crate::readiness::{self, Monitor, NotifyError, NotifySocket, Probe, Source, Target, Warmup};

/// How long one warmup may take.
const WARMUP_LIMIT: Duration = Duration::from_secs(300);

/// Watches a program and warms it up.
#[derive(Debug)]
pub struct Probing {
    monitor: Option<Monitor>,
    notify: Option<NotifySocket>,
    /// Whether the program has said READY=1.
    notified: bool,
    port: Option<u16>,
    waiting: VecDeque<OsString>,
    running: Option<Warmup>,
    command: Command,
    pid: i32,
}

impl Probing {
    /// Begins to watch a program that has just been started.
    pub fn new(
        probes: &[Probe],
        warmups: &[OsString],
        command: &Command,
        target: Target,
        notify: Option<NotifySocket>,
    ) -> Self {
        Self {
            pid: target.pid,
            monitor: Some(Monitor::new(probes, target, notify)),
            notify: None,
            notified: false,
            port: None,
            waiting: warmups.iter().cloned().collect(),
            running: None,
            command: command.clone(),
        }
    }

    /// Asks the probes.
    pub fn readiness(&mut self) -> Readiness {
        let Some(monitor) = &mut self.monitor else { return Readiness::Gone };
        let answer = match monitor.poll(Instant::now()) {
            readiness::Readiness::Waiting { .. } => {
                return Readiness::Waiting(monitor.next_poll());
            }
            readiness::Readiness::Ready { by } => Readiness::Ready(by),
            readiness::Readiness::Gone => Readiness::Gone,
        };
        self.port = monitor.port();
        self.notify = self.monitor.take().and_then(Monitor::into_notify);
        self.notified = self.notify.as_ref().is_some_and(NotifySocket::is_ready);
        answer
    }

    /// Shows the program's output to the probes.
    pub fn output(&mut self, source: Source, bytes: &[u8]) {
        if let Some(monitor) = &mut self.monitor {
            monitor.output(source, bytes);
        }
    }

    /// Adds what the probes wait for.
    pub fn interests<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if let Some(monitor) = &self.monitor {
            fds.extend(monitor.fds());
        }
    }

    /// Starts the next warmup; `None` if there is none left.
    pub fn start_warmup(&mut self) -> Option<Result<(), String>> {
        let next = self.waiting.pop_front()?;
        let started = Warmup::start(&next, &self.command, self.pid, self.port, WARMUP_LIMIT);
        Some(started.map(|warmup| self.running = Some(warmup)).map_err(|error| chain(&error)))
    }

    /// Asks the running warmup how it went.
    pub fn poll_warmup(&mut self) -> Option<Result<(), String>> {
        let Some(warmup) = &mut self.running else { return Some(Ok(())) };
        let result = warmup.poll(Instant::now())?;
        self.running = None;
        Some(result.map_err(|error| chain(&error)))
    }

    /// Hands over the socket that the program notifies.
    pub fn take_notify(&mut self) -> Option<NotifySocket> {
        self.notify.take()
    }

    /// Whether the program had said READY=1 when it was ready.
    pub fn has_notified(&self) -> bool {
        self.notified
    }

    /// Ends what still runs.
    pub fn stop(&mut self) {
        self.running = None;
        self.waiting.clear();
    }
}

/// Makes the notify socket of a cold run, if it is to have one, and puts its
/// path into the program's environment.
pub fn notify_socket(
    probes: &[Probe],
    command: &mut Command,
    cache_dir: &Path,
) -> Result<Option<NotifySocket>, NotifyError> {
    let caller = command.var(VARIABLE).map(OsString::from);
    if !readiness::wants_socket(probes, caller.as_deref()) {
        return Ok(None);
    }
    let runtime_dir = command.var("XDG_RUNTIME_DIR").map(Path::new);
    let dir = readiness::socket_dir(runtime_dir, cache_dir);
    let socket = NotifySocket::bind(&dir, caller.as_deref())?;
    let mut value = OsString::from(VARIABLE);
    value.push("=");
    value.push(socket.path());
    match command.env.iter_mut().find(|entry| entry.as_encoded_bytes().starts_with(PREFIX)) {
        Some(entry) => *entry = value,
        None => command.env.push(value),
    }
    Ok(Some(socket))
}

/// The variable that names the socket (`sd_notify(3)`).
const VARIABLE: &str = "NOTIFY_SOCKET";
const PREFIX: &[u8] = b"NOTIFY_SOCKET=";

/// Makes the socket of a restored program, under the path that it knows, and
/// tells the caller what the program had said before it was captured.
pub fn renotify(path: &Path, notified: bool, command: &Command) -> Option<NotifySocket> {
    let caller = command.var(VARIABLE).filter(|caller| !caller.is_empty());
    if let Some(caller) = caller
        && notified
    {
        // A caller that cannot be told is what sd_notify(3) asks to ignore.
        let _ = readiness::tell(caller, "READY=1");
    }
    NotifySocket::rebind(path, caller).ok()
}

/// Returns an error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_notify_socket_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command {
            argv: vec!["x".into()],
            env: vec!["A=1".into(), "NOTIFY_SOCKET=@caller".into(), "B=2".into()],
            cwd: "/".into(),
        };
        let plain = command.clone();
        let socket = notify_socket(&[], &mut command, dir.path()).unwrap().unwrap();
        assert_eq!(command.var("NOTIFY_SOCKET"), Some(socket.path().as_os_str()));
        assert_eq!((command.env.len(), &command.env[0]), (3, &plain.env[0]));
        command.env.remove(1);
        assert!(notify_socket(&[], &mut command, dir.path()).unwrap().is_none());
        let asked = notify_socket(&[Probe::Notify], &mut command, dir.path()).unwrap();
        assert!(asked.is_some() && command.var("NOTIFY_SOCKET").is_some());
    }
}
