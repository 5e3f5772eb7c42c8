//! Pids one after the other: each is made the next one, then its task is made.
//!
//! For kernels and sandboxes without `clone3`. The launcher keeps the kernel's
//! cursor where the next task needs it; the new process asks for each of its
//! threads and makes it as soon as it is told. What it got, it compares:
//! another tid ends the restore before anything of the image is there.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::slots::LOWEST_SLOT;
use super::stage::end;
use super::unusable;
use crate::pids::{self, ChildCode, PositionError, Positioner};
use crate::privilege;
use crate::restore::CannotRestore;
use crate::restore::plan::Plan;
use crate::restore::program::Births;
use crate::sys::clone3;

/// The two pipes between launcher and new process.
pub(super) struct Turns {
    asked: std::io::PipeReader,
    answer: std::io::PipeWriter,
    /// The child's ends, above the program's descriptors.
    theirs: [OwnedFd; 2],
}

impl Turns {
    pub(super) fn open(plan: &Plan) -> Result<Self, CannotRestore> {
        let lowest = (plan.file().fd_ceiling + 2).max(LOWEST_SLOT) as RawFd;
        let above = |fd: &dyn AsFd| {
            fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(lowest))
                .map(crate::sys::pidfd::adopt)
                .map_err(|error| unusable(format!("descriptors above {lowest}: {error}")))
        };
        let fail = |error: std::io::Error| unusable(format!("pipe: {error}"));
        let (asked, ask) = std::io::pipe().map_err(fail)?;
        let (answered, answer) = std::io::pipe().map_err(fail)?;
        Ok(Self { asked, answer, theirs: [above(&ask)?, above(&answered)?] })
    }

    pub(super) fn births(&self) -> Births {
        let [ask, answer] = self.theirs.each_ref().map(AsRawFd::as_raw_fd);
        Births::Next { ask, answer }
    }

    /// Brings each tid about when it is asked for. That the process ended
    /// meanwhile is no error here: its report says why.
    pub(super) fn serve(
        self,
        tids: &[i32],
        positioner: &mut Positioner,
        deadline: Duration,
    ) -> Result<(), CannotRestore> {
        let Self { mut asked, mut answer, theirs } = self;
        drop(theirs);
        let until = Instant::now() + deadline;
        for tid in tids {
            if !wait(&asked, until)? {
                return Err(CannotRestore::Deadline(deadline));
            }
            if asked.read(&mut [0]).unwrap_or(0) == 0 {
                return Ok(());
            }
            positioner.position(*tid).map_err(refusal)?;
            if answer.write(&[0]).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Waits until there is something to read; `false` when the time is up.
fn wait(pipe: &std::io::PipeReader, until: Instant) -> Result<bool, CannotRestore> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(unusable(format!("waiting for the restore: {error}"))),
        }
    }
}

/// Makes the leader: a child that has another pid is ended before it has done
/// anything that lasts.
pub(super) fn start(
    pid: i32,
    code: ChildCode,
    positioner: &mut Positioner,
) -> Result<i32, CannotRestore> {
    let ChildCode { interpreter, entry, report } = code;
    pids::place(positioner, pid, || {
        // For its link to the program's file, if not for its pid.
        let made = privilege::raised(|| clone3::run_program_next(interpreter, entry, report))
            .map_err(|source| PositionError::Step { step: "clone", source })?;
        if made == pid {
            return Ok(Some(made));
        }
        end(made);
        Ok(None)
    })
    .map_err(refusal)
}

/// What a restore says of a pid that could not be brought about.
pub(super) fn refusal(error: PositionError) -> CannotRestore {
    match error {
        PositionError::Taken(pid) => CannotRestore::PidTaken(pid),
        PositionError::Overtaken { pid, .. } => CannotRestore::PidOvertaken(pid),
        PositionError::Range(error) => CannotRestore::PidsNotPermitted(error),
        PositionError::Unavailable(_) => CannotRestore::NotPermitted,
        error => CannotRestore::PidNotReached(match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
    }
}
