//! A process in namespaces of its own whose parent stays outside.
//!
//! Whoever goes into a pid namespace with `unshare(2)` can make no threads any
//! more, and in a user namespace it is another user: a launcher that may yet
//! have to start cold must not. So a scout, a forked child, goes in its place,
//! makes init and process as children of *ours* (`CLONE_PARENT`), tells their
//! pids and ends. Signals, stops and the exit status reach us as those of any
//! other child.
#![allow(unsafe_code)]

mod program;

use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::birth;
use super::clone3::{self, CLONE_CLEAR_SIGHAND, CloneArgs};
use super::namespaces::{self, Enclosure, Failed, Owner, Step, Time, failed};
use super::process::pipe;

pub use program::{Program, execute};

/// A process that runs a program of the interpreter instead of returning
/// ([`clone3::run_program`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Its pid, inside.
    pub pid: i32,
    /// The interpreter's address.
    pub code: u64,
    /// Its first instruction's.
    pub program: u64,
    /// The page that it reports to.
    pub report: u64,
}

/// What the scout tells: step and errno (0: none), the pids of init and
/// process as we see them (0: not made).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Told {
    step: u8,
    errno: i32,
    init: i32,
    pid: i32,
}

const LEN_TOLD: usize = 13;

impl Told {
    fn to_bytes(self) -> [u8; LEN_TOLD] {
        let mut bytes = [self.step; LEN_TOLD];
        for (place, word) in bytes[1..].chunks_exact_mut(4).zip([self.errno, self.init, self.pid]) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; LEN_TOLD]) -> Self {
        let word = |at: usize| {
            i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self { step: bytes[0], errno: word(1), init: word(5), pid: word(9) }
    }
}

/// Makes namespaces and in them a process; returns its pid as we see it, and
/// what keeps the namespaces.
///
/// The process is a child of the calling thread's process, which must have no
/// other threads. Not even the scout is left on failure.
pub fn start(owner: Owner, time: Time, child: Child) -> Result<(i32, Enclosure), Failed> {
    scout(|lines| explore(owner, time, child, lines))
}

/// Sends a scout that explores; it is given the end of the lifeline that the
/// init holds, and both ends of its report.
fn scout(explore: impl FnOnce([RawFd; 3]) -> Told) -> Result<(i32, Enclosure), Failed> {
    let (held, lifeline) = pipe().map_err(|_| failed(Step::Start))?;
    let (report, reporter) = pipe().map_err(|_| failed(Step::Start))?;
    let (answer, answerer) = pipe().map_err(|_| failed(Step::Start))?;
    // SAFETY: the scout neither allocates nor locks, and does not return.
    let scout = match unsafe { libc::fork() } {
        -1 => return Err(failed(Step::Start)),
        0 => {
            let lines = [held.as_raw_fd(), reporter.as_raw_fd(), report.as_raw_fd()];
            let told = explore(lines).to_bytes();
            // SAFETY: writes our own buffer; a pipe takes 13 bytes at once.
            // Ends the scout without our exit handlers.
            unsafe {
                libc::write(answerer.as_raw_fd(), told.as_ptr().cast(), LEN_TOLD);
                libc::_exit(0)
            }
        }
        scout => scout,
    };
    drop((held, reporter, answerer));
    let mut bytes = [0; LEN_TOLD];
    let read = namespaces::read(answer.as_raw_fd(), &mut bytes);
    let _ = birth::reap(scout);
    let told = match read {
        13 => Told::from_bytes(bytes),
        _ => Told { step: Step::Start as u8, errno: libc::ECHILD, ..Told::default() },
    };
    let enclosure = (told.init > 0).then(|| Enclosure::new(told.init, lifeline, report));
    if told.errno == 0
        && let Some(enclosure) = enclosure
    {
        return Ok((told.pid, enclosure));
    }
    match enclosure {
        Some(enclosure) => enclosure.end(),
        None => reap_strays(),
    }
    let step = Step::numbered(told.step).unwrap_or(Step::Start);
    Err(Failed { step, errno: told.errno })
}

/// Reaps what a scout that was killed has made for us: nobody has told which
/// children those are. They end by themselves, since their lifeline is gone;
/// the calling process has no others.
fn reap_strays() {
    for _ in 0..100 {
        // SAFETY: takes numbers; no status is asked for.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } {
            -1 => return,
            0 => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
}

/// What the scout does.
fn explore(owner: Owner, time: Time, child: Child, lines: [RawFd; 3]) -> Told {
    let mut told = Told::default();
    if let Err(failed) = make(owner, time, child, lines, &mut told) {
        (told.step, told.errno) = (failed.step as u8, failed.errno);
    }
    told
}

fn make(
    owner: Owner,
    time: Time,
    child: Child,
    lines: [RawFd; 3],
    told: &mut Told,
) -> Result<(), Failed> {
    namespaces::make(owner, time)?;
    make_init(child.pid, None, lines, told)?;
    let set_tid = [child.pid];
    let args = CloneArgs {
        // With CLONE_PARENT the signal at its end is the scout's own.
        flags: CLONE_CLEAR_SIGHAND | libc::CLONE_PARENT as u64,
        set_tid: set_tid.as_ptr() as u64,
        set_tid_size: 1,
        ..Default::default()
    };
    let made = clone3::run_program(&args.to_bytes(), child.code, child.program, child.report);
    told.pid = made.map_err(|error| Failed {
        step: Step::Child,
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    })?;
    Ok(())
}

/// Makes the init of a namespace with a program of this pid.
fn make_init(
    program: i32,
    last_pid: Option<i32>,
    [held, reporter, report]: [RawFd; 3],
    told: &mut Told,
) -> Result<(), Failed> {
    // SAFETY: like fork(2), and with the caller's parent as the parent; the
    // child's `run_init` is async-signal-safe and does not return. Our end of
    // the report is closed, so that its end shows.
    unsafe {
        match libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) {
            -1 => return Err(failed(Step::Init)),
            0 => namespaces::run_init(program, last_pid, held, reporter),
            init => told.init = init as i32,
        }
        libc::close(reporter);
    }
    match namespaces::read_report(report) {
        Some(result) => result?,
        None => return Err(Failed { step: Step::Init, errno: libc::ECHILD }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_comes_through() {
        let told = Told { step: 3, errno: 17, init: 4_000_000, pid: -1 };
        assert_eq!(Told::from_bytes(told.to_bytes()), told);
    }
}
