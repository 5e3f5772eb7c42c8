//! Descriptors of which `criu dump` would lose something.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::{Descriptor, inotify, is_time_of_day, list, socket};
use crate::snapshot::{Capture, Refusal, StdioOrigin};
use crate::sys::{pidfd, socket::readable};

/// Refuses such a descriptor of a process, but for what is its caller's.
pub fn check_unseen(capture: &Capture<'_>, pid: i32) -> Result<(), Refusal> {
    let process = pidfd::open(pid)
        .map_err(|error| Refusal::lasting(format!("pid descriptor of process {pid}: {error}")))?;
    let descriptors = list(pid)?;
    for descriptor in descriptors.iter().filter(|it| !is_callers(capture, it)) {
        let fd = descriptor.fd;
        let refuse = |what: &str| Err(Refusal::lasting(format!("fd {fd} is {what}")));
        let info = &descriptor.info;
        let target = descriptor.target.as_os_str().as_bytes();
        if target == b"anon_inode:[timerfd]" && is_time_of_day(info) {
            return refuse("a timerfd set to a time of day");
        }
        if target == b"anon_inode:[eventfd]" && info.number("eventfd-semaphore") == 1 {
            return refuse("an eventfd that is a semaphore (EFD_SEMAPHORE)");
        }
        if target == b"anon_inode:inotify" {
            if info.values("inotify wd").any(inotify::is_for_one_event) {
                return refuse("inotify that watches for one event (IN_ONESHOT)");
            }
            let duplicate = pidfd::get_fd(process.as_fd(), fd);
            if duplicate.is_ok_and(|instance| readable(instance.as_fd()).unwrap_or(1) > 0) {
                let what = format!("fd {fd} is inotify with events that were not read");
                return Err(Refusal::passing(what));
            }
        }
        if target.starts_with(b"socket:[")
            // What cannot be had CRIU cannot either, and says so.
            && let Ok(socket) = pidfd::get_fd(process.as_fd(), fd)
            && socket::has_unseen_options(socket.as_fd())
        {
            return refuse("a socket with options that CRIU does not keep");
        }
    }
    Ok(())
}

fn is_callers(capture: &Capture<'_>, descriptor: &Descriptor) -> bool {
    let Some(its) = descriptor.id else { return false };
    let stdio = capture.stdio.iter().any(|origin| match origin {
        StdioOrigin::Given { id, .. } => *id == its,
        StdioOrigin::Closed | StdioOrigin::Programs => false,
    });
    stdio || capture.inherited.iter().any(|(_, id)| *id == its)
}
