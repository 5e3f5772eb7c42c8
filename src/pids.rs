//! Exact pids: how a process comes to have the pid that it had.
//!
//! There are four ways, and a [`Strategy`] is asked whether it can work here
//! before it is used:
//!
//! - [`set_tid`]: `clone3(2)` in the caller's own pid namespace;
//! - [`last_pid`]: positioning the kernel's cursor, which the next task's pid
//!   comes from, with the same privilege but without `clone3`;
//! - namespace: a pid namespace of one's own, where every pid is free;
//! - [`cycle`]: using pids up until the one that is wanted is next, with no
//!   privilege at all.
//!
//! The second and the last bring a pid about for whoever makes the next task:
//! a [`Positioner`]. All others on the machine make tasks as well, so what came
//! of it must be looked at; [`place`] does, and tries again.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::signal::{kill, killpg};
use nix::unistd::Pid;

use crate::privilege;
use crate::sys::{clone3, namespaces};

pub mod cursor;
pub mod cycle;
pub mod last_pid;
pub mod namespace;
pub mod placing;
pub mod range;
pub mod set_tid;

use cycle::Cycle;
use last_pid::LastPid;
use range::RangeError;

/// A way to give a process a pid of our choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// `clone3` with `set_tid`, under CAP_CHECKPOINT_RESTORE or as root.
    SetTid,
    /// The cursor, positioned under the same privilege.
    LastPid,
    /// A pid namespace of one's own.
    Namespace,
    /// Using up pids until the right one is next.
    Cycle,
}

impl Strategy {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [Self::SetTid, Self::LastPid, Self::Namespace, Self::Cycle];

    /// Returns the name that the command line and the status file use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetTid => "set-tid",
            Self::LastPid => "last-pid",
            Self::Namespace => "namespace",
            Self::Cycle => "cycle",
        }
    }

    /// Says whether the strategy can work here, as this user. Nothing is
    /// changed; for [`Strategy::Namespace`] a child tries it, which takes some
    /// milliseconds.
    pub fn check(self) -> Result<(), Unavailable> {
        self.check_cheaply()?;
        match self {
            Self::Namespace => check_namespace(),
            _ => Ok(()),
        }
    }

    /// Says the same in a few system calls: of [`Strategy::Namespace`] nothing
    /// is known before it is tried.
    pub fn check_cheaply(self) -> Result<(), Unavailable> {
        match self {
            Self::SetTid if !privilege::may_choose_pids() => Err(Unavailable::NotPermitted),
            Self::SetTid if !clone3::is_there() => Err(Unavailable::NoClone3),
            Self::SetTid | Self::Namespace => Ok(()),
            Self::LastPid => last_pid::check(),
            Self::Cycle => Cycle::new(0).map(drop),
        }
    }
}

/// Tries whether a pid, mount and time namespace can be made, and for anybody
/// but root a user namespace for them.
fn check_namespace() -> Result<(), Unavailable> {
    namespaces::try_out(namespace_owner(), namespaces::Time::Own, None)
        .map_err(Unavailable::NoNamespaces)
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not one of set-tid, last-pid, namespace, cycle")]
pub struct UnknownStrategy;

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        Self::ALL.into_iter().find(|strategy| strategy.name() == name).ok_or(UnknownStrategy)
    }
}

/// Returns whose namespaces this user makes: root has the privilege for them,
/// anybody else needs a user namespace.
pub fn namespace_owner() -> namespaces::Owner {
    if privilege::current().root { namespaces::Owner::AsWeAre } else { namespaces::Owner::OwnUser }
}

/// Why a strategy cannot work here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The capability is missing.
    #[error("choosing pids needs CAP_CHECKPOINT_RESTORE")]
    NotPermitted,
    /// The kernel has none, or a filter says so.
    #[error("there is no clone3 here: an old kernel, or a seccomp filter")]
    NoClone3,
    /// The file cannot be written; the errno.
    #[error("/proc/sys/kernel/ns_last_pid cannot be written: {}", Errno::from_raw(*.0).desc())]
    NoLastPid(i32),
    /// Nobody tells which pid was handed out last.
    #[error("/proc does not tell the last pid of this pid namespace")]
    NoCursor,
    /// Namespaces cannot be made.
    #[error("namespaces cannot be made here: {0}")]
    NoNamespaces(namespaces::Failed),
}

/// Returns the pids that may be chosen with the privilege that we have: all
/// for whoever may choose without our file capability, else those of
/// [`range`].
///
/// # Errors
/// If root's word on that cannot be relied on.
pub fn permitted() -> Result<RangeInclusive<i32>, RangeError> {
    if privilege::choice_is_lent() {
        return Ok(range::permitted()?.here());
    }
    Ok(1..=cursor::pid_max().map_or(i32::MAX, |pid_max| pid_max - 1))
}

/// Refuses a pid that is not in a range.
pub fn check_range(pid: i32, range: &RangeInclusive<i32>) -> Result<(), PositionError> {
    if range.contains(&pid) {
        return Ok(());
    }
    Err(PositionError::OutOfRange { pid, first: *range.start(), last: *range.end() })
}

