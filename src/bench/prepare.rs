//! Before the first round: an image, and what to time.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};

use super::http;
use super::process::{Running, Scratch, Status, descendants, describe};
use super::run::{FileState, Sample, output, through_launcher, watch};
use super::{AtMain, BenchError, Mark, Options};
use crate::command::Command;
use crate::fingerprint::program_of;
use crate::jvm::Home;
use crate::readiness::Url;

/// How long a port has for its first HTTP answer, asked once all is ready.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);
/// How many runs the making of an image at `main` may take the time of: there
/// is the cold one, then the training.
const RUNS_AT_MAIN: u32 = 10;

/// Runs the command through warmstart until there is an image of it; finds out
/// what to time if that was not said.
pub(super) fn prepare(
    command: &Command,
    options: &Options,
    scratch: &Scratch,
) -> Result<Mark, BenchError> {
    if options.at_main == AtMain::Asked {
        wait_at_main(command, options, scratch)?;
        return Ok(options.until.clone().unwrap_or(Mark::Exit));
    }
    let status_file = scratch.status_file();
    let through = through_launcher(command, options, &[], &status_file);
    // Without a mark the runs' output will be thrown away, so it is here.
    let stand_in = options.until.clone().unwrap_or(Mark::Exit);
    let before = FileState::of(&stand_in);
    let mut running = Running::start(&through, &output(&stand_in))?;
    let deadline = running.started + options.timeout;

    let outcome = match wait_for_image(&mut running, &status_file, deadline) {
        Ok(outcome) => outcome,
        Err(error) => {
            let tool = options.at_main == AtMain::Possible && running.ended().is_some();
            // A JVM that ends may be captured at main once it has ended.
            if tool && is_jvm(command) && wait_at_main(command, options, scratch).is_ok() {
                return Ok(options.until.clone().unwrap_or(Mark::Exit));
            }
            return Err(error);
        }
    };

    let mark = match &options.until {
        Some(mark) => mark.clone(),
        None => find_mark(&mut running, deadline)?,
    };
    // A restored program may not be there yet; ending it now would be unfair
    // to whatever it does at its start.
    if outcome == Ready::Restored && !matches!(mark, Mark::Exit) {
        let _ = watch(&mut running, &mark, &before, options.timeout);
    }
    running.end();
    Ok(mark)
}

fn is_jvm(command: &Command) -> bool {
    program_of(command).is_ok_and(|(real, _)| Home::of(&real).is_some())
}

/// Has an image made at `main`: the launcher runs the command cold and returns
/// when the image is made by a second process, which `--wait` has it wait for.
fn wait_at_main(command: &Command, options: &Options, scratch: &Scratch) -> Result<(), BenchError> {
    let mark = options.until.clone().unwrap_or(Mark::Exit);
    let status_file = scratch.status_file();
    let through = through_launcher(command, options, &["--wait".as_ref()], &status_file);
    // The same kind of output as the measured runs have.
    let mut running = Running::start(&through, &output(&mark))?;
    let timeout = options.timeout * RUNS_AT_MAIN;
    let ended = watch(&mut running, &Mark::Exit, &FileState::of(&Mark::Exit), timeout);
    running.end();
    let Some(status) = Status::read(&status_file) else {
        return Err(BenchError::NoImage(match ended {
            Ok(Sample { end: Some(end), .. }) => format!("the launcher {}", describe(end)),
            Ok(_) => "the launcher ended".into(),
            Err(why) => format!("the launcher {why}"),
        }));
    };
    match status.outcome.as_str() {
        "captured" | "restored" => Ok(()),
        _ => {
            Err(BenchError::NoImage(status.reason.unwrap_or_else(|| "it was started plain".into())))
        }
    }
}

/// How there came to be an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// It was there.
    Restored,
    /// It was made.
    Captured,
}

