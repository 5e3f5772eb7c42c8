//! Before the first round: an image, and what to time.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};

use super::http;
use super::process::{Running, Scratch, Status, descendants, describe};
use super::run::{FileState, output, through_launcher, watch};
use super::{BenchError, Mark, Options};
use crate::command::Command;
use crate::readiness::Url;

/// How long a port has for its first HTTP answer, asked once all is ready.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);
/// Runs the command through warmstart until there is an image of it; finds out
/// what to time if that was not said.
pub(super) fn prepare(
    command: &Command,
    options: &Options,
    scratch: &Scratch,
) -> Result<Mark, BenchError> {
    let status_file = scratch.status_file();
    let through = through_launcher(command, options, &[], &status_file);
    // Without a mark the runs' output will be thrown away, so it is here.
    let stand_in = options.until.clone().unwrap_or(Mark::Exit);
    let before = FileState::of(&stand_in);
    let mut running = Running::start(&through, &output(&stand_in))?;
    let deadline = running.started + options.timeout;

    let outcome = wait_for_image(&mut running, &status_file, deadline)?;

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

    #[test]
    fn a_port_of_ours_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listening_ports(std::process::id()).contains(&port));
        drop(listener);
        assert!(!listening_ports(std::process::id()).contains(&port));
    }
}