/// Whether a pid is in use as that of a process or thread, a zombie's
/// included, or of a process group. (A session alone does not show.)
pub fn is_taken(pid: i32) -> bool {
    let pid = Pid::from_raw(pid);
    let exists = |answer| !matches!(answer, Err(Errno::ESRCH | Errno::EINVAL));
    pid.as_raw() > 0 && (exists(kill(pid, None)) || exists(killpg(pid, None)))
}

/// Brings about which pid the next task of our pid namespace gets.
#[derive(Debug)]
pub enum Positioner {
    /// By positioning the cursor, which stays locked until this is dropped.
    LastPid(LastPid),
    /// By using up pids.
    Cycle(Cycle),
}

impl Positioner {
    /// Locks the cursor, to position it.
    pub fn last_pid() -> Result<Self, PositionError> {
        LastPid::lock().map(Self::LastPid)
    }

    /// Makes one that uses up `budget` pids at most, in all that it does.
    pub fn cycle(budget: u32) -> Result<Self, PositionError> {
        Ok(Self::Cycle(Cycle::new(budget)?))
    }

    /// Makes `next` the pid of the next task, if it is free and nobody else
    /// makes one first: the caller must look at the pid that it got.
    pub fn position(&mut self, next: i32) -> Result<(), PositionError> {
        match self {
            Self::LastPid(cursor) => cursor.position(next),
            Self::Cycle(cycle) => cycle.position(next),
        }
    }

    /// Puts the cursor back to where it was found, where that is possible.
    pub fn put_back(&mut self) -> io::Result<()> {
        match self {
            Self::LastPid(cursor) => cursor.put_back(),
            Self::Cycle(_) => Ok(()),
        }
    }

    /// How often it pays to try again after somebody else was faster.
    fn tries(&self) -> u32 {
        match self {
            Self::LastPid(_) => 100,
            // Each time all around, until the budget says no.
            Self::Cycle(_) => 10,
        }
    }
}

/// Positions for `pid` and calls `make`, which makes a task and tells whether
/// it had that pid (`Some`), until it had.
pub fn place<T, E: From<PositionError>>(
    positioner: &mut Positioner,
    pid: i32,
    mut make: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T, E> {
    let tries = positioner.tries();
    for _ in 0..tries {
        if is_taken(pid) {
            return Err(PositionError::Taken(pid).into());
        }
        positioner.position(pid)?;
        if let Some(made) = make()? {
            return Ok(made);
        }
    }
    Err(PositionError::Overtaken { pid, tries }.into())
}

/// Why a pid did not come to be the next one.
#[derive(Debug, thiserror::Error)]
pub enum PositionError {
    /// The strategy does not work here.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// We may not choose any.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// No process can have this pid, or this user may not choose it.
    #[error("pid {pid} is out of range: {first} to {last} can be chosen here")]
    OutOfRange {
        /// The pid.
        pid: i32,
        /// The lowest one.
        first: i32,
        /// The highest one.
        last: i32,
    },
    /// The kernel does not hand it out again.
    #[error("pid {0} does not come up again: the kernel keeps those below {low}", low = cursor::RESERVED_PIDS)]
    Reserved(i32),
    /// It is too far away.
    #[error("pid {pid} is {needed} pids away, and {left} may be used up")]
    Budget {
        /// The pid.
        pid: i32,
        /// How many pids come before it.
        needed: u32,
        /// How many may be used up.
        left: u32,
    },
    /// Somebody else keeps the lock.
    #[error("another process keeps the lock on ns_last_pid")]
    Locked,
    /// The pid is in use; a zombie's counts.
    #[error("pid {0} is taken")]
    Taken(i32),
    /// Others make processes too fast, or the pid is in use in a way that does
    /// not show.
    #[error("pid {pid} went to another process, or is that of a session, {tries} times")]
    Overtaken {
        /// The pid.
        pid: i32,
        /// How often it was tried.
        tries: u32,
    },
    /// A system call failed.
    #[error("{step}")]
    Step {
        /// Which one.
        step: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
}

/// Why a process was not made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pid is in use; a zombie's counts.
    #[error("pid {0} is taken")]
    Taken(i32),
    /// We may not choose pids.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The kernel refused for another reason.
    #[error("clone3 for pid {pid}")]
    Refused {
        /// The pid.
        pid: i32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Code that a new process runs instead of returning: the interpreter of a
/// restore, where it lies, and what it executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildCode {
    /// The interpreter's address.
    pub interpreter: u64,
    /// Its first instruction's.
    pub entry: u64,
    /// The page that it reports to.
    pub report: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        assert_eq!("fork".parse::<Strategy>(), Err(UnknownStrategy));
    }

    #[test]
    fn our_own_pid_is_taken() {
        assert!(is_taken(std::process::id() as i32) && is_taken(1));
        for none in [0, -1, i32::MAX] {
            assert!(!is_taken(none), "{none}");
        }
    }

    #[test]
    fn what_is_not_made_is_tried_again_and_given_up() {
        let mut cycle = Positioner::cycle(u32::MAX).unwrap();
        let taken =
            place(&mut cycle, std::process::id() as i32, || Ok::<_, PositionError>(Some(())));
        assert!(matches!(taken, Err(PositionError::Taken(_))), "{taken:?}");
    }
}
