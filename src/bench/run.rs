//! One run of any kind, from its start to its mark.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::process::{Output, PAUSE, Running, Scratch, Status, describe};
use super::{BenchError, Mark, Options, http};
use crate::command::Command;

/// How long a status file may come after the mark.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// How often we look whether the program has ended.
const ALIVE_EVERY: Duration = Duration::from_millis(2);

/// A run that got to its mark.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// From the start to the mark.
    pub(super) ms: f64,
    /// The launcher's own figure, in a restored run.
    pub(super) launcher_ms: Option<f64>,
    /// How the program ended, if its end is the mark.
    pub(super) end: Option<ExitStatus>,
}

/// A run, or why it does not count.
pub(super) type Outcome = Result<Sample, String>;

/// Runs a command as it is.
pub(super) fn plain(
    command: &Command,
    mark: &Mark,
    timeout: Duration,
) -> Result<Outcome, BenchError> {
    let before = FileState::of(mark);
    let mut running = Running::start(command, &output(mark))?;
    let outcome = watch(&mut running, mark, &before, timeout);
    running.end();
    Ok(outcome)
}

/// Runs the command through warmstart, and checks that it was restored.
pub(super) fn restored(
    command: &Command,
    options: &Options,
    mark: &Mark,
    scratch: &Scratch,
) -> Result<Outcome, BenchError> {
    let status_file = scratch.status_file();
    let command = through_launcher(command, options, &["--no-capture".as_ref()], &status_file);
    let before = FileState::of(mark);
    let mut running = Running::start(&command, &output(mark))?;
    let outcome = watch(&mut running, mark, &before, options.timeout);
    let status = wait_for_status(&mut running, &status_file);
    running.end();
    Ok(outcome.and_then(|sample| match status {
        Some(status) if status.outcome == "restored" => {
            Ok(Sample { launcher_ms: status.timings_ms.total, ..sample })
        }
        Some(status) => {
            Err(format!("started {}: {}", status.outcome, status.reason.unwrap_or_default()))
        }
        None => Err("wrote no status file".into()),
    }))
}

/// Puts the launcher and its options in front of a command.
pub(super) fn through_launcher(
    command: &Command,
    options: &Options,
    more: &[&std::ffi::OsStr],
    status_file: &Path,
) -> Command {
    let mut argv = vec![options.launcher.clone().into_os_string(), "run".into()];
    argv.extend(options.launcher_options.iter().cloned());
    argv.extend(more.iter().map(|&word| word.to_owned()));
    argv.extend(["--status-file".into(), status_file.into(), "--".into()]);
    argv.extend(command.argv.iter().cloned());
    Command { argv, ..command.clone() }
}

/// All kinds of run get the same kind of output, or they would differ in
/// their fingerprint.
pub(super) fn output(mark: &Mark) -> Output {
    match mark {
        Mark::Log(regex) => Output::Search(regex.clone()),
        _ => Output::Discard,
    }
}

