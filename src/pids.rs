//! Exact pids: how a process comes to have the pid that it had.
//!
//! A [`Strategy`] is asked whether it can work here before it is used. There
//! is one so far, [`set_tid`]: `clone3(2)` in the caller's own pid namespace.

use std::fmt;
use std::io;

use crate::privilege;

pub mod range;
pub mod set_tid;

/// A way to give a process a pid of our choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// `clone3` with `set_tid`, under CAP_CHECKPOINT_RESTORE or as root.
    SetTid,
}

impl Strategy {
    /// Returns the name that the command line and the status file use.
    pub fn name(self) -> &'static str {
        match self {
            Self::SetTid => "set-tid",
        }
    }

    /// Says whether the strategy can work here, as this user.
    pub fn check(self) -> Result<(), Unavailable> {
        match self {
            Self::SetTid if privilege::may_choose_pids() => Ok(()),
            Self::SetTid => Err(Unavailable::NotPermitted),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a strategy cannot work here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The capability is missing.
    #[error("choosing pids needs CAP_CHECKPOINT_RESTORE")]
    NotPermitted,
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
