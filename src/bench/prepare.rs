//! Before the first round: an image, and what to time.

use std::collections::BTreeSet;
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
/// How long a run that was started cold with a reason may go on, before we take
/// the reason for the last word.
const REASON_PATIENCE: Duration = Duration::from_secs(20);

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

    let status = loop {
        let status = Status::read(&status_file);
        let ended = running.ended();
        match &status {
            Some(found) if found.outcome == "captured" || found.outcome == "restored" => {
                break status;
            }
            Some(Status { reason: Some(reason), .. })
                if ended.is_some() || running.started.elapsed() > REASON_PATIENCE =>
            {
                return Err(BenchError::NoImage(reason.clone()));
            }
            _ => {}
        }
        if let Some(exit) = ended {
            let why = format!("the program {} before it was captured", describe(exit));
            return Err(BenchError::NoImage(why));
        }
        if Instant::now() > deadline {
            let why = status.and_then(|status| status.reason);
            let why = why.unwrap_or_else(|| "it was not captured in time".into());
            return Err(BenchError::NoImage(why));
        }
        std::thread::sleep(Duration::from_millis(10));
    };

    let mark = match &options.until {
        Some(mark) => mark.clone(),
        None => find_mark(&mut running, deadline)?,
    };
    // A restored program may not be there yet; ending it now would be unfair
    // to whatever it does at its start.
    if status.is_some_and(|status| status.outcome == "restored") && !matches!(mark, Mark::Exit) {
        let _ = watch(&mut running, &mark, &before, options.timeout);
    }
    running.end();
    Ok(mark)
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