fn wait_for_status(running: &mut Running, path: &Path) -> Option<Status> {
    let deadline = Instant::now() + STATUS_PATIENCE;
    loop {
        if let Some(status) = Status::read(path) {
            return Some(status);
        }
        if running.ended().is_some() || Instant::now() > deadline {
            return Status::read(path);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the mark. A program whose end is the mark may end with any exit
/// status: whether it is the right one is seen when all runs are there.
pub(super) fn watch(
    running: &mut Running,
    mark: &Mark,
    before: &FileState,
    timeout: Duration,
) -> Outcome {
    let sample = |at: Instant, running: &Running| {
        let ms = (at - running.started).as_secs_f64() * 1000.0;
        Sample { ms, launcher_ms: None, end: None }
    };
    let deadline = running.started + timeout;
    let mut alive_at = running.started + ALIVE_EVERY;
    loop {
        let now = Instant::now();
        match mark {
            Mark::Log(_) => {
                if let Some(at) = running.matched() {
                    return Ok(sample(at, running));
                }
            }
            Mark::Exit => {
                if let Some(status) = running.ended() {
                    let at = Instant::now();
                    return if status.code().is_some() {
                        Ok(Sample { end: Some(status), ..sample(at, running) })
                    } else {
                        Err(describe(status))
                    };
                }
            }
            Mark::Http(url) => {
                if http::answers(url, deadline.saturating_duration_since(now)) {
                    return Ok(sample(Instant::now(), running));
                }
            }
            Mark::Port(port) => {
                if connects(*port) {
                    return Ok(sample(Instant::now(), running));
                }
            }
            Mark::File(path) => {
                if FileState::look(path) != *before && path.exists() {
                    return Ok(sample(Instant::now(), running));
                }
            }
        }
        if now > deadline {
            return Err(format!("not there within {} s", timeout.as_secs_f64()));
        }
        // Looking after the mark was looked for: output that came just before
        // the end has been seen then, but for the threads that read it.
        if now > alive_at && !matches!(mark, Mark::Exit) {
            if let Some(status) = running.ended() {
                std::thread::sleep(Duration::from_millis(20));
                return match running.matched() {
                    Some(at) => Ok(sample(at, running)),
                    None => Err(format!("{} before it was there", describe(status))),
                };
            }
            alive_at = now + ALIVE_EVERY;
        }
        std::thread::sleep(PAUSE);
    }
}

fn connects(port: u16) -> bool {
    let timeout = Duration::from_millis(500);
    let v4 = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let v6 = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    [v4, v6].iter().any(|address| {
        std::net::TcpStream::connect_timeout(address, timeout)
            .is_ok_and(|stream| !http::itself(&stream))
    })
}

/// What tells a changed file: device, inode, size, modification time. The
/// time alone would not do, file systems stamp with a coarse clock.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileState(Option<(u64, u64, u64, i64, i64)>);

impl FileState {
    /// Looks at the mark's file; other marks have none.
    pub(super) fn of(mark: &Mark) -> Self {
        match mark {
            Mark::File(path) => Self::look(path),
            _ => Self(None),
        }
    }

    fn look(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let state = |meta: std::fs::Metadata| {
            (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())
        };
        Self(path.metadata().ok().map(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::AtMain;

    fn shell(script: &str) -> Command {
        Command {
            argv: vec!["sh".into(), "-c".into(), script.into()],
            env: std::env::vars_os()
                .map(|(name, value)| [name, value].join("=".as_ref()))
                .collect(),
            cwd: std::env::current_dir().unwrap(),
        }
    }

    fn time(script: &str, mark: &str) -> Outcome {
        plain(&shell(script), &mark.parse().unwrap(), Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn the_end_is_timed_with_its_status_and_a_signal_does_not_count() {
        let sample = time("sleep 0.05", "exit").unwrap();
        assert!(sample.ms >= 50.0 && sample.ms < 2000.0, "{sample:?}");
        assert!(sample.end.unwrap().success());
        assert_eq!(time("exit 3", "exit").unwrap().end.unwrap().code(), Some(3));
        assert_eq!(time("kill -9 $$", "exit").unwrap_err(), "was killed by signal 9");
    }

    #[test]
    fn both_streams_go_to_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut running =
            Running::start(&shell("echo a; echo b >&2; echo c"), &Output::File(path.clone()))
                .unwrap();
        watch(&mut running, &Mark::Exit, &FileState::of(&Mark::Exit), Duration::from_secs(5))
            .unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn output_is_timed_on_both_streams() {
        for stream in ["", " >&2"] {
            let sample =
                time(&format!("echo a{stream}; sleep 0.05; echo b{stream}; sleep 60"), "log:^b$");
            let ms = sample.unwrap().ms;
            assert!((50.0..3000.0).contains(&ms), "{ms}");
        }
        let error = time("echo a", "log:^b$").unwrap_err();
        assert_eq!(error, "ended with status 0 before it was there");
    }

    #[test]
    fn output_of_a_program_that_has_ended_already_counts() {
        assert!(time("echo b", "log:^b$").is_ok());
    }

    #[test]
    fn a_file_must_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "old").unwrap();
        let mark = format!("file:{}", path.display());
        let script = format!("sleep 0.05; echo new > {}; sleep 60", path.display());
        assert!(time(&script, &mark).unwrap().ms >= 50.0);
    }

    #[test]
    fn nothing_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script =
            format!("sleep 61 & echo $! > {0}.t; mv {0}.t {0}; wait; true", pid_file.display());
        time(&script, &format!("file:{}", pid_file.display())).unwrap();
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let alive = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()));
        assert!(alive.is_err() || alive.unwrap().is_empty());
    }

    #[test]
    fn a_launcher_goes_in_front() {
        let options = Options {
            launcher: "/w".into(),
            launcher_options: vec!["-v".into()],
            runs: 1,
            until: None,
            at_main: AtMain::Never,
            against: Vec::new(),
            temp_dir: "/tmp".into(),
            timeout: Duration::from_secs(1),
        };
        let command =
            through_launcher(&shell("x"), &options, &["--no-capture".as_ref()], Path::new("/s"));
        let words =
            ["/w", "run", "-v", "--no-capture", "--status-file", "/s", "--", "sh", "-c", "x"];
        assert_eq!(command.argv, words.map(std::ffi::OsString::from));
    }
}