/// Waits until the status file says that there is an image, or that there will
/// be none.
fn wait_for_image(
    running: &mut Running,
    status_file: &Path,
    deadline: Instant,
) -> Result<Ready, BenchError> {
    let none = |why: String| Err(BenchError::NoImage(why));
    let mut first_reason = None;
    loop {
        // In this order, or the last word of a program that ends is missed.
        let ended = running.ended();
        let status = Status::read(status_file);
        if let Some(status) = &status {
            match status.outcome.as_str() {
                "captured" => return Ok(Ready::Captured),
                "restored" => return Ok(Ready::Restored),
                _ => {}
            }
            // At first the reason is why it was not restored; another one, or
            // a program in the launcher's place, says that nothing will come.
            let first = first_reason.get_or_insert_with(|| status.reason.clone());
            if *first != status.reason || status.app_pid == running.pid() {
                return none(
                    status.reason.clone().unwrap_or_else(|| "it was started plain".into()),
                );
            }
        }
        if let Some(exit) = ended {
            return none(format!("the program {} before it was captured", describe(exit)));
        }
        if Instant::now() > deadline {
            return none("it was not captured in time; is it ever ready?".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Finds out what to time: the first HTTP answer of a port that the program
/// listens on, else the first connection, else its end.
fn find_mark(running: &mut Running, deadline: Instant) -> Result<Mark, BenchError> {
    const SETTLE: Duration = Duration::from_millis(500);
    let since = Instant::now();
    loop {
        let ports = listening_ports(running.pid());
        if let Some(&first) = ports.first() {
            let web = ports.iter().find(|&&port| http::answers(&Url::local(port), HTTP_PATIENCE));
            return Ok(match web {
                Some(&port) => Mark::Http(Url::local(port)),
                None => Mark::Port(first),
            });
        }
        if let Some(status) = running.ended() {
            return if status.success() {
                Ok(Mark::Exit)
            } else {
                Err(BenchError::NoImage(format!("the program {}", describe(status))))
            };
        }
        // It was ready, and listens on nothing: give it a while to end.
        if since.elapsed() > SETTLE * 20 || Instant::now() > deadline {
            return Err(BenchError::NothingToTime);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the ports that a process and its descendants listen on and that can
/// be reached from this machine.
fn listening_ports(pid: u32) -> BTreeSet<u16> {
    let family = descendants(pid).into_iter().map(|relative| relative.pid);
    let sockets: BTreeSet<u64> = std::iter::once(pid as i32)
        .chain(family)
        .filter_map(|pid| Process::new(pid).ok()?.fd().ok())
        .flatten()
        .flatten()
        .filter_map(|fd| match fd.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    let listens =
        |entry: &TcpNetEntry| entry.state == TcpState::Listen && sockets.contains(&entry.inode);
    let v4 = procfs::net::tcp().unwrap_or_default();
    let v6 = procfs::net::tcp6().unwrap_or_default();
    v4.into_iter().chain(v6).filter(listens).map(|entry| entry.local_address.port()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::socket::{Shutdown, shutdown};

    /// A launcher that says in its status file how far it has come: at once
    /// that the run is cold, and what came of it when it was asked to wait.
    fn stand_in(dir: &Path, waited: &str) -> Options {
        let launcher = dir.join("launcher");
        let script = format!(
            r#"#!/bin/sh
wait=no
while [ "$1" != -- ]; do
    case $1 in
        --wait) wait=yes ;;
        --status-file) file=$2 ;;
    esac
    shift
done
shift
echo '{{"outcome":"cold","reason":"no image"}}' >"$file.new"
mv "$file.new" "$file"
"$@"
code=$?
[ $wait = no ] && exit $code
{waited}
exit $code
"#
        );
        std::fs::write(&launcher, script).unwrap();
        std::fs::set_permissions(&launcher, std::fs::Permissions::from_mode(0o755)).unwrap();
        Options {
            launcher,
            launcher_options: Vec::new(),
            runs: 1,
            until: None,
            at_main: AtMain::Asked,
            against: Vec::new(),
            temp_dir: dir.to_owned(),
            timeout: Duration::from_secs(20),
        }
    }

    fn prepared(options: &Options, program: &str) -> Result<Mark, String> {
        let scratch = Scratch::new(&options.temp_dir).unwrap();
        let command = Command {
            argv: vec![program.into()],
            env: vec!["PATH=/usr/bin:/bin".into()],
            cwd: "/".into(),
        };
        prepare(&command, options, &scratch).map_err(|error| error.to_string())
    }

    const CAPTURED: &str = r#"sleep 0.1; echo '{"outcome":"captured"}' >"$file""#;

    #[test]
    fn an_image_at_main_is_waited_for_and_the_end_is_timed() {
        let dir = tempfile::tempdir().unwrap();
        let options = stand_in(dir.path(), CAPTURED);
        for program in ["true", "false"] {
            assert!(matches!(prepared(&options, program), Ok(Mark::Exit)));
        }
        let until = Some(Mark::Port(9));
        let mark = prepared(&Options { until, ..options.clone() }, "true");
        assert!(matches!(mark, Ok(Mark::Port(9))));

        let refused = r#"echo '{"outcome":"cold","reason":"it keeps state"}' >"$file""#;
        let why = prepared(&stand_in(dir.path(), refused), "true").unwrap_err();
        assert_eq!(why, "no image of the command: it keeps state");
        let why = prepared(&stand_in(dir.path(), "rm \"$file\"; exit 9"), "true").unwrap_err();
        assert_eq!(why, "no image of the command: the launcher ended with status 9");
    }

    #[test]
    fn a_jvm_that_ends_is_captured_at_main_another_program_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { at_main: AtMain::Possible, ..stand_in(dir.path(), CAPTURED) };
        let java = dir.path().join("jdk/bin/java");
        std::fs::create_dir_all(java.parent().unwrap()).unwrap();
        std::fs::create_dir_all(dir.path().join("jdk/lib")).unwrap();
        std::fs::write(dir.path().join("jdk/lib/modules"), "").unwrap();
        std::fs::copy("/bin/true", &java).unwrap();
        let java = java.to_str().unwrap();
        assert!(matches!(prepared(&options, java), Ok(Mark::Exit)));
        let ended = "the program ended with status 0 before it was captured";
        assert!(prepared(&options, "true").unwrap_err().ends_with(ended));
        let never = Options { at_main: AtMain::Never, ..options };
        assert!(prepared(&never, java).unwrap_err().ends_with(ended));
    }

    #[test]
    fn a_port_of_ours_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listening_ports(std::process::id()).contains(&port));
        // Not only closed: a child that another test has just made has it, too,
        // until its exec.
        shutdown(listener.as_raw_fd(), Shutdown::Both).unwrap();
        assert!(!listening_ports(std::process::id()).contains(&port));
    }
}
